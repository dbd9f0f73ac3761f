#include "pull/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/attrs.h"
#include "pull/protocol.h"

struct unpack {
	struct archive *a;
	struct pull_tree *tree;
	struct pull_late_dirs *late;
	const struct pull_unpack_opts *o;
	bool read_failed, any;
	uint64_t bytes, inodes, sizes;
};

static la_ssize_t read_piece(struct archive *a, void *arg, const void **ret)
{
	struct unpack *u = arg;
	ssize_t n = u->o->read(u->o->read_arg, ret);

	if (n < 0) {
		u->read_failed = true;
		archive_set_error(a, EIO, "the stream ends too early");
		return ARCHIVE_FATAL;
	}
	u->any |= n > 0;
	return n;
}

static int write_at(int fd, const char *p, size_t n, off_t at)
{
	while (n > 0) {
		ssize_t w = pwrite(fd, p, n, at);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += w;
		at += w;
		n -= (size_t)w;
	}
	return 0;
}

static int write_data(struct unpack *u, int fd, la_int64_t size, struct berth_error **ret_err)
{
	la_int64_t end = 0;

	for (;;) {
		const void *p;
		size_t n;
		la_int64_t at;
		int r = archive_read_data_block(u->a, &p, &n, &at);
		if (r == ARCHIVE_EOF)
			break;
		if (r != ARCHIVE_OK)
			return berth_error_set(ret_err, BERTH_DATA_LOSS, "damaged tar archive: %s",
			        archive_error_string(u->a));
		if (n == 0)
			continue;
		if (at < 0 || at > size || n > (uint64_t)(size - at))
			return berth_error_set(
			        ret_err, BERTH_DATA_LOSS, "it has more data than its size says");
		r = write_at(fd, p, n, at);
		if (r < 0)
			return berth_error_errno(ret_err, r, "write its data");
		u->bytes += n;
		end = at + (la_int64_t)n;
	}
	if (end < size && ftruncate(fd, size) < 0) /* it ends in a hole */
		return berth_error_errno(ret_err, errno, "set its size %lld", (long long)size);
	return 0;
}

static int make_file(struct unpack *u, struct archive_entry *e, const char *path,
        const struct pull_attrs *a, struct berth_error **ret_err)
{
	enum { FLAGS = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC };
	struct pull_place pl;

	if (pull_tree_parent(u->tree, path, &pl, ret_err) < 0)
		return -1;
	mode_t mode = a->mode & 0777;
	_cleanup_close_ int fd = openat(pl.dir, pl.base, FLAGS, mode);
	if (fd < 0 && errno == EEXIST) {
		if (pull_tree_clear(u->tree, path, &pl, ret_err) < 0)
			return -1;
		fd = openat(pl.dir, pl.base, FLAGS, mode);
	}
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "create");
	if (write_data(u, fd, archive_entry_size(e), ret_err) < 0)
		return -1;
	bool owner = a->uid || a->gid || pl.dir_setgid;
	if (pull_attrs_set_fd(a, e, fd, owner, mode, ret_err) < 0)
		return -1;
	if (futimens(fd, a->times) < 0)
		return berth_error_errno(ret_err, errno, "set its times");
	u->inodes++;
	return 0;
}

static int make_dir(struct unpack *u, struct archive_entry *e, const char *path,
        const struct pull_attrs *a, struct berth_error **ret_err)
{
	int fd = -1;

	if (pull_tree_dir(u->tree, path, &fd, ret_err) < 0)
		return -1;
	/* Modes are always set: a new directory may have inherited the group bit. */
	int r = pull_attrs_set_fd(a, e, fd, true, (mode_t)-1, ret_err);
	close(fd);
	pull_late_dirs_add(u->late, path, a, e);
	u->inodes++;
	return r;
}

static int make_hard_link(
        struct unpack *u, struct archive_entry *e, const char *path, struct berth_error **ret_err)
{
	char target[BERTH_LIMIT_PATH];
	const char *raw = archive_entry_hardlink(e);
	struct pull_place from, to;
	struct stat st;

