/* Pulls and imports: who takes part, and what comes of them. [loop] */
#include "image/pull.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/policy.h"

/* ---- the result ---- */

void pull_fail(struct berth_pull *p, struct berth_error *err)
{
	if (p->over) {
		berth_error_free(err);
		return;
	}
	/* A plugin knows its snapshot, and the puller a layer. */
	if (p->ref.repository && !strstr(err->msg, p->key) &&
	        strncmp(err->msg, BERTH_PULL_UNAVAILABLE, strlen(BERTH_PULL_UNAVAILABLE)) != 0)
		berth_error_wrap(&err, "%s of %s", p->import ? "import" : "pull", p->key);
	p->over = true;
	p->err = err;
	p->watch = berth_fdwatch_free(p->watch);
	p->sock = berth_close(p->sock);
	if (!p->ended && p->pidfd >= 0)
		(void)!berth_pidfd_kill(p->pidfd, SIGKILL);
	pull_fetch_next(p->d->images);
	pull_end(p);
}

static void pull_free(struct berth_pull *p)
{
	for (struct berth_pull **q = &p->d->images->pulls; *q; q = &(*q)->next) {
		if (*q == p) {
			*q = p->next;
			break;
		}
	}
	p->watch = berth_fdwatch_free(p->watch);
	p->sock = berth_close(p->sock);
	p->pidfd = berth_close(p->pidfd);
	pull_free_layers(p);
	for (size_t i = 0; i < p->n_images; i++)
		berth_image_unref(p->images[i]);
	free(p->images);
	json_decref(p->record);
	if (p->copied)
		p->copied->copies--;
	berth_image_unref(p->copied);
	berth_ref_finish(&p->ref);
	berth_error_free(p->err);
	free(p->packet);
	free(p->who);
	free(p->key);
	free(p);
}

static void undo_work(void *arg)
{
	pull_layers_undo(arg);
}

static void undo_done(void *arg)
{
	struct berth_pull *p = arg;
	struct berth_counts *n = &p->d->counts;

	if (p->copied)
		; /* nothing was pulled */
	else if (p->err)
		n->pulls_failed[p->err->code < BERTH_CODES ? p->err->code : BERTH_UNKNOWN]++;
	else
		berth_histogram_add(&n->pulls, &berth_bounds_size, p->bytes);
	while (p->parts) {
		struct berth_pull_part *a = p->parts;
		p->parts = a->next;
		a->fn(p->images, p->err ? 0 : p->n_images, p->err, a->arg);
		free(a);
	}
	pull_free(p);
}

/* The result is known: once nothing works for it any more, what is left over goes, and all are
 * told. */
void pull_end(struct berth_pull *p)
{
	if (!p->over || !p->ended || p->jobs > 0 || p->cleaning)
		return;
	p->cleaning = true;
	if (berth_work(p->d->flows, p->d->loop, undo_work, undo_done, p) < 0) {
		/* The next start removes it. */
		berth_loop_post(p->d->loop, undo_done, p);
	}
}

struct saving {
	struct berth_pull *p;
	char **tags, **digests, **drivers;
	struct berth_image **losers; /* had one of the tags till now */
	size_t n_losers;
	struct berth_error *err;
};

static void save_work(void *arg)
{
	struct saving *s = arg;
	struct berth_daemon *d = s->p->d;

	/* The later record has the tag until the earlier ones are without it. */
	if (berth_image_save(d, s->p->record, s->tags, s->digests, s->drivers, &s->err) < 0)
		return;
	for (size_t i = 0; i < s->n_losers; i++) {
		struct berth_error *err = NULL;
		if (berth_image_untag(d, s->losers[i], s->tags, &err) < 0) {
			berth_log_warn("an image keeps a tag on the disk that another has now",
			        "image", s->losers[i]->id, "error", err->msg);
			berth_error_free(err);
		}
	}
}

static void find_losers(struct saving *s)
{
	const char *id = json_string_value(json_object_get(s->p->record, "id"));
	struct berth_image *i, *tmp;

	HASH_ITER (hh, s->p->d->images->by_id, i, tmp) {
		bool loses = false;
		for (char **t = i->tags; t && *t && !loses; t++)
			for (char **own = s->tags; own && *own && !loses; own++)
				loses = strcmp(*t, *own) == 0;
		if (!loses || strcmp(i->id, id) == 0)
			continue;
		s->losers = berth_reallocarray(
		        s->losers, s->n_losers + 1, sizeof(struct berth_image *));
		s->losers[s->n_losers++] = berth_image_ref(i);
	}
}

/* Who cannot, lets another. */
void pull_store_next(struct berth_daemon *d)
{
	while (!d->images->saving && d->images->removals == 0) {
		struct berth_pull *next = NULL;
		for (struct berth_pull *p = d->images->pulls; p; p = p->next)
			if (p->waits_to_store)
				next = p; /* the oldest */
		if (!next)
			return;
		next->waits_to_store = false;
		pull_advance(next);
	}
}

