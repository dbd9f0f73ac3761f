/* The client's socket. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "grpc/client_internal.h"

#define READ_BYTES 65536

int client_connect(const char *path, int *ret_fd, struct berth_error **ret_err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(addr.sun_path))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "connect to %s: a socket's path has at most %zu bytes", path,
		        sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return berth_error_errno(ret_err, errno, "connect to %s: socket", path);
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return berth_error_set(
		        ret_err, BERTH_UNAVAILABLE, "connect to %s: %s", path, strerror(errno));
	int r = berth_set_nonblock(fd, true);
	if (r < 0)
		return berth_error_errno(ret_err, r, "connect to %s", path);
	*ret_fd = berth_take_fd(&fd);
	return 0;
}

ssize_t client_send_bytes(
        nghttp2_session *session, const uint8_t *p, size_t n, int flags, void *arg)
{
	struct berth_grpc_client *c = arg;
	ssize_t r;
	do
		r = send(c->fd, p, n, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r >= 0)
		return r;
	c->blocked = errno == EAGAIN;
	return c->blocked ? NGHTTP2_ERR_WOULDBLOCK : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int lost(struct berth_grpc_client *c, const char *why, struct berth_error **ret_err)
{
	c->broken = true;
	return berth_error_set(
	        ret_err, BERTH_UNAVAILABLE, "the connection to %s is lost: %s", c->target, why);
}

static int send_all(struct berth_grpc_client *c, struct berth_error **ret_err)
{
	c->blocked = false;
	int r = nghttp2_session_send(c->session);
	if (r == NGHTTP2_ERR_CALLBACK_FAILURE)
		return lost(c, strerror(errno), ret_err);
	return r == 0 ? 0 : lost(c, nghttp2_strerror(r), ret_err);
}

static int receive(struct berth_grpc_client *c, struct berth_error **ret_err)
{
	uint8_t buf[READ_BYTES];
	ssize_t n = recv(c->fd, buf, sizeof(buf), 0);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0)
		return lost(c, strerror(errno), ret_err);
	if (n == 0)
		return lost(c, "the server closed it", ret_err);
	ssize_t used = nghttp2_session_mem_recv(c->session, buf, (size_t)n);
	return used < 0 ? lost(c, nghttp2_strerror((int)used), ret_err) : 0;
}

/* Milliseconds for poll(), rounded up; -1 = for ever. */
static int poll_timeout(uint64_t deadline_ns)
{
	if (!deadline_ns)
		return -1;
	uint64_t now = berth_now_ns();
	if (now >= deadline_ns)
		return 0;
	uint64_t ms = (deadline_ns - now + 999999) / 1000000;
	return ms > 3600000 ? 3600000 : (int)ms;
}

int client_run(struct berth_grpc_client *c, struct client_call *call, uint64_t deadline_ns,
        struct berth_error **ret_err)
{
	while (!call->closed && !call->err && !call->stopped) {
		if (send_all(c, ret_err))
			return -1;
		if (call->closed || call->err || call->stopped)
			break;
		struct pollfd p = {
		        .fd = c->fd, .events = (short)(POLLIN | (c->blocked ? POLLOUT : 0))};
		int r = poll(&p, 1, poll_timeout(deadline_ns));
		if (r < 0 && errno != EINTR)
			return lost(c, strerror(errno), ret_err);
		if (r == 0 && deadline_ns && berth_now_ns() >= deadline_ns)
			return berth_error_set(ret_err, BERTH_DEADLINE_EXCEEDED,
			        "no answer from %s in time", c->target);
		if (r > 0 && p.revents & (POLLIN | POLLHUP | POLLERR) && receive(c, ret_err))
			return -1;
		if (!call->closed && !nghttp2_session_want_read(c->session) &&
		        !nghttp2_session_want_write(c->session))
			return lost(c, "the server ended the session", ret_err);
	}
	return 0;
}

void client_flush(struct berth_grpc_client *c)
{
	struct berth_error *err = NULL;
	if (send_all(c, &err))
		berth_error_free(err); /* the next call meets it */
}
