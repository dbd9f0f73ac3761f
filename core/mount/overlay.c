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
#include <sys/socket.h>
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
	free(mount_fs_log(fd, errno)); /* read away: below, only what comes next counts */
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
	const char *target; /* NULL: the mount is sent through `sock` and attached nowhere */
	int sock;
	bool parted;
	int home; /* the host's mount namespace, where it was left */
	struct berth_error **ret_err;
	int r;
};

/* Where the detached mount is made, in a mount namespace that ends with the thread. */
#define SCRATCH "/proc"

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

/* Above the numbers of the layers. */
#define KEEP_FROM (BERTH_LIMIT_OVERLAY_LAYERS + 12)

static int keep(int fd, struct berth_error **ret_err)
{
	int kept = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, KEEP_FROM);

	return kept < 0 ? berth_error_errno(ret_err, errno, "part from the process's files") : kept;
}

/* Leaves the process's files behind, and for a mount that is attached nowhere its mounts. */
static int part(struct short_job *j)
{
	if (unshare(CLONE_FS | CLONE_FILES) < 0)
		return berth_error_errno(j->ret_err, errno, "part from the process's files");
	j->parted = true;
	if (!j->target) {
		j->sock = keep(j->sock, j->ret_err);
		if (j->sock < 0)
			return -1;
		j->home = keep(open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC), j->ret_err);
		if (j->home < 0)
			return -1;
	}
	if (close_range(3, KEEP_FROM - 1, 0) < 0)
		return berth_error_errno(j->ret_err, errno, "part from the process's files");
	/* What is mounted here must not be seen elsewhere. */
	if (!j->target &&
	        (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
		return berth_error_errno(j->ret_err, errno, "part from the host's mounts");
	return 0;
}

/* A thread that is joined may still be ending in the kernel: what it holds must be gone before, or
 * an unmount of what was just mounted would find it in use. */
static void let_go(struct short_job *j)
{
	if (j->home >= 0)
		(void)setns(j->home, CLONE_NEWNS);
	(void)!chdir("/");
	(void)close_range(3, ~0U, 0);
}

static int send_mount(struct short_job *j)
{
	char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr m = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control,
	        .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	int fd = open_tree(AT_FDCWD, SCRATCH, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (fd < 0)
		return berth_error_errno(j->ret_err, errno, "detach an overlay");
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(j->sock, &m, 0) < 0)
		return berth_error_errno(j->ret_err, errno, "hand over an overlay");
	return 0;
}

static int short_mount(struct short_job *j, struct berth_buf *data)
{
	const char *target = j->target ? j->target : SCRATCH;
	char cwd[64];

	/* A target that is relative would be looked up in the wrong place. */
	if (target[0] != '/')
		return berth_error_set(j->ret_err, BERTH_INVALID_ARGUMENT,
		        "mount on '%s': not an absolute path", target);
	if (part(j) < 0 || short_data(j->plan, data, j->ret_err) < 0)
		return -1;
	snprintf(cwd, sizeof(cwd), "/proc/self/task/%d/fd", (int)gettid());
	if (chdir(cwd) < 0)
		return berth_error_errno(j->ret_err, errno, "enter '%s'", cwd);
	unsigned long flags = j->plan->super_ro ? MS_RDONLY : 0;
	if (mount("overlay", target, "overlay", flags, data->data) < 0) {
		/* Why, such a kernel says only in its log. */
		const char *rest = strchr(data->data, ',');
		return berth_error_errno(j->ret_err, errno,
		        "mount an overlay of %zu layers%s%s (options%s%s)",
		        berth_strv_len(j->plan->lowers), j->target ? " on " : "",
		        j->target ? j->target : "", rest ? ": " : " none", rest ? rest + 1 : "");
	}
	return j->target ? 0 : send_mount(j);
}

static void *short_thread(void *arg)
{
	struct short_job *j = arg;
	struct berth_buf data = {0};

	j->r = short_mount(j, &data);
	if (j->parted)
		let_go(j);
	berth_buf_finish(&data);
	return NULL;
}

static int run_short(struct short_job *j)
{
	pthread_t t;

	int r = pthread_create(&t, NULL, short_thread, j);
	if (r != 0)
		return berth_error_errno(j->ret_err, r, "start a thread for an overlay");
	pthread_join(t, NULL);
	return j->r;
}

int overlay_mount_short(
        const struct mount_plan *p, const char *target, struct berth_error **ret_err)
{
	struct short_job job = {
	        .plan = p, .target = target, .sock = -1, .home = -1, .ret_err = ret_err};

	return run_short(&job);
}

int overlay_open_short(const struct mount_plan *p, struct berth_error **ret_err)
{
	_cleanup_close_ int ours = -1, theirs = -1;
	char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr m = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control,
	        .msg_controllen = sizeof(control)};
	int pair[2], fd = -1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return berth_error_errno(ret_err, errno, "make a socket for an overlay");
	ours = pair[0];
	theirs = pair[1];
	struct short_job job = {.plan = p, .sock = theirs, .home = -1, .ret_err = ret_err};
	if (run_short(&job) < 0)
		return -1;
	if (recvmsg(ours, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
		return berth_error_errno(ret_err, errno, "take over an overlay");
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return berth_error_set(
		        ret_err, BERTH_RESOURCE_EXHAUSTED, "take over an overlay: no fd came");
	memcpy(&fd, CMSG_DATA(c), sizeof(int));
	return fd;
}
