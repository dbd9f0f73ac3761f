/* prepare, view, mounts and commit. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

berth_status check_key(struct store *st, struct berth_op *op, const char *what, const char *key,
        char name[NAME_LIMIT + 1])
{
	int r = name_encode(key, name);

	if (r == -ENAMETOOLONG)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot %s '%.64s...' makes a file name of more than %d bytes", what, key,
		        NAME_LIMIT);
	if (r < 0)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot %s is empty or has control characters", what);
	return BERTH_OK;
}

static berth_status check_limits(
        struct store *st, struct berth_op *op, const struct berth_snap_args *a)
{
	if ((!a->size_limit && !a->inode_limit) || (st->features & BERTH_F_QUOTA))
		return BERTH_OK;
	if (!st->no_quota)
		return berth_fail(st->host, op, BERTH_E_UNIMPLEMENTED,
		        "snapshot '%s': this driver has no quota", a->key);
	return berth_fail(st->host, op, BERTH_E_PRECONDITION,
	        "snapshot '%s': its size cannot be limited in '%s', which has no quota: %s", a->key,
	        st->root, st->no_quota);
}

static berth_status check_args(struct store *st, struct berth_op *op,
        const struct berth_snap_args *a, char name[NAME_LIMIT + 1])
{
	berth_status r = check_key(st, op, "key", a->key, name);

	if (r != BERTH_OK)
		return r;
	if (a->flags & ~(uint32_t)BERTH_SNAP_F_LAYER)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot '%s': unknown flags 0x%x", a->key, a->flags);
	if (!a->n_uid_maps != !a->n_gid_maps)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot '%s': user ids are mapped and group ids are not, or the other "
		        "way round",
		        a->key);
	if (a->n_uid_maps && !(st->features & BERTH_F_IDMAP))
		return berth_fail(st->host, op, BERTH_E_UNIMPLEMENTED,
		        "snapshot '%s': this driver maps no ids", a->key);
	return check_limits(st, op, a);
}

berth_status find_snap(struct store *st, struct berth_op *op, const char *key, struct snap **ret)
{
	*ret = index_find_settled(&st->own->index, key);
	if (*ret)
		return BERTH_OK;
	berth_status r = check_strange(st, op, key);
	return r != BERTH_OK ? r
	                     : berth_fail(st->host, op, BERTH_E_NOT_FOUND,
	                               "snapshot '%s' does not exist", key);
}

/* The parent may be NULL. Nothing is waited for after it was found. */
static berth_status find_parent(struct store *st, struct berth_op *op, const char *key,
        const char *parent, struct snap **ret)
{
	uint32_t limit = st->driver->chain_limit;

	*ret = NULL;
	if (!parent || !*parent)
		return BERTH_OK;
	struct snap *p = index_find_settled(&st->own->index, parent);
	berth_status r = p ? (berth_status)BERTH_OK : check_strange(st, op, parent);
	if (r != BERTH_OK)
		return r;
	if (!p)
		return berth_fail(st->host, op, BERTH_E_NOT_FOUND,
		        "snapshot '%s': its parent '%s' does not exist", key, parent);
	if (p->kind != BERTH_SNAP_COMMITTED)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s': its parent '%s' is not committed", key, parent);
	if (store_chain(p) >= limit)
		return berth_fail(st->host, op, BERTH_E_EXHAUSTED,
		        "snapshot '%s': more than %u layers below it, and the kernel mounts no "
		        "more",
		        key, limit);
	*ret = p;
	return BERTH_OK;
}

/* Takes the name `key` for a snapshot in the making. */
static berth_status claim(struct store *st, struct berth_op *op, const char *key,
        const char *parent, uint32_t kind, struct snap **ret)
{
	struct index *x = &st->own->index;
	struct snap *p, *s;

	for (;;) {
		berth_status r = find_parent(st, op, key, parent, &p);
		if (r == BERTH_OK)
			r = check_strange(st, op, key);
		if (r != BERTH_OK)
			return r;
		s = index_find(x, key);
		if (!s)
			break;
		if (s->phase == PHASE_READY)
			return berth_fail(
			        st->host, op, BERTH_E_EXISTS, "snapshot '%s' exists already", key);
		(void)index_find_settled(x, key);
	}
	s = index_add(x, key, kind);
	index_set_parent(s, p);
	*ret = s;
	return BERTH_OK;
}

