/* What a snapshot consists of. */
#include "aufs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_dirs(
        struct store *st, const struct snap *s, int dirfd, const struct berth_snap_args *a)
{
	/* The umask is the host's. */
	if (mkdirat(dirfd, "fs", 0755) < 0 || fchmodat(dirfd, "fs", 0755, 0) < 0)
		return -errno;
	if (s->layer || !s->parent)
		return 0;
	if (mkdirat(dirfd, "work", 0700) < 0)
		return -errno;
	/* The root shows owner, mode and times of its topmost branch. */
	return s->kind == BERTH_SNAP_VIEW ? 0 : store_like_parent(st, dirfd, "fs", s->parent, a);
}

berth_status aufs_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a)
{
	int r = make_dirs(st, s, dirfd, a);

	return r < 0 ? store_fail(st, op, r, "make it", s->key) : (berth_status)BERTH_OK;
}

/* At its top a writable branch has the file that whiteouts are links of, and directories of what is
 * deleted but open and of pseudo-links; with `dirren` names of directories. Of the same beginning
 * is the mark of an opaque directory, which is content. */
bool aufs_skips(const char *name)
{
	return strncmp(name, ".wh..wh.", 8) == 0 && strcmp(name, ".wh..wh..opq") != 0;
}

/* Idempotent: a name is discarded as a whole. */
static int discard_own(struct store *st, int dirfd)
{
	int fd = openat(dirfd, "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir)))
		if (aufs_skips(e->d_name))
			r = store_discard(st, fd, e->d_name);
	if (r == 0 && errno)
		r = -errno;
	closedir(dir);
	return r;
}

berth_status aufs_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd)
{
	int r = store_discard(st, dirfd, "work");

	if (r == 0 || r == -ENOENT)
		r = discard_own(st, dirfd);
	return r < 0 ? store_fail(st, op, r, "commit it", s->key) : (berth_status)BERTH_OK;
}
