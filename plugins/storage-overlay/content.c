/* What a snapshot consists of. */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

static bool has_work(const struct snap *s)
{
	return s->kind == BERTH_SNAP_ACTIVE && !s->layer && s->parent;
}

berth_status overlay_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a)
{
	const struct overlay *o = st->self;
	bool written = s->kind == BERTH_SNAP_ACTIVE && !s->layer;

	if ((a->size_limit || a->inode_limit) && !written)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "snapshot '%s': only what a container writes has a limit", s->key);
	s->is_volatile = o->use_volatile && has_work(s);
	int r = written ? quota_plan(st, s) : 0;
	return r < 0 ? store_fail(st, op, r, "find a project id", s->key) : (berth_status)BERTH_OK;
}

/* A link to the content, and a directory that has its root's owner, mode and times. */
static int link_external(int dirfd, const char *path)
{
	struct stat info;

	if (stat(path, &info) < 0)
		return -errno;
	if (!S_ISDIR(info.st_mode))
		return -ENOTDIR;
	struct timespec times[2] = {info.st_atim, info.st_mtim};
	if (symlinkat(path, dirfd, "fs") < 0 || mkdirat(dirfd, "root", 0755) < 0 ||
	        fchownat(dirfd, "root", info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	        fchmodat(dirfd, "root", info.st_mode & 07777, 0) < 0 ||
	        utimensat(dirfd, "root", times, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int make_dirs(
        struct store *st, const struct snap *s, int dirfd, const struct berth_snap_args *a)
{
	if (s->external)
		return link_external(dirfd, s->external);
	if (mkdirat(dirfd, "fs", 0755) < 0)
		return -errno;
	/* The umask is the host's. */
	if (fchmodat(dirfd, "fs", 0755, 0) < 0)
		return -errno;
	if (has_work(s) && mkdirat(dirfd, "work", 0700) < 0)
		return -errno;
	int r = quota_apply(st, s, dirfd, has_work(s), a);
	if (r < 0 || !has_work(s))
		return r;
	/* The root of an overlay shows owner, mode and times of its upper directory. The upper
	 * directory is not mapped as those below it are: what it holds has the mapped owners on the
	 * disk. */
	r = store_like_parent(st, dirfd, "fs", s->parent, a);
	return r < 0 ? r : mask_root(st, dirfd, "fs", s->parent);
}

berth_status overlay_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a)
{
	int r = make_dirs(st, s, dirfd, a);

	return r < 0 ? store_fail(st, op, r, "make it", s->key) : (berth_status)BERTH_OK;
}

berth_status overlay_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd)
{
	int r = store_discard(st, dirfd, "work");

	if (r == 0 || r == -ENOENT)
		r = quota_lift(st, s->own);
	if (r < 0 && r != -ENOENT)
		return store_fail(st, op, r, "commit it", s->key);
	r = mask_layer(st, op, s, dirfd);
	return r < 0 ? store_fail(st, op, r, "give its files the mode of force_mask", s->key)
	             : (berth_status)BERTH_OK;
}

int overlay_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m)
{
	(void)op;
	(void)dirfd;
	return m ? quota_lift(st, m->own) : 0;
}
