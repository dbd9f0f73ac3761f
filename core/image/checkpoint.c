#include "image/checkpoint.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "image/pull.h"

#define SOCKET_BYTES (4 * BERTH_PULL_PACKET)

struct berth_packer {
	pid_t pid;
	int pidfd, sock;
	uint64_t deadline_ns;
	struct berth_cancel *cancel; /* a reference */
	char packet[BERTH_PULL_PACKET];
};

void berth_packer_freep(struct berth_packer **pp)
{
	struct berth_packer *p = *pp;
	int status;

	if (!p)
		return;
	berth_close(p->sock);
	if (p->pidfd >= 0) {
		(void)!berth_pidfd_kill(p->pidfd, SIGKILL); /* one that has ended is still ours */
		(void)!berth_child_wait(p->pid, p->pidfd, &status);
		close(p->pidfd);
	}
	berth_cancel_unref(p->cancel);
	free(p);
	*pp = NULL;
}

/* Takes packet. */
static int say(struct berth_packer *p, json_t *packet, int fd, struct berth_error **ret_err)
{
	_cleanup_free_ char *text = json_dumps(packet, JSON_COMPACT);
	json_decref(packet);
	if (!text || strlen(text) > BERTH_PULL_PACKET)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "its mounts are more than berth-pull can be told of");
	int r = pull_send_packet(p->sock, text, fd);
	return r < 0 ? berth_error_errno(ret_err, r, "berth-pull does not listen") : 0;
}

static int error_of(const json_t *packet, struct berth_error **ret_err)
{
	const char *msg = json_string_value(json_object_get(packet, "msg"));
	json_int_t code = json_integer_value(json_object_get(packet, "code"));
	bool good = code > BERTH_OK_ && code < BERTH_CODES;

	return berth_error_set(
	        ret_err, good ? (enum berth_code)code : BERTH_INTERNAL, "%s", msg ? msg : "?");
}

/* 1: something can be read. */
static int wait_readable(struct berth_packer *p, struct berth_error **ret_err)
{
	uint64_t now = berth_now_ns();
	struct pollfd fds[] = {{.fd = p->sock, .events = POLLIN},
	        {.fd = berth_cancel_fd(p->cancel), .events = POLLIN}};

	if (berth_cancel_is_set(p->cancel))
		return berth_error_set(ret_err, BERTH_CANCELLED, "its archive was cancelled");
	if (now >= p->deadline_ns)
		return berth_error_set(ret_err, BERTH_DEADLINE_EXCEEDED,
		        "its archive was not written within the timeout");
	uint64_t ms = (p->deadline_ns - now) / 1000000u + 1;
	int n = poll(fds, BERTH_ARRAY_LEN(fds), ms > 3600000 ? 3600000 : (int)ms);
	if (n < 0 && errno != EINTR)
		return berth_error_errno(ret_err, errno, "wait for berth-pull");
	return n > 0 && fds[0].revents ? 1 : 0;
}

static int expect(struct berth_packer *p, const char *wanted, struct berth_error **ret_err)
{
	for (;;) {
		json_t *packet = NULL;
		int fd = -1, ready = wait_readable(p, ret_err);
		if (ready < 0)
			return -1;
		int r = ready ? pull_receive(p->sock, p->packet, sizeof(p->packet), &packet, &fd)
		              : -EAGAIN;
		berth_close(fd); /* none is due */
		if (r == -EAGAIN)
			continue;
		if (r < 0)
			return berth_error_set(ret_err, BERTH_INTERNAL,
			        "berth-pull ended, or is not understood: %s", strerror(-r));
		const char *t = json_string_value(json_object_get(packet, "t"));
		int result = t && strcmp(t, wanted) == 0 ? 0
		             : t && strcmp(t, "error") == 0
		                     ? error_of(packet, ret_err)
		                     : berth_error_set(ret_err, BERTH_INTERNAL,
		                               "berth-pull says '%.50s'", t ? t : "");
		json_decref(packet);
		return result;
	}
}

struct berth_packer *berth_packer_start(const struct berth_daemon *d,
        const struct berth_packer_opts *o, struct berth_error **ret_err)
{
	static const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	_cleanup_(berth_packer_freep) struct berth_packer *p = berth_new(struct berth_packer);
	int pair[2], bytes = SOCKET_BYTES;

	*p = (struct berth_packer){.pidfd = -1,
	        .sock = -1,
	        .deadline_ns = o->deadline_ns,
	        .cancel = berth_cancel_ref(o->cancel)};
	json_object_set_new(o->request, "t", json_string("checkpoint"));
	json_object_set_new(o->request, "whiteout", json_string("overlay")); /* read, not used */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		json_decref(o->request);
		berth_error_errno(ret_err, errno, "a socket");
		return NULL;
	}
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	p->sock = pair[0];
	if (say(p, o->request, o->dir, ret_err) < 0) {
		close(pair[1]);
		return NULL;
	}
	if (pull_spawn(d, env, pair[1], &p->pid, &p->pidfd, ret_err) < 0)
		return NULL;
	return berth_take(p);
}

static int send_part(struct berth_packer *p, const char *part, int fd, struct berth_error **ret_err)
{
	if (fd < 0)
		return 0;
	return say(
	        p, json_pack("{s:s, s:i, s:s}", "t", "source", "n", 0, "part", part), fd, ret_err);
}

int berth_packer_diff(
        struct berth_packer *p, const struct berth_packer_layer *l, struct berth_error **ret_err)
{
	if (send_part(p, "below", l->below, ret_err) < 0 ||
	        send_part(p, "opaque", l->opaque, ret_err) < 0 ||
	        send_part(p, "top", l->top, ret_err) < 0)
		return -1;
	return expect(p, "diffed", ret_err);
}

int berth_packer_pack(struct berth_packer *p, int archive, struct berth_error **ret_err)
{
	if (say(p, json_pack("{s:s, s:i}", "t", "dir", "n", 0), archive, ret_err) < 0)
		return -1;
	return expect(p, "exported", ret_err);
}
