/* What every storage driver needs: named snapshots, each a directory with a meta file, and the ops
 * of the ABI on them. A driver adds a table of hooks that make, describe and destroy the content.
 * Linked into each driver; one store for each instance of one.
 *
 * On disk, below the store's root:
 *   layers/NAME/{meta,...}  committed: complete and on the disk, or not there
 *   active/NAME/{meta,...}  being filled, or a container's own; complete once it is there
 *   new/N                   under construction; removed, and a power cut may bring its name back
 *   trash/N, trash/N.part   removed, and perhaps not deleted yet: snapshots, parts of a deep tree
 * NAME is the snapshot's name with everything but letters, digits, '.', '_' and '-' as %XX. A
 * snapshot gets its place by rename, and loses it by rename; it gets it with its meta file, which
 * is on the disk before a layer has its name, and where it cannot be renamed it loses that file
 * first. So one without a meta file, or with one whose end was cut off, is what a crash left, and
 * goes at the start. One whose meta file is whole but not understood is another version's: it is
 * left alone and its name is not given away. What cannot be read for any other reason fails the
 * start. What else a snapshot's directory has is the driver's; only "fs" has a meaning here: what
 * usage is summed up of. Of a layer whose content lies elsewhere it is a link to that, and "root" a
 * directory that looks like its root.
 *
 * In memory an index of all snapshots, under one lock that is held over no hook and over no system
 * call that touches the disk.
 */
#ifndef STORAGE_COMMON_STORE_H
#define STORAGE_COMMON_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "berth/plugin.h"

#define NAME_LIMIT 255  /* bytes of a file name, and of a snapshot's name */
#define META_LIMIT 4096 /* bytes of a meta file */
#define OWN_LIMIT 512   /* bytes of the driver's own part of it */
#define BOOT_ID_LEN 36

struct meta {
	uint32_t kind; /* BERTH_SNAP_* */
	bool layer, is_volatile;
	char parent[NAME_LIMIT + 1]; /* "" = none */
	char boot[BOOT_ID_LEN + 1];
	uint64_t created_ns;
	char own[OWN_LIMIT + 1];
};

/* A snapshot. What a hook is given stays as long as the hook runs, and so does all that it stands
 * on: key, parent and kind never change. */
struct snap {
	struct snap *next; /* in its bucket */
	char *key;
	char *external;      /* where the content of a layer lies that is not ours, or NULL */
	struct snap *parent; /* NULL = none */
	uint32_t kind;       /* BERTH_SNAP_* */
	uint32_t children;
	uint32_t pins; /* hooks that look at it: it is not removed meanwhile */
	uint32_t phase;
	bool layer;       /* one image layer alone, its parent not known yet: see make() */
	bool is_volatile; /* what is written to it is worth nothing after a reboot */
	bool broken;      /* while loading: something below it is missing */
	bool committing;  /* by one op at a time */
	/* Of a layer that is being filled: its directory, open since nothing was written, so that
	 * its sync tells of all that went wrong since; -1 = none. And what a sync told. */
	int fd, lost;
	char boot[BOOT_ID_LEN + 1]; /* the boot that it was made in */
	uint64_t created_ns;
	/* Of the driver's making, kept in the meta file: fields "key=value" with a space between
	 * them, no control characters. Changed by plan() and seal() alone, and seal() has a copy of
	 * the snapshot. */
	char own[OWN_LIMIT + 1];
	/* what was found when usage was asked for last */
	uint64_t bytes, inodes, walked_ns, walk_cost_ns;
};

struct usage {
	uint64_t bytes, inodes;
};

struct store;

/* Hooks that return a status fail the op themselves (berth_fail(), store_fail()); those that return
 * an int give 0 or a negative errno. All run on workers, may block and may be NULL where it says
 * so. Hooks on different snapshots run at once; those on one do not, but for describe and usage. */
struct store_driver {
	uint64_t features;    /* as in struct berth_plugin */
	uint32_t chain_limit; /* layers below a snapshot, not 0 */
	/* The content lies outside of the snapshot's directory (a device, say). Then the meta file
	 * is on the disk before make() is called, and a removal is before destroy() is. */
	bool outside;

