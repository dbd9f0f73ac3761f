/* A set of paths that remembers the order of adding. One thread. */
#ifndef BERTH_PULL_PATHSET_H
#define BERTH_PULL_PATHSET_H

#include <stdbool.h>
#include <stddef.h>

struct pull_pathset;
struct pull_pathset *pull_pathset_new(void); /* never NULL */
struct pull_pathset *pull_pathset_free(struct pull_pathset *s);
bool pull_pathset_add(struct pull_pathset *s, const char *path); /* false: was there already */
bool pull_pathset_has(const struct pull_pathset *s, const char *path);
void pull_pathset_remove(struct pull_pathset *s, const char *path);
size_t pull_pathset_count(const struct pull_pathset *s);
/* All paths in order, NUL-terminated each. Returns how many; the caller frees *ret. */
size_t pull_pathset_list(const struct pull_pathset *s, char **ret, size_t *ret_bytes);

#endif
