/* Hooks: a snapshot's device is made, filled, sealed, described and destroyed. */
#include "devmapper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

#define FOREIGN "foreign" /* a file in the directory: the number is another's */
#define SIZE_UNIT (1ull << 20)

static berth_status bad_own(struct store *st, struct berth_op *op, const char *key)
{
	return berth_fail(st->host, op, BERTH_E_INTERNAL,
	        "snapshot '%s': its meta file in '%s' does not tell its device", key, st->root);
}

/* What went wrong with the device is often the pool's fault, and that has a better name. */
static berth_status fail_device(
        struct store *st, struct berth_op *op, int r, const char *what, const char *key)
{
	struct dm *d = st->self;
	struct pool_status s;
	char why[REASON_LIMIT];
	bool suspect = r == -EIO || r == -ENOSPC || r == -EROFS || r == -EOPNOTSUPP ||
	               r == -EINVAL || r == -EUCLEAN || r == -ENODATA;

	if (!suspect || pool_status(d, &s) < 0 || !pool_sick(d, &s, why))
		return store_fail(st, op, r, what, key);
	bool full = s.mode == POOL_RW || s.mode == POOL_NO_SPACE;
	errno = -r;
	return berth_fail(st->host, op, full ? BERTH_E_EXHAUSTED : BERTH_E_UNAVAILABLE,
	        "snapshot '%s': %s: %s: %s", key, what, strerror(-r), why);
}

/* What the snapshot begins as: its parent, or the base. */
static int origin_of(struct store *st, const struct snap *s, struct thin *ret)
{
	struct dm *d = st->self;

	if (s->parent)
		return thin_parse(s->parent->own, ret);
	*ret = (struct thin){
	        .dev = d->base, .n = d->base_n, .size = d->base_size, .totals = d->base_totals};
	snprintf(ret->fs, sizeof(ret->fs), "%s", d->fs);
	return 0;
}

/* ---- plan ---- */

static berth_status plan_size(
        struct store *st, struct berth_op *op, struct thin *t, const struct berth_snap_args *a)
{
	if (a->inode_limit)
		return berth_fail(st->host, op, BERTH_E_UNIMPLEMENTED,
		        "snapshot '%s': a limit of inodes is fixed with the file system here: see "
		        "mkfs_options",
		        a->key);
	if (!a->size_limit)
		return BERTH_OK;
	if (a->size_limit < t->size)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot '%s': a limit of %" PRIu64 " bytes is less than the %" PRIu64
		        " of the file system that it begins with: see base_size",
		        a->key, a->size_limit, t->size);
	t->size = a->size_limit - a->size_limit % SIZE_UNIT > t->size
	                  ? a->size_limit - a->size_limit % SIZE_UNIT
	                  : t->size;
	return BERTH_OK;
}

berth_status dm_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a)
{
	struct dm *d = st->self;
	struct thin t;
	berth_status r = pool_has_room(st, op, a->key);

	if (r != BERTH_OK)
		return r;
	if (origin_of(st, s, &t) < 0)
		return bad_own(st, op, s->parent->key);
	r = plan_size(st, op, &t, a);
	if (r != BERTH_OK)
		return r;
	t.n = __atomic_add_fetch(&d->serial, 1, __ATOMIC_RELAXED);
	t.dev = thin_take(d, t.n);
	if (!t.dev)
		return berth_fail(st->host, op, BERTH_E_EXHAUSTED,
		        "snapshot '%s': %u devices are in use, and there are no more numbers",
		        a->key, IDS);
	int e = thin_print(&t, false, s->own, sizeof(s->own));
	if (e < 0) {
		thin_give(d, t.dev, t.n);
		return store_fail(st, op, e, "plan it", a->key);
	}
	return BERTH_OK;
}

void dm_unplan(struct store *st, const struct snap *s)
{
	struct thin t;

	if (thin_parse(s->own, &t) == 0)
		thin_give(st->self, t.dev, t.n);
}

/* ---- make ---- */

