/* The device mapper driver: each snapshot is a device of a thin pool, with a file system of its
 * own. A snapshot's directory has the meta file alone; its `own` fields are
 *   dev=N    the device's number in the pool
 *   n=N      tells two devices apart that had the same number one after the other
 *   size=N   bytes
 *   fs=TYPE
 *   used=N files=N   of a committed one: what its file system holds, with all that it stands on
 *
 * In the state directory, beside storage-common's:
 *   pool          which numbers of the pool are ours, and the beginning of our devices' names
 *   base          the device with an empty file system that every snapshot without parent begins as
 *   base.next     the one that is being made to take its place
 *   data, metadata  where the pool lies on files
 *
 * A number is written down, and on the disk, before the pool is told to make the device, and a
 * device is deleted before its number is forgotten. So nothing has to be searched for in the pool,
 * whose transaction id stays as it is: LVM, which may own the pool, would refuse another.
 */
#ifndef STORAGE_DEVMAPPER_H
#define STORAGE_DEVMAPPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dm.h"
#include "storage-common/store.h"

#define IDS 65536u /* numbers of the pool that one store uses; the pool has 256 times that */
#define IDS_REGIONS 256u
#define FS_TYPE_LEN 8
#define TAG_LEN 8
#define OPTIONS_LIMIT 1024
#define SECTOR 512u
#define PATH_LIMIT 512 /* of device nodes and files of ours */
#define REASON_LIMIT 320

enum pool_kind { POOL_GIVEN, POOL_LOOP, POOL_LVM };

/* What the pool says of itself. */
struct pool_status {
	enum { POOL_RW, POOL_RO, POOL_NO_SPACE, POOL_FAILED } mode;
	uint64_t data_used, data_total, meta_used, meta_total; /* blocks */
	bool needs_check;
};

struct fs_totals {
	uint64_t bytes, files;
};

struct dm {
	int ctl;
	/* configuration */
	enum pool_kind kind;
	char *pool_conf, *devices, *vg;
	uint64_t loop_size, base_size;
	char fs[FS_TYPE_LEN];
	char *mount_options, *mkfs_options;
	bool discard;
	uint32_t data_limit, metadata_limit; /* percent */
	uint64_t interval_ns;
	/* the pool */
	char pool[DM_NAME_MAX + 1]; /* its device's name */
	struct dm_dev pool_dev;
	int files_fd;   /* of the directory of a pool on files, borrowed; -1: it is on none */
	bool pool_made; /* activated by this process: undone where the start fails */
	bool zeroes;    /* it gives no old data in new blocks */
	char tag[TAG_LEN + 1];
	uint32_t first; /* number; ours are `first` to first + IDS - 1 */
	/* the base */
	uint32_t base;
	uint64_t base_n, serial; /* serial: of the numbers called n; atomic */
	struct fs_totals base_totals;
	/* numbers that are taken, by what is called n above */
	pthread_mutex_t lock;
	uint64_t *owner; /* [IDS], 0 = free */
	uint32_t cursor;
	/* Layers that are being filled are held by a mount of our own: it tells at the end whether
	 * all that was written got there. [IDS], fd + 1 */
	int *held;
	pthread_mutex_t snapping; /* a parent that is in use is suspended */
	/* health */
	struct berth_watch *watch;
	char sick[REASON_LIMIT]; /* "" = well; the watch's alone */
};

/* What `own` says. */
struct thin {
	uint32_t dev;
	uint64_t n, size;
	char fs[FS_TYPE_LEN];
	struct fs_totals totals; /* of a committed one */
};

/* thin.c */
int thin_parse(const char *own, struct thin *ret); /* -EINVAL */
int thin_print(const struct thin *t, bool totals, char *own, size_t size);
void thin_name(const struct dm *d, uint32_t dev, char name[DM_NAME_MAX + 1]);
/* Takes a free number; 0: there is none. */
uint32_t thin_take(struct dm *d, uint64_t n);
/* Gives it back, if it is n's. */
void thin_give(struct dm *d, uint32_t dev, uint64_t n);
/* Notes one that is taken; false: it is by another, or none of ours. */
bool thin_note(struct dm *d, uint32_t dev, uint64_t n);
bool thin_is(struct dm *d, uint32_t dev, uint64_t n);
int thin_create(struct dm *d, uint32_t dev);
int thin_snapshot(struct dm *d, uint32_t dev, uint32_t origin); /* origin may be in use */
int thin_delete(struct dm *d, uint32_t dev); /* gone already: 0; in use: -EBUSY */
/* Its device, made where it is not there; the path of its node. */
int thin_activate(struct dm *d, const struct thin *t, char path[PATH_LIMIT]);
/* Waits some time for whoever has it open; then it goes by itself later, and -EBUSY. */
int thin_deactivate(struct dm *d, uint32_t dev);

/* pool.c */
berth_status pool_open(struct store *st, struct berth_op *op);
void pool_undo(struct store *st); /* what a start that failed has activated */
int pool_status(struct dm *d, struct pool_status *ret);
int pool_status_parse(const char *text, struct pool_status *ret);
/* Node of the device MAJOR:MINOR. */
int node_of(uint32_t major, uint32_t minor, char path[PATH_LIMIT]);

/* loop.c: the pool on two files; lvm.c: on block devices through LVM. Both set d->pool. */
berth_status pool_on_files(struct store *st, struct berth_op *op);
berth_status pool_on_lvm(struct store *st, struct berth_op *op);
/* Is there too little room for files of the pool to grow? *ret_free: bytes. */
bool pool_files_full(const struct dm *d, const struct pool_status *s, uint64_t *ret_free);
/* VG/LV: activated; d->pool is its device. */
berth_status pool_of_lvm(struct store *st, struct berth_op *op, const char *vg, const char *lv);

/* health.c */
/* Why no more should be put into the pool; false: there is no reason. */
bool pool_sick(struct dm *d, const struct pool_status *s, char why[REASON_LIMIT]);
berth_status pool_has_room(struct store *st, struct berth_op *op, const char *key);
berth_status health_start(struct store *st, struct berth_op *op);
void health_stop(struct store *st);

/* fs.c */
berth_status fs_make(struct store *st, struct berth_op *op, const char *path, const char *fs);
/* A mount that is attached nowhere; a descriptor of its root, or a negative errno. */
int fs_open(struct dm *d, const char *path, const char *fs, bool readonly);
int fs_totals(int fd, struct fs_totals *ret);
int fs_grow(int fd, const char *fs, uint64_t size);
/* The options that a snapshot is mounted with, in the op's arena. */
const char *const *fs_options(struct store *st, struct berth_op *op, const char *fs, bool view);
bool fs_known(const char *fs);

/* state.c: the files `pool` and `base` */
berth_status state_load(struct store *st, struct berth_op *op);
berth_status base_ready(struct store *st, struct berth_op *op);

/* content.c: hooks */
berth_status dm_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a);
void dm_unplan(struct store *st, const struct snap *s);
berth_status dm_content(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a);
berth_status dm_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd);
berth_status dm_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res);
int dm_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m);
int dm_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u);
void thin_let_go(struct dm *d, uint32_t dev);

/* util.c */
bool parse_size(const char *text, uint64_t *ret); /* "10G"; binary units */
/* Runs a program from a system directory. Fails the op where it is missing or fails; its words are
 * told. `out` (may be NULL): its output, in the op's arena. */
berth_status run_tool(struct store *st, struct berth_op *op, const char *what,
        const char *const *argv, const char **out);

#endif
