#include "pull/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/pathset.h"
#include "pull/protocol.h"
#include "pull/tree_impl.h"

#define XATTR_NAMES_MAX 65536 /* the kernel's */

int pull_whiteout_parse(const char *name)
{
	static const char *const names[] = {"overlay", "aufs", "delete"};
	for (size_t i = 0; name && i < BERTH_ARRAY_LEN(names); i++)
		if (strcmp(name, names[i]) == 0)
			return (int)i;
	return -1;
}

struct pull_tree *pull_tree_new(int root, const struct pull_tree_opts *opts)
{
	struct pull_tree *t = berth_new(struct pull_tree);
	t->root = root;
	t->o = *opts;
	t->cached_fd = -1;
	t->implied = pull_pathset_new();
	if (opts->whiteout == PULL_WHITEOUT_DELETE)
		t->touched = pull_pathset_new();
	if (opts->whiteout == PULL_WHITEOUT_AUFS)
		t->hidden = pull_pathset_new();
	return t;
}

struct pull_tree *pull_tree_free(struct pull_tree *t)
{
	if (!t)
		return NULL;
	berth_close(t->cached_fd);
	free(t->cached);
	pull_pathset_free(t->implied);
	pull_pathset_free(t->touched);
	pull_pathset_free(t->hidden);
	free(t);
	return NULL;
}

const char *pull_tree_clean(const char *raw, char *out)
{
	size_t n = 0;

	if (!raw || !*raw)
		return "it has no name";
	if (*raw == '/')
		return "its name is absolute";
	if (strlen(raw) >= BERTH_LIMIT_PATH)
		return "its name is too long";
	for (const char *p = raw; *p;) {
		size_t len = strcspn(p, "/");
		if (len == 2 && p[0] == '.' && p[1] == '.')
			return "its name leads upwards";
		if (len > 255)
			return "a part of its name is too long";
		if (len > 0 && !(len == 1 && p[0] == '.')) {
			if (n > 0)
				out[n++] = '/';
			memcpy(out + n, p, len);
			n += len;
		}
		p += len;
		p += strspn(p, "/");
	}
	out[n] = '\0';
	return NULL;
}

int pull_tree_open_beneath(int root, const char *path, int flags)
{
	struct open_how how = {
	        .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
	                   RESOLVE_NO_XDEV,
	};
	for (;;) {
		int fd = (int)syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));
		if (fd >= 0)
			return fd;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
}

void pull_tree_forget(struct pull_tree *t)
{
	t->cached_fd = berth_close(t->cached_fd);
	free(berth_take(t->cached));
}

static int fail_parent(int r, const char *parent, struct berth_error **ret_err)
{
	if (r == -ELOOP)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'%s' on the way to it is a symbolic link", parent);
	if (r == -ENOTDIR)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "'%s' on the way to it is no directory", parent);
	if (r == -EXDEV)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "'%s' on the way to it leads out", parent);
	return berth_error_errno(ret_err, r, "open its parent '%s'", parent);
}

static int make_implied(struct pull_tree *t, int dir, const char *base, const char *path,
        struct berth_error **ret_err)
{
	if (mkdirat(dir, base, 0755) < 0) {
		/* There but not to be entered: a file or a link. */
		int r = errno == EEXIST ? -ENOTDIR : -errno;
		return fail_parent(r, path, ret_err);
	}
	/* A setgid parent hands down its group and the bit. */
	if (fchownat(dir, base, 0, 0, AT_SYMLINK_NOFOLLOW) < 0 || fchmodat(dir, base, 0755, 0) < 0)
		return berth_error_errno(ret_err, errno, "make its parent '%s'", path);
	if (pull_pathset_count(t->implied) >= BERTH_LIMIT_IMPLIED_DIRS)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "more than %d directories have no entry of their own",
		        BERTH_LIMIT_IMPLIED_DIRS);
	pull_pathset_add(t->implied, path);
	const struct pull_place pl = {.dir = dir, .base = base};
	return pull_tree_unhide(t, path, &pl, ret_err);
}

