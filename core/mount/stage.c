/* Parts of trees, attached elsewhere as another process shall see them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/idmap.h"
#include "mount/mount.h"

int berth_mount_stage_dir(const char *dir, struct berth_error **ret_err)
{
	int r = berth_mkdir_p(dir, 0711);

	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", dir);
	if (berth_is_mount_point(dir) > 0)
		return 0;
	if (berth_mount_bind(dir, dir, false, false, ret_err) < 0)
		return -1;
	/* Not before it is attached: a shared mount takes none that is unbindable. */
	const struct mount_attr a = {.propagation = MS_UNBINDABLE};
	if (mount_setattr(AT_FDCWD, dir, AT_SYMLINK_NOFOLLOW, (struct mount_attr *)&a, sizeof(a)) <
	        0) {
		berth_error_errno(ret_err, errno, "%s: make it unbindable", dir);
		umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW);
		return -1;
	}
	return 0;
}

static int make_target(int fd, const char *what, const char *target, struct berth_error **ret_err)
{
	struct stat st;
	int r = fstat(fd, &st) < 0                               ? -errno
	        : S_ISDIR(st.st_mode) && mkdir(target, 0711) < 0 ? -errno
	                                                         : 0;

	if (r == 0 && !S_ISDIR(st.st_mode)) {
		int made = open(target, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		r = made < 0 ? -errno : 0;
		berth_close(made);
	}
	return r < 0 ? berth_error_errno(ret_err, r, "%s: make %s for it", what, target) : 0;
}

int berth_mount_stage(int fd, const char *what, const char *target, const struct berth_stage *s,
        struct berth_error **ret_err)
{
	_cleanup_close_ int clone = open_tree(fd, "",
	        OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (s->rec ? AT_RECURSIVE : 0));

	if (clone < 0)
		return berth_error_errno(ret_err, errno, "%s: clone its mount", what);
	if (s->userns_fd >= 0 && mount_map_fd(clone, s->rec, s->userns_fd, what, ret_err) < 0)
		return -1;
	struct mount_attr a = {
	        .attr_set = s->readonly ? MOUNT_ATTR_RDONLY : 0, .propagation = s->propagation};
	if ((a.attr_set || a.propagation) &&
	        mount_setattr(
	                clone, "", AT_EMPTY_PATH | (s->rec ? AT_RECURSIVE : 0), &a, sizeof(a)) < 0)
		return berth_error_errno(ret_err, errno, "%s: set attributes of its mount", what);
	if (make_target(fd, what, target, ret_err) < 0)
		return -1;
	return berth_mount_attach(clone, target, ret_err) < 0
	               ? berth_error_wrap(ret_err, "%s", what)
	               : 0;
}
