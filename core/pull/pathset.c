#include "pull/pathset.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/mem.h"

struct item {
	UT_hash_handle hh;
	char path[];
};

struct pull_pathset {
	struct item *items;
};

struct pull_pathset *pull_pathset_new(void)
{
	return berth_new(struct pull_pathset);
}

struct pull_pathset *pull_pathset_free(struct pull_pathset *s)
{
	struct item *i, *next;

	if (!s)
		return NULL;
	HASH_ITER (hh, s->items, i, next) {
		HASH_DEL(s->items, i);
		free(i);
	}
	free(s);
	return NULL;
}

static struct item *find(const struct pull_pathset *s, const char *path)
{
	struct item *i;
	HASH_FIND_STR(s->items, path, i);
	return i;
}

bool pull_pathset_add(struct pull_pathset *s, const char *path)
{
	if (find(s, path))
		return false;
	size_t n = strlen(path) + 1;
	struct item *i = berth_zalloc(sizeof(*i) + n);
	memcpy(i->path, path, n);
	HASH_ADD_STR(s->items, path, i);
	return true;
}

bool pull_pathset_has(const struct pull_pathset *s, const char *path)
{
	return find(s, path) != NULL;
}

void pull_pathset_remove(struct pull_pathset *s, const char *path)
{
	struct item *i = find(s, path);
	if (i) {
		HASH_DEL(s->items, i);
		free(i);
	}
}

size_t pull_pathset_count(const struct pull_pathset *s)
{
	return HASH_COUNT(s->items);
}

size_t pull_pathset_list(const struct pull_pathset *s, char **ret, size_t *ret_bytes)
{
	struct berth_buf b = {0};
	struct item *i, *next;

	HASH_ITER (hh, s->items, i, next)
		berth_buf_add(&b, i->path, strlen(i->path) + 1);
	*ret_bytes = b.len;
	*ret = berth_buf_steal(&b);
	return HASH_COUNT(s->items);
}
