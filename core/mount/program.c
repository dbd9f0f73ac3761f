/* An overlay that a program serves through FUSE. The mount is made here, detached like any other,
 * and the program is given the connection: so nothing is left of it where berthd is killed in
 * between, and the program ends when the mount does. */
#include "mount/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "loop/run.h"

#define PROGRAM_TIMEOUT_MS 30000
#define ONE_ARGUMENT_MAX (128 * 1024 - 1) /* the kernel's */

/* What it takes for a separator cannot be passed in a path. */
static int add_path(struct berth_buf *b, const char *path, struct berth_error **ret_err)
{
	if (strpbrk(path, ":,\\"))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "overlay directory '%s': a mount program takes no ':', ',' or '\\' in a "
		        "path",
		        path);
	berth_buf_adds(b, path);
	return 0;
}

static int options_of(const struct mount_plan *p, struct berth_buf *b, struct berth_error **ret_err)
{
	berth_buf_adds(b, "lowerdir=");
	for (size_t i = 0; p->lowers && p->lowers[i]; i++) {
		berth_buf_adds(b, i ? ":" : "");
		if (add_path(b, p->lowers[i], ret_err) < 0)
			return -1;
	}
	for (size_t i = 0; i < p->n_params; i++) {
		const struct mount_param *q = &p->params[i];
		if (strcmp(q->key, "context") == 0)
			continue; /* the kernel's: its mount is the file system */
		berth_buf_addf(b, ",%s%s", q->key, q->value ? "=" : "");
		if (q->value && add_path(b, q->value, ret_err) < 0)
			return -1;
	}
	if (p->super_ro)
		berth_buf_adds(b, ",ro");
	if (b->len > ONE_ARGUMENT_MAX)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "%s: options of %zu bytes do not fit an argument", p->program, b->len);
	return 0;
}

/* The connection has the rights of root, and the kernel checks permissions as elsewhere. */
static int fuse_mount(
        int fuse, const struct mount_plan *p, unsigned int attrs, struct berth_error **ret_err)
{
	char fd_text[16];
	const char *const strings[][2] = {{"source", p->program}, {"subtype", "overlay"},
	        {"fd", fd_text}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"}};
	const char *const flags[] = {"allow_other", "default_permissions"};
	_cleanup_close_ int fs = fsopen("fuse", FSOPEN_CLOEXEC);

	if (fs < 0)
		return berth_error_errno(ret_err, errno, "open file system type 'fuse'");
	snprintf(fd_text, sizeof(fd_text), "%d", fuse);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(strings); i++)
		if (fsconfig(fs, FSCONFIG_SET_STRING, strings[i][0], strings[i][1], 0) < 0)
			return berth_error_errno(
			        ret_err, errno, "mount of type 'fuse': option '%s'", strings[i][0]);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(flags); i++)
		if (fsconfig(fs, FSCONFIG_SET_FLAG, flags[i], NULL, 0) < 0)
			return berth_error_errno(
			        ret_err, errno, "mount of type 'fuse': option '%s'", flags[i]);
	const char *context = mount_plan_param(p, "context");
	if (context && fsconfig(fs, FSCONFIG_SET_STRING, "context", context, 0) < 0)
		return berth_error_errno(ret_err, errno, "mount of type 'fuse': option 'context'");
	if (p->super_ro && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0)
		return berth_error_errno(ret_err, errno, "mount of type 'fuse': option 'ro'");
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return berth_error_errno(ret_err, errno, "mount of type 'fuse'");
	int mnt = fsmount(fs, FSMOUNT_CLOEXEC, attrs);
	return mnt < 0 ? berth_error_errno(ret_err, errno, "make a mount of type 'fuse'") : mnt;
}

int mount_program_open(const struct mount_plan *p, unsigned int attrs, struct berth_error **ret_err)
{
	_cleanup_close_ int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	_cleanup_close_ int mnt = -1;
	struct berth_buf options = {0};

	if (p->program[0] != '/')
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "mount program '%s': not an absolute path", p->program);
	if (fuse < 0)
		return berth_error_errno(
		        ret_err, errno, "mount program '%s': /dev/fuse", p->program);
	int r = options_of(p, &options, ret_err);
	if (r == 0)
		mnt = r = fuse_mount(fuse, p, attrs, ret_err);
	if (r >= 0) {
		const char *const argv[] = {p->program, "-o", options.data, "/dev/fd/3", NULL};
		const struct berth_helper h = {.argv = argv,
		        .timeout_ms = PROGRAM_TIMEOUT_MS,
		        .keep_fds = &fuse,
		        .n_keep_fds = 1};
		r = berth_run_helper_with(&h, ret_err);
	}
	berth_buf_finish(&options);
	if (r < 0)
		return berth_error_wrap(ret_err, "mount program '%s'", p->program);
	return berth_take_fd(&mnt);
}
