/* YAML into a tree that remembers where each value stands. Internal to config/. [any]
 *
 * Nodes live in the arena that they were read into and are never changed afterwards: an alias
 * shares the node of its anchor, and counts as if it were written out. */
#ifndef BERTH_CONFIG_TREE_H
#define BERTH_CONFIG_TREE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/mem.h"

#define BERTH_YAML_MAX_NODES 8192 /* values of one file, aliases written out */
#define BERTH_YAML_MAX_DEPTH 24

enum berth_yaml_kind { BERTH_YAML_SCALAR, BERTH_YAML_MAP, BERTH_YAML_LIST };

struct berth_yaml_item;
struct berth_yaml {
	enum berth_yaml_kind kind;
	const char *file;
	size_t line;
	const char *text; /* scalars */
	bool plain;       /* scalars: written without quotes */
	struct berth_yaml_item *items;
	size_t weight; /* nodes below and itself */
	size_t height; /* 1 for a scalar */
};
struct berth_yaml_item {
	const char *key; /* maps; NULL in lists */
	size_t line;     /* of the key */
	struct berth_yaml *value;
	struct berth_yaml_item *next;
};

/* Reads one document. *ret is NULL for an empty one. Syntax errors, duplicate keys, tags, merge
 * keys, more than one document, too much of anything: INVALID_ARGUMENT with file and line. */
int berth_yaml_parse(struct berth_arena *a, const char *file, const char *text, size_t len,
        struct berth_yaml **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Maps are merged key by key, all else is `over`. Either may be NULL. */
struct berth_yaml *berth_yaml_merge(
        struct berth_arena *a, struct berth_yaml *base, struct berth_yaml *over);

const struct berth_yaml *berth_yaml_get(const struct berth_yaml *map, const char *key);
bool berth_yaml_is_null(const struct berth_yaml *n); /* a plain empty value, ~ or null */
/* Plain scalars become null, booleans and numbers where they read as such. A new reference. */
json_t *berth_yaml_to_json(const struct berth_yaml *n);
const char *berth_yaml_kind_name(const struct berth_yaml *n); /* "a map", "a number", ... */

#endif
