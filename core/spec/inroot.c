#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/build.h"

/* On a file system with mapped owners none can be made but by who is one of them. The capability
 * that a change of the user takes away is taken back: directories of others are passed through. */
static int mkdir_as(int dirfd, const char *name, uid_t uid, gid_t gid)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct had[2] = {{0}}, now[2];

	if (uid == 0 && gid == 0)
		return mkdirat(dirfd, name, 0755) < 0 ? -errno : 0;
	if (syscall(SYS_capget, &h, had) < 0)
		return -errno;
	setfsgid(gid);
	setfsuid(uid);
	memcpy(now, had, sizeof(now));
	now[CAP_TO_INDEX(CAP_DAC_OVERRIDE)].effective |=
	        CAP_TO_MASK(CAP_DAC_OVERRIDE) & had[0].permitted;
	int r = syscall(SYS_capset, &h, now) < 0 || mkdirat(dirfd, name, 0755) < 0 ? -errno : 0;
	setfsuid(geteuid());
	setfsgid(getegid());
	/* What a thread of the pool has in the end is what it had. */
	if (syscall(SYS_capset, &h, had) < 0 && r == 0)
		r = -errno;
	return r;
}

int spec_mkdir_in_root(const struct spec_build *b, const char *path)
{
	int rootfd = b->in->rootfs_fd;
	_cleanup_free_ char *copy = berth_strdup(path);
	_cleanup_close_ int parent = berth_open_in_root(rootfd, "/", O_PATH | O_DIRECTORY, 0);

	if (parent < 0)
		return parent;
	/* Each prefix is resolved from the root again, so that a link means what it will mean to
	 * the container; only the last component is made, in the directory that was found. */
	for (char *p = copy + 1, *end; *p; p = end) {
		char *name = p;
		end = p + strcspn(p, "/");
		char after = *end;
		*end = '\0';
		int fd = berth_open_in_root(rootfd, copy, O_PATH | O_DIRECTORY, 0);
		if (fd == -ENOENT) {
			int r = mkdir_as(parent, name, b->in->root_uid, b->in->root_gid);
			if (r < 0)
				return r == -EEXIST ? -ENOTDIR : r;
			fd = berth_open_in_root(rootfd, copy, O_PATH | O_DIRECTORY, 0);
		}
		if (fd < 0)
			return fd;
		berth_close(parent);
		parent = fd;
		*end = after;
		end += after == '/';
	}
	return 0;
}