static int mark_foreign(int dirfd)
{
	int fd = openat(dirfd, FOREIGN, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return fsync(dirfd) < 0 ? -errno : 0;
}

static void hold(struct dm *d, uint32_t dev, int fd)
{
	thin_let_go(d, dev);
	__atomic_store_n(&d->held[dev - d->first], fd + 1, __ATOMIC_RELEASE);
}

static int take_held(struct dm *d, uint32_t dev)
{
	if (dev < d->first || dev - d->first >= IDS)
		return -1;
	return __atomic_exchange_n(&d->held[dev - d->first], 0, __ATOMIC_ACQ_REL) - 1;
}

void thin_let_go(struct dm *d, uint32_t dev)
{
	int fd = take_held(d, dev);

	if (fd >= 0)
		close(fd);
}

/* A larger device has the same file system until that is told. */
static int adjust(struct dm *d, const struct thin *t, uint64_t from, bool layer)
{
	char path[PATH_LIMIT];
	int r = thin_activate(d, t, path);
	int fd = r < 0 ? r : fs_open(d, path, t->fs, false);

	if (fd < 0)
		return fd;
	r = t->size > from ? fs_grow(fd, t->fs, t->size) : 0;
	if (r == 0 && layer)
		hold(d, t->dev, fd);
	else
		close(fd);
	return r;
}

berth_status dm_content(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a)
{
	struct dm *d = st->self;
	bool layer = a->flags & BERTH_SNAP_F_LAYER;
	struct thin t, from;

	if (thin_parse(s->own, &t) < 0 || origin_of(st, s, &from) < 0)
		return bad_own(st, op, s->key);
	int r = thin_snapshot(d, t.dev, from.dev);
	if (r == -EEXIST) {
		(void)mark_foreign(dirfd);
		return berth_fail(st->host, op, BERTH_E_UNAVAILABLE,
		        "snapshot '%s': thin pool '%s' has a device %u of somebody else's; the "
		        "next try takes another number",
		        s->key, d->pool, t.dev);
	}
	if (r < 0)
		return fail_device(st, op, r, "make its thin device", s->key);
	if (!layer && t.size == from.size)
		return BERTH_OK;
	r = adjust(d, &t, from.size, layer);
	return r < 0 ? fail_device(st, op, r,
	                       t.size > from.size ? "grow its file system"
	                                          : "mount its file system",
	                       s->key)
	             : (berth_status)BERTH_OK;
}

/* ---- seal ---- */

/* The file system as it is now: all of it in the pool, or an error. */
static int settle(struct dm *d, struct thin *t)
{
	char path[PATH_LIMIT];
	int fd = take_held(d, t->dev), r = 0;

	if (fd < 0) { /* of an earlier process, or no layer */
		r = thin_activate(d, t, path);
		fd = r < 0 ? r : fs_open(d, path, t->fs, false);
	}
	if (fd < 0)
		return fd;
	if (syncfs(fd) < 0)
		r = -errno;
	if (r == 0)
		r = fs_totals(fd, &t->totals);
	if (r < 0) { /* the error is told once: the next try must not find all well */
		hold(d, t->dev, fd);
		return r;
	}
	close(fd);
	return 0;
}

berth_status dm_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd)
{
	struct dm *d = st->self;
	struct thin t;

	if (thin_parse(s->own, &t) < 0)
		return bad_own(st, op, s->key);
	if (faccessat(dirfd, "damaged", F_OK, 0) == 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s': not all that was written to it got to the disk: it cannot "
		        "be committed",
		        s->key);
	int r = settle(d, &t);
	if (r < 0) {
		int fd = openat(dirfd, "damaged", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0)
			close(fd);
		return fail_device(st, op, r, "write all of it to its device", s->key);
	}
	/* Who has it mounted still keeps the device; snapshots of it are taken all the same. */
	r = thin_deactivate(d, t.dev);
	if (r < 0 && r != -EBUSY)
		return fail_device(st, op, r, "deactivate its device", s->key);
	r = thin_print(&t, true, s->own, sizeof(s->own));
	return r < 0 ? store_fail(st, op, r, "seal it", s->key) : (berth_status)BERTH_OK;
}

/* ---- describe ---- */

berth_status dm_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res)
{
	struct dm *d = st->self;
	char path[PATH_LIMIT];
	struct thin t;

	if (thin_parse(s->own, &t) < 0)
		return bad_own(st, op, s->key);
	int r = thin_activate(d, &t, path);
	if (r < 0)
		return fail_device(st, op, r, "activate its device", s->key);
	return store_mount(st, op, berth_dup(st->host, op, t.fs), berth_dup(st->host, op, path),
	        fs_options(st, op, t.fs, s->kind == BERTH_SNAP_VIEW), res);
}

/* ---- destroy ---- */

int dm_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m)
{
	struct dm *d = st->self;
	struct thin t;

	(void)op;
	if (!m || thin_parse(m->own, &t) < 0)
		return 0; /* killed before it was written down */
	if (!thin_is(d, t.dev, t.n))
		return 0; /* deleted already; the number may be another's by now */
	if (faccessat(dirfd, FOREIGN, F_OK, 0) == 0)
		return 0; /* and it stays taken */
	thin_let_go(d, t.dev);
	int r = thin_deactivate(d, t.dev);
	if (r == 0)
		r = thin_delete(d, t.dev);
	if (r == 0)
		thin_give(d, t.dev, t.n);
	return r;
}

/* ---- usage ---- */

static uint64_t more(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

int dm_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u)
{
	struct dm *d = st->self;
	struct thin t, from;
	char path[PATH_LIMIT];

	(void)op;
	(void)dirfd;
	if (thin_parse(s->own, &t) < 0 || origin_of(st, s, &from) < 0)
		return -EPROTO;
	if (s->kind == BERTH_SNAP_VIEW)
		return 0;
	if (s->kind == BERTH_SNAP_ACTIVE) {
		/* It stays active, as after describe: who mounts it may be about to do so. */
		int r = thin_activate(d, &t, path);
		int fd = r < 0 ? r : fs_open(d, path, t.fs, false);
		if (fd < 0)
			return fd;
		r = fs_totals(fd, &t.totals);
		close(fd);
		if (r < 0)
			return r;
	}
	u->bytes = more(t.totals.bytes, from.totals.bytes);
	u->inodes = more(t.totals.files, from.totals.files);
	return 0;
}
