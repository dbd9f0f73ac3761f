/* The directories of an overlay's layer that hide what lies below them: berth-pull may not read
 * trusted.*. [worker] */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "image/pull.h"

#define LIST_MAX BERTH_MIB(64)

static bool is_opaque(int fd)
{
	static const char *const names[] = {"trusted.overlay.opaque", "user.overlay.opaque"};
	char value = 0;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++)
		if (fgetxattr(fd, names[i], &value, 1) == 1 && value == 'y')
			return true;
	return false;
}

/* Its own directories, each by its path. */
static int list_dirs(int fd, const char *path, char ***ret)
{
	DIR *d = fdopendir(fd);
	struct stat st;
	int r = 0;

	if (!d) {
		r = -errno;
		close(fd);
		return r;
	}
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		        (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN))
			continue;
		if (e->d_type == DT_UNKNOWN &&
		        (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		                !S_ISDIR(st.st_mode)))
			continue;
		_cleanup_free_ char *sub =
		        berth_asprintf("%s%s%s", path, *path ? "/" : "", e->d_name);
		*ret = berth_strv_append(*ret, sub);
	}
	r = -errno;
	closedir(d);
	return r;
}

static int walk(int root, const char *path, struct berth_buf *out, struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **dirs = NULL;
	int fd = pull_open_beneath(root, *path ? path : ".", O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "directory '%s'", path);
	if (*path && is_opaque(fd))
		berth_buf_add(out, path, strlen(path) + 1);
	if (out->len > LIST_MAX)
		return berth_error_set(
		        ret_err, BERTH_RESOURCE_EXHAUSTED, "too many opaque directories");
	int r = list_dirs(fd, path, &dirs);
	if (r < 0)
		return berth_error_errno(ret_err, r, "directory '%s'", path);
	for (char **d = dirs; d && *d; d++)
		if (walk(root, *d, out, ret_err) < 0)
			return -1;
	return 0;
}

int pull_opaque_dirs(const char *dir, struct berth_buf *out, struct berth_error **ret_err)
{
	_cleanup_close_ int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return berth_error_errno(ret_err, errno, "%s", dir);
	return walk(root, "", out, ret_err) < 0 ? berth_error_wrap(ret_err, "%s", dir) : 0;
}
