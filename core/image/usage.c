#include "image/usage.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "container/container.h"
#include "image/image.h"

#define FRESH_NS 10000000000ull

struct waiter {
	struct waiter *next;
	berth_disk_usage_fn fn;
	void *arg;
};

struct berth_disk_state {
	struct berth_disk_usage last;
	bool known, changed;     /* changed: `last` is of before */
	bool running, run_again; /* run_again: what is being taken is of before, too */
	struct waiter *waiters;
};

struct sample {
	struct berth_daemon *d;
	struct berth_disk_usage u;
	struct berth_error *err;
};

char *berth_disk_place(const struct berth_daemon *d, const struct berth_instance *storage)
{
	const char *name = berth_instance_name(storage);
	const char *own = json_string_value(
	        json_object_get(json_object_get(d->config->plugins, name), "root"));

	return own && *own ? berth_strdup(own) : berth_path(d->config->root, "plugins", name, NULL);
}

/* Drivers know, or remember: a committed layer does not change. One that cannot tell it has told
 * what it knows in the list. */
static int add_snapshot(struct berth_instance *storage, struct berth_disk_share *u,
        const struct berth_snap_info *in, struct berth_error **ret_err)
{
	struct berth_snap_args a = {.size = sizeof(a), .key = in->key};
	struct berth_snap_info info = {.size = sizeof(info)};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_STAT, in->key);

	if (berth_call_run(c, &a, &info, &err) < 0) {
		if (err->code == BERTH_NOT_FOUND)
			return 0; /* gone meanwhile */
		if (err->code != BERTH_UNIMPLEMENTED)
			return berth_error_move(ret_err, &err);
		info = *in;
	}
	/* Layers that are being pulled count as what they will be. */
	bool ctr = in->kind != BERTH_SNAP_COMMITTED && strcspn(in->key, ".") == BERTH_ID_LEN;
	*(ctr ? &u->ctr_bytes : &u->image_bytes) += info.bytes;
	*(ctr ? &u->ctr_inodes : &u->image_inodes) += info.inodes;
	return 0;
}

static int sample_driver(
        struct berth_instance *storage, struct berth_disk_share *u, struct berth_error **ret_err)
{
	struct berth_snap_list list = {.size = sizeof(list)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_LIST, NULL);

	if (berth_call_run(c, NULL, &list, ret_err) < 0)
		return -1;
	for (uint32_t i = 0; i < list.n; i++)
		if (add_snapshot(storage, u, list.snaps[i], ret_err) < 0)
			return -1;
	return 0;
}

static void sample_work(void *arg)
{
	struct sample *s = arg;

	for (size_t i = 0; i < s->d->n_storages; i++)
		if (sample_driver(s->d->storages[i], &s->u.of[i], &s->err) < 0)
			return;
	s->u.at_ns = berth_realtime_ns();
}

static void begin(struct berth_daemon *d);

static void tell_all(struct berth_disk_state *st, const struct berth_error *err)
{
	struct waiter *w = berth_take(st->waiters);
	while (w) {
		struct waiter *next = w->next;
		w->fn(err ? NULL : &st->last, err, w->arg);
		free(w);
		w = next;
	}
}

static void sample_done(void *arg)
{
	struct sample *s = arg;
	struct berth_disk_state *st = s->d->images->disk;

	st->running = false;
	if (!s->err) {
		st->last = s->u;
		st->known = true;
	}
	if (st->run_again && !s->err) {
		st->run_again = false;
		begin(s->d);
	} else {
		st->run_again = false;
		tell_all(st, s->err);
	}
	berth_error_free(s->err);
	free(s);
}

static void begin(struct berth_daemon *d)
{
	struct berth_disk_state *st = d->images->disk;
	struct sample *s = berth_new(struct sample);

	s->d = d;
	st->running = true;
	st->changed = false;
	if (berth_work(d->flows, d->loop, sample_work, sample_done, s) == 0)
		return;
	berth_error_set(&s->err, BERTH_RESOURCE_EXHAUSTED,
	        "usage of the disk: too many requests are under way");
	sample_done(s);
}

static struct berth_disk_state *state(struct berth_daemon *d)
{
	if (!d->images->disk)
		d->images->disk = berth_new(struct berth_disk_state);
	return d->images->disk;
}

void berth_disk_usage(struct berth_daemon *d, berth_disk_usage_fn fn, void *arg)
{
	struct berth_disk_state *st = state(d);
	uint64_t now = berth_realtime_ns();
	bool good = st->known && !st->changed && !st->run_again;
	bool fresh = good && now >= st->last.at_ns && now - st->last.at_ns < FRESH_NS;

	if (good && (fresh || st->running)) {
		fn(&st->last, NULL, arg);
		return;
	}
	if (good) {
		fn(&st->last, NULL, arg);
		begin(d);
		return;
	}
	struct waiter *w = berth_new(struct waiter);
	w->fn = fn;
	w->arg = arg;
	w->next = st->waiters;
	st->waiters = w;
	if (!st->running)
		begin(d);
}

void berth_disk_usage_changed(struct berth_daemon *d)
{
	struct berth_disk_state *st = state(d);

	st->changed = true;
	st->run_again = st->run_again || st->running;
}

void berth_disk_usage_finish(struct berth_daemon *d)
{
	struct berth_disk_state *st = d->images->disk;

	while (st && st->waiters) {
		struct waiter *w = st->waiters;
		st->waiters = w->next;
		free(w);
	}
	free(st);
	d->images->disk = NULL;
}
