/* spawn() of a program that starts the command of interest, leaves it behind and ends: `runc exec
 * --detach`. The orphan comes to us as the subreaper. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "loop/child.h"
#include "plugin/internal.h"

/* A program that is killed in the middle may leave something behind: so long it may end by itself.
 */
#define GRACE_NS 500000000ull
#define WORDS_MAX BERTH_KIB(4)
#define PID_FILE_MAX 32
#define REAP_WAIT_MS 1000

int berth_detach_listen(const struct berth_run *spec, struct berth_error **ret_err)
{
	const char *cwd = spec->cwd ? spec->cwd : "/";
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	_cleanup_close_ int dir = open(cwd, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return berth_error_errno(ret_err, errno, "%s", cwd);
	/* Through the descriptor: the directory's own path may be longer than an address. */
	int n = snprintf(
	        sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s", dir, spec->console_socket);
	if (strchr(spec->console_socket, '/') || n >= (int)sizeof(sa.sun_path))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "the console socket \"%.128s\" is no short name in the program's directory",
		        spec->console_socket);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 1) < 0)
		return berth_error_errno(
		        ret_err, errno, "console socket %s/%s", cwd, spec->console_socket);
	return berth_take_fd(&fd);
}

/* The program sends the master of the terminal that it made; -1 where nothing of the kind came. */
static int receive_master(int listener)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl;
	char name[256];
	struct iovec iov = {.iov_base = name, .iov_len = sizeof(name)};
	struct msghdr msg = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = ctl.buf,
	        .msg_controllen = sizeof(ctl.buf)};
	_cleanup_close_ int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct timeval patience = {.tv_sec = 5};
	int master = -1;

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	        c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&master, CMSG_DATA(c), sizeof(int));
	return master;
}

/* Until the program has ended, or has to: false then, and it still runs. */
static bool await_end(struct berth_op *op, const struct berth_detach *d, int *master)
{
	uint64_t until = 0;

	for (;;) {
		struct pollfd p[3] = {{.fd = d->pidfd, .events = POLLIN},
		        {.fd = *master < 0 ? d->listener : -1, .events = POLLIN},
		        {.fd = until ? -1 : berth_service_cancel_fd(op), .events = POLLIN}};
		uint64_t now = berth_now_ns();
		int timeout = !until ? -1 : now >= until ? 0 : (int)((until - now) / 1000000u) + 1;
		if (poll(p, 3, timeout) < 0)
			continue; /* EINTR */
		if (p[1].revents)
			*master = receive_master(d->listener);
		if (p[0].revents)
			return true;
		if (until && berth_now_ns() >= until)
			return false;
		if (!until && call_of(op)->instance->table.op_cancelled(op))
			until = berth_now_ns() + GRACE_NS;
	}
}

static int read_pid(const char *path, pid_t *ret, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = NULL;
	char *end = NULL;
	int r = berth_read_file(AT_FDCWD, path, PID_FILE_MAX, &text, NULL);

	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", path);
	long v = strtol(text, &end, 10);
	if (v <= 1 || v > INT32_MAX || end == text || (*end && *end != '\n'))
		return berth_error_set(
		        ret_err, BERTH_INTERNAL, "%s holds no pid: \"%.32s\"", path, text);
	*ret = (pid_t)v;
	return 0;
}

static int failed(
        const struct berth_run *spec, int status, int words_fd, struct berth_error **ret_err)
{
	char words[WORDS_MAX + 1];
	ssize_t n = 0;

	if (words_fd >= 0 && berth_set_nonblock(words_fd, true) == 0)
		n = read(words_fd, words, WORDS_MAX);
	while (n > 0 && strchr(" \t\r\n", words[n - 1]))
		n--;
	words[n > 0 ? n : 0] = '\0';
	if (n > 0)
		return berth_error_set(ret_err, BERTH_UNKNOWN, "%s: %s", spec->argv[0], words);
	if (WIFSIGNALED(status))
		return berth_error_set(ret_err, BERTH_UNKNOWN, "%s: killed by signal %d",
		        spec->argv[0], WTERMSIG(status));
	return berth_error_set(ret_err, BERTH_UNKNOWN, "%s: ended with status %d without a word",
	        spec->argv[0], WEXITSTATUS(status));
}

static int claim(const struct berth_run *spec, struct berth_detach *d, struct berth_error **ret_err)
{
	pid_t pid = -1;

	if (read_pid(spec->pid_file, &pid, ret_err) < 0)
		return berth_error_wrap(ret_err, "%s", spec->argv[0]);
	int r = berth_child_claim(pid, &d->pidfd, &d->status);
	if (r < 0)
		return berth_error_errno(ret_err, r,
		        "%s: the command it started (pid %d) did not become a child of this "
		        "process",
		        spec->argv[0], (int)pid);
	d->pid = pid;
	return 0;
}

static int await(struct berth_op *op, const struct berth_run *spec, struct berth_detach *d,
        int words_fd, int *master, struct berth_error **ret_err)
{
	int status = 0;
	bool over = await_end(op, d, master);

	if (!over)
		berth_kill_tree(d->pid, d->mark, 0);
	int r = berth_child_wait(d->pid, d->pidfd, &status);
	d->pidfd = berth_close(d->pidfd);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s: its exit was lost", spec->argv[0]);
	if (!over || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return failed(spec, status, words_fd, ret_err);
	if (d->listener >= 0 && *master < 0)
		*master = receive_master(d->listener);
	if (claim(spec, d, ret_err) < 0)
		return -1;
	if (d->listener >= 0 && *master < 0)
		return berth_error_set(
		        ret_err, BERTH_INTERNAL, "%s: it sent no terminal", spec->argv[0]);
	return 0;
}

/* Whatever it has started by now goes, too. */
static void undo(struct berth_detach *d)
{
	int status;

	berth_kill_tree(d->pidfd >= 0 ? d->pid : 0, d->mark, REAP_WAIT_MS);
	if (d->pidfd >= 0)
		(void)!berth_child_wait(d->pid, d->pidfd, &status);
	d->pidfd = berth_close(d->pidfd);
}

berth_status berth_detach_await(struct berth_op *op, const struct berth_run *spec,
        struct berth_detach *d, int words_fd, int *ret_master)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_close_ int master = -1;
	int r = await(op, spec, d, words_fd, &master, &err);
	berth_status st = berth_call_check(call_of(op));

	(void)unlink(spec->pid_file);
	if (r == 0 && st == BERTH_OK) {
		*ret_master = berth_take_fd(&master);
		return BERTH_OK;
	}
	undo(d);
	return st != BERTH_OK
	               ? st
	               : berth_service_fail(op, -(berth_status)err->code, err->errnum, err->msg);
}
