#include "pull/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pull/attrs.h"
#include "pull/protocol.h"

#define ACCESS_ACL "system.posix_acl_access"

enum { PIECE = 128 * 1024, XATTR_BYTES = 64 * 1024 };

struct pull_tar {
	struct archive *a;
	struct archive_entry *entry;
	pull_sink sink;
	void *arg;
	bool over; /* nothing is passed on any more */
	char *piece, *zeros;
	char *names, *value;
};

static la_ssize_t pass_on(struct archive *a, void *arg, const void *p, size_t n)
{
	struct pull_tar *t = arg;

	if (t->over || t->sink(t->arg, p, n) == 0)
		return (la_ssize_t)n;
	archive_set_error(a, ECANCELED, "nobody reads it any more");
	return ARCHIVE_FATAL;
}

struct pull_tar *pull_tar_new(pull_sink sink, void *arg)
{
	struct pull_tar *t = berth_new(struct pull_tar);

	t->sink = sink;
	t->arg = arg;
	t->a = archive_write_new();
	t->entry = archive_entry_new();
	t->piece = berth_zalloc(PIECE);
	t->zeros = berth_zalloc(PIECE);
	t->names = berth_zalloc(XATTR_BYTES);
	t->value = berth_zalloc(XATTR_BYTES);
	if (!t->a || !t->entry)
		abort();
	return t;
}

struct pull_tar *pull_tar_free(struct pull_tar *t)
{
	if (!t)
		return NULL;
	/* Freed alone, it would end a stream that has failed as if it were whole; or, where it
	 * failed itself, leave some memory. */
	t->over = true;
	(void)archive_write_close(t->a);
	archive_entry_free(t->entry);
	archive_write_free(t->a);
	free(t->piece);
	free(t->zeros);
	free(t->names);
	free(t->value);
	free(t);
	return NULL;
}

static int failed(struct pull_tar *t, struct berth_error **ret_err)
{
	const char *why = archive_error_string(t->a);
	bool stopped = archive_errno(t->a) == ECANCELED;

	return berth_error_set(ret_err, stopped ? BERTH_CANCELLED : BERTH_INTERNAL,
	        "write a tar stream: %s", why ? why : "unknown error");
}

/* Names are bytes: nothing is converted. */
static int begin(struct pull_tar *t, struct berth_error **ret_err)
{
	if (archive_format(t->a))
		return 0;
	if (archive_write_set_format_pax(t->a) != ARCHIVE_OK ||
	        archive_write_set_format_option(t->a, "pax", "hdrcharset", "BINARY") !=
	                ARCHIVE_OK ||
	        archive_write_set_bytes_per_block(t->a, 0) != ARCHIVE_OK ||
	        archive_write_open(t->a, t, NULL, pass_on, NULL) != ARCHIVE_OK)
		return failed(t, ret_err);
	return 0;
}

static int write_header(struct pull_tar *t, struct berth_error **ret_err)
{
	int r = archive_write_header(t->a, t->entry);
	return r == ARCHIVE_OK ? 0 : failed(t, ret_err);
}

static int override(struct pull_tar *t, int fd, mode_t *ret_mode, struct berth_error **ret_err)
{
	unsigned int uid, gid, mode;
	char text[64] = "";

	if (fgetxattr(fd, PULL_OVERRIDE_STAT, text, sizeof(text) - 1) < 0 ||
	        sscanf(text, "%u:%u:%o", &uid, &gid, &mode) != 3)
		return berth_error_set(ret_err, BERTH_DATA_LOSS,
		        "its attribute '" PULL_OVERRIDE_STAT "' is malformed");
	*ret_mode = mode;
	archive_entry_set_uid(t->entry, uid);
	archive_entry_set_gid(t->entry, gid);
	archive_entry_set_perm(t->entry, mode & 07777);
	return 0;
}

/* The mode that was forced upon the file went into its ACL: there, too, it becomes the true one.
 * The kernel's form: a version, then tag, rights and id of each entry, little-endian. */
