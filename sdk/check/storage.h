/* How tests speak to a storage driver, and what they do with what it describes. */
#ifndef BERTH_CHECK_STORAGE_H
#define BERTH_CHECK_STORAGE_H

#include "check.h"

/* A description that outlives its op. */
struct desc {
	struct berth_arena *arena;
	struct berth_mounts_result r;
};
void desc_free(struct desc *d); /* NULL-safe */

/* One op: a berth_code. ret (may be NULL): what was described. */
int snap_make(struct session *s, enum berth_opcode opcode, const struct berth_snap_args *a,
        struct desc **ret);
int snap_prepare(struct session *s, const char *key, const char *parent, struct desc **ret);
int snap_view(struct session *s, const char *key, const char *parent, struct desc **ret);
int snap_mounts(struct session *s, const char *key, struct desc **ret);
/* Commits a prepared LAYER (which says its parent here) or an active snapshot. */
int snap_commit(struct session *s, const char *key, const char *name, const char *parent);
int snap_remove(struct session *s, const char *key);
int snap_stat(struct session *s, const char *key, struct berth_snap_info *ret);
/* As many as list() has; the array is the op's. */
uint32_t snap_list(struct session *s, const struct berth_snap_info *const **ret);
const struct berth_snap_info *snap_listed(struct session *s, const char *key); /* or NULL */

/* The same, or the test fails. */
struct desc *must_prepare(struct session *s, const char *key, const char *parent);
struct desc *must_view(struct session *s, const char *key, const char *parent);
void must_remove(struct session *s, const char *key);

/* Mounts on s->mnt; what is mounted there is gone before. */
void on(struct session *s, const struct desc *d);
void off(struct session *s);
/* A driver may describe nothing; then there is no content to look at. */
bool describes(const struct desc *d);

void put_file(struct session *s, const char *path, const char *text);
void put_dir(struct session *s, const char *path);
/* NULL: nothing is there. */
void see_file(struct session *s, const char *path, const char *text);

/* A change of an image layer, written as the driver's features say. */
struct change {
	enum { FILE_IS, FILE_GONE, DIR_NEW } what; /* DIR_NEW: empty, whatever was below it */
	const char *path, *text;
};
int layer_prepare(struct session *s, const char *key, const char *parent, struct desc **ret);
void layer_fill(struct session *s, const struct desc *d, const struct change *v, size_t n);
/* prepare, fill, commit under `name`. */
void layer(
        struct session *s, const char *name, const char *parent, const struct change *v, size_t n);
/* "a" (files a, dir/b) and on it "b" (a changed, dir/b gone, c new), under NAME-a and NAME-b. */
void two_layers(struct session *s, const char *name, char a[128], char b[128]);
void see_two_layers(struct session *s);

void storage_sweep(struct session *s);
bool detached(void);

#endif