/* Makes what is missing of `parent` below `part`, its longest prefix that is there, open as *fd. */
static int make_rest(
        struct pull_tree *t, const char *parent, char *part, int *fd, struct berth_error **ret_err)
{
	for (size_t at = strlen(part); parent[at];) {
		size_t start = at > 0 ? at + 1 : 0;
		size_t end = start + strcspn(parent + start, "/");

		memcpy(part, parent, end);
		part[end] = '\0';
		if (make_implied(t, *fd, part + start, part, ret_err) < 0)
			return -1;
		int next = openat(*fd, part + start, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return berth_error_errno(ret_err, errno, "open its parent '%s'", part);
		close(*fd);
		*fd = next;
		at = end;
	}
	return 0;
}

/* A whiteout on the way, made by this layer before: the directory that is there now hides what the
 * layers below have of it. 1: one was replaced. */
static int replace_whiteout(struct pull_tree *t, const char *parent, struct berth_error **ret_err)
{
	_cleanup_free_ char *part = berth_strdup(parent);

	for (char *end = strchrnul(part, '/');; end = strchrnul(end + 1, '/')) {
		char kept = *end;
		*end = '\0';
		char *slash = strrchr(part, '/');
		_cleanup_free_ char *above =
		        berth_strndup(part, slash ? (size_t)(slash - part) : 0);
		_cleanup_close_ int dir =
		        pull_tree_open_beneath(t->root, above, O_PATH | O_DIRECTORY);
		struct pull_place pl = {.dir = dir, .base = slash ? slash + 1 : part};
		struct stat st;
		if (dir < 0 || fstatat(dir, pl.base, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return 0;
		if (S_ISCHR(st.st_mode) && st.st_rdev == 0) {
			if (unlinkat(dir, pl.base, 0) < 0 || mkdirat(dir, pl.base, 0755) < 0)
				return berth_error_errno(
				        ret_err, errno, "replace whiteout '%s'", part);
			return pull_tree_opaque(t, &pl, ret_err) < 0 ? -1 : 1;
		}
		if (!kept)
			return 0;
		*end = kept;
	}
}

static int open_parent(
        struct pull_tree *t, const char *parent, bool make, int *ret, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = pull_tree_open_beneath(t->root, parent, O_PATH | O_DIRECTORY);

	if (fd == -ENOTDIR && make && t->o.whiteout == PULL_WHITEOUT_OVERLAY) {
		int r = replace_whiteout(t, parent, ret_err);
		if (r < 0)
			return -1;
		if (r > 0)
			fd = pull_tree_open_beneath(t->root, parent, O_PATH | O_DIRECTORY);
	}
	if (fd == -ENOENT && make) {
		_cleanup_free_ char *part = berth_strdup(parent);
		do {
			char *slash = strrchr(part, '/');
			*(slash ? slash : part) = '\0';
			fd = pull_tree_open_beneath(t->root, part, O_PATH | O_DIRECTORY);
		} while (fd == -ENOENT && *part);
		if (fd >= 0 && make_rest(t, parent, part, &fd, ret_err) < 0)
			return -1;
	}
	if (fd < 0)
		return fail_parent(fd, parent, ret_err);
	*ret = berth_take_fd(&fd);
	return 0;
}

static int place(struct pull_tree *t, const char *path, bool make, struct pull_place *ret,
        struct berth_error **ret_err)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : 0;

	if (!t->cached || strncmp(t->cached, path, len) != 0 || t->cached[len] != '\0') {
		_cleanup_free_ char *parent = berth_strndup(path, len);
		_cleanup_close_ int fd = -1;
		struct stat st;

		if (open_parent(t, parent, make, &fd, ret_err) < 0)
			return -1;
		if (fstat(fd, &st) < 0)
			return berth_error_errno(ret_err, errno, "stat its parent '%s'", parent);
		pull_tree_forget(t);
		t->cached = berth_take(parent);
		t->cached_fd = berth_take_fd(&fd);
		t->cached_setgid = (st.st_mode & S_ISGID) != 0;
	}
	*ret = (struct pull_place){t->cached_fd, slash ? slash + 1 : path, t->cached_setgid};
	return 0;
}

int pull_tree_parent(
        struct pull_tree *t, const char *path, struct pull_place *ret, struct berth_error **ret_err)
{
	return place(t, path, true, ret, ret_err);
}

int pull_tree_find(
        struct pull_tree *t, const char *path, struct pull_place *ret, struct berth_error **ret_err)
{
	struct stat st;

	if (place(t, path, false, ret, ret_err) < 0)
		return -1;
	if (fstatat(ret->dir, ret->base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(ret_err, errno, "'%s'", path);
	return 0;
}

int pull_tree_clear(struct pull_tree *t, const char *path, const struct pull_place *pl,
        struct berth_error **ret_err)
{
	if (unlinkat(pl->dir, pl->base, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return berth_error_errno(ret_err, errno, "replace what is there");
	/* Below a lower layer's directory it may go with all its content. */
	bool lower = t->touched && !pull_pathset_has(t->touched, path);
	int r = lower ? berth_rm_tree(pl->dir, pl->base)
	              : (unlinkat(pl->dir, pl->base, AT_REMOVEDIR) < 0 ? -errno : 0);
	if (r == -ENOTEMPTY || r == -EEXIST)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it would replace a directory that the layer has filled");
	if (r < 0)
		return berth_error_errno(ret_err, r, "replace the directory that is there");
	pull_pathset_remove(t->implied, path);
	return 0;
}

static int make_dir(struct pull_tree *t, const char *path, const struct pull_place *pl,
        struct berth_error **ret_err)
{
	struct stat st;

	if (mkdirat(pl->dir, pl->base, 0755) == 0)
		return 0;
	if (errno != EEXIST || fstatat(pl->dir, pl->base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(ret_err, errno, "mkdir");
	if (S_ISDIR(st.st_mode))
		return 0;
	bool hidden =
	        t->o.whiteout == PULL_WHITEOUT_OVERLAY && S_ISCHR(st.st_mode) && st.st_rdev == 0;
	if (pull_tree_clear(t, path, pl, ret_err) < 0)
		return -1;
	if (mkdirat(pl->dir, pl->base, 0755) < 0)
		return berth_error_errno(ret_err, errno, "mkdir");
	/* A whiteout and then a directory of the same name: nothing of the lower one shows. */
	return hidden ? pull_tree_opaque(t, pl, ret_err) : 0;
}

/* A directory of the layers below, or one that inherited something from such a one: what its own
 * entry does not name it has not. */
static int drop_xattrs(int fd, struct berth_error **ret_err)
{
	_cleanup_free_ char *names = NULL;
	ssize_t n = flistxattr(fd, NULL, 0);

	if (n > 0 && n <= XATTR_NAMES_MAX) { /* most have none */
		names = berth_zalloc((size_t)n);
		n = flistxattr(fd, names, (size_t)n);
	}
	if (n < 0)
		return errno == EOPNOTSUPP ? 0
		                           : berth_error_errno(ret_err, errno,
		                                     "list the attributes that it has");
	for (const char *name = names; names && name < names + n; name += strlen(name) + 1) {
		/* Labels, hashes and the like are the host's. */
		if (strncmp(name, "user.", 5) != 0 && strncmp(name, "system.posix_acl_", 17) != 0)
			continue;
		if (fremovexattr(fd, name) < 0 && errno != ENODATA)
			return berth_error_errno(ret_err, errno, "remove its attribute '%s'", name);
	}
	return 0;
}

int pull_tree_dir(struct pull_tree *t, const char *path, int *ret_fd, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = -1;

	if (!*path) {
		fd = pull_tree_open_beneath(t->root, "", O_RDONLY | O_DIRECTORY);
		if (fd < 0)
			return berth_error_errno(ret_err, fd, "open the layer's root");
	} else {
		struct pull_place pl;
		if (place(t, path, true, &pl, ret_err) < 0 || make_dir(t, path, &pl, ret_err) < 0)
			return -1;
		fd = openat(pl.dir, pl.base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return berth_error_errno(ret_err, errno, "open the directory");
	}
	if (t->touched && !pull_pathset_has(t->touched, path) && drop_xattrs(fd, ret_err) < 0)
		return -1;
	pull_pathset_remove(t->implied, path);
	/* Its group bit may change now. */
	if (t->cached && strcmp(t->cached, path) == 0)
		pull_tree_forget(t);
	*ret_fd = berth_take_fd(&fd);
	return 0;
}

int pull_tree_made(struct pull_tree *t, const char *path, struct berth_error **ret_err)
{
	struct pull_place pl;

	if (t->hidden && pull_pathset_has(t->hidden, path))
		return pull_tree_find(t, path, &pl, ret_err) < 0
		               ? -1
		               : pull_tree_unhide(t, path, &pl, ret_err);
	if (!t->touched)
		return 0;
	_cleanup_free_ char *p = berth_strdup(path);
	while (*p && pull_pathset_add(t->touched, p)) {
		char *slash = strrchr(p, '/');
		*(slash ? slash : p) = '\0';
	}
	return 0;
}

size_t pull_tree_implied(struct pull_tree *t, char **ret, size_t *ret_bytes)
{
	return pull_pathset_list(t->implied, ret, ret_bytes);
}
