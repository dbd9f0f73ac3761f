/* Described mounts whose owners a user namespace maps. A mount is mapped as a whole, but for an
 * overlay: the kernel maps none, so each of its layers is before it is composed. */
#include "mount/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"

int mount_map_fd(int fd, bool rec, int userns_fd, const char *what, struct berth_error **ret_err)
{
	struct mount_attr a = {
	        .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)(unsigned int)userns_fd};

	if (rec && mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &a, sizeof(a)) == 0)
		return 0;
	/* What is mounted beneath may be of a kind that cannot be mapped, /proc for one. It stays
	 * as it is, as OCI runtimes leave it. */
	if (mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof(a)) == 0)
		return 0;
	int e = errno;
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
	        "%s: its owners cannot be mapped: %s", what,
	        e == EINVAL  ? "the kernel does not map ids on this file system"
	        : e == EPERM ? "they are mapped already, or the kernel forbids it"
	                     : strerror(e));
}

static int clone_lower(const char *path, int userns_fd, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "overlay layer '%s'", path);
	if (mount_map_fd(fd, false, userns_fd, path, ret_err) < 0)
		return -1;
	return berth_take_fd(&fd);
}

static void name_lower(struct mount_plan *p, size_t i, char *name)
{
	free(p->lowers[i]);
	p->lowers[i] = name;
}

int mount_lowers_map(struct mount_lowers *l, struct mount_plan *p, const struct mount_map *m,
        struct berth_error **ret_err)
{
	l->n = berth_strv_len(p->lowers);
	l->fds = berth_reallocarray(NULL, l->n + 1, sizeof(*l->fds));
	for (size_t i = 0; i < l->n; i++)
		l->fds[i] = -1;
	for (size_t i = 0; i < l->n; i++) {
		l->fds[i] = clone_lower(p->lowers[i], m->userns_fd, ret_err);
		if (l->fds[i] < 0)
			return -1;
	}
	for (size_t i = 0; i < l->n; i++)
		name_lower(p, i, berth_asprintf("/proc/self/fd/%d", l->fds[i]));
	return 0;
}

int mount_lowers_attach(struct mount_lowers *l, struct mount_plan *p, const struct mount_map *m,
        struct berth_error **ret_err)
{
	if (berth_mount_stage_dir(m->scratch, ret_err) < 0)
		return -1;
	l->scratch = m->scratch;
	for (size_t i = 0; i < l->n; i++) {
		char *at = berth_asprintf("%s/%zu", m->scratch, i);
		name_lower(p, i, at);
		int r = berth_mkdir_p(at, 0700);
		if (r < 0)
			return berth_error_errno(ret_err, r, "%s", at);
		if (berth_mount_attach(l->fds[i], at, ret_err) < 0)
			return -1;
	}
	return 0;
}

void mount_lowers_finish(struct mount_lowers *l)
{
	for (size_t i = 0; l->fds && i < l->n; i++)
		berth_close(l->fds[i]);
	free(l->fds);
	if (l->scratch) {
		/* The overlay has copies of its own. What fails here the next try meets. */
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		if (berth_umount_tree(l->scratch, true, &err) == 0)
			(void)!berth_rm_tree(AT_FDCWD, l->scratch);
	}
	*l = (struct mount_lowers){0};
}