static void mend_acl(unsigned char *acl, size_t len, mode_t mode)
{
	enum { HEAD = 4, ENTRY = 8, USER_OBJ = 1, GROUP_OBJ = 4, MASK = 16, OTHER = 32 };
	bool has_mask = false;

	for (size_t at = HEAD; at + ENTRY <= len; at += ENTRY)
		has_mask |= acl[at] == MASK;
	for (size_t at = HEAD; at + ENTRY <= len; at += ENTRY) {
		if (acl[at] == USER_OBJ)
			acl[at + 2] = (mode >> 6) & 7;
		else if (acl[at] == (has_mask ? MASK : GROUP_OBJ))
			acl[at + 2] = (mode >> 3) & 7;
		else if (acl[at] == OTHER)
			acl[at + 2] = mode & 7;
	}
}

/* Which of them an image may have is the unpacker's to say. */
static int add_xattrs(struct pull_tar *t, int fd, struct berth_error **ret_err)
{
	ssize_t n = flistxattr(fd, t->names, XATTR_BYTES);
	mode_t mode;

	if (n < 0 && errno != EOPNOTSUPP && errno != ENOTSUP)
		return berth_error_errno(ret_err, errno, "list its attributes");
	for (char *name = t->names; n > 0 && name < t->names + n; name += strlen(name) + 1) {
		ssize_t len = fgetxattr(fd, name, t->value, XATTR_BYTES);
		if (len < 0 && errno == ENODATA)
			continue;
		if (len < 0)
			return berth_error_errno(ret_err, errno, "read its attribute '%s'", name);
		if (strcmp(name, PULL_OVERRIDE_STAT) == 0) {
			if (override(t, fd, &mode, ret_err) < 0)
				return -1;
			continue;
		}
		if (strcmp(name, ACCESS_ACL) == 0 &&
		        fgetxattr(fd, PULL_OVERRIDE_STAT, NULL, 0) >= 0) {
			if (override(t, fd, &mode, ret_err) < 0)
				return -1;
			mend_acl((unsigned char *)t->value, (size_t)len, mode);
		}
		archive_entry_xattr_add_entry(t->entry, name, t->value, (size_t)len);
	}
	return 0;
}

