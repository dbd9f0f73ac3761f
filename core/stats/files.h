/* Files of a cgroup, version 1 or 2. [worker] */
#ifndef BERTH_STATS_FILES_H
#define BERTH_STATS_FILES_H

#include <stdbool.h>
#include <stdint.h>

struct berth_kept;

/* mount: where cgroups are mounted ("/sys/fs/cgroup"); path: "/parent/id". */
struct berth_cg_source {
	const char *mount, *path;
	bool v2;
	bool present; /* it is there: a file that is not need not be looked for again soon */
	bool seldom;  /* not each sample reads it */
	struct berth_kept *kept; /* its files that are open; NULL = each is opened anew. Where it is
	                            not, controller and file are literals below */
};

/* The fd, or a negative errno. */
int berth_cg_open(const struct berth_cg_source *s, const char *controller, const char *file);

/* The text of CONTROLLER's FILE (version 2 has no controllers' directories); NULL where there is
 * none. The caller frees it. */
char *berth_cg_text(const struct berth_cg_source *s, const char *controller, const char *file);
/* The number that a file begins with, 0 for "max". */
bool berth_cg_number(
        const struct berth_cg_source *s, const char *controller, const char *file, uint64_t *ret);
/* The value of a "key value" line, 0 where there is none. text may be NULL. */
uint64_t berth_cg_field(const char *text, const char *key);
/* 0 for what is none. */
uint64_t berth_cg_limit(uint64_t n);

#endif
