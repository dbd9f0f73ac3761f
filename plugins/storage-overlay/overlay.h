/* The overlay storage driver: a snapshot's directory has fs, the layer or upper directory, and
 * where it is written through an overlay, work. The rest is storage-common.
 */
#ifndef STORAGE_OVERLAY_H
#define STORAGE_OVERLAY_H

#include "storage-common/store.h"

#define LAYERS_LIMIT 500 /* the kernel's for one mount */

struct overlay {
	bool use_volatile;
	char *extra_options; /* comma separated; may be NULL */
};

/* probe.c: is this machine and this directory fit for overlays? Fails the op where it is not. */
berth_status probe_overlay(struct store *st, struct berth_op *op);

/* content.c: hooks of struct store_driver */
berth_status overlay_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a);
berth_status overlay_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a);
berth_status overlay_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd);

/* describe.c */
berth_status overlay_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res);

#endif
