/* A pull by a name that may stand for several images: one after the other is tried. [loop] */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/image.h"
#include "image/shortnames.h"

struct berth_image_pull {
	struct berth_daemon *d;
	char **names;
	size_t at;
	bool expanded; /* other names than the one that was asked for */
	json_t *auth, *platform;
	struct berth_instance *storage;
	struct berth_pull_part *part;
	berth_pull_progress_fn progress;
	berth_image_fn fn;
	void *arg;
	struct berth_error *err; /* of those that were tried */
};

static void search_free(struct berth_image_pull *s)
{
	berth_strv_free(s->names);
	json_decref(s->auth);
	json_decref(s->platform);
	berth_error_free(s->err);
	free(s);
}

static void tried(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg);

static void told(unsigned int layer, const char *digest, uint64_t done, uint64_t total, void *arg)
{
	struct berth_image_pull *s = arg;
	s->progress(layer, digest, done, total, s->arg);
}

static void try_next(struct berth_image_pull *s)
{
	struct berth_pull_request r = {.ref = s->names[s->at++],
	        .auth = s->auth,
	        .platform = s->platform,
	        .import_fd = -1,
	        .storage = s->storage};
	s->part = berth_pull_join(s->d, &r, s->progress ? told : NULL, tried, s);
}

/* Of a registry, not of this node. */
static bool may_go_on(enum berth_code code)
{
	return code != BERTH_CANCELLED && code != BERTH_RESOURCE_EXHAUSTED &&
	       code != BERTH_INTERNAL && code != BERTH_DEADLINE_EXCEEDED;
}

static void add_error(struct berth_image_pull *s, const struct berth_error *err)
{
	struct berth_error *all = NULL;

	if (!s->expanded)
		all = berth_error_copy(err);
	else
		berth_error_set(&all, err->code, "%s%s%s: %s", s->err ? s->err->msg : "",
		        s->err ? "; " : "", s->names[s->at - 1], err->msg);
	berth_error_free(s->err);
	s->err = all;
}

static void tried(
        struct berth_image *const *images, size_t n, const struct berth_error *err, void *arg)
{
	struct berth_image_pull *s = arg;

	if (err)
		add_error(s, err);
	if (err && s->names && s->names[s->at] && may_go_on(err->code) && !s->d->draining) {
		try_next(s);
		return;
	}
	s->fn(images, n, err ? s->err : NULL, s->arg);
	search_free(s);
}

struct berth_image_pull *berth_image_pull(struct berth_daemon *d,
        const struct berth_pull_request *r, berth_pull_progress_fn progress, berth_image_fn fn,
        void *arg)
{
	struct berth_image_pull *s = berth_new(struct berth_image_pull);
	struct berth_error *err = NULL;

	s->d = d;
	s->auth = json_incref(r->auth);
	s->platform = json_incref(r->platform);
	s->storage = r->storage;
	s->progress = progress;
	s->fn = fn;
	s->arg = arg;
	s->names = berth_shortnames_of(d->shortnames, r->ref, false, &err);
	s->expanded = !err && strcmp(s->names[0], r->ref) != 0;
	if (err)
		s->part = berth_pull_refuse(d, err, tried, s);
	else
		try_next(s);
	return s;
}

void berth_image_pull_leave(struct berth_image_pull *s)
{
	berth_pull_leave(s->part);
	search_free(s);
}
