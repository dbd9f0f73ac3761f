/* What is known of the image stores, and those who ask. [loop] */
#include "image/shared.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/shared_internal.h"

#define LOOK_AGAIN_MS 30000
#define FRESH_NS 2000000000ull /* so long one look is good for all who ask */
#define LONG_NS 5000000000ull  /* nobody waits longer for a look that goes on */

struct shared_waiter {
	struct shared_waiter *next;
	uint64_t since_ns;
	void (*fn)(void *arg);
	void *arg;
};

/* ---- what a store holds ---- */

static void forget_images(struct shared_store *s)
{
	struct berth_image *i, *tmp;

	HASH_ITER (hh, s->by_id, i, tmp) {
		HASH_DEL(s->by_id, i);
		berth_image_unref(i);
	}
}

static char **names_of(const json_t *list)
{
	char **v = NULL;
	size_t i;
	json_t *e;
	json_array_foreach ((json_t *)(uintptr_t)list, i, e) {
		if (json_is_string(e))
			v = berth_strv_append(v, json_string_value(e));
	}
	return v;
}

static void take_image(struct shared_store *s, const json_t *j)
{
	json_t *record = json_object_get(j, "record");
	const char *id = json_string_value(json_object_get(record, "id"));

	struct berth_image *i = NULL;

	if (!berth_digest_ok(id))
		return;
	HASH_FIND_STR(s->by_id, id, i);
	if (i)
		return;
	i = berth_new(struct berth_image);
	i->refs = 1;
	i->id = berth_strdup(id);
	i->record = json_incref(record);
	i->tags = names_of(json_object_get(j, "tags"));
	i->digests = names_of(json_object_get(j, "digests"));
	i->size = (uint64_t)json_integer_value(json_object_get(record, "size"));
	i->store = s->dir;
	HASH_ADD_KEYPTR(hh, s->by_id, i->id, strlen(i->id), i);
}

void shared_take_index(struct shared_store *s, json_t *doc)
{
	json_t *images = json_object_get(doc, "images"), *image;
	size_t i;

	forget_images(s);
	json_array_foreach (images, i, image) {
		take_image(s, image);
	}
	berth_log_info("an image store was read", "store", s->dir, "generation", s->generation);
}

static int refuse(const struct shared_store *s, const char *chain_id, const json_t *why,
        struct berth_error **ret_err)
{
	json_int_t code = json_integer_value(json_object_get(why, "code"));
	const char *msg = json_string_value(json_object_get(why, "msg"));

	return berth_error_set(ret_err,
	        code == BERTH_FAILED_PRECONDITION ? BERTH_FAILED_PRECONDITION : BERTH_UNAVAILABLE,
	        "image store %s: layer %s cannot be used: %s", s->dir, chain_id,
	        msg ? msg : "it was not looked at");
}

void shared_take_layers(struct shared_store *s, json_t *layers)
{
	_cleanup_(berth_error_freep) struct berth_error *first = NULL;
	const char *chain;
	json_t *can;
	size_t n = 0;

	json_object_foreach (layers, chain, can) {
		if (json_is_true(can))
			continue;
		if (n++ == 0)
			(void)!refuse(s, chain, can, &first);
	}
	json_decref(s->layers);
	s->layers = json_incref(layers);
	if (!first)
		return;
	_cleanup_free_ char *count = berth_asprintf("%zu", n);
	berth_log_warn("an image store has layers that cannot be used", "store", s->dir, "layers",
	        count, "error", first->msg);
}

/* ---- looking at all ---- */

/* Good for who came at `since_ns`: with several stores the first to answer is not fresh any more
 * once the last one has. */
static bool answered(const struct shared_store *s, uint64_t since_ns)
{
	uint64_t now = berth_now_ns();

	/* It does not hang: what it had before is good enough. */
	if (s->looking && now - s->began_ns >= LONG_NS && now - s->heard_ns < FRESH_NS)
		return true;
	return s->known && s->looked_ns + FRESH_NS > since_ns;
}

static bool all_answered(const struct berth_shared *all, uint64_t since_ns)
{
	for (size_t i = 0; i < all->n; i++)
		if (!answered(&all->v[i], since_ns))
			return false;
	return true;
}

void shared_looked(struct berth_shared *all)
{
	struct shared_waiter *w = berth_take(all->waiters), *next;

	for (; w; w = next) {
		next = w->next;
		if (all_answered(all, w->since_ns)) {
			w->fn(w->arg);
			free(w);
		} else {
			w->next = all->waiters;
			all->waiters = w;
		}
	}
}

static void look_at_all(void *arg)
{
	struct berth_shared *all = arg;
	uint64_t now = berth_now_ns();

	for (size_t i = 0; i < all->n; i++)
		if (!answered(&all->v[i], now))
			shared_look(&all->v[i]);
}

static void look_now_and_then(void *arg)
{
	struct berth_shared *all = arg;
	berth_timer_free(all->timer);
	all->timer = berth_timer_start(all->d->loop, LOOK_AGAIN_MS, look_now_and_then, all);
	look_at_all(all);
}

/* ---- for the others ---- */

void berth_shared_start(struct berth_daemon *d)
{
	char **dirs = d->config->images.additional_stores;
	size_t n = berth_strv_len(dirs);

	if (n == 0)
		return;
	struct berth_shared *all = d->images->shared = berth_new(struct berth_shared);
	all->d = d;
	all->n = n;
	all->v = berth_new_array(struct shared_store, n);
	for (size_t i = 0; i < n; i++) {
		all->v[i].all = all;
		all->v[i].dir = dirs[i];
		all->v[i].sock = all->v[i].pidfd = all->v[i].told = all->v[i].index = -1;
	}
	look_now_and_then(all);
}

