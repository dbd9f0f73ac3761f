/* What the files of storage-common share, and drivers do not see. */
#ifndef STORAGE_COMMON_INTERNAL_H
#define STORAGE_COMMON_INTERNAL_H

#include <pthread.h>

#include "store.h"

#define INDEX_BUCKETS 1024

enum {
	PHASE_MAKING = 1, /* its name is taken, its directory is not there yet */
	PHASE_READY,
	PHASE_REMOVING, /* or it is not known whether there is such a one */
};

struct index {
	pthread_mutex_t lock;
	pthread_cond_t settled; /* some snapshot left PHASE_MAKING or PHASE_REMOVING, or a pin */
	struct snap *buckets[INDEX_BUCKETS];
	uint32_t n;
};

/* A snapshot on the disk that this version does not understand. */
struct strange {
	struct strange *next;
	char *key;
	const char *dir;
};

struct store_own {
	struct index index;
	struct strange *strange;     /* not changed once all is loaded */
	pthread_mutex_t destroying;  /* held over destroy() */
	bool stopping;               /* atomic */
	struct berth_watch *sweeper; /* deletes what a remove had no time for */
	uint64_t sweep_pause_ns;     /* the sweeper's: after what could not be deleted */
	uint64_t serial;             /* atomic: names in new/ and trash/ */
	struct berth_features features;
};

/* index.c: all but init and finish want the lock held */
void index_init(struct index *x);
void index_finish(struct index *x);
struct snap *index_find(struct index *x, const char *key);
struct snap *index_add(struct index *x, const char *key, uint32_t kind); /* aborts without memory */
void index_let_go(
        struct snap *s); /* closes its file; without the lock, of one that is the caller's alone */
void index_remove(struct index *x, struct snap *s);         /* frees it, tells its parent */
void index_set_parent(struct snap *s, struct snap *parent); /* either may be NULL */
char *index_text(const char *text); /* a copy; aborts without memory; NULL: NULL */
/* The same, but a snapshot that is being made or removed is waited for. */
struct snap *index_find_settled(struct index *x, const char *key);
void index_unpin(struct index *x, struct snap *s); /* takes the lock itself */

/* disk.c: names and meta files; 0 or a negative errno. What meta_read() says for good, and not
 * because a read has failed: there is none, or the end of it was cut off (is_none); it is whole,
 * and of another version or nothing of ours (is_strange). No file system has these numbers. */
#define META_CUT (-ENOMSG)
#define META_NEWER (-EPROTONOSUPPORT)
#define META_FOREIGN (-EPROTOTYPE)
int name_encode(const char *key, char out[NAME_LIMIT + 1]);
int name_decode(const char *name, char out[NAME_LIMIT + 1]);
int meta_read(int dirfd, struct meta *ret);
bool meta_is_none(int r); /* -ENOENT, META_CUT */
bool meta_is_strange(int r);
int meta_write(int dirfd, const struct meta *m, bool sync); /* replaces what is there */
void meta_of(const struct snap *s, struct meta *ret);

/* tree.c: trees of a container's making */
#define DEPTH_MAX 48                        /* of directories that are open at once */
int tree_open(int dirfd, const char *name); /* follows no link, enters no other mount: -EBUSY */
bool tree_dots(const char *name);

/* trash.c */
#define TRASH_NAME 32
enum trash_what { TRASH_SNAPSHOT, TRASH_PART };
bool trash_is_part(const char *name);
/* Moves dirfd/name into the trash, where it is called *ret_name (may be NULL); 0, or a negative
 * errno. destroy() is called for a snapshot alone: the content of a part is a container's. */
int trash_add(struct store *st, int dirfd, const char *name, enum trash_what what,
        char ret_name[TRASH_NAME]);
/* Moves the snapshot dirfd/name into the trash, where nothing of it is deleted before a crash, of
 * the machine too, cannot bring its name back. 0, or a negative errno: it is where it was, but for
 * *ret_gone. Then it has lost its name and is kept until the next start. ret_name is "" where it is
 * deleted already. Both may be NULL. */
int trash_add_surely(struct store *st, struct berth_op *op, int dirfd, const char *name,
        char ret_name[TRASH_NAME], bool *ret_gone);
/* Deletes one entry, for at most budget_ns: then -ETIME. */
int trash_delete(struct store *st, struct berth_op *op, const char *name, uint64_t budget_ns);
/* Takes the meta file off the snapshot dirfd/name, for good: no start takes it for one then. 0, or
 * a negative errno. */
int trash_disown(int dirfd, const char *name);
/* Deletes dirfd/name, which is no snapshot any more or not yet, where it is; 0, or a negative
 * errno: then not all of it. */
int trash_delete_at(struct store *st, struct berth_op *op, int dirfd, const char *name);
/* Deletes what is in the trash. Others may be deleting there, too. Stops when the op is cancelled.
 * 0, or a negative errno with the name of what could not be deleted in `where`. */
int trash_empty(struct store *st, struct berth_op *op, char where[NAME_LIMIT + 1]);
/* Has the sweeper look, some time after a failure. */
void trash_sweep_soon(struct store *st, bool after_failure);
void trash_sweep(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg);

/* load.c: what is on the disk comes into the index; what a crash left goes to the trash */
berth_status load_all(struct store *st, struct berth_op *op);
/* Fails where a snapshot of this name is kept that is not understood. */
berth_status check_strange(struct store *st, struct berth_op *op, const char *key);

/* ops.c, remove.c */
berth_status check_key(struct store *st, struct berth_op *op, const char *what, const char *key,
        char name[NAME_LIMIT + 1]);
/* Wants the lock held. */
berth_status find_snap(struct store *st, struct berth_op *op, const char *key, struct snap **ret);
berth_status op_remove(struct berth_op *op, void *self, const struct berth_snap_args *a);
berth_status op_cleanup(struct berth_op *op, void *self);

/* stat.c */
berth_status op_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res);
berth_status op_list(struct berth_op *op, void *self, struct berth_snap_list *res);

#endif
