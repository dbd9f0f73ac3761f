/* The aufs storage driver: a snapshot's directory has fs, the layer or writable branch, and where
 * it is mounted through aufs, work, a place for what the kernel makes and unlinks at once. The rest
 * is storage-common.
 */
#ifndef STORAGE_AUFS_H
#define STORAGE_AUFS_H

#include "storage-common/store.h"

/* A kernel that is built as the patches propose takes 127 branches, of which one is written to. */
#define LAYERS_LIMIT 126
#define OPTIONS_MAX 16 /* of the configuration */

struct aufs {
	char *xino_dir;                 /* NULL: the snapshot's own */
	char *extra;                    /* what `options` points into */
	char *options[OPTIONS_MAX + 1]; /* NULL at the end */
};

/* probe.c: is this machine and this directory fit for aufs? Fails the op where it is not. */
berth_status aufs_probe(struct store *st, struct berth_op *op);

/* content.c: hooks of struct store_driver */
berth_status aufs_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a);
berth_status aufs_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd);
bool aufs_skips(const char *name);

/* describe.c */
berth_status aufs_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res);

#endif