	/* Of create(). The keys of the configuration; here self is set, and root may be replaced
	 * (malloc). No directory of the store is there yet. */
	berth_status (*configure)(
	        struct store *st, struct berth_op *op, const struct berth_conf *c);
	/* Of create(). Is this machine fit? The directories are there and nothing is loaded.
	 * st->features and no_quota become here what holds on this machine. May be NULL. */
	berth_status (*probe)(struct store *st, struct berth_op *op);
	/* All is loaded; no other op has run yet. May be NULL. */
	berth_status (*start)(struct store *st, struct berth_op *op);
	/* No other op follows, but one may still run. May be NULL. */
	void (*stop)(struct store *st, struct berth_op *op);
	/* Frees self, which is NULL where configure() did not get that far. May be NULL. */
	void (*finish)(struct store *st);

	/* Before a snapshot is made: are the arguments good, what must its meta file say (own,
	 * is_volatile)? No effect outside of memory yet. Key, parent, kind and layer are set.
	 * Limits and maps of ids are only there where st->features has their bit. May be NULL. */
	berth_status (*plan)(struct store *st, struct berth_op *op, struct snap *s,
	        const struct berth_snap_args *a);
	/* What plan() began is not carried out: make() was not called, and no destroy() will name
	 * it. What plan() took in memory is given back. May be NULL. */
	void (*unplan)(struct store *st, const struct snap *s);
	/* Fills the new snapshot's directory, which has the meta file alone, or makes what the meta
	 * file names. Without BERTH_F_DETACHED_LAYERS the parent's content is there afterwards;
	 * with it, s->layer says that this begins empty. What a failed or killed make() leaves
	 * goes to destroy(). */
	berth_status (*make)(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
	        const struct berth_snap_args *a);
	/* Before an active snapshot is committed: what was needed only to write it goes, and what
	 * lies outside of the store's file system is synced (that itself is synced afterwards).
	 * Idempotent: where the commit fails, it is tried again or the snapshot removed. The parent
	 * of a layer is not known here. May be NULL. */
	berth_status (*seal)(struct store *st, struct berth_op *op, struct snap *s, int dirfd);
	/* Describes the mounts of an active snapshot or a view, in the op's arena, and makes ready
	 * what they name. Called after make() and for mounts(). */
	berth_status (*describe)(struct store *st, struct berth_op *op, const struct snap *s,
	        struct berth_mounts_result *res);
	/* Destroys what deleting files does not: called for what lies in the trash before its files
	 * are deleted, one at a time. m is NULL where there is no meta file, or what is left
	 * of one. Idempotent: what is not there is no error. It may be called once more after a
	 * crash of the system, so a name that is used again (an id) is compared with those of
	 * living snapshots. -EBUSY and other errors: tried again later. Slow work asks
	 * store_give_up(). May be NULL. */
	int (*destroy)(struct store *st, struct berth_op *op, int dirfd, const struct meta *m);
	/* What the snapshot takes for itself alone. NULL: "fs" below its directory is walked. */
	int (*usage)(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
	        struct usage *u);
	/* Is the entry of this name, at the top of "fs", the driver's own and not counted?
	 * May be NULL. */
	bool (*skips)(const char *name);
};

struct store {
	const struct berth_host *host; /* its plugin_name begins messages */
	const struct store_driver *driver;
	void *self; /* the driver's */
	char *root; /* the state directory, where configure() does not replace it */
	int root_fd, layers_fd, active_fd, new_fd, trash_fd;
	char boot[BOOT_ID_LEN + 1];
	uint64_t features; /* of this instance; the driver's, where probe() leaves them */
	char *no_quota;    /* malloc: why there is no BERTH_F_QUOTA here; NULL: there never is */
	struct store_own *own;
};

/* ---- the entries of struct berth_plugin; self is a struct store ---- */
extern const struct berth_storage_ops store_ops;
berth_status store_create(const struct store_driver *driver, struct berth_op *op,
        const struct berth_host *h, const struct berth_conf *c, void **self);
berth_status store_start(struct berth_op *op, void *self);
berth_status store_stop(struct berth_op *op, void *self);
void store_destroy(void *self);
const void *store_extension(void *self, const char *id); /* berth.features/1 */

/* A driver's create(), descriptor and entry symbol, once its `struct store_driver driver` is there.
 */
