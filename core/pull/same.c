/* Comparing an entry of one tree with that of the same name in another. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/emit.h"
#include "pull/protocol.h"

enum { PIECE = 64 * 1024 };

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool same_stat(const struct stat *a, const struct stat *b)
{
	bool device = S_ISCHR(a->st_mode) || S_ISBLK(a->st_mode);
	return a->st_mode == b->st_mode && a->st_uid == b->st_uid && a->st_gid == b->st_gid &&
	       same_time(&a->st_mtim, &b->st_mtim) && (!device || a->st_rdev == b->st_rdev) &&
	       (S_ISDIR(a->st_mode) || a->st_size == b->st_size);
}

static int open_it(int dir, const char *name, const struct stat *st)
{
	return openat(dir, *name ? name : ".",
	        O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC |
	                (S_ISDIR(st->st_mode) ? O_DIRECTORY : 0));
}

static ssize_t list(int fd, char *names)
{
	ssize_t n = flistxattr(fd, names, PIECE);
	return n < 0 && errno == EOPNOTSUPP ? 0 : n;
}

/* The order in which they are listed is the file system's. */
static int same_xattrs(int a, int b, struct berth_error **ret_err)
{
	_cleanup_free_ char *names = berth_zalloc(PIECE), *others = berth_zalloc(PIECE);
	_cleanup_free_ char *x = berth_zalloc(PIECE), *y = berth_zalloc(PIECE);
	ssize_t n = list(a, names), m = list(b, others);

	if (n < 0 || m < 0)
		return berth_error_errno(ret_err, errno, "list its attributes");
	if (n != m)
		return 0;
	for (char *name = names; name < names + n; name += strlen(name) + 1) {
		ssize_t xn = fgetxattr(a, name, x, PIECE), yn = fgetxattr(b, name, y, PIECE);
		if (xn < 0 || xn != yn || memcmp(x, y, (size_t)xn) != 0)
			return 0;
	}
	return 1;
}

static int same_data(int a, int b, struct berth_error **ret_err)
{
	_cleanup_free_ char *x = berth_zalloc(PIECE), *y = berth_zalloc(PIECE);

	for (off_t at = 0;;) {
		ssize_t n = pread(a, x, PIECE, at), m = pread(b, y, PIECE, at);
		if (n < 0 || m < 0)
			return berth_error_errno(ret_err, errno, "read it");
		if (n == 0 || m == 0)
			return n == m;
		/* Either may come in smaller pieces. */
		size_t part = (size_t)(n < m ? n : m);
		if (memcmp(x, y, part) != 0)
			return 0;
		at += (off_t)part;
	}
}

static int same_text(int a, int b, const char *name, struct berth_error **ret_err)
{
	char x[BERTH_LIMIT_PATH], y[BERTH_LIMIT_PATH];
	ssize_t n = readlinkat(a, name, x, sizeof(x)), m = readlinkat(b, name, y, sizeof(y));

	if (n < 0 || m < 0)
		return berth_error_errno(ret_err, errno, "read the link");
	return n == m && memcmp(x, y, (size_t)n) == 0;
}

/* A snapshot keeps both for what it has not changed, where no one can set ctime. Elsewhere two
 * files may have both in common: aufs numbers files itself, an image of a file system has the times
 * that it was made with, and ctime is only as fine as the clock's ticks. */
static bool unchanged(int dir, const struct stat *a, const struct stat *b)
{
	struct statfs fs;

	return a->st_ino == b->st_ino && same_time(&a->st_ctim, &b->st_ctim) &&
	       fstatfs(dir, &fs) == 0 &&
	       (fs.f_type == BTRFS_SUPER_MAGIC || fs.f_type == EXT4_SUPER_MAGIC ||
	               fs.f_type == XFS_SUPER_MAGIC);
}

int pull_same(int a, const struct stat *a_st, int b, const struct stat *b_st, const char *name,
        struct berth_error **ret_err)
{
	if (!same_stat(a_st, b_st))
		return 0;
	/* A name that was made another's hard link, by which nothing else may have changed. One
	 * name less is told by the name that is missing. */
	if (!S_ISDIR(a_st->st_mode) && a_st->st_nlink > b_st->st_nlink)
		return 0;
	if (!S_ISDIR(a_st->st_mode) && unchanged(a, a_st, b_st))
		return 1;
	if (S_ISLNK(a_st->st_mode))
		return same_text(a, b, name, ret_err);
	if (!S_ISREG(a_st->st_mode) && !S_ISDIR(a_st->st_mode))
		return 1;
	_cleanup_close_ int x = open_it(a, name, a_st), y = open_it(b, name, b_st);
	if (x < 0 || y < 0)
		return berth_error_errno(ret_err, errno, "open it");
	int r = same_xattrs(x, y, ret_err);
	return r == 1 && S_ISREG(a_st->st_mode) ? same_data(x, y, ret_err) : r;
}
