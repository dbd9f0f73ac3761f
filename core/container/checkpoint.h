/* Checkpoints: what runs in a container, and what it has written, as an archive. [loop] unless said
 * otherwise. */
#ifndef BERTH_CONTAINER_CHECKPOINT_H
#define BERTH_CONTAINER_CHECKPOINT_H

#include "container/container.h"

struct berth_checkpoint;

/* One that has not begun. location: the archive, which is replaced where it is there; timeout_s 0 =
 * BERTH_LIMIT_CHECKPOINT_S. done runs exactly once after berth_checkpoint_start(), maybe inside of
 * it, and then the object is gone. */
struct berth_checkpoint *berth_checkpoint_new(struct berth_container *c, const char *location,
        uint64_t timeout_s, berth_done_fn done, void *arg);
void berth_checkpoint_start(struct berth_checkpoint *k);
/* Its client has left: it is given up, and done tells so when all of it has gone. */
void berth_checkpoint_abandon(struct berth_checkpoint *k);
/* Gives up all that wait or are under way, of a container that ends, and of all at the end of the
 * daemon. */
void berth_container_end_checkpoints(struct berth_container *c, const char *why);
void berth_checkpoints_end(struct berth_daemon *d);

/* checkpoint_work.c, [worker] */
struct berth_cancel;
int berth_checkpoint_make(struct berth_container *c, const char *location, uint64_t timeout_s,
        struct berth_cancel *cancel, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [at the start, after the containers] Undoes what a killed daemon had under way. */
void berth_checkpoints_recover(struct berth_daemon *d);

#endif
