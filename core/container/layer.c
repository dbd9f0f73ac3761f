/* What containers' writable layers take, as their storage drivers say it.
 *
 * Most drivers answer at once: by quota, or from a cache of their own. One that walks a tree, or
 * hangs, must not hold up those who ask for statistics: a few questions go to each driver at a
 * time, each container's is asked once however many wait for it, and after a second nobody waits
 * any more.
 */
#include "container/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stats/sampler.h"

#define AT_ONCE 2 /* questions under way to one driver */

struct question {
	struct berth_container *c;
	struct berth_layer_lane *lane;
	struct berth_snap_args args;
	struct berth_snap_info info;
};

static struct berth_layer_lane *lane_of(const struct berth_container *c)
{
	struct berth_daemon *d = c->d;

	for (size_t i = 0; i < d->n_storages; i++)
		if (d->storages[i] == c->storage)
			return &d->containers->layers[i];
	return NULL;
}

static void wake(struct berth_container *c)
{
	c->layer.asking = false;
	while (c->layer.waits) {
		struct berth_layer_wait *w = c->layer.waits;
		berth_layer_wait_end(w);
		w->fn(w->arg);
	}
}

static void ask_next(struct berth_layer_lane *lane);

static void answered(struct berth_call *call, void *arg)
{
	struct question *q = arg;
	struct berth_container *c = q->c;
	bool known = !berth_call_error(call);

	c->layer.bytes = q->info.bytes;
	c->layer.inodes = q->info.inodes;
	c->layer.at_ns = known ? berth_realtime_ns() : 0;
	c->layer.answered_ns = berth_now_ns();
	berth_call_free(call);
	q->lane->under_way--;
	wake(c);
	ask_next(q->lane);
	berth_container_unref(c);
	free(q);
}

static void ask(struct berth_layer_lane *lane, struct berth_container *c)
{
	struct question *q = berth_new(struct question);

	q->c = c;
	q->lane = lane;
	q->args = (struct berth_snap_args){.size = sizeof(q->args), .key = c->id};
	q->info.size = sizeof(q->info);
	lane->under_way++;
	berth_call_start(berth_call_new(c->storage, BERTH_OP_STORAGE_STAT, c->id), &q->args,
	        &q->info, answered, q);
}

static void ask_next(struct berth_layer_lane *lane)
{
	while (lane->first && lane->under_way < AT_ONCE) {
		struct berth_container *c = lane->first;
		lane->first = c->layer.next;
		if (!lane->first)
			lane->last = NULL;
		c->layer.next = NULL;
		if (c->d->flows && c->in_table) {
			ask(lane, c);
			continue;
		}
		/* It, or the daemon, has gone meanwhile. */
		wake(c);
		berth_container_unref(c);
	}
}

bool berth_layer_ask(struct berth_container *c, struct berth_layer_wait *w)
{
	struct berth_layer_lane *lane = lane_of(c);
	struct berth_layer *l = &c->layer;
	uint64_t now = berth_now_ns();

	if (!lane || (l->asking && now - l->asked_ns > BERTH_LAYER_WAIT_MS * 1000000u) ||
	        (!l->asking && l->answered_ns && now - l->answered_ns <= BERTH_SAMPLE_FRESH_NS))
		return false;
	w->next = l->waits;
	w->prev = &l->waits;
	if (w->next)
		w->next->prev = &w->next;
	l->waits = w;
	if (l->asking)
		return true;
	l->asking = true;
	l->asked_ns = now;
	berth_container_ref(c);
	if (lane->last)
		lane->last->layer.next = c;
	else
		lane->first = c;
	lane->last = c;
	ask_next(lane);
	return true;
}

void berth_layer_wait_end(struct berth_layer_wait *w)
{
	if (!w->prev)
		return;
	*w->prev = w->next;
	if (w->next)
		w->next->prev = w->prev;
	w->next = NULL;
	w->prev = NULL;
}
