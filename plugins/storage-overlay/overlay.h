/* The overlay storage driver: a snapshot's directory has fs, the layer or upper directory, and
 * where it is written through an overlay, work. The rest is storage-common.
 */
#ifndef STORAGE_OVERLAY_H
#define STORAGE_OVERLAY_H

#include <stdbool.h>
#include <sys/types.h>

#include "storage-common/store.h"

#define LAYERS_LIMIT 500 /* the kernel's for one mount */

struct overlay {
	bool use_volatile;
	bool userxattr;
	const char *metacopy, *redirect; /* options, or NULL: as the kernel has it */
	char *extra_options;             /* comma separated; may be NULL */
	const mode_t *mask;              /* force_mask, or NULL: layers are as they come */
	mode_t mask_mode;
	char *program; /* "mount_program=PATH", or NULL: the kernel's overlay */
	bool quota;
	uint32_t first_project, next_project; /* ids; next: atomic */
};

/* options.c: reads the keys of the configuration; INVALID. */
berth_status overlay_configure(struct store *st, struct berth_op *op, const struct berth_conf *c);
void overlay_finish(struct store *st);

/* probe.c: is this machine and this directory fit for overlays? Fails the op where it is not. */
berth_status probe_overlay(struct store *st, struct berth_op *op);

/* quota.c. Project quota: what a container writes has a project id, which is counted and limited. 0
 * or a negative errno. */
#define FIRST_PROJECT 1644167168 /* far from those of administrators, kubelets and others */
void quota_probe(struct store *st, struct berth_op *op); /* sets features and no_quota */
berth_status quota_start(struct store *st, struct berth_op *op);
int quota_plan(struct store *st, struct snap *s);
int quota_apply(struct store *st, const struct snap *s, int dirfd, bool work,
        const struct berth_snap_args *a);
int quota_lift(struct store *st, const char *own); /* the limits end */
int quota_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u);

/* mask.c: force_mask. */
bool mask_parse(const char *text, mode_t *ret);
bool mask_has(const struct snap *s); /* a layer that was made with it */
/* Of seal(). 0 or a negative errno. */
int mask_layer(struct store *st, struct berth_op *op, struct snap *s, int dirfd);
/* dirfd/name becomes as the root of a layer that has a mask is shown. */
int mask_root(struct store *st, int dirfd, const char *name, const struct snap *parent);
/* A layer that cannot be shown without a mount_program, or NULL. */
const struct snap *mask_unshown(const struct overlay *o, const struct snap *top);

/* content.c: hooks of struct store_driver */
berth_status overlay_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a);
berth_status overlay_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a);
berth_status overlay_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd);
int overlay_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m);

/* describe.c */
berth_status overlay_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res);

#endif
