/* What is there, and how much of it. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "berth/util.h"

#define USAGE_MIN_AGE_NS 2000000000ull
#define USAGE_COST_FACTOR 20 /* at most a twentieth of the time goes into walking */

static void tell(
        struct store *st, struct berth_op *op, const struct snap *s, struct berth_snap_info *i)
{
	i->kind = s->kind;
	i->key = berth_dup(st->host, op, s->key);
	i->parent = s->parent ? berth_dup(st->host, op, s->parent->key) : NULL;
	i->created_ns = s->created_ns;
	i->bytes = s->bytes;
	i->inodes = s->inodes;
	if (s->external && BERTH_HAS(struct berth_snap_info, i, external))
		i->external = berth_dup(st->host, op, s->external);
}

static bool usage_is_old(const struct snap *s)
{
	uint64_t age = store_now_ns(CLOCK_MONOTONIC) - s->walked_ns;

	if (s->external)
		return false;
	if (!s->walked_ns)
		return true;
	return s->kind != BERTH_SNAP_COMMITTED && age > USAGE_MIN_AGE_NS &&
	       age / USAGE_COST_FACTOR > s->walk_cost_ns;
}

/* What was removed or committed meanwhile is told by its caller. */
static int sum_up(struct store *st, struct berth_op *op, struct snap *pinned, bool committed,
        const char *name, struct usage *u)
{
	int dirfd = openat(committed ? st->layers_fd : st->active_fd, name,
	        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r;

	if (dirfd < 0)
		return -errno;
	if (pinned)
		r = st->driver->usage(st, op, pinned, dirfd, u);
	else
		r = store_tree_usage(st, op, dirfd, "fs", u);
	close(dirfd);
	return r;
}

berth_status op_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res)
{
	struct store *st = self;
	struct index *x = &st->own->index;
	char name[NAME_LIMIT + 1];
	struct snap *s, *pinned = NULL;
	struct usage u = {0};
	berth_status r = check_key(st, op, "key", a->key, name);

	if (r != BERTH_OK)
		return r;
	pthread_mutex_lock(&x->lock);
	r = find_snap(st, op, a->key, &s);
	bool old = r == BERTH_OK && usage_is_old(s);
	bool committed = r == BERTH_OK && s->kind == BERTH_SNAP_COMMITTED;
	/* A walk may take long: no remove waits for it. */
	if (old && st->driver->usage) {
		pinned = s;
		pinned->pins++;
	}
	pthread_mutex_unlock(&x->lock);
	if (r != BERTH_OK)
		return r;

	uint64_t begin = store_now_ns(CLOCK_MONOTONIC);
	int e = old ? sum_up(st, op, pinned, committed, name, &u) : 0;
	if (pinned)
		index_unpin(x, pinned);
	if (e < 0 && e != -ENOENT)
		return store_fail(st, op, e, "sum up its usage", a->key);
	pthread_mutex_lock(&x->lock);
	r = find_snap(st, op, a->key, &s); /* it may have gone meanwhile */
	if (r == BERTH_OK && old) {
		s->bytes = u.bytes;
		s->inodes = u.inodes;
		s->walked_ns = store_now_ns(CLOCK_MONOTONIC);
		s->walk_cost_ns = s->walked_ns - begin;
	}
	if (r == BERTH_OK)
		tell(st, op, s, res);
	pthread_mutex_unlock(&x->lock);
	return r;
}

berth_status op_list(struct berth_op *op, void *self, struct berth_snap_list *res)
{
	struct store *st = self;
	struct index *x = &st->own->index;
	uint32_t n = 0;

	pthread_mutex_lock(&x->lock);
	const struct berth_snap_info **v = st->host->op_alloc(op, (x->n + 1) * sizeof(*v));
	for (size_t i = 0; i < INDEX_BUCKETS; i++) {
		for (const struct snap *s = x->buckets[i]; s; s = s->next) {
			if (s->phase != PHASE_READY)
				continue;
			struct berth_snap_info *info = st->host->op_alloc(op, sizeof(*info));
			info->size = sizeof(*info);
			tell(st, op, s, info);
			v[n++] = info;
		}
	}
	pthread_mutex_unlock(&x->lock);
	res->snaps = v;
	res->n = n;
	return BERTH_OK;
}