static void save_done(void *arg)
{
	struct saving *s = arg;
	struct berth_pull *p = s->p;
	struct berth_daemon *d = p->d;

	d->images->saving = false;
	p->jobs--;
	if (s->err) {
		berth_strv_free(s->tags);
		berth_strv_free(s->digests);
		pull_fail(p, s->err);
	} else {
		struct berth_image *i = berth_image_store(p->d, p->record, s->tags, s->digests);
		berth_log_info("image stored", "image", i->id, "name",
		        i->tags      ? i->tags[0]
		        : i->digests ? i->digests[0]
		                     : NULL);
		p->images = berth_reallocarray(
		        p->images, p->n_images + 1, sizeof(struct berth_image *));
		p->images[p->n_images++] = berth_image_ref(i);
		json_decref(p->record);
		p->record = NULL;
		for (size_t n = 0; n < p->n_layers; n++)
			p->bytes += p->layers[n].size;
		pull_free_layers(p);
		p->have_asked = false;
		pull_send(p, json_pack("{s:s}", "t", "stored"), -1);
		if (!p->import) {
			p->over = true;
			p->watch = berth_fdwatch_free(p->watch);
			p->sock = berth_close(p->sock);
		}
	}
	while (s->n_losers > 0)
		berth_image_unref(s->losers[--s->n_losers]);
	free(s->losers);
	berth_strv_free(s->drivers);
	free(s);
	berth_removals_resume(d);
	pull_advance(p);
	pull_store_next(d);
}

static void add_names(char ***to, char *const *names)
{
	for (; names && *names; names++) {
		bool there = false;
		for (char **t = *to; t && *t && !there; t++)
			there = strcmp(*t, *names) == 0;
		if (!there)
			*to = berth_strv_append(*to, *names);
	}
}

/* An image that becomes the node's own keeps the names that it has in its store. */
static void pull_shared_names(const struct berth_image *i, char ***tags, char ***digests)
{
	add_names(tags, i->tags);
	add_names(digests, i->digests);
}

/* One at a time: what an image is called from now on is made of what it is called now. And its
 * record is not removed after it was written. */
static void store(struct berth_pull *p)
{
	p->waits_to_store = p->d->images->saving || p->d->images->removals > 0;
	if (p->waits_to_store)
		return;
	struct saving *s = berth_new(struct saving);
	struct berth_ref own = {0};
	const struct berth_ref *ref = &p->ref;
	struct berth_error *err = NULL;
	const char *name = json_string_value(json_object_get(p->record, "ref"));

	s->p = p;
	if (!ref->repository && name && !p->copied) {
		if (berth_ref_parse(name, &own, &err) < 0) {
			free(s);
			pull_fail(p, err);
			return;
		}
		ref = &own;
	}
	berth_image_names(p->d, p->record, ref, &s->tags, &s->digests);
	if (p->copied && p->copied->store)
		pull_shared_names(p->copied, &s->tags, &s->digests);
	s->drivers = berth_image_drivers(p->d, p->record, p->storage);
	berth_ref_finish(&own);
	find_losers(s);
	p->jobs++;
	p->d->images->saving = true;
	if (berth_work(p->d->flows, p->d->loop, save_work, save_done, s) < 0) {
		berth_error_set(&s->err, BERTH_RESOURCE_EXHAUSTED,
		        "pull of %s: too many requests are under way", p->key);
		save_done(s);
	}
}

void pull_advance(struct berth_pull *p)
{
	if (p->over) {
		pull_end(p);
		return;
	}
	pull_layers_advance(p);
	if (p->watch && p->jobs < PULL_MAX_JOBS)
		berth_fdwatch_change(p->watch, UV_READABLE);
	if (!p->over && p->record && p->jobs == 0 && pull_layers_done(p))
		store(p);
}

/* ---- joining and leaving ---- */

struct refusal { /* of a request that could not even begin */
	struct berth_pull_part *part;
	struct berth_error *err;
	struct berth_loop *loop;
};

static void refuse_now(void *arg)
{
	struct refusal *r = arg;
	if (r->part->fn)
		r->part->fn(NULL, 0, r->err, r->part->arg);
	berth_error_free(r->err);
	free(r->part);
	free(r);
}

static struct berth_pull_part *refuse(
        struct berth_daemon *d, struct berth_pull_part *part, struct berth_error *err)
{
	struct refusal *r = berth_new(struct refusal);
	r->part = part;
	r->err = err;
	berth_loop_post(d->loop, refuse_now, r);
	return part;
}

