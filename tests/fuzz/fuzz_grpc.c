/* Any bytes from a client into a connection of the server. The first byte's lowest bit says whether
 * they follow a proper preface. All calls and connections must be gone at the end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cri.pb-c.h"
#include "grpc/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct berth_loop *loop;
static struct berth_grpc_server *server;

static void echo(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
	r.version = ((const Runtime__V1__VersionRequest *)m)->version;
	berth_grpc_reply(call, &r.base);
}

static void hang_cancelled(void *arg)
{
	berth_grpc_failf(arg, BERTH_CANCELLED, "cancelled");
}

static void hang(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	berth_grpc_on_cancel(call, hang_cancelled, call);
}

static void stream_more(void *arg)
{
	struct berth_grpc_call *call = arg;
	Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
	r.version = (char *)(uintptr_t) "0123456789";
	(void)berth_grpc_send(call, &r.base); /* -EPIPE: it is cancelled soon */
}

static void stream_cancelled(void *arg)
{
	berth_grpc_finish(arg);
}

static void stream(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	const char *version = ((const Runtime__V1__VersionRequest *)m)->version;
	berth_grpc_on_cancel(call, stream_cancelled, call);
	stream_more(call);
	if (version[0] == 'w')
		return; /* stays open */
	berth_grpc_finish(call);
}

#define TYPES &runtime__v1__version_request__descriptor, &runtime__v1__version_response__descriptor
static const struct berth_grpc_method methods[] = {
        {"E", TYPES, false, echo},
        {"H", TYPES, false, hang},
        {"S", TYPES, true, stream},
        {NULL},
};

static void start(void)
{
	const struct berth_grpc_opts opts = {.max_receive_bytes = 4096, .max_send_bytes = 4096};
	loop = berth_loop_new();
	server = berth_grpc_server_new(loop, &opts);
	berth_grpc_server_add(server, "T", methods, NULL);
}

static void turn(int fd)
{
	char buf[65536];
	uv_run(berth_loop_uv(loop), UV_RUN_NOWAIT);
	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static void feed(int fd, const uint8_t *p, size_t n)
{
	while (n > 0) {
		ssize_t r = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r < 0 && errno != EAGAIN)
			return; /* the server has closed */
		if (r > 0) {
			p += r;
			n -= (size_t)r;
		}
		turn(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
	struct berth_error *err = NULL;
	size_t connections = 1, calls = 1;
	int fds[2];

	if (size == 0)
		return 0;
	if (!loop)
		start();
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		abort();
	if (berth_grpc_server_adopt(server, fds[0], &err))
		abort();
	if (data[0] & 1)
		feed(fds[1], preface, sizeof(preface));
	feed(fds[1], data + 1, size - 1);
	turn(fds[1]);
	turn(fds[1]);
	close(fds[1]);
	for (int i = 0; i < 50 && (connections || calls); i++) {
		uv_run(berth_loop_uv(loop), UV_RUN_NOWAIT);
		berth_grpc_server_counts(server, &connections, &calls);
	}
	if (connections || calls) {
		fprintf(stderr, "%zu connections, %zu calls left\n", connections, calls);
		abort();
	}
	return 0;
}
