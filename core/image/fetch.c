/* Which layers are downloaded now: so many of the node, so many of one registry, in the order in
 * which they were asked for. [loop] */
#include <string.h>

#include "base/fd.h"
#include "image/pull.h"

static size_t registry_len(const struct berth_pull *p)
{
	return strcspn(p->ref.repository, "/");
}

static bool same_registry(const struct berth_pull *a, const struct berth_pull *b)
{
	size_t n = registry_len(a);
	return n == registry_len(b) && strncmp(a->ref.repository, b->ref.repository, n) == 0;
}

/* Downloads under way: all, or of the registry of `of`. */
static uint64_t count(const struct berth_images *s, const struct berth_pull *of)
{
	uint64_t n = 0;

	for (const struct berth_pull *p = s->pulls; p; p = p->next) {
		if (p->over || p->import || p->copied || (of && !same_registry(p, of)))
			continue;
		for (size_t i = 0; i < p->n_layers; i++)
			n += p->layers[i].fetching;
	}
	return n;
}

static struct berth_pull *first_in_queue(struct berth_images *s, size_t *ret_n)
{
	struct berth_pull *first = NULL;
	uint64_t best = UINT64_MAX;

	for (struct berth_pull *p = s->pulls; p; p = p->next) {
		if (p->over || p->import || p->copied ||
		        count(s, p) >= p->d->config->images.parallel_per_registry)
			continue;
		for (size_t i = 0; i < p->n_layers; i++) {
			if (p->layers[i].asked == 0 || p->layers[i].asked >= best)
				continue;
			best = p->layers[i].asked;
			first = p;
			*ret_n = i;
		}
	}
	return first;
}

static void open_work(void *arg)
{
	struct pull_job *j = arg;
	j->fd = pull_partial_open(j->p->d, j->layer->digest, j->layer->size);
}

static void open_done(void *arg)
{
	struct pull_job *j = arg;
	pull_send(j->p, json_pack("{s:s, s:I}", "t", "fetch", "n", (json_int_t)j->n), j->fd);
}

void pull_fetch_next(struct berth_images *s)
{
	struct berth_pull *p;
	size_t n = 0;

	while ((p = first_in_queue(s, &n)) &&
	        count(s, NULL) < p->d->config->images.parallel_downloads) {
		p->layers[n].asked = 0;
		p->layers[n].fetching = true;
		pull_start_job(p, n, open_work, open_done, -1);
	}
}

void pull_fetch(struct berth_pull *p, size_t n)
{
	struct pull_layer *l = &p->layers[n];

	if (p->import || p->copied || l->asked || l->fetching || l->state >= LAYER_UNPACKED) {
		struct berth_error *err = NULL;
		berth_error_set(&err, BERTH_INTERNAL,
		        "pull of %s: berth-pull wants to download layer %zu, which it may not",
		        p->key, n);
		pull_fail(p, err);
		return;
	}
	l->asked = ++p->d->images->fetch_order;
	pull_fetch_next(p->d->images);
}

void pull_fetched(struct berth_pull *p, size_t n)
{
	p->layers[n].fetching = false;
	pull_fetch_next(p->d->images);
}