	const char *why = pull_tree_clean(raw, target);
	if (!why && (!*target || pull_tree_is_whiteout(target)))
		why = "it is no file";
	if (why)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "hard link to '%s', which is refused: %s", raw ? raw : "", why);
	if (strcmp(path, target) == 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "hard link to itself");
	if (pull_tree_find(u->tree, target, &from, ret_err) < 0) {
		(*ret_err)->code = BERTH_INVALID_ARGUMENT;
		return berth_error_wrap(
		        ret_err, "hard link to '%s', which is not in this layer", raw);
	}
	_cleanup_close_ int from_dir = fcntl(from.dir, F_DUPFD_CLOEXEC, 3);
	if (from_dir < 0 || fstatat(from_dir, from.base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(ret_err, errno, "hard link to '%s'", raw);
	if (S_ISDIR(st.st_mode) || (S_ISCHR(st.st_mode) && st.st_rdev == 0))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "hard link to '%s', which is no file", raw);
	if (pull_tree_parent(u->tree, path, &to, ret_err) < 0)
		return -1;
	if (linkat(from_dir, from.base, to.dir, to.base, 0) == 0)
		return 0;
	if (errno == EEXIST) {
		struct stat there;
		if (fstatat(to.dir, to.base, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
		        there.st_ino == st.st_ino && there.st_dev == st.st_dev)
			return 0;
		if (pull_tree_clear(u->tree, path, &to, ret_err) < 0)
			return -1;
		if (linkat(from_dir, from.base, to.dir, to.base, 0) == 0)
			return 0;
	}
	return berth_error_errno(ret_err, errno, "hard link to '%s'", raw);
}

/* A symbolic link, device or fifo: mknod and symlink never replace. */
static int make_special(struct unpack *u, struct archive_entry *e, const char *path,
        const struct pull_attrs *a, struct berth_error **ret_err)
{
	mode_t type = archive_entry_filetype(e);
	const char *text = archive_entry_symlink(e);
	struct pull_place pl;
	dev_t dev = 0;

	if (type == AE_IFLNK && (!text || !*text || strlen(text) >= BERTH_LIMIT_PATH))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "a symbolic link with an empty or too long target");
	if (type == AE_IFCHR || type == AE_IFBLK)
		dev = makedev(archive_entry_rdevmajor(e), archive_entry_rdevminor(e));
	if (pull_tree_parent(u->tree, path, &pl, ret_err) < 0)
		return -1;
	for (int try = 0;; try++) {
		int r = type == AE_IFLNK ? symlinkat(text, pl.dir, pl.base)
		                         : mknodat(pl.dir, pl.base, type | (a->mode & 0777), dev);
		if (r == 0)
			break;
		if (errno != EEXIST || try > 0)
			return berth_error_errno(ret_err, errno,
			        type == AE_IFLNK ? "make the symbolic link" : "mknod");
		if (pull_tree_clear(u->tree, path, &pl, ret_err) < 0)
			return -1;
	}
	u->inodes++;
	return pull_attrs_set_at(a, &pl, type == AE_IFLNK, ret_err);
}

static int make_entry(
        struct unpack *u, struct archive_entry *e, const char *path, struct berth_error **ret_err)
{
	struct pull_attrs attrs;
	mode_t type = archive_entry_filetype(e);

	if (pull_attrs_read(e, &attrs, ret_err) < 0)
		return -1;
	if (!*path && (type != AE_IFDIR || archive_entry_hardlink(e)))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "it would replace the layer's root");
	if (archive_entry_hardlink(e))
		return make_hard_link(u, e, path, ret_err);
	switch (type) {
	case AE_IFREG:
		return make_file(u, e, path, &attrs, ret_err);
	case AE_IFDIR:
		return make_dir(u, e, path, &attrs, ret_err);
	case AE_IFLNK:
	case AE_IFCHR:
	case AE_IFBLK:
	case AE_IFIFO:
		return make_special(u, e, path, &attrs, ret_err);
	default:
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "its type %06o is not known", (unsigned)type);
	}
}