/* Where the file system tells of no holes (aufs): what would go into them reads as zeros. */
static int search_holes(struct pull_tar *t, int fd, off_t size, struct berth_error **ret_err)
{
	off_t from = -1; /* the data at hand */

	for (off_t at = 0; at < size;) {
		ssize_t n =
		        pread(fd, t->piece, (size_t)(size - at < PIECE ? size - at : PIECE), at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 ? 0 : berth_error_errno(ret_err, errno, "read it");
		bool empty = memcmp(t->piece, t->zeros, (size_t)n) == 0;
		if (empty && from >= 0)
			archive_entry_sparse_add_entry(t->entry, from, at - from);
		from = empty ? -1 : from < 0 ? at : from;
		at += n;
	}
	if (from >= 0)
		archive_entry_sparse_add_entry(t->entry, from, size - from);
	else if (archive_entry_sparse_count(t->entry) == 0)
		archive_entry_sparse_add_entry(t->entry, size, 0);
	return 0;
}

static int add_holes(
        struct pull_tar *t, int fd, const struct stat *st, struct berth_error **ret_err)
{
	off_t size = st->st_size, hole = lseek(fd, 0, SEEK_HOLE);

	if (hole < 0 || hole >= size)
		return size >= 2 * PIECE && st->st_blocks * 512 < size - PIECE
		               ? search_holes(t, fd, size, ret_err)
		               : 0;
	for (off_t at = 0; at < size;) {
		off_t from = lseek(fd, at, SEEK_DATA);
		if (from < 0 && errno != ENXIO)
			return berth_error_errno(ret_err, errno, "find its data");
		if (from < 0 || from >= size)
			break;
		at = lseek(fd, from, SEEK_HOLE);
		if (at < 0)
			return berth_error_errno(ret_err, errno, "find its holes");
		at = at < size ? at : size;
		archive_entry_sparse_add_entry(t->entry, from, at - from);
	}
	if (archive_entry_sparse_count(t->entry) == 0) /* nothing but a hole */
		archive_entry_sparse_add_entry(t->entry, size, 0);
	return 0;
}

static int put(struct pull_tar *t, const void *p, size_t n, struct berth_error **ret_err)
{
	return archive_write_data(t->a, p, n) == (la_ssize_t)n ? 0 : failed(t, ret_err);
}

/* Holes are passed as zeros, of which the writer takes none. */
static int write_data(struct pull_tar *t, int fd, off_t size, struct berth_error **ret_err)
{
	off_t at = 0;

	while (at < size) {
		off_t from = lseek(fd, at, SEEK_DATA);
		if (from < 0 || from > size)
			from = errno == EINVAL ? at : size;
		for (; at < from; at += from - at < PIECE ? from - at : PIECE)
			if (put(t, t->zeros, (size_t)(from - at < PIECE ? from - at : PIECE),
			            ret_err) < 0)
				return -1;
		if (at == size)
			break;
		ssize_t n =
		        pread(fd, t->piece, (size_t)(size - at < PIECE ? size - at : PIECE), at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return berth_error_errno(ret_err, errno, "read it");
		if (n == 0)
			return berth_error_set(
			        ret_err, BERTH_DATA_LOSS, "it became shorter while it was read");
		if (put(t, t->piece, (size_t)n, ret_err) < 0)
			return -1;
		at += n;
	}
	return archive_write_finish_entry(t->a) == ARCHIVE_OK ? 0 : failed(t, ret_err);
}

static void fill(struct archive_entry *e, const char *path, const struct stat *st)
{
	archive_entry_copy_pathname(e, *path ? path : "./");
	archive_entry_set_mode(e, st->st_mode);
	archive_entry_set_uid(e, st->st_uid);
	archive_entry_set_gid(e, st->st_gid);
	archive_entry_set_mtime(e, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		archive_entry_set_rdevmajor(e, major(st->st_rdev));
		archive_entry_set_rdevminor(e, minor(st->st_rdev));
	}
	archive_entry_set_size(e, S_ISREG(st->st_mode) ? st->st_size : 0);
}

static int add_link(struct pull_tar *t, int dir, const char *name, struct berth_error **ret_err)
{
	ssize_t n = readlinkat(dir, name, t->value, BERTH_LIMIT_PATH);

	if (n < 0 || n == BERTH_LIMIT_PATH)
		return berth_error_errno(ret_err, n < 0 ? errno : ENAMETOOLONG, "read the link");
	t->value[n] = '\0';
	archive_entry_copy_symlink(t->entry, t->value);
	return write_header(t, ret_err);
}

static int add_opened(struct pull_tar *t, int dir, const char *name, const struct stat *st,
        struct berth_error **ret_err)
{
	int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC |
	            (S_ISDIR(st->st_mode) ? O_DIRECTORY : 0);
	_cleanup_close_ int fd = openat(dir, *name ? name : ".", flags);
	struct stat own;

	if (fd < 0 || fstat(fd, &own) < 0)
		return berth_error_errno(ret_err, errno, "open it");
	if ((own.st_mode & S_IFMT) != (st->st_mode & S_IFMT) || own.st_size != st->st_size)
		return berth_error_set(ret_err, BERTH_DATA_LOSS, "it changed while it was read");
	if (add_xattrs(t, fd, ret_err) < 0)
		return -1;
	if (S_ISDIR(st->st_mode))
		return write_header(t, ret_err);
	if (add_holes(t, fd, &own, ret_err) < 0 || write_header(t, ret_err) < 0)
		return -1;
	return write_data(t, fd, st->st_size, ret_err);
}

int pull_tar_add(struct pull_tar *t, int dir, const char *name, const char *path,
        const struct stat *st, const char *hardlink, struct berth_error **ret_err)
{
	if (begin(t, ret_err) < 0)
		return -1;
	archive_entry_clear(t->entry);
	fill(t->entry, path, st);
	if (hardlink) {
		archive_entry_copy_hardlink(t->entry, hardlink);
		archive_entry_set_size(t->entry, 0);
		return write_header(t, ret_err);
	}
	if (S_ISLNK(st->st_mode))
		return add_link(t, dir, name, ret_err);
	if (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))
		return add_opened(t, dir, name, st, ret_err);
	return write_header(t, ret_err);
}

int pull_tar_mark(struct pull_tar *t, const char *path, struct berth_error **ret_err)
{
	const struct stat st = {.st_mode = S_IFREG | 0600};

	if (begin(t, ret_err) < 0)
		return -1;
	archive_entry_clear(t->entry);
	fill(t->entry, path, &st);
	return write_header(t, ret_err);
}

int pull_tar_end(struct pull_tar *t, struct berth_error **ret_err)
{
	if (begin(t, ret_err) < 0)
		return -1;
	return archive_write_close(t->a) == ARCHIVE_OK ? 0 : failed(t, ret_err);
}