struct berth_pull_part *berth_pull_refuse(
        struct berth_daemon *d, struct berth_error *err, berth_image_fn fn, void *arg)
{
	struct berth_pull_part *part = berth_new(struct berth_pull_part);
	part->fn = fn;
	part->arg = arg;
	return refuse(d, part, err);
}

static char *join_key(const struct berth_pull_request *r, const struct berth_ref *ref)
{
	_cleanup_free_ char *name = ref->repository ? berth_ref_name(ref) : NULL;
	return berth_strdup(name ? name : "an import");
}

static struct berth_pull *find_same(struct berth_daemon *d, const char *name, const json_t *auth,
        const json_t *platform, const struct berth_instance *storage, char **ret_tag)
{
	json_t *j = json_pack("{s:O?, s:O?}", "a", (json_t *)auth, "p", (json_t *)platform);
	*ret_tag = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(j);
	for (struct berth_pull *p = d->images->pulls; p; p = p->next) {
		if (!p->import && !p->over && p->storage == storage && strcmp(p->key, name) == 0 &&
		        p->who && strcmp(p->who, *ret_tag) == 0)
			return p;
	}
	return NULL;
}

struct berth_pull *pull_new(struct berth_daemon *d, struct berth_instance *storage)
{
	struct berth_pull *p = berth_new(struct berth_pull);

	p->d = d;
	p->storage = storage;
	p->sock = p->pidfd = -1;
	p->packet = berth_zalloc(BERTH_PULL_PACKET + 1);
	berth_random_hex(p->tag, 8);
	p->next = d->images->pulls;
	d->images->pulls = p;
	return p;
}

void pull_discard(struct berth_pull *p)
{
	pull_free(p);
}

static struct berth_pull_part *add_part(struct berth_pull *p, struct berth_pull_part *part)
{
	part->pull = p;
	part->next = p->parts;
	p->parts = part;
	return part;
}

struct berth_pull_part *pull_take_part(
        struct berth_pull *p, berth_pull_progress_fn progress, berth_image_fn fn, void *arg)
{
	struct berth_pull_part *part = berth_new(struct berth_pull_part);

	part->progress = progress;
	part->fn = fn;
	part->arg = arg;
	return add_part(p, part);
}

struct berth_pull_part *berth_pull_join(struct berth_daemon *d, const struct berth_pull_request *r,
        berth_pull_progress_fn progress, berth_image_fn fn, void *arg)
{
	struct berth_pull_part *part = berth_new(struct berth_pull_part);
	struct berth_error *err = NULL;
	struct berth_ref ref = {0};
	_cleanup_close_ int import_fd = r->import_fd;
	struct berth_instance *storage =
	        r->storage ? r->storage : berth_daemon_handler(d, "")->storage;

	part->progress = progress;
	part->fn = fn;
	part->arg = arg;
	if (d->draining)
		berth_error_set(&err, BERTH_UNAVAILABLE, "berthd is shutting down");
	if (err || (r->ref && berth_ref_parse(r->ref, &ref, &err) < 0))
		return refuse(d, part, err);
	if (berth_policy_check(d->policy, import_fd < 0 ? "docker" : "oci-archive", &ref, &err) <
	        0) {
		berth_ref_finish(&ref);
		return refuse(d, part, err);
	}
	_cleanup_free_ char *name = join_key(r, &ref), *who = NULL;
	struct berth_pull *p = find_same(d, name, r->auth, r->platform, storage, &who);
	if (p && import_fd < 0) {
		berth_ref_finish(&ref);
	} else {
		p = pull_new(d, storage);
		p->key = berth_take(name);
		p->ref = ref;
		p->import = import_fd >= 0;
		p->who = berth_take(who);
		if (pull_start(p, &err) < 0) {
			pull_free(p);
			return refuse(d, part, err);
		}
		pull_send(p, pull_first_packet(p, r), import_fd);
	}
	return add_part(p, part);
}

void berth_pull_leave(struct berth_pull_part *part)
{
	struct berth_pull *p = part->pull;
	struct berth_error *err = NULL;

	if (!p) { /* refused: its answer is on the way */
		part->fn = NULL;
		return;
	}
	for (struct berth_pull_part **q = &p->parts; *q; q = &(*q)->next) {
		if (*q == part) {
			*q = part->next;
			break;
		}
	}
	free(part);
	if (p->parts || p->over)
		return;
	berth_error_set(&err, BERTH_CANCELLED, "pull of %s: nobody waits for it any more", p->key);
	pull_fail(p, err);
}

void berth_pulls_end(struct berth_daemon *d)
{
	for (struct berth_pull *p = d->images->pulls, *next; p; p = next) {
		struct berth_error *err = NULL;
		next = p->next;
		berth_error_set(
		        &err, BERTH_UNAVAILABLE, "pull of %s: berthd is shutting down", p->key);
		pull_fail(p, err);
	}
}
