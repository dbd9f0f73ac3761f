#include "mount/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"

#define FSCONFIG_VALUE_MAX 255 /* strndup_user() in fsconfig(2) */
#define MOUNT_DATA_MAX 4095    /* one page with its NUL */

static bool force_short;
static bool have_lowerdir_add;
static pthread_once_t probe_once = PTHREAD_ONCE_INIT;

void berth_mount_force_short_names(bool on)
{
	force_short = on;
}

char *mount_fs_log(int fsfd, int errnum)
{
	char line[512], *said = NULL;
	ssize_t n;

	/* Each read gives one message, "e TEXT"; the first error is the cause. */
	while (!said && (n = read(fsfd, line, sizeof(line) - 1)) > 0) {
		line[n] = '\0';
		line[strcspn(line, "\n")] = '\0';
		if (line[0] == 'e' && line[1] == ' ')
			said = berth_asprintf("%s (%s)", strerror(errnum), line + 2);
	}
	return said ? said : berth_strdup(strerror(errnum));
}

static void probe(void)
{
	_cleanup_close_ int fd = fsopen("overlay", FSOPEN_CLOEXEC);

	if (fd < 0)
		return;
	/* Until 6.5 overlay parses options only when it is mounted, and takes any for now. */
	if (fsconfig(fd, FSCONFIG_SET_FLAG, "berth_no_such_option", NULL, 0) == 0)
		return;
	_cleanup_free_ char *unknown = mount_fs_log(fd, errno);
	if (fsconfig(fd, FSCONFIG_SET_STRING, "lowerdir+", "/", 0) == 0) {
		have_lowerdir_add = true;
		return;
	}
	/* "/" may be unfit to be a layer; only an unknown name means that there is no such key. */
	_cleanup_free_ char *said = mount_fs_log(fd, errno);
	have_lowerdir_add = !strstr(said, "nknown parameter");
}

bool overlay_has_lowerdir_add(void)
{
	pthread_once(&probe_once, probe);
	return have_lowerdir_add && !force_short;
}

int mount_fsconfig_string(int fsfd, const char *key, const char *value, bool path, int *keep)
{
	char link[64];

	*keep = -1;
	/* Overlay takes a backslash for an escape in some of its paths and not in others. */
	if (path && (strlen(value) > FSCONFIG_VALUE_MAX || strchr(value, '\\'))) {
		*keep = open(value, O_PATH | O_CLOEXEC);
		if (*keep < 0)
			return -errno;
		snprintf(link, sizeof(link), "/proc/self/fd/%d", *keep);
		value = link;
	}
	if (fsconfig(fsfd, FSCONFIG_SET_STRING, key, value, 0) < 0)
		return -errno;
	return 0;
}

int overlay_add_lowers(
        int fsfd, const struct mount_plan *p, int *keep, struct berth_error **ret_err)
{
	for (size_t i = 0; p->lowers && p->lowers[i]; i++) {
		int r = mount_fsconfig_string(fsfd, "lowerdir+", p->lowers[i], true, &keep[i]);
		if (r < 0) {
			_cleanup_free_ char *said = mount_fs_log(fsfd, -r);
			return berth_error_set(ret_err, berth_code_from_errno(r),
			        "overlay layer '%s': %s", p->lowers[i], said);
		}
	}
	return 0;
}

/* A kernel without lowerdir+ wants all layers in one page. A thread of its own takes leave of the
 * process's working directory and table of files, opens each layer, so that they are numbered from
 * 3 on, and names them by these numbers, relative to its fd directory. */
struct short_job {
	const struct mount_plan *plan;
	const char *target;
	struct berth_error **ret_err;
	int r;
};

static int open_as(const char *path, struct berth_error **ret_err)
{
	int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "overlay directory '%s'", path);
	return fd;
}

static int short_data(
        const struct mount_plan *p, struct berth_buf *data, struct berth_error **ret_err)
{
	berth_buf_adds(data, "lowerdir=");
	for (size_t i = 0; p->lowers && p->lowers[i]; i++) {
		int fd = open_as(p->lowers[i], ret_err);
		if (fd < 0)
			return -1;
		berth_buf_addf(data, "%s%d", i ? ":" : "", fd);
	}
	for (size_t i = 0; i < p->n_params; i++) {
		const struct mount_param *q = &p->params[i];
		bool path = strcmp(q->key, "upperdir") == 0 || strcmp(q->key, "workdir") == 0;
		if (path && q->value) {
			int fd = open_as(q->value, ret_err);
			if (fd < 0)
				return -1;
			berth_buf_addf(data, ",%s=%d", q->key, fd);
		} else if (q->value && strchr(q->value, ',')) {
			/* In one string with others only a security label can hold a comma. */
			if (!strstr(q->key, "context"))
				return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
				        "overlay option '%s=%s': a comma cannot be passed to this "
				        "kernel",
				        q->key, q->value);
			berth_buf_addf(data, ",%s=\"%s\"", q->key, q->value);
		} else if (q->value) {
			berth_buf_addf(data, ",%s=%s", q->key, q->value);
		} else {
			berth_buf_addf(data, ",%s", q->key);
		}
	}
	if (data->len > MOUNT_DATA_MAX)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "overlay options of %zu bytes do not fit a page", data->len);
	return 0;
}

static int short_mount(struct short_job *j)
{
	struct berth_buf data = {0};
	char cwd[64];
	int r = -1;

	/* A mount target that is relative would be looked up in the wrong place. */
	if (j->target[0] != '/')
		return berth_error_set(j->ret_err, BERTH_INVALID_ARGUMENT,
		        "mount on '%s': not an absolute path", j->target);
	if (unshare(CLONE_FS | CLONE_FILES) < 0 || close_range(3, ~0U, 0) < 0)
		return berth_error_errno(j->ret_err, errno, "part from the process's files");
	if (short_data(j->plan, &data, j->ret_err) < 0)
		goto out;
	snprintf(cwd, sizeof(cwd), "/proc/self/task/%d/fd", (int)gettid());
	if (chdir(cwd) < 0) {
		berth_error_errno(j->ret_err, errno, "enter '%s'", cwd);
		goto out;
	}
	unsigned long flags = j->plan->super_ro ? MS_RDONLY : 0;
	if (mount("overlay", j->target, "overlay", flags, data.data) < 0) {
		/* Why, such a kernel says only in its log. */
		const char *rest = strchr(data.data, ',');
		berth_error_errno(j->ret_err, errno,
		        "mount an overlay of %zu layers on '%s' (options%s%s)",
		        berth_strv_len(j->plan->lowers), j->target, rest ? ": " : " none",
		        rest ? rest + 1 : "");
		goto out;
	}
	r = 0;
out:
	berth_buf_finish(&data);
	return r;
}

static void *short_thread(void *arg)
{
	struct short_job *j = arg;

	j->r = short_mount(j);
	return NULL;
}

int overlay_mount_short(
        const struct mount_plan *p, const char *target, struct berth_error **ret_err)
{
	struct short_job job = {.plan = p, .target = target, .ret_err = ret_err};
	pthread_t t;

	int r = pthread_create(&t, NULL, short_thread, &job);
	if (r != 0)
		return berth_error_errno(
		        ret_err, r, "start a thread for the overlay on '%s'", target);
	pthread_join(t, NULL);
	return job.r;
}
