/* What pulls and looks at image stores have in common: how a berth-pull is started and heard. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/mem.h"
#include "image/pull.h"

int pull_spawn(const struct berth_daemon *d, const char *const *env, int sock, pid_t *ret_pid,
        int *ret_pidfd, struct berth_error **ret_err)
{
	_cleanup_free_ char *helper = berth_path(d->helpers_dir, "berth-pull", NULL);
	const char *const argv[] = {helper, NULL};
	struct berth_child_spec spec = {.argv = argv,
	        .envp = env,
	        .stdio = {-1, -1, STDERR_FILENO},
	        .keep_fds = &sock,
	        .n_keep_fds = 1,
	        .cgroup_procs = (const char *const *)(void *)d->pull_cgroup,
	        .new_session = 1};

	berth_cgroup_restore(spec.cgroup_procs);
	int r = berth_child_start(&spec, ret_pid, ret_pidfd, ret_err);
	close(sock);
	return r;
}

int pull_send_packet(int sock, const char *text, int fd)
{
	struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int pull_receive(int sock, char *packet, size_t size, json_t **ret, int *ret_fd)
{
	struct iovec iov = {packet, size};
	union {
		char bytes[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control.bytes,
	        .msg_controllen = sizeof(control.bytes)};
	ssize_t n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*ret_fd = -1;
	*ret = NULL;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (*ret_fd < 0)
				*ret_fd = fd;
			else
				close(fd);
		}
	}
	if (n == 0)
		return -EPIPE;
	if (!(msg.msg_flags & MSG_TRUNC))
		*ret = json_loadb(packet, (size_t)n, 0, NULL);
	return *ret ? 0 : -EBADMSG;
}