#define STORE_PLUGIN(NAME, FEATURES)                                                       \
	static berth_status driver_create(struct berth_op *op, const struct berth_host *h, \
	        const struct berth_conf *c, void **self)                                   \
	{                                                                                  \
		return store_create(&driver, op, h, c, self);                              \
	}                                                                                  \
	static const struct berth_plugin plugin = {                                        \
	        .size = sizeof(plugin),                                                    \
	        .abi_minor = BERTH_ABI_MINOR,                                              \
	        .features = (FEATURES),                                                    \
	        .name = (NAME),                                                            \
	        .version = "0.1",                                                          \
	        .storage = &store_ops,                                                     \
	        .create = driver_create,                                                   \
	        .start = store_start,                                                      \
	        .stop = store_stop,                                                        \
	        .destroy = store_destroy,                                                  \
	        .extension = store_extension,                                              \
	};                                                                                 \
	BERTH_PLUGIN_NEEDS(0)                                                              \
	BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)       \
	{                                                                                  \
		(void)host_minor;                                                          \
		return &plugin;                                                            \
	}

/* ---- for hooks; [any], none wants a lock ---- */
/* Fails the op: "snapshot 'KEY': WHAT in 'ROOT': error". r is an errno of either sign. */
berth_status store_fail(
        struct store *st, struct berth_op *op, int r, const char *what, const char *key);
const char *store_dir(uint32_t kind); /* "layers" or "active" */
/* The absolute path of LEAF in the snapshot's directory, in the op's arena. */
char *store_path(struct store *st, struct berth_op *op, const struct snap *s, const char *leaf);
/* LEAF of the snapshot's directory relative to layers_fd or active_fd. */
#define LEAF_PATH (NAME_LIMIT + 64)
int store_dirfd(struct store *st, uint32_t kind);
void store_leaf(const struct snap *s, const char *leaf, char out[LEAF_PATH]);
uint32_t store_chain(const struct snap *s); /* how many s and all below it are */
/* One mount as the result; options end with NULL. Strings stay the caller's, in the op's arena. */
berth_status store_mount(struct store *st, struct berth_op *op, const char *type,
        const char *source, const char *const *options, struct berth_mounts_result *res);
/* A bind mount of LEAF of the snapshot's directory as the result. */
berth_status store_bind(struct store *st, struct berth_op *op, const struct snap *s,
        const char *leaf, bool ro, struct berth_mounts_result *res);
/* The directory NAME becomes as the parent's "fs" is: owner (mapped by the arguments), mode, times.
 * 0, or a negative errno; -EOVERFLOW where no range holds an id. */
int store_like_parent(struct store *st, int dirfd, const char *name, const struct snap *parent,
        const struct berth_snap_args *a);
/* Moves dirfd/name, which is no snapshot, into the trash. 0, or a negative errno. */
int store_discard(struct store *st, int dirfd, const char *name);
/* Deletes the tree dirfd/name now. It enters no other mount. 0, or a negative errno. */
int store_delete_tree(struct store *st, struct berth_op *op, int dirfd, const char *name);
/* Should a deletion end now? -ECANCELED, or 0. */
int store_give_up(struct store *st, struct berth_op *op);
/* Sums up the tree dirfd/name, without other mounts and without what the driver skips. */
int store_tree_usage(
        struct store *st, struct berth_op *op, int dirfd, const char *name, struct usage *u);
/* Calls fn for each snapshot's directory on the disk, those in new and trash as well. For probe()
 * and start().
 * in: "layers", "active", "new", "trash". m is NULL where there is none that is understood. The
 * first value but 0 that fn returns ends it and is returned; a negative errno where something
 * cannot be read. */
int store_each(struct store *st,
        int (*fn)(void *arg, const char *in, const char *name, const struct meta *m), void *arg);
/* 1: there are layers or containers, and so an earlier start found nothing wrong with the file
 * system; 0: none; or a negative errno. */
int store_in_use(struct store *st);
/* Is r the errno, of either sign, of a probe that only wants for room, in a store that is in use?
 * Then the log is told. */
bool store_lacks_room(struct store *st, struct berth_op *op, int r);
/* The value of field KEY in an `own`; false where there is none, or it is no decimal number. */
bool own_u64(const char *own, const char *key, uint64_t *ret);
bool own_text(const char *own, const char *key, char *ret, size_t size); /* false: does not fit */
uint64_t store_now_ns(clockid_t clock);
/* A small file as a string; 0 or a negative errno, -EFBIG where it does not fit. */
int store_read_small(int dirfd, const char *path, char *buf, size_t size);

#endif
