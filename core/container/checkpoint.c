#include "container/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "plugin/cancel.h"

struct berth_checkpoint {
	struct berth_checkpoint *next; /* of the container */
	struct berth_container *c;     /* a reference */
	char *location;
	uint64_t timeout_s;
	struct berth_cancel *cancel;
	const char *why; /* it was given up; static */
	bool counted;
	berth_done_fn done;
	void *arg;
	struct berth_error *err; /* the worker's while it is at work */
};

struct berth_checkpoint *berth_checkpoint_new(struct berth_container *c, const char *location,
        uint64_t timeout_s, berth_done_fn done, void *arg)
{
	struct berth_checkpoint *k = berth_new(struct berth_checkpoint);

	*k = (struct berth_checkpoint){.next = c->checkpoints,
	        .c = berth_container_ref(c),
	        .location = berth_strdup(location),
	        .timeout_s = timeout_s ? timeout_s : BERTH_LIMIT_CHECKPOINT_S,
	        .cancel = berth_cancel_new(),
	        .done = done,
	        .arg = arg};
	c->checkpoints = k;
	return k;
}

static void give_up(struct berth_checkpoint *k, const char *why)
{
	if (!k->why)
		k->why = why;
	berth_cancel_set(k->cancel);
}

void berth_checkpoint_abandon(struct berth_checkpoint *k)
{
	give_up(k, "its client has left");
}

void berth_container_end_checkpoints(struct berth_container *c, const char *why)
{
	for (struct berth_checkpoint *k = c->checkpoints; k; k = k->next)
		give_up(k, why);
}

void berth_checkpoints_end(struct berth_daemon *d)
{
	struct berth_container *c, *tmp;

	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		berth_container_end_checkpoints(c, "berthd is shutting down");
	}
}

static void end(struct berth_checkpoint *k)
{
	struct berth_container *c = k->c;

	for (struct berth_checkpoint **p = &c->checkpoints; *p; p = &(*p)->next) {
		if (*p == k) {
			*p = k->next;
			break;
		}
	}
	c->d->checkpoints -= k->counted;
	if (k->err && k->err->code == BERTH_CANCELLED && k->why) {
		k->err = berth_error_free(k->err);
		berth_error_set(&k->err, BERTH_ABORTED,
		        "container %s: its checkpoint was given up: %s", c->id, k->why);
	}
	k->done(k->err, k->arg);
	if (!k->err)
		berth_log_info(
		        "container checkpointed", "container", c->id, "archive", k->location);
	berth_gate_leave(&c->gate);
	berth_container_unref(c);
	berth_cancel_unref(k->cancel);
	berth_error_free(k->err);
	free(k->location);
	free(k);
}

static void work(void *arg)
{
	struct berth_checkpoint *k = arg;
	if (berth_checkpoint_make(k->c, k->location, k->timeout_s, k->cancel, &k->err) < 0)
		berth_error_wrap(&k->err, "container %s: checkpoint", k->c->id);
}

static void worked(void *arg)
{
	end(arg);
}

/* Why none can be made now, or of this container never. */
static int refuse(struct berth_checkpoint *k, struct berth_error **ret_err)
{
	const struct berth_container *c = k->c;
	const struct berth_handler *h = c->pod->handler;

	if (berth_cancel_is_set(k->cancel))
		return berth_error_set(ret_err, BERTH_CANCELLED, "given up");
	if (!c->in_table)
		return berth_error_set(ret_err, BERTH_NOT_FOUND, "container %s is gone", c->id);
	if (c->phase != BERTH_CTR_RUNNING)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "container %s is not running: there is nothing to checkpoint", c->id);
	if (!h)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "container %s: its runtime handler \"%s\" is not configured any more",
		        c->id, c->pod->handler_name);
	if (!berth_instance_has_op(h->instance, BERTH_OP_RUNTIME_CHECKPOINT))
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "container %s: its runtime handler %s makes no checkpoints", c->id,
		        h->name);
	if (!(berth_instance_features(h->instance) & BERTH_F_CHECKPOINT))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "container %s: its runtime handler %s makes no checkpoints: %s", c->id,
		        h->name, berth_instance_no_checkpoint(h->instance));
	if (c->d->checkpoints >= BERTH_LIMIT_CHECKPOINTS)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: %d checkpoints are under way", c->id,
		        BERTH_LIMIT_CHECKPOINTS);
	return 0;
}

static void turn(void *arg)
{
	struct berth_checkpoint *k = arg;
	struct berth_daemon *d = k->c->d;
	struct berth_error *err = NULL; /* k->err is the worker's from its start on */

	if (refuse(k, &err) == 0) {
		k->counted = true;
		d->checkpoints++;
		if (berth_work(d->flows, d->loop, work, worked, k) == 0)
			return;
		berth_error_set(&err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", k->c->id);
	}
	k->err = err;
	end(k);
}

void berth_checkpoint_start(struct berth_checkpoint *k)
{
	berth_gate_enter(&k->c->gate, turn, k);
}
