/* The table of all keys. Internal to config/. */
#ifndef BERTH_CONFIG_KEYS_H
#define BERTH_CONFIG_KEYS_H

#include <stddef.h>
#include <stdint.h>

enum berth_key_type {
	BERTH_KEY_TEXT,    /* char *, not empty */
	BERTH_KEY_PATH,    /* char *, an absolute path */
	BERTH_KEY_PATHS,   /* char **, a list of absolute paths */
	BERTH_KEY_TEXTS,   /* char **, a list of texts, none of them empty */
	BERTH_KEY_CHOICE,  /* int: the index into `choices` */
	BERTH_KEY_COUNT,   /* uint64_t within min..max */
	BERTH_KEY_BYTES,   /* the same; KiB, MiB and GiB are understood */
	BERTH_KEY_OBJECTS, /* json_t *: NAME -> object */
};

struct berth_key {
	const char *group; /* NULL = top level */
	const char *name;
	enum berth_key_type type;
	int may_be_empty;   /* texts and paths */
	size_t offset;      /* in struct berth_config */
	const char *preset; /* the default, as YAML; ${run} stands for the value of `run` */
	const char *const *choices;
	uint64_t min, max;
	const char *doc;
};

extern const struct berth_key berth_keys[];
extern const size_t berth_keys_count;
/* Comments of groups; NULL where there is none. */
const char *berth_key_group_doc(const char *group);

#endif
