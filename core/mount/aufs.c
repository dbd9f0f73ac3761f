/* aufs keeps the options of one call in a table of one page, and where the branches of one string
 * fill it (85 do), a kernel without a fix crashes. So a mount is made with its first branches, and
 * the others are appended to it, some at a time, each an option of its own. */
#include "mount/aufs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "mount/overlay.h"

#define BRANCHES_AT_ONCE 32 /* other options go into the same table */
#define MOUNTED "/sys/fs/aufs"

bool aufs_is_branch(const struct mount_param *q)
{
	return q->value && (strcmp(q->key, "br") == 0 || strcmp(q->key, "append") == 0);
}

/* seq_path() writes what is special as \ooo. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; out++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*out = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 4;
		} else {
			*out = *s++;
		}
	}
	*out = '\0';
}

/* Is `path` the topmost branch of the mount that the directory `si` of sysfs is of? */
static bool is_top_of(int sys, const char *si, const char *path)
{
	_cleanup_free_ char *file = berth_asprintf("%s/br0", si), *text = NULL;

	if (berth_read_file(sys, file, PATH_MAX * 4, &text, NULL) < 0)
		return false;
	char *eq = strrchr(text, '=');
	if (eq)
		*eq = '\0';
	unescape(text);
	return strcmp(text, path) == 0;
}

/* The kernel mounts a writable branch twice without a word, and both write as if they were alone.
 * Here it is refused: by a lock while a mount is made, by aufs' list of mounts from then on. */
static int lock_writable(struct aufs_branches *b, const char *path, struct berth_error **ret_err)
{
	char name[64], top[PATH_MAX];

	if (b->lock >= 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "aufs branch '%s': another one of this mount is written to", path);
	b->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->lock < 0)
		return berth_error_errno(ret_err, errno, "aufs branch '%s'", path);
	if (flock(b->lock, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
		               ? berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		                         "aufs branch '%s': another mount of it is being made",
		                         path)
		               : berth_error_errno(ret_err, errno, "aufs branch '%s'", path);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", b->lock);
	ssize_t n = readlink(name, top, sizeof(top) - 1);
	if (n < 0)
		return berth_error_errno(ret_err, errno, "aufs branch '%s'", path);
	top[n] = '\0';
	DIR *d = opendir(MOUNTED);
	if (!d)
		return 0; /* nothing of the kind is mounted */
	bool used = false;
	for (struct dirent *e; !used && (e = readdir(d));)
		used = strncmp(e->d_name, "si_", 3) == 0 && is_top_of(dirfd(d), e->d_name, top);
	closedir(d);
	if (used)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "aufs branch '%s' is mounted writable already", path);
	return 0;
}

/* In aufs' own words '=' ends a path and ':' a branch, and the kernel takes 255 bytes: so a branch
 * goes through an fd. */
static int give_one(int fsfd, struct aufs_branches *b, const struct mount_param *q, int *keep,
        struct berth_error **ret_err)
{
	char value[128];
	const char *eq = strrchr(q->value, '=');

	if (!eq || eq == q->value)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "aufs option '%s=%s' is not of the form PATH=MODE", q->key, q->value);
	_cleanup_free_ char *path = berth_strndup(q->value, (size_t)(eq - q->value));
	if (strncmp(eq + 1, "rw", 2) == 0 && lock_writable(b, path, ret_err) < 0)
		return -1;
	*keep = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*keep < 0)
		return berth_error_errno(ret_err, errno, "aufs branch '%s'", path);
	int n = snprintf(value, sizeof(value), "/proc/self/fd/%d%s", *keep, eq);
	if (n < 0 || (size_t)n >= sizeof(value))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "aufs branch '%s': mode '%s' is too long", path, eq + 1);
	if (fsconfig(fsfd, FSCONFIG_SET_STRING, q->key, value, 0) < 0) {
		int e = errno;
		_cleanup_free_ char *said = mount_fs_log(fsfd, e);
		return berth_error_set(
		        ret_err, berth_code_from_errno(e), "aufs branch '%s': %s", path, said);
	}
	return 0;
}

int aufs_set_xino(int fsfd, const char *path, int *keep)
{
	char value[PATH_MAX];
	const char *slash = strrchr(path, '/');

	*keep = -1;
	if (!slash)
		return -EINVAL;
	_cleanup_free_ char *dir = berth_strndup(path, (size_t)(slash - path) + 1);
	*keep = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*keep < 0)
		return -errno;
	snprintf(value, sizeof(value), "/proc/self/fd/%d%s", *keep, slash);
	return fsconfig(fsfd, FSCONFIG_SET_STRING, "xino", value, 0) < 0 ? -errno : 0;
}

int aufs_give_branches(int fsfd, struct aufs_branches *b, int *keep, struct berth_error **ret_err)
{
	int given = 0;

	for (; b->next < b->plan->n_params && given < BRANCHES_AT_ONCE; b->next++) {
		const struct mount_param *q = &b->plan->params[b->next];
		if (!aufs_is_branch(q))
			continue;
		if (give_one(fsfd, b, q, &keep[b->next], ret_err) < 0)
			return -1;
		given++;
	}
	return given;
}

int aufs_append_rest(int fsfd, struct aufs_branches *b, struct berth_error **ret_err)
{
	size_t n = b->plan->n_params;
	_cleanup_free_ int *keep = berth_reallocarray(NULL, n + 1, sizeof(*keep));
	int given = 0, r = 0;

	for (size_t i = 0; i < n; i++)
		keep[i] = -1;
	while (r == 0 && (given = aufs_give_branches(fsfd, b, keep, ret_err)) > 0) {
		if (fsconfig(fsfd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) == 0)
			continue;
		int e = errno;
		_cleanup_free_ char *said = mount_fs_log(fsfd, e);
		r = berth_error_set(ret_err, berth_code_from_errno(e),
		        "append %d branches to an aufs: %s" AUFS_HINT, given, said);
	}
	for (size_t i = 0; i < n; i++)
		berth_close(keep[i]);
	return given < 0 ? -1 : r;
}

void aufs_finish(struct aufs_branches *b)
{
	b->lock = berth_close(b->lock);
}