static void unclaim(struct store *st, struct snap *s)
{
	index_let_go(s);
	pthread_mutex_lock(&st->own->index.lock);
	index_remove(&st->own->index, s);
	pthread_mutex_unlock(&st->own->index.lock);
}

/* Renames to a final name. What is there and not in the index has something missing below it, or
 * could not be moved away at the start: it gives way. */
static int put(
        struct store *st, struct berth_op *op, int from, const char *tmp, int to, const char *name)
{
	if (renameat2(from, tmp, to, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	int r = trash_add_surely(st, op, to, name, NULL, NULL);
	if (r < 0)
		return r;
	trash_sweep_soon(st, false);
	return renameat2(from, tmp, to, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

/* ---- prepare and view ---- */

/* Before make() was called. With a meta file that stays destroy() gives back what it names. */
static void unplan(struct store *st, const struct snap *s, int fd)
{
	if (st->driver->unplan && (fd < 0 || unlinkat(fd, "meta", 0) == 0 || errno == ENOENT))
		st->driver->unplan(st, s);
}

static berth_status fill_dir(struct store *st, struct berth_op *op, int fd, const struct snap *s,
        const struct berth_snap_args *a)
{
	bool outside = st->driver->outside;
	struct meta m;

	meta_of(s, &m);
	int r = fchmod(fd, 0711) < 0 ? -errno : meta_write(fd, &m, outside);
	if (r == 0 && outside && fsync(st->new_fd) < 0)
		r = -errno;
	if (r < 0) {
		unplan(st, s, fd);
		return store_fail(st, op, r, "make it", a->key);
	}
	return st->driver->make(st, op, s, fd, a);
}

static berth_status make_dir(struct store *st, struct berth_op *op, struct snap *s,
        const char *name, const struct berth_snap_args *a)
{
	char tmp[32];
	berth_status r;

	snprintf(tmp, sizeof(tmp), "%llu",
	        (unsigned long long)__atomic_add_fetch(&st->own->serial, 1, __ATOMIC_RELAXED));
	bool there = mkdirat(st->new_fd, tmp, 0711) == 0;
	int fd = there ? openat(st->new_fd, tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd < 0) {
		r = store_fail(st, op, errno, "make it", a->key);
		unplan(st, s, -1);
	} else {
		r = fill_dir(st, op, fd, s, a);
	}
	if (!there)
		return r;
	if (r == BERTH_OK && (a->flags & BERTH_SNAP_F_LAYER))
		s->fd = fd;
	else if (fd >= 0)
		close(fd);
	if (r == BERTH_OK) {
		int e = put(st, op, st->new_fd, tmp, st->active_fd, name);
		if (e < 0)
			r = store_fail(st, op, e, "make it", a->key);
	}
	if (r == BERTH_OK)
		return r;
	if (trash_add(st, st->new_fd, tmp, TRASH_SNAPSHOT, NULL) == 0)
		trash_sweep_soon(st, false);
	else /* a full btrfs; the next start deletes what stays */
		(void)trash_delete_at(st, op, st->new_fd, tmp);
	return r;
}

static const char *external_of(const struct berth_snap_args *a)
{
	return BERTH_HAS(struct berth_snap_args, a, external) ? a->external : NULL;
}

static berth_status check_external(
        struct store *st, struct berth_op *op, const struct berth_snap_args *a, uint32_t kind)
{
	const char *path = external_of(a);

	if (!path)
		return BERTH_OK;
	if (!(st->features & BERTH_F_EXTERNAL_LAYERS))
		return berth_fail(st->host, op, BERTH_E_UNIMPLEMENTED,
		        "snapshot '%s': this driver takes no layers from elsewhere", a->key);
	if (kind != BERTH_SNAP_ACTIVE || !(a->flags & BERTH_SNAP_F_LAYER) || *path != '/')
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot '%s': only a layer may lie elsewhere, at an absolute path",
		        a->key);
	return BERTH_OK;
}

static berth_status claim_new(struct store *st, struct berth_op *op,
        const struct berth_snap_args *a, uint32_t kind, struct snap **ret)
{
	bool detached = st->driver->features & BERTH_F_DETACHED_LAYERS;
	bool layer = a->flags & BERTH_SNAP_F_LAYER;

	if (layer && (kind == BERTH_SNAP_VIEW || (detached && a->parent && *a->parent)))
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot '%s': a layer learns its parent when it is committed, and is no "
		        "view",
		        a->key);
	pthread_mutex_lock(&st->own->index.lock);
	berth_status r = claim(st, op, a->key, a->parent, kind, ret);
	if (r == BERTH_OK) {
		(*ret)->layer = layer && detached;
		(*ret)->external = index_text(external_of(a));
		(*ret)->created_ns = store_now_ns(CLOCK_REALTIME);
		memcpy((*ret)->boot, st->boot, sizeof(st->boot));
	}
	pthread_mutex_unlock(&st->own->index.lock);
	return r;
}

static berth_status make(struct store *st, struct berth_op *op, const struct berth_snap_args *a,
        uint32_t kind, struct berth_mounts_result *res)
{
	struct index *x = &st->own->index;
	char name[NAME_LIMIT + 1];
	struct snap *s = NULL;
	berth_status r = check_args(st, op, a, name);

	if (r == BERTH_OK)
		r = check_external(st, op, a, kind);
	if (r == BERTH_OK)
		r = claim_new(st, op, a, kind, &s);
	if (r != BERTH_OK)
		return r;

	/* What is PHASE_MAKING is ours alone, and its parent stays while it has a child. */
	if (st->driver->plan)
		r = st->driver->plan(st, op, s, a);
	if (r == BERTH_OK)
		r = make_dir(st, op, s, name, a);
	if (r != BERTH_OK) {
		unclaim(st, s);
		return r;
	}
	pthread_mutex_lock(&x->lock);
	s->phase = PHASE_READY;
	s->pins++;
	pthread_cond_broadcast(&x->settled);
	pthread_mutex_unlock(&x->lock);
	/* Of what lies elsewhere there is nothing to write into. */
	if (!s->external)
		r = st->driver->describe(st, op, s, res);
	index_unpin(x, s);
	return r;
}

static berth_status op_prepare(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	return make(self, op, a, BERTH_SNAP_ACTIVE, res);
}

static berth_status op_view(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	return make(self, op, a, BERTH_SNAP_VIEW, res);
}

static berth_status op_mounts(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	struct store *st = self;
	char name[NAME_LIMIT + 1];
	struct snap *s;
	berth_status r = check_key(st, op, "key", a->key, name);

	if (r != BERTH_OK)
		return r;
	pthread_mutex_lock(&st->own->index.lock);
	r = find_snap(st, op, a->key, &s);
	if (r == BERTH_OK && s->kind == BERTH_SNAP_COMMITTED)
		r = berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' is committed: it is not mounted but through a view", s->key);
	if (r == BERTH_OK)
		s->pins++;
	pthread_mutex_unlock(&st->own->index.lock);
	if (r != BERTH_OK)
		return r;
	r = st->driver->describe(st, op, s, res);
	index_unpin(&st->own->index, s);
	return r;
}

/* ---- commit ---- */

/* One sync of the file system, not one per file: a layer has thousands of files, and each fsync of
 * a new file would be a journal commit of its own. It tells an error once for each open file: that
 * of another's sync is told to this one, too, as its file is older; and it is not told again, while
 * what was written stays lost. */
static int sync_layer(struct snap *s, int fd)
{
	if (s->lost == 0 && syncfs(fd) < 0)
		s->lost = -errno;
	return s->lost;
}

static int commit_dir(struct store *st, struct berth_op *op, struct snap *from, int fd,
        const struct snap *to, const char *from_name, const char *to_name)
{
	struct meta m;

	meta_of(to, &m);
	/* The one that it replaces may be all that knows of what lies outside. */
	int r = meta_write(fd, &m, st->driver->outside);
	if (r == 0)
		r = sync_layer(from, fd);
	if (r == 0)
		r = put(st, op, st->active_fd, from_name, st->layers_fd, to_name);
	if (r == 0 && fsync(st->layers_fd) < 0) {
		r = -errno;
		(void)renameat2(st->layers_fd, to_name, st->active_fd, from_name, RENAME_NOREPLACE);
	}
	return r;
}

/* sealed: a copy of `from`, for others may look at that meanwhile. */
static berth_status seal_and_commit(struct store *st, struct berth_op *op, struct snap *from,
        struct snap *sealed, const char *from_name, struct snap *to, const char *to_name)
{
	/* None is open of what was prepared as no layer, or by an earlier process. Its sync does
	 * not tell what another's was told, and no layer of ours depends on it: a pull prepares
	 * all that it commits as layers, under names of its own, and a start of the host removes
	 * what pulls have begun. */
	int fd = from->fd >= 0 ? from->fd
	                       : openat(st->active_fd, from_name,
	                                 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return store_fail(st, op, errno, "commit it", from->key);
	berth_status r =
	        st->driver->seal ? st->driver->seal(st, op, sealed, fd) : (berth_status)BERTH_OK;
	if (r == BERTH_OK) {
		memcpy(to->own, sealed->own, sizeof(to->own));
		int e = commit_dir(st, op, from, fd, to, from_name, to_name);
		if (e < 0)
			r = store_fail(st, op, e, "commit it", from->key);
	}
	if (fd != from->fd)
		close(fd);
	return r;
}

static void end_commit(struct store *st, struct snap *from)
{
	from->committing = false;
	from->pins--;
	pthread_cond_broadcast(&st->own->index.settled);
}

/* Wants the lock held, as end_commit() does. */
static berth_status claim_commit(struct store *st, struct berth_op *op,
        const struct berth_snap_args *a, struct snap **from, struct snap **to)
{
	const char *parent = a->parent && *a->parent ? a->parent : NULL;
	berth_status r;

	/* Of two that commit one snapshot the second finds it gone, or takes up what failed. */
	while ((r = find_snap(st, op, a->key, from)) == BERTH_OK && (*from)->committing)
		pthread_cond_wait(&st->own->index.settled, &st->own->index.lock);
	if (r != BERTH_OK)
		return r;
	if ((*from)->kind != BERTH_SNAP_ACTIVE)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' is no active one: there is nothing to commit", a->key);
	if (!(*from)->layer) {
		/* What was written on top of one parent means nothing on top of another. */
		const char *own = (*from)->parent ? (*from)->parent->key : NULL;
		if (parent && (!own || strcmp(parent, own) != 0))
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "commit of snapshot '%s': it was made on '%s', not on '%s'", a->key,
			        own ? own : "nothing", parent);
		parent = own;
	}
	(*from)->pins++; /* claim() may wait for others */
	(*from)->committing = true;
	r = claim(st, op, a->name, parent, BERTH_SNAP_COMMITTED, to);
	if (r != BERTH_OK) {
		end_commit(st, *from);
		return r;
	}
	(*to)->layer = (*from)->layer;
	(*to)->external = index_text((*from)->external);
	(*to)->created_ns = store_now_ns(CLOCK_REALTIME);
	memcpy((*to)->boot, st->boot, sizeof(st->boot));
	return BERTH_OK;
}

static berth_status op_commit(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct snap sealed = {0};
	struct store *st = self;
	struct index *x = &st->own->index;
	char from_name[NAME_LIMIT + 1], to_name[NAME_LIMIT + 1];
	struct snap *from = NULL, *to = NULL;
	berth_status r = check_args(st, op, a, from_name);

	if (r == BERTH_OK)
		r = check_key(st, op, "name", a->name, to_name);
	if (r != BERTH_OK)
		return r;
	pthread_mutex_lock(&x->lock);
	r = claim_commit(st, op, a, &from, &to);
	if (r == BERTH_OK)
		sealed = *from;
	pthread_mutex_unlock(&x->lock);
	if (r != BERTH_OK)
		return r;

	r = seal_and_commit(st, op, from, &sealed, from_name, to, to_name);
	if (r != BERTH_OK) {
		unclaim(st, to);
		pthread_mutex_lock(&x->lock);
		end_commit(st, from);
		pthread_mutex_unlock(&x->lock);
		return r;
	}
	pthread_mutex_lock(&x->lock);
	to->phase = PHASE_READY;
	from->phase = PHASE_REMOVING;        /* nobody pins it any more */
	pthread_cond_broadcast(&x->settled); /* who does may wait for the other */
	while (from->pins > 1)
		pthread_cond_wait(&x->settled, &x->lock);
	int fd = from->fd; /* not closed while another has it */
	from->fd = -1;
	index_remove(x, from);
	pthread_mutex_unlock(&x->lock);
	if (fd >= 0)
		close(fd);
	return BERTH_OK;
}

const struct berth_storage_ops store_ops = {
        .size = sizeof(store_ops),
        .prepare = op_prepare,
        .view = op_view,
        .mounts = op_mounts,
        .commit = op_commit,
        .remove = op_remove,
        .stat = op_stat,
        .list = op_list,
        .cleanup = op_cleanup,
};
