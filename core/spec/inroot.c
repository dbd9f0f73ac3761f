#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/build.h"

int spec_mkdir_in_root(int rootfd, const char *path)
{
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
			if (mkdirat(parent, name, 0755) < 0)
				return errno == EEXIST ? -ENOTDIR : -errno;
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
