/* The overlay storage driver.
 *
 * On disk, below the state directory:
 *   layers/NAME/{meta,fs}         committed: complete and on the disk, or not there
 *   active/NAME/{meta,fs[,work]}  being filled, or a container's own; complete once it is there
 *   new/N                         under construction
 *   trash/N                       removed, and perhaps not deleted yet
 * NAME is the snapshot's name with everything but letters, digits, '.', '_' and '-' as %XX. A
 * snapshot gets its place by rename, and loses it by rename.
 *
 * In memory an index of all snapshots, under one lock that is never held over a system call that
 * touches the disk.
 */
#ifndef STORAGE_OVERLAY_H
#define STORAGE_OVERLAY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "berth/plugin.h"

#define NAME_LIMIT 255   /* bytes of a file name */
#define META_LIMIT 4096  /* bytes of a meta file */
#define LAYERS_LIMIT 500 /* the kernel's for one mount */
#define INDEX_BUCKETS 1024
#define BOOT_ID_LEN 36

enum phase {
	PHASE_MAKING = 1, /* its name is taken, its directory is not there yet */
	PHASE_READY,
	PHASE_REMOVING,
};

struct snap {
	struct snap *next; /* in its bucket */
	char *key;
	struct snap *parent;
	uint32_t kind; /* BERTH_SNAP_* */
	uint32_t children;
	enum phase phase;
	bool layer; /* one image layer alone: no work directory */
	bool is_volatile;
	bool broken;                /* while loading: something below it is missing */
	char boot[BOOT_ID_LEN + 1]; /* the boot that it was made in */
	uint64_t created_ns;
	/* what the last walk found */
	uint64_t bytes, inodes, walked_ns, walk_cost_ns;
};

struct index {
	pthread_mutex_t lock;
	pthread_cond_t settled; /* some snapshot left PHASE_MAKING or PHASE_REMOVING */
	struct snap *buckets[INDEX_BUCKETS];
	uint32_t n;
};

struct driver {
	const struct berth_host *host;
	char *root;
	int root_fd, layers_fd, active_fd, new_fd, trash_fd;
	char boot[BOOT_ID_LEN + 1];
	bool use_volatile;
	char *extra_options; /* comma separated; may be NULL */
	struct index index;
	bool stopping;               /* atomic */
	struct berth_watch *sweeper; /* deletes what a remove had no time for */
	uint64_t serial;             /* atomic: names in new/ and trash/ */
};

/* index.c: all but init and finish want the lock held */
void index_init(struct index *x);
void index_finish(struct index *x);
struct snap *index_find(struct index *x, const char *key);
struct snap *index_add(struct index *x, const char *key, uint32_t kind); /* aborts without memory */
void index_remove(struct index *x, struct snap *s);         /* frees it, tells its parent */
void index_set_parent(struct snap *s, struct snap *parent); /* either may be NULL */
/* The same, but a snapshot that is being made or removed is waited for. */
struct snap *index_find_settled(struct index *x, const char *key);

/* disk.c: names and meta files; 0 or a negative errno */
int name_encode(const char *key, char out[NAME_LIMIT + 1]);
int name_decode(const char *name, char out[NAME_LIMIT + 1]);
struct meta {
	uint32_t kind;
	bool layer, is_volatile;
	char parent[NAME_LIMIT + 1]; /* "" = none */
	char boot[BOOT_ID_LEN + 1];
	uint64_t created_ns;
};
int meta_read(int dirfd, struct meta *ret);
int meta_write(int dirfd, const struct meta *m);                     /* replaces what is there */
int read_small(int dirfd, const char *path, char *buf, size_t size); /* NUL-terminated; -EFBIG */

/* tree.c */
#define TRASH_NAME 32
/* Moves dirfd/name into the trash, where it is called *ret_name (may be NULL); 0, or a negative
 * errno. */
int trash_add(struct driver *d, int dirfd, const char *name, char ret_name[TRASH_NAME]);
/* Deletes one entry, for at most budget_ns (0 = to its end): then -ETIME. */
int trash_delete(struct driver *d, struct berth_op *op, const char *name, uint64_t budget_ns);
/* Deletes what is in the trash. Others may be deleting there, too. Stops when the op is cancelled.
 * 0, or a negative errno with the name of what could not be deleted in `where`. */
int trash_empty(struct driver *d, struct berth_op *op, char where[NAME_LIMIT + 1]);
struct usage {
	uint64_t bytes, inodes;
};
int tree_usage(struct driver *d, struct berth_op *op, int dirfd, const char *name, struct usage *u);

/* probe.c: is this machine and this directory fit for overlays? Fails the op where it is not. */
berth_status probe_overlay(struct driver *d, struct berth_op *op);

/* load.c: what is on the disk comes into the index; what a crash left goes to the trash */
berth_status load_all(struct driver *d, struct berth_op *op);

/* describe.c: the mounts of a snapshot, in the op's arena. Wants the lock held. */
berth_status describe(
        struct driver *d, struct berth_op *op, struct snap *s, struct berth_mounts_result *res);
uint32_t chain_length(const struct snap *s); /* of s and all below it */

/* snapshot.c: the ops */
extern const struct berth_storage_ops overlay_ops;
uint64_t now_ns(clockid_t clock);
berth_status from_errno(
        struct driver *d, struct berth_op *op, int r, const char *what, const char *key);
berth_status check_key(struct driver *d, struct berth_op *op, const char *what, const char *key,
        char name[NAME_LIMIT + 1]);
/* Wants the lock held. */
berth_status find_snap(struct driver *d, struct berth_op *op, const char *key, struct snap **ret);

/* stat.c */
berth_status overlay_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res);
berth_status overlay_list(struct berth_op *op, void *self, struct berth_snap_list *res);

/* describe.c */
const char *dir_of(uint32_t kind); /* "layers" or "active" */

#endif
