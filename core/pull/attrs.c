#include "pull/attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/tree_impl.h"

#define DEFAULT_ACL "system.posix_acl_default"

int pull_attrs_read(struct archive_entry *e, struct pull_attrs *ret, struct berth_error **ret_err)
{
	int64_t uid = archive_entry_uid(e), gid = archive_entry_gid(e);

	/* The highest number means "unchanged" to the kernel. */
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "its owner %lld:%lld is out of range", (long long)uid, (long long)gid);
	struct timespec mtime = {archive_entry_mtime(e), archive_entry_mtime_nsec(e)};
	if (mtime.tv_nsec < 0 || mtime.tv_nsec > 999999999)
		mtime.tv_nsec = 0;
	*ret = (struct pull_attrs){.uid = (uid_t)uid,
	        .gid = (gid_t)gid,
	        .mode = archive_entry_perm(e) & 07777,
	        .times = {mtime, mtime}};
	return 0;
}

/* What belongs to this host and not to an image: labels, hashes and the storage driver's own. */
static bool left_out(const char *name)
{
	static const char *const prefixes[] = {"trusted.", "user.overlay.", PULL_OVERRIDE_STAT,
	        "user.fuseoverlayfs.", "security.fuseoverlayfs.", "security.selinux",
	        "security.ima", "security.evm", "security.apparmor"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(prefixes); i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static int set_xattr(
        int fd, const char *name, const void *value, size_t size, struct berth_error **ret_err)
{
	if (fsetxattr(fd, name, value, size, 0) == 0)
		return 0;
	/* A file system without user attributes loses no right by it; a capability must stay. */
	if (errno == EOPNOTSUPP && strncmp(name, "user.", 5) == 0)
		return 0;
	return berth_error_errno(ret_err, errno, "set its attribute '%s'", name);
}

static int set_xattrs(struct archive_entry *e, int fd, struct berth_error **ret_err)
{
	const char *name;
	const void *value;
	size_t size;

	if (archive_entry_xattr_reset(e) == 0)
		return 0;
	while (archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK) {
		if (!name || left_out(name) || strcmp(name, DEFAULT_ACL) == 0)
			continue;
		if (set_xattr(fd, name, value, size, ret_err) < 0)
			return -1;
	}
	return 0;
}

int pull_attrs_set_fd(const struct pull_attrs *a, struct archive_entry *e, int fd, bool owner,
        mode_t made_mode, struct berth_error **ret_err)
{
	if (owner && fchown(fd, a->uid, a->gid) < 0)
		return berth_error_errno(
		        ret_err, errno, "set its owner %u:%u", (unsigned)a->uid, (unsigned)a->gid);
	/* A change of the owner clears the set-id bits. */
	if (a->mode != made_mode && fchmod(fd, a->mode) < 0)
		return berth_error_errno(ret_err, errno, "set its mode %04o", (unsigned)a->mode);
	return set_xattrs(e, fd, ret_err);
}

int pull_attrs_set_at(const struct pull_attrs *a, const struct pull_place *pl, bool is_link,
        struct berth_error **ret_err)
{
	if ((a->uid || a->gid || pl->dir_setgid) &&
	        fchownat(pl->dir, pl->base, a->uid, a->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(
		        ret_err, errno, "set its owner %u:%u", (unsigned)a->uid, (unsigned)a->gid);
	/* It is ours alone and no link, so that following it changes nothing. */
	if (!is_link && fchmodat(pl->dir, pl->base, a->mode, 0) < 0)
		return berth_error_errno(ret_err, errno, "set its mode %04o", (unsigned)a->mode);
	if (utimensat(pl->dir, pl->base, a->times, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(ret_err, errno, "set its times");
	return 0;
}

struct late_dir {
	char *path;
	void *acl;
	size_t acl_size;
	struct timespec times[2];
	size_t order;
};

struct pull_late_dirs {
	struct late_dir *v;
	size_t n, cap;
	struct berth_arena *arena;
};

struct pull_late_dirs *pull_late_dirs_new(void)
{
	struct pull_late_dirs *l = berth_new(struct pull_late_dirs);
	l->arena = berth_arena_new();
	return l;
}

struct pull_late_dirs *pull_late_dirs_free(struct pull_late_dirs *l)
{
	if (l) {
		berth_arena_free(l->arena);
		free(l->v);
		free(l);
	}
	return NULL;
}

void pull_late_dirs_add(struct pull_late_dirs *l, const char *path, const struct pull_attrs *a,
        struct archive_entry *e)
{
	const char *name;
	const void *value;
	size_t size;

	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 256;
		l->v = berth_reallocarray(l->v, l->cap, sizeof(*l->v));
	}
	struct late_dir *d = &l->v[l->n];
	*d = (struct late_dir){.path = berth_arena_strdup(l->arena, path),
	        .times = {a->times[0], a->times[1]},
	        .order = l->n++};
	archive_entry_xattr_reset(e);
	while (archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK)
		if (name && strcmp(name, DEFAULT_ACL) == 0 && size > 0) {
			d->acl = memcpy(berth_arena_alloc(l->arena, size), value, size);
			d->acl_size = size;
		}
}

/* A child's path is longer than its parent's and begins with it. Of equal paths the later counts.
 */
static int deepest_first(const void *a, const void *b)
{
	const struct late_dir *x = a, *y = b;
	int c = strcmp(y->path, x->path);
	return c ? c : (x->order > y->order) - (x->order < y->order);
}

int pull_late_dirs_apply(struct pull_late_dirs *l, int root, struct berth_error **ret_err)
{
	if (l->n > 0)
		qsort(l->v, l->n, sizeof(*l->v), deepest_first);
	for (size_t i = 0; i < l->n; i++) {
		struct late_dir *d = &l->v[i];
		_cleanup_close_ int fd =
		        pull_tree_open_beneath(root, d->path, O_RDONLY | O_DIRECTORY);
		/* A later entry or whiteout may have replaced it. */
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			continue;
		if (fd < 0)
			return berth_error_errno(ret_err, fd, "entry '%s': open", d->path);
		if (d->acl && set_xattr(fd, DEFAULT_ACL, d->acl, d->acl_size, ret_err) < 0)
			return berth_error_wrap(ret_err, "entry '%s'", d->path);
		if (futimens(fd, d->times) < 0)
			return berth_error_errno(
			        ret_err, errno, "entry '%s': set its times", d->path);
	}
	return 0;
}