void shared_free(struct berth_shared *all)
{
	for (size_t i = 0; i < all->n; i++)
		shared_look_forget(&all->v[i]);
	free(all->v);
	free(all);
}

void berth_shared_stop(struct berth_daemon *d)
{
	struct berth_shared *all = berth_take(d->images->shared);

	if (!all)
		return;
	all->timer = berth_timer_free(all->timer);
	for (size_t i = 0; i < all->n; i++) {
		struct shared_store *s = &all->v[i];
		shared_look_end(s);
		forget_images(s);
		json_decref(berth_take(s->layers));
		s->why = berth_error_free(s->why);
	}
	while (all->waiters) {
		struct shared_waiter *w = all->waiters;
		all->waiters = w->next;
		free(w);
	}
	all->stopped = true;
	if (all->starting == 0)
		shared_free(all);
}

bool berth_shared_fresh(const struct berth_daemon *d)
{
	const struct berth_shared *all = d->images->shared;
	return !all || all_answered(all, berth_now_ns());
}

void berth_shared_check(struct berth_daemon *d, void (*fn)(void *arg), void *arg)
{
	struct berth_shared *all = d->images->shared;

	if (berth_shared_fresh(d)) {
		fn(arg);
		return;
	}
	struct shared_waiter *w = berth_new(struct shared_waiter);
	w->since_ns = berth_now_ns();
	w->fn = fn;
	w->arg = arg;
	w->next = all->waiters;
	all->waiters = w;
	look_at_all(all);
}

/* Among those before `before`; NULL: among all. */
static struct berth_image *find_before(
        const struct berth_shared *all, const struct shared_store *before, const char *id)
{
	struct berth_image *found = NULL;

	for (size_t i = 0; all && i < all->n && &all->v[i] != before && !found; i++)
		HASH_FIND_STR(all->v[i].by_id, id, found);
	return found;
}

struct berth_image *berth_shared_by_id(const struct berth_daemon *d, const char *id)
{
	return find_before(d->images->shared, NULL, id);
}

struct berth_image *berth_shared_next(const struct berth_daemon *d, const struct berth_image *after)
{
	const struct berth_shared *all = d->images->shared;
	struct berth_image *own, *i;
	size_t n = 0;

	while (all && after && n < all->n && all->v[n].dir != after->store)
		n++;
	for (; all && n < all->n; n++, after = NULL) {
		i = after ? after->hh.next : all->v[n].by_id;
		for (; i; i = i->hh.next) {
			HASH_FIND_STR(d->images->by_id, i->id, own);
			/* What two stores have is told once. */
			if (!own && !find_before(all, &all->v[n], i->id))
				return i;
		}
	}
	return NULL;
}

char *berth_shared_layer(const struct berth_daemon *d, const char *chain_id)
{
	const struct berth_shared *all = d->images->shared;

	for (size_t i = 0; all && i < all->n; i++)
		if (all->v[i].up && json_is_true(json_object_get(all->v[i].layers, chain_id)))
			return berth_asprintf(
			        "%s/layers/%s/fs", all->v[i].dir, strchr(chain_id, ':') + 1);
	return NULL;
}

static bool lies_in(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	return strncmp(path, dir, n) == 0 && path[n] == '/';
}

static int down(const struct shared_store *s, struct berth_error **ret_err)
{
	if (!s->why || (s->looking && s->heard_ns > s->began_ns))
		return berth_error_set(ret_err, BERTH_UNAVAILABLE,
		        "image store %s: what it has is being looked at", s->dir);
	return berth_error_set(ret_err, BERTH_UNAVAILABLE, "%s", s->why->msg);
}

int berth_shared_usable(
        const struct berth_daemon *d, const char *path, struct berth_error **ret_err)
{
	static const char in[] = "/layers/";
	const struct berth_shared *all = d->images->shared;

	for (size_t i = 0; all && i < all->n; i++) {
		const struct shared_store *s = &all->v[i];
		if (!lies_in(path, s->dir))
			continue;
		if (!s->up)
			return down(s, ret_err);
		const char *below = path + strlen(s->dir);
		if (strncmp(below, in, sizeof(in) - 1) != 0)
			return 0;
		_cleanup_free_ char *chain = berth_asprintf("sha256:%.64s", below + sizeof(in) - 1);
		const json_t *can = json_object_get(s->layers, chain);
		/* What no index names any more was not looked at. */
		return can && !json_is_true(can) ? refuse(s, chain, can, ret_err) : 0;
	}
	return berth_error_set(ret_err, BERTH_UNAVAILABLE,
	        "a layer lies in %s, which is in none of images.additional_stores", path);
}

int berth_shared_why_not(
        const struct berth_daemon *d, const char *chain_id, struct berth_error **ret_err)
{
	const struct berth_shared *all = d->images->shared;

	for (size_t i = 0; all && i < all->n; i++) {
		const struct shared_store *s = &all->v[i];
		const json_t *can = json_object_get(s->layers, chain_id);
		if (can && !s->up)
			return down(s, ret_err);
		if (can && !json_is_true(can))
			return refuse(s, chain_id, can, ret_err);
	}
	return berth_error_set(
	        ret_err, BERTH_UNAVAILABLE, "layer %s is in no image store any more", chain_id);
}
