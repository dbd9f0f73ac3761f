/* Whiteouts: OCI image-spec, layer.md. ".wh.NAME" hides NAME of the layers below, ".wh..wh..opq"
 * all that they have in its directory; neither touches what the same layer brings.
 *
 * aufs' own whiteouts have these names, but are more: they hide what the same layer has, too, and
 * an entry of such a name that is no regular file is an error whenever NAME is looked up. So they
 * are made here, and not as the archive has them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/tree_impl.h"

#define WH ".wh."
#define WH_OPAQUE ".wh..wh..opq"
#define WH_NOISE ".wh..wh."
#define AUFS_NAME_MAX 242

static const char *last(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool pull_tree_is_whiteout(const char *path)
{
	return starts(last(path), WH);
}

bool pull_tree_is_noise(const struct pull_tree *t, const char *path)
{
	for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		size_t len = strcspn(p, "/");
		if (starts(p, WH_NOISE) && !(len == strlen(WH_OPAQUE) && starts(p, WH_OPAQUE)))
			return true;
	}
	return false;
}

const char *pull_tree_unfit(const struct pull_tree *t, const char *path)
{
	if (t->o.whiteout != PULL_WHITEOUT_AUFS)
		return NULL;
	for (const char *p = path;; p++) {
		size_t len = strcspn(p, "/");
		bool wh = starts(p, WH);
		if (wh && p[len])
			return "a directory on its way has the name of a whiteout";
		if (len - (wh ? strlen(WH) : 0) > AUFS_NAME_MAX)
			return "a part of its name has more than the 242 bytes that aufs takes";
		p += len;
		if (!*p)
			return NULL;
	}
}

/* An empty file of one of aufs' names. */
static int mark(int dir, const char *name, struct berth_error **ret_err)
{
	if (mknodat(dir, name, S_IFREG | 0444, 0) < 0 && errno != EEXIST)
		return berth_error_errno(ret_err, errno, "make '%s'", name);
	return 0;
}

static int mark_opaque(struct pull_tree *t, int fd, struct berth_error **ret_err)
{
	if (t->o.whiteout == PULL_WHITEOUT_AUFS)
		return mark(fd, WH_OPAQUE, ret_err);
	return t->o.opaque(t->o.arg, fd, ret_err);
}

int pull_tree_opaque(struct pull_tree *t, const struct pull_place *pl, struct berth_error **ret_err)
{
	_cleanup_close_ int fd =
	        openat(pl->dir, pl->base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "open the directory to make it opaque");
	return mark_opaque(t, fd, ret_err);
}

int pull_tree_unhide(struct pull_tree *t, const char *path, const struct pull_place *pl,
        struct berth_error **ret_err)
{
	struct stat st;

	if (!t->hidden || pull_pathset_count(t->hidden) == 0 || !pull_pathset_has(t->hidden, path))
		return 0;
	_cleanup_free_ char *name = berth_asprintf(WH "%s", pl->base);
	if (unlinkat(pl->dir, name, 0) < 0 && errno != ENOENT)
		return berth_error_errno(ret_err, errno, "remove whiteout '%s'", name);
	pull_pathset_remove(t->hidden, path);
	if (fstatat(pl->dir, pl->base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(ret_err, errno, "stat '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return 0;
	/* Neither content nor attributes of the one below show. */
	pull_pathset_remove(t->implied, path);
	return pull_tree_opaque(t, pl, ret_err);
}

/* Removes all below `dir` that this layer has not made. fd is consumed. */
static int remove_lower(struct pull_tree *t, int fd, const char *path, struct berth_error **ret_err)
{
	DIR *d = fdopendir(fd);
	if (!d) {
		int e = errno;
		close(fd);
		return berth_error_errno(ret_err, e, "read directory '%s'", path);
	}
	int result = 0;
	for (struct dirent *e; result == 0 && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		_cleanup_free_ char *sub =
		        berth_asprintf("%s%s%s", path, *path ? "/" : "", e->d_name);
		if (!pull_pathset_has(t->touched, sub)) {
			int r = berth_rm_tree(dirfd(d), e->d_name);
			if (r < 0)
				result = berth_error_errno(ret_err, r, "remove '%s'", sub);
			continue;
		}
		int subfd = openat(
		        dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (subfd >= 0)
			result = remove_lower(t, subfd, sub, ret_err);
	}
	closedir(d);
	return result;
}

static int opaque_here(struct pull_tree *t, const char *path, const struct pull_place *pl,
        struct berth_error **ret_err)
{
	_cleanup_close_ int fd = openat(pl->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "open its directory");
	if (t->o.whiteout != PULL_WHITEOUT_DELETE)
		return mark_opaque(t, fd, ret_err);
	const char *base = last(path);
	_cleanup_free_ char *parent =
	        berth_strndup(path, base > path ? (size_t)(base - path - 1) : 0);
	pull_tree_forget(t);
	return remove_lower(t, berth_take_fd(&fd), parent, ret_err);
}

static int hide_missing(struct pull_tree *t, const char *target, const struct pull_place *pl,
        struct berth_error **ret_err)
{
	if (t->o.whiteout == PULL_WHITEOUT_OVERLAY &&
	        mknodat(pl->dir, pl->base, S_IFCHR, makedev(0, 0)) < 0)
		return berth_error_errno(ret_err, errno, "mknod");
	if (t->o.whiteout != PULL_WHITEOUT_AUFS)
		return 0;
	_cleanup_free_ char *name = berth_asprintf(WH "%s", pl->base);
	pull_pathset_add(t->hidden, target);
	return mark(pl->dir, name, ret_err);
}

/* A file of this layer stays. Of a directory of this layer what the layers below have in it goes.
 */
static int hide(struct pull_tree *t, const char *target, const struct pull_place *pl,
        struct berth_error **ret_err)
{
	struct stat st;

	if (fstatat(pl->dir, pl->base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return berth_error_errno(ret_err, errno, "stat '%s'", target);
		return hide_missing(t, target, pl, ret_err);
	}
	if (t->o.whiteout != PULL_WHITEOUT_DELETE)
		return S_ISDIR(st.st_mode) ? pull_tree_opaque(t, pl, ret_err) : 0;
	if (!pull_pathset_has(t->touched, target)) {
		int r = berth_rm_tree(pl->dir, pl->base);
		pull_tree_forget(t);
		return r < 0 ? berth_error_errno(ret_err, r, "remove '%s'", target) : 0;
	}
	if (!S_ISDIR(st.st_mode))
		return 0;
	int fd = openat(pl->dir, pl->base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "open '%s'", target);
	return remove_lower(t, fd, target, ret_err);
}

int pull_tree_whiteout(struct pull_tree *t, const char *path, struct berth_error **ret_err)
{
	const char *base = last(path);
	const char *name = base + strlen(WH);
	struct pull_place pl;

	if (strcmp(base, WH_OPAQUE) == 0) {
		if (pull_tree_parent(t, path, &pl, ret_err) < 0)
			return -1;
		return opaque_here(t, path, &pl, ret_err);
	}
	/* ".wh..." would be "..". */
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "it is a whiteout of nothing");
	_cleanup_free_ char *target = berth_asprintf("%.*s%s", (int)(base - path), path, name);
	if (pull_tree_parent(t, target, &pl, ret_err) < 0)
		return -1;
	return hide(t, target, &pl, ret_err);
}
