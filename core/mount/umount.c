#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/mem.h"
#include "mount/mount.h"

#define STACKED_MAX 64 /* mounts on one path; more is a loop of someone else's making */

int berth_umount(const char *path, bool lazy, struct berth_error **ret_err)
{
	int flags = UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0);

	for (int i = 0; i < STACKED_MAX; i++) {
		if (umount2(path, flags) == 0)
			continue;
		int e = errno;
		if (e == ENOENT || e == ENOTDIR)
			return 0;
		/* EINVAL is both "nothing is mounted here" and "locked by another namespace". */
		if (e == EINVAL && berth_is_mount_point(path) <= 0)
			return 0;
		if (e == EBUSY)
			return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
			        "unmount '%s': it is in use", path);
		return berth_error_errno(ret_err, e, "unmount '%s'", path);
	}
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
	        "unmount '%s': more than %d mounts lie on it", path, STACKED_MAX);
}

static int collect(const struct berth_mountinfo *mi, void *arg)
{
	char ***v = arg;

	*v = berth_strv_append(*v, mi->target);
	return 0;
}

int berth_umount_tree(const char *dir, bool lazy, struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **targets = NULL;

	if (berth_mounts_under(dir, collect, &targets, ret_err) < 0)
		return -1;
	for (size_t i = berth_strv_len(targets); i-- > 0;)
		if (berth_umount(targets[i], lazy, ret_err) < 0)
			return -1;
	return 0;
}
