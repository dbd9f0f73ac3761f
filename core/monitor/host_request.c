/* Talking to a living monitor over its sockets. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "monitor/host_internal.h"

#define ANSWER_MS 5000

/* The path of a socket address is short; a directory's is not. */
static int connect_in(const char *dir, const char *name)
{
	_cleanup_close_ int dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return -errno;
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s", dirfd, name);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return berth_take_fd(&fd);
}

static int cannot_reach(struct berth_error **ret_err, const char *dir, int r)
{
	if (r == -ENOENT || r == -ECONNREFUSED)
		return berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "the monitor of %s has ended", dir);
	return berth_error_errno(ret_err, r, "monitor of %s", dir);
}

static int request(const char *dir, const char *words, struct berth_error **ret_err)
{
	char ans[BERTH_MON_CTL_MAX + 1];
	_cleanup_close_ int fd = connect_in(dir, BERTH_MON_CTL);
	if (fd < 0)
		return cannot_reach(ret_err, dir, fd);
	if (send(fd, words, strlen(words), MSG_NOSIGNAL) < 0)
		return cannot_reach(ret_err, dir, errno == EPIPE ? -ECONNREFUSED : -errno);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n;
	do
		n = poll(&p, 1, ANSWER_MS);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return berth_error_set(ret_err, BERTH_DEADLINE_EXCEEDED,
		        "the monitor of %s does not answer to '%s'", dir, words);
	ssize_t len = recv(fd, ans, sizeof(ans) - 1, 0);
	if (len <= 0) /* it ended with our request unread */
		return cannot_reach(ret_err, dir, -ECONNREFUSED);
	ans[len] = '\0';
	if (strcmp(ans, "ok") == 0)
		return 0;
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION, "monitor of %s: %s: %s", dir,
	        words, strncmp(ans, "error ", 6) == 0 ? ans + 6 : ans);
}

int berth_monitor_resize(
        const char *dir, uint16_t width, uint16_t height, struct berth_error **ret_err)
{
	char words[48];
	snprintf(words, sizeof(words), "resize %u %u", width, height);
	return request(dir, words, ret_err);
}

int berth_monitor_close_stdin(const char *dir, struct berth_error **ret_err)
{
	return request(dir, "close-stdin", ret_err);
}

int berth_monitor_reopen_log(const char *dir, struct berth_error **ret_err)
{
	return request(dir, "reopen", ret_err);
}

int berth_monitor_attach(const char *dir, int *ret_fd, struct berth_error **ret_err)
{
	int fd = connect_in(dir, BERTH_MON_ATTACH);
	if (fd < 0)
		return cannot_reach(ret_err, dir, fd);
	*ret_fd = fd;
	return 0;
}
