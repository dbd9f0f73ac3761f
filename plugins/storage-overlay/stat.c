/* What is there, and how much of it. */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "berth/util.h"

#define USAGE_MIN_AGE_NS 2000000000ull
#define USAGE_COST_FACTOR 20 /* at most a twentieth of the time goes into walking */

static void tell(
        struct driver *d, struct berth_op *op, const struct snap *s, struct berth_snap_info *i)
{
	i->kind = s->kind;
	i->key = berth_dup(d->host, op, s->key);
	i->parent = s->parent ? berth_dup(d->host, op, s->parent->key) : NULL;
	i->created_ns = s->created_ns;
	i->bytes = s->bytes;
	i->inodes = s->inodes;
}

static bool usage_is_old(const struct snap *s)
{
	uint64_t age = now_ns(CLOCK_MONOTONIC) - s->walked_ns;

	if (!s->walked_ns)
		return true;
	return s->kind != BERTH_SNAP_COMMITTED && age > USAGE_MIN_AGE_NS &&
	       age / USAGE_COST_FACTOR > s->walk_cost_ns;
}

berth_status overlay_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res)
{
	struct driver *d = self;
	char name[NAME_LIMIT + 1];
	struct snap *s;
	struct usage u = {0};
	berth_status st = check_key(d, op, "key", a->key, name);

	if (st != BERTH_OK)
		return st;
	pthread_mutex_lock(&d->index.lock);
	st = find_snap(d, op, a->key, &s);
	bool walk = st == BERTH_OK && usage_is_old(s);
	bool committed = st == BERTH_OK && s->kind == BERTH_SNAP_COMMITTED;
	pthread_mutex_unlock(&d->index.lock);
	if (st != BERTH_OK)
		return st;

	uint64_t begin = now_ns(CLOCK_MONOTONIC);
	int r = 0;
	if (walk) {
		int dirfd = openat(committed ? d->layers_fd : d->active_fd, name,
		        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		r = dirfd < 0 ? -errno : tree_usage(d, op, dirfd, "fs", &u);
		if (dirfd >= 0)
			close(dirfd);
	}
	if (r < 0 && r != -ENOENT)
		return from_errno(d, op, r, "sum up its usage", a->key);
	pthread_mutex_lock(&d->index.lock);
	st = find_snap(d, op, a->key, &s); /* it may have gone meanwhile */
	if (st == BERTH_OK && walk) {
		s->bytes = u.bytes;
		s->inodes = u.inodes;
		s->walked_ns = now_ns(CLOCK_MONOTONIC);
		s->walk_cost_ns = s->walked_ns - begin;
	}
	if (st == BERTH_OK)
		tell(d, op, s, res);
	pthread_mutex_unlock(&d->index.lock);
	return st;
}

berth_status overlay_list(struct berth_op *op, void *self, struct berth_snap_list *res)
{
	struct driver *d = self;
	struct index *x = &d->index;
	uint32_t n = 0;

	pthread_mutex_lock(&x->lock);
	const struct berth_snap_info **v = d->host->op_alloc(op, (x->n + 1) * sizeof(*v));
	for (size_t i = 0; i < INDEX_BUCKETS; i++) {
		for (const struct snap *s = x->buckets[i]; s; s = s->next) {
			if (s->phase != PHASE_READY)
				continue;
			struct berth_snap_info *info = d->host->op_alloc(op, sizeof(*info));
			info->size = sizeof(*info);
			tell(d, op, s, info);
			v[n++] = info;
		}
	}
	pthread_mutex_unlock(&x->lock);
	res->snaps = v;
	res->n = n;
	return BERTH_OK;
}