static int take_entry(struct unpack *u, struct archive_entry *e, struct berth_error **ret_err)
{
	char path[BERTH_LIMIT_PATH];
	la_int64_t size = archive_entry_size(e);

	const char *why = pull_tree_clean(archive_entry_pathname(e), path);
	if (why)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s", why);
	if (size < 0 || (uint64_t)size > BERTH_LIMIT_LAYER_BYTES ||
	        (u->sizes += (uint64_t)size) > BERTH_LIMIT_LAYER_BYTES)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "with its size %lld the layer is larger than %llu bytes", (long long)size,
		        BERTH_LIMIT_LAYER_BYTES);
	if (pull_tree_is_noise(u->tree, path))
		return 0;
	why = pull_tree_unfit(u->tree, path);
	if (why)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION, "%s", why);
	if (pull_tree_is_whiteout(path))
		return pull_tree_whiteout(u->tree, path, ret_err);
	if (make_entry(u, e, path, ret_err) < 0)
		return -1;
	return pull_tree_made(u->tree, path, ret_err);
}

/* In a UTF-8 locale libarchive normalises the names of PAX headers (NFC), which makes other names
 * of them. In the C locale, where this program stays, it cannot convert what is not ASCII, says so,
 * and gives the name as it was written: just what is wanted. Names of users and groups are of no
 * use. */
static bool harmless(const char *warning)
{
	static const char *const what[] = {"Pathname ", "Linkname ", "Uname ", "Gname "};

	for (size_t i = 0; warning && i < BERTH_ARRAY_LEN(what); i++)
		if (strncmp(warning, what[i], strlen(what[i])) == 0)
			return strstr(warning, "can't be converted") != NULL;
	return false;
}

static int next_entry(struct unpack *u, struct archive_entry **ret, struct berth_error **ret_err)
{
	int r = archive_read_next_header(u->a, ret);

	if (r == ARCHIVE_OK || r == ARCHIVE_EOF)
		return r == ARCHIVE_OK;
	const char *why = archive_error_string(u->a);
	if (r == ARCHIVE_WARN && harmless(why))
		return 1;
	if (!u->any && !u->read_failed)
		return 0; /* an empty blob is an empty layer */
	const char *name = *ret ? archive_entry_pathname(*ret) : NULL;
	if (r == ARCHIVE_WARN)
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s", why ? why : "damaged");
	else
		berth_error_set(ret_err, u->read_failed ? BERTH_CANCELLED : BERTH_DATA_LOSS,
		        "damaged tar archive: %s", why ? why : "unknown format");
	return name ? berth_error_wrap(ret_err, "entry '%s'", name) : -1;
}

static int unpack_all(struct unpack *u, struct berth_error **ret_err)
{
	for (uint64_t n = 0;;) {
		struct archive_entry *e = NULL;
		int r = next_entry(u, &e, ret_err);
		if (r <= 0)
			return r;
		const char *name = archive_entry_pathname(e);
		if (++n > BERTH_LIMIT_LAYER_ENTRIES)
			return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
			        "entry '%s': the layer has more than %d entries", name ? name : "?",
			        BERTH_LIMIT_LAYER_ENTRIES);
		if (take_entry(u, e, ret_err) < 0) {
			if (u->read_failed)
				(*ret_err)->code = BERTH_CANCELLED;
			return berth_error_wrap(ret_err, "entry '%s'", name ? name : "?");
		}
	}
}

int pull_unpack(int root, const struct pull_unpack_opts *o, struct pull_unpacked *ret,
        struct berth_error **ret_err)
{
	struct unpack u = {.o = o,
	        .a = archive_read_new(),
	        .tree = pull_tree_new(root, &o->tree),
	        .late = pull_late_dirs_new()};
	int r = -1;

	if (!u.a || archive_read_support_format_tar(u.a) != ARCHIVE_OK ||
	        archive_read_open(u.a, &u, NULL, read_piece, NULL) != ARCHIVE_OK) {
		if (u.a && !u.any && !u.read_failed)
			r = 0;
		else
			berth_error_set(ret_err, u.read_failed ? BERTH_CANCELLED : BERTH_DATA_LOSS,
			        "no tar archive: %s",
			        u.a ? archive_error_string(u.a) : "no memory");
	} else {
		r = unpack_all(&u, ret_err);
	}
	if (r == 0)
		r = pull_late_dirs_apply(u.late, root, ret_err);
	if (r == 0) {
		*ret = (struct pull_unpacked){.bytes = u.bytes};
		ret->n_implied = pull_tree_implied(u.tree, &ret->implied, &ret->implied_len);
		ret->inodes = u.inodes + ret->n_implied;
	}
	archive_read_free(u.a);
	pull_late_dirs_free(u.late);
	pull_tree_free(u.tree);
	return r;
}
