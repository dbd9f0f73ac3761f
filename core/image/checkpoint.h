/* A berth-pull that writes a container's checkpoint into an archive (core/pull/checkpoint.h). Each
 * function blocks, at the longest until the deadline or the cancel. [worker] */
#ifndef BERTH_IMAGE_CHECKPOINT_H
#define BERTH_IMAGE_CHECKPOINT_H

#include <jansson.h>

#include "daemon.h"
#include "plugin/cancel.h"

struct berth_packer;
/* `dir` becomes the archive, and is borrowed. */
struct berth_packer_opts {
	int dir;
	uint64_t deadline_ns;
	struct berth_cancel *cancel;
	json_t *request; /* of the protocol, without `t`; taken */
};
struct berth_packer *berth_packer_start(const struct berth_daemon *d,
        const struct berth_packer_opts *o, struct berth_error **ret_err);
/* What the container's layer shows; -1 where there is none, and borrowed. */
struct berth_packer_layer {
	int top, below, opaque;
};
int berth_packer_diff(struct berth_packer *p, const struct berth_packer_layer *l,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* On success all of it is on the disk. */
int berth_packer_pack(
        struct berth_packer *p, int archive, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Kills it where it is still at work; NULL-safe. */
void berth_packer_freep(struct berth_packer **p);

#endif
