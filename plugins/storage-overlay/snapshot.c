#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "berth/util.h"

uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

berth_status from_errno(
        struct driver *d, struct berth_op *op, int r, const char *what, const char *key)
{
	int e = r < 0 ? -r : r;
	berth_status st = e == ENOSPC || e == EDQUOT || e == EMFILE || e == ENFILE || e == ENOMEM
	                          ? BERTH_E_EXHAUSTED
	                  : e == ECANCELED ? BERTH_E_CANCELLED
	                                   : BERTH_E_INTERNAL;

	errno = e;
	return berth_fail(
	        d->host, op, st, "snapshot '%s': %s in '%s': %s", key, what, d->root, strerror(e));
}

berth_status check_key(struct driver *d, struct berth_op *op, const char *what, const char *key,
        char name[NAME_LIMIT + 1])
{
	int r = name_encode(key, name);

	if (r == -ENAMETOOLONG)
		return berth_fail(d->host, op, BERTH_E_INVALID,
		        "snapshot %s '%.64s...' makes a file name of more than %d bytes", what, key,
		        NAME_LIMIT);
	if (r < 0)
		return berth_fail(d->host, op, BERTH_E_INVALID,
		        "snapshot %s is empty or has control characters", what);
	return BERTH_OK;
}

/* A container's layer is deleted by then, as a rule; an image's goes on in the background. */
#define REMOVE_BUDGET_NS 50000000ull

static berth_status check_args(struct driver *d, struct berth_op *op,
        const struct berth_snap_args *a, char name[NAME_LIMIT + 1])
{
	berth_status st = check_key(d, op, "key", a->key, name);

	if (st != BERTH_OK)
		return st;
	if (a->flags & ~(uint32_t)BERTH_SNAP_F_LAYER)
		return berth_fail(d->host, op, BERTH_E_INVALID, "snapshot '%s': unknown flags 0x%x",
		        a->key, a->flags);
	if (!a->n_uid_maps != !a->n_gid_maps)
		return berth_fail(d->host, op, BERTH_E_INVALID,
		        "snapshot '%s': user ids are mapped and group ids are not, or the other "
		        "way round",
		        a->key);
	if (a->size_limit || a->inode_limit)
		return berth_fail(d->host, op, BERTH_E_UNIMPLEMENTED,
		        "snapshot '%s': this driver has no quota", a->key);
	return BERTH_OK;
}

berth_status find_snap(struct driver *d, struct berth_op *op, const char *key, struct snap **ret)
{
	*ret = index_find_settled(&d->index, key);
	if (!*ret)
		return berth_fail(
		        d->host, op, BERTH_E_NOT_FOUND, "snapshot '%s' does not exist", key);
	return BERTH_OK;
}

/* The parent may be NULL. Nothing is waited for after it was found. */
static berth_status find_parent(struct driver *d, struct berth_op *op, const char *key,
        const char *parent, struct snap **ret)
{
	*ret = NULL;
	if (!parent || !*parent)
		return BERTH_OK;
	struct snap *p = index_find_settled(&d->index, parent);
	if (!p)
		return berth_fail(d->host, op, BERTH_E_NOT_FOUND,
		        "snapshot '%s': its parent '%s' does not exist", key, parent);
	if (p->kind != BERTH_SNAP_COMMITTED)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s': its parent '%s' is not committed", key, parent);
	if (chain_length(p) >= LAYERS_LIMIT)
		return berth_fail(d->host, op, BERTH_E_EXHAUSTED,
		        "snapshot '%s': more than %d layers below it, and the kernel mounts no "
		        "more",
		        key, LAYERS_LIMIT);
	*ret = p;
	return BERTH_OK;
}

/* Takes the name `key` for a snapshot in the making. */
static berth_status claim(struct driver *d, struct berth_op *op, const char *key,
        const char *parent, uint32_t kind, struct snap **ret)
{
	struct snap *p, *s;

	for (;;) {
		berth_status st = find_parent(d, op, key, parent, &p);
		if (st != BERTH_OK)
			return st;
		s = index_find(&d->index, key);
		if (!s)
			break;
		if (s->phase == PHASE_READY)
			return berth_fail(
			        d->host, op, BERTH_E_EXISTS, "snapshot '%s' exists already", key);
		(void)index_find_settled(&d->index, key);
	}
	s = index_add(&d->index, key, kind);
	index_set_parent(s, p);
	*ret = s;
	return BERTH_OK;
}

static void unclaim(struct driver *d, struct snap *s)
{
	pthread_mutex_lock(&d->index.lock);
	index_remove(&d->index, s);
	pthread_mutex_unlock(&d->index.lock);
}

/* -EOVERFLOW where no range holds the id. */
static int map_id(const struct berth_idmap *maps, uint32_t n, uint32_t *id)
{
	if (n == 0)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		if (*id >= maps[i].container_id && *id - maps[i].container_id < maps[i].count) {
			*id = maps[i].host_id + (*id - maps[i].container_id);
			return 0;
		}
	}
	return -EOVERFLOW;
}

/* The root of an overlay shows owner, mode and times of its upper directory. The upper directory
 * is not mapped as those below it are: what it holds has the mapped owners on the disk. */
static int like_parent(
        struct driver *d, int dirfd, const struct snap *parent, const struct berth_snap_args *a)
{
	char name[NAME_LIMIT + 1], path[NAME_LIMIT + 8];
	struct stat st;

	(void)name_encode(parent->key, name);
	snprintf(path, sizeof(path), "%s/fs", name);
	if (fstatat(d->layers_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	struct timespec times[2] = {st.st_atim, st.st_mtim};
	int r = map_id(a->uid_maps, a->n_uid_maps, &st.st_uid);
	if (r == 0)
		r = map_id(a->gid_maps, a->n_gid_maps, &st.st_gid);
	if (r < 0)
		return r;
	if (fchownat(dirfd, "fs", st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	        fchmodat(dirfd, "fs", st.st_mode & 07777, 0) < 0 ||
	        utimensat(dirfd, "fs", times, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int fill_dir(struct driver *d, int fd, const struct snap *s, const struct berth_snap_args *a)
{
	struct meta m = {.kind = s->kind,
	        .layer = s->layer,
	        .is_volatile = s->is_volatile,
	        .created_ns = s->created_ns};

	memcpy(m.boot, s->boot, sizeof(m.boot));
	if (s->parent)
		snprintf(m.parent, sizeof(m.parent), "%s", s->parent->key);
	if (mkdirat(fd, "fs", 0755) < 0)
		return -errno;
	/* The umask is the host's. */
	if (fchmodat(fd, "fs", 0755, 0) < 0)
		return -errno;
	if (s->kind == BERTH_SNAP_ACTIVE && !s->layer && s->parent) {
		if (mkdirat(fd, "work", 0700) < 0)
			return -errno;
		int r = like_parent(d, fd, s->parent, a);
		if (r < 0)
			return r;
	}
	return meta_write(fd, &m);
}

/* Renames to a final name. What is there and not in the index is no snapshot: it gives way. */
static int put(struct driver *d, int from, const char *tmp, int to, const char *name)
{
	if (renameat2(from, tmp, to, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	int r = trash_add(d, to, name, NULL);
	if (r < 0)
		return r;
	return renameat2(from, tmp, to, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

static int make_dir(
        struct driver *d, const struct snap *s, const char *name, const struct berth_snap_args *a)
{
	char tmp[32];

	snprintf(tmp, sizeof(tmp), "%llu",
	        (unsigned long long)__atomic_add_fetch(&d->serial, 1, __ATOMIC_RELAXED));
	if (mkdirat(d->new_fd, tmp, 0711) < 0)
		return -errno;
	int fd = openat(d->new_fd, tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : fchmod(fd, 0711) < 0 ? -errno : fill_dir(d, fd, s, a);
	if (fd >= 0)
		close(fd);
	if (r == 0)
		r = put(d, d->new_fd, tmp, d->active_fd, name);
	if (r < 0)
		(void)trash_add(d, d->new_fd, tmp, NULL);
	return r;
}

static berth_status make(struct driver *d, struct berth_op *op, const struct berth_snap_args *a,
        uint32_t kind, struct berth_mounts_result *res)
{
	char name[NAME_LIMIT + 1];
	struct snap *s = NULL;
	berth_status st = check_args(d, op, a, name);

	if (st != BERTH_OK)
		return st;
	bool layer = a->flags & BERTH_SNAP_F_LAYER;
	if (layer && (kind == BERTH_SNAP_VIEW || (a->parent && *a->parent)))
		return berth_fail(d->host, op, BERTH_E_INVALID,
		        "snapshot '%s': a layer learns its parent when it is committed, and is no "
		        "view",
		        a->key);
	pthread_mutex_lock(&d->index.lock);
	st = claim(d, op, a->key, a->parent, kind, &s);
	if (st == BERTH_OK) {
		s->layer = layer;
		s->is_volatile =
		        d->use_volatile && kind == BERTH_SNAP_ACTIVE && !layer && s->parent;
		s->created_ns = now_ns(CLOCK_REALTIME);
		memcpy(s->boot, d->boot, sizeof(s->boot));
	}
	pthread_mutex_unlock(&d->index.lock);
	if (st != BERTH_OK)
		return st;

	/* What is PHASE_MAKING is ours alone, and its parent stays while it has a child. */
	int r = make_dir(d, s, name, a);
	if (r < 0) {
		unclaim(d, s);
		return from_errno(d, op, r, "make it", a->key);
	}
	pthread_mutex_lock(&d->index.lock);
	s->phase = PHASE_READY;
	pthread_cond_broadcast(&d->index.settled);
	st = describe(d, op, s, res);
	pthread_mutex_unlock(&d->index.lock);
	return st;
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
	struct driver *d = self;
	char name[NAME_LIMIT + 1];
	struct snap *s;
	berth_status st = check_key(d, op, "key", a->key, name);

	if (st != BERTH_OK)
		return st;
	pthread_mutex_lock(&d->index.lock);
	st = find_snap(d, op, a->key, &s);
	if (st == BERTH_OK)
		st = describe(d, op, s, res);
	pthread_mutex_unlock(&d->index.lock);
	return st;
}

/* ---- commit ---- */

static int commit_dir(struct driver *d, const struct snap *from, const char *from_name,
        const struct snap *to, const char *to_name)
{
	struct meta m = {
	        .kind = BERTH_SNAP_COMMITTED, .layer = from->layer, .created_ns = to->created_ns};

	memcpy(m.boot, d->boot, sizeof(m.boot));
	if (to->parent)
		snprintf(m.parent, sizeof(m.parent), "%s", to->parent->key);
	int fd = openat(d->active_fd, from_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = trash_add(d, fd, "work", NULL);
	if (r == -ENOENT)
		r = 0;
	if (r == 0)
		r = meta_write(fd, &m);
	/* One sync of the file system, not one per file: a layer has thousands of files, and each
	 * fsync of a new file would be a journal commit of its own. */
	if (r == 0 && syncfs(fd) < 0)
		r = -errno;
	close(fd);
	if (r == 0)
		r = put(d, d->active_fd, from_name, d->layers_fd, to_name);
	if (r == 0 && fsync(d->layers_fd) < 0) {
		r = -errno;
		(void)renameat2(d->layers_fd, to_name, d->active_fd, from_name, RENAME_NOREPLACE);
	}
	return r;
}

static berth_status claim_commit(struct driver *d, struct berth_op *op,
        const struct berth_snap_args *a, struct snap **from, struct snap **to)
{
	berth_status st = find_snap(d, op, a->key, from);
	const char *parent = a->parent && *a->parent ? a->parent : NULL;

	if (st != BERTH_OK)
		return st;
	if ((*from)->kind != BERTH_SNAP_ACTIVE)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' is no active one: there is nothing to commit", a->key);
	if (!(*from)->layer) {
		/* What was written on top of one parent means nothing on top of another. */
		const char *own = (*from)->parent ? (*from)->parent->key : NULL;
		if (parent && (!own || strcmp(parent, own) != 0))
			return berth_fail(d->host, op, BERTH_E_INVALID,
			        "commit of snapshot '%s': it was made on '%s', not on '%s'", a->key,
			        own ? own : "nothing", parent);
		parent = own;
	}
	return claim(d, op, a->name, parent, BERTH_SNAP_COMMITTED, to);
}

static berth_status op_commit(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct driver *d = self;
	char from_name[NAME_LIMIT + 1], to_name[NAME_LIMIT + 1];
	struct snap *from = NULL, *to = NULL;
	berth_status st = check_args(d, op, a, from_name);

	if (st == BERTH_OK)
		st = check_key(d, op, "name", a->name, to_name);
	if (st != BERTH_OK)
		return st;
	pthread_mutex_lock(&d->index.lock);
	st = claim_commit(d, op, a, &from, &to);
	if (st == BERTH_OK) {
		to->layer = from->layer;
		to->created_ns = now_ns(CLOCK_REALTIME);
	}
	pthread_mutex_unlock(&d->index.lock);
	if (st != BERTH_OK)
		return st;

	int r = commit_dir(d, from, from_name, to, to_name);
	if (r < 0) {
		unclaim(d, to);
		return from_errno(d, op, r, "commit it", a->key);
	}
	pthread_mutex_lock(&d->index.lock);
	to->phase = PHASE_READY;
	index_remove(&d->index, from);
	pthread_mutex_unlock(&d->index.lock);
	return BERTH_OK;
}

/* ---- remove ---- */

static const char *a_child(const struct index *x, const struct snap *s)
{
	for (size_t i = 0; i < INDEX_BUCKETS; i++)
		for (const struct snap *c = x->buckets[i]; c; c = c->next)
			if (c->parent == s)
				return c->key;
	return "";
}

static berth_status claim_remove(
        struct driver *d, struct berth_op *op, const char *key, struct snap **ret)
{
	struct snap *s = index_find_settled(&d->index, key);

	*ret = s;
	if (!s)
		return BERTH_OK;
	if (s->children > 0)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' cannot be removed: '%s' stands on it", key,
		        a_child(&d->index, s));
	s->phase = PHASE_REMOVING;
	return BERTH_OK;
}

static berth_status op_remove(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct driver *d = self;
	char name[NAME_LIMIT + 1], gone[TRASH_NAME];
	struct snap *s = NULL;
	berth_status st = check_key(d, op, "key", a->key, name);

	if (st != BERTH_OK)
		return st;
	pthread_mutex_lock(&d->index.lock);
	st = claim_remove(d, op, a->key, &s);
	pthread_mutex_unlock(&d->index.lock);
	if (st != BERTH_OK)
		return st;

	bool committed = s && s->kind == BERTH_SNAP_COMMITTED;
	int r = trash_add(d, committed ? d->layers_fd : d->active_fd, name, gone);
	/* What is on the disk but not in the index was found broken at the start. */
	if (r == -ENOENT && !s)
		r = trash_add(d, d->layers_fd, name, gone);
	/* A crash must not bring the name back over a tree that is half deleted. */
	if (r == 0 && committed && fsync(d->layers_fd) < 0)
		r = -errno;
	pthread_mutex_lock(&d->index.lock);
	if (s && (r == 0 || r == -ENOENT)) {
		index_remove(&d->index, s);
	} else if (s) {
		s->phase = PHASE_READY;
		pthread_cond_broadcast(&d->index.settled);
	}
	pthread_mutex_unlock(&d->index.lock);
	if (r < 0)
		return r == -ENOENT ? BERTH_OK : from_errno(d, op, r, "remove it", a->key);

	r = trash_delete(d, op, gone, REMOVE_BUDGET_NS);
	if (r == -ETIME || r == -ECANCELED) {
		d->host->rearm(d->sweeper, 0, 0);
	} else if (r < 0) {
		char msg[512];
		snprintf(msg, sizeof(msg),
		        "storage-overlay: snapshot '%s' is removed, but its files in '%s/trash/%s' "
		        "are "
		        "not: %s; cleanup tries again",
		        a->key, d->root, gone, strerror(-r));
		d->host->log(d->host, op, BERTH_LOG_WARN, msg);
	}
	return BERTH_OK;
}

/* ---- */

static berth_status op_cleanup(struct berth_op *op, void *self)
{
	struct driver *d = self;
	char where[NAME_LIMIT + 1];
	int r = trash_empty(d, op, where);

	if (r < 0)
		return from_errno(d, op, r, "delete leftovers", where);
	return BERTH_OK;
}

const struct berth_storage_ops overlay_ops = {
        .size = sizeof(overlay_ops),
        .prepare = op_prepare,
        .view = op_view,
        .mounts = op_mounts,
        .commit = op_commit,
        .remove = op_remove,
        .stat = overlay_stat,
        .list = overlay_list,
        .cleanup = op_cleanup,
};
