/* A gRPC server with a few methods of the CRI's simplest messages, for interop tests:
 * grpc_echo SOCKET. Ends gracefully on SIGTERM. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cri.pb-c.h"
#include "grpc/server.h"

static struct berth_loop *loop;
static struct berth_grpc_server *server;

static char *argument(const ProtobufCMessage *m)
{
	return ((const Runtime__V1__VersionRequest *)m)->version;
}

static void echo(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
	r.version = argument(m);
	berth_grpc_reply(call, &r.base);
}

static void failing(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	berth_grpc_failf(call, BERTH_NOT_FOUND, "%s", argument(m));
}

static void hang_cancelled(void *arg)
{
	puts("cancelled");
	fflush(stdout);
	berth_grpc_failf(arg, BERTH_CANCELLED, "cancelled");
}

static void hang(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	berth_grpc_on_cancel(call, hang_cancelled, call);
}

struct flow {
	struct berth_grpc_call *call;
	unsigned int sent, count;
};

static void flow_more(void *arg)
{
	struct flow *f = arg;
	while (f->sent < f->count && berth_grpc_queued(f->call) < 65536) {
		Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
		char number[16];
		snprintf(number, sizeof(number), "%u", f->sent);
		r.version = number;
		if (berth_grpc_send(f->call, &r.base) < 0)
			return;
		f->sent++;
	}
	if (f->sent == f->count)
		berth_grpc_finish(f->call);
}

static void flow_cancelled(void *arg)
{
	struct flow *f = arg;
	puts("cancelled");
	fflush(stdout);
	berth_grpc_finish(f->call);
}

static void stream(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	struct flow *f = berth_arena_alloc(berth_grpc_arena(call), sizeof(*f));
	f->call = call;
	f->count = (unsigned int)strtoul(argument(m), NULL, 10);
	berth_grpc_on_writable(call, flow_more, f);
	berth_grpc_on_cancel(call, flow_cancelled, f);
	flow_more(f);
}

#define TYPES &runtime__v1__version_request__descriptor, &runtime__v1__version_response__descriptor
static const struct berth_grpc_method methods[] = {
        {"Echo", TYPES, false, echo},
        {"Fail", TYPES, false, failing},
        {"Hang", TYPES, false, hang},
        {"Stream", TYPES, true, stream},
        {NULL},
};

static void drained(void *arg)
{
	berth_loop_stop(loop);
}

static void terminate(uv_signal_t *s, int signum)
{
	berth_grpc_server_drain(server, 5000, drained, NULL);
	uv_close((uv_handle_t *)s, NULL);
}

int main(int argc, char **argv)
{
	struct berth_error *err = NULL;
	uv_signal_t term;

	if (argc != 2)
		return 2;
	loop = berth_loop_new();
	server = berth_grpc_server_new(loop, NULL);
	berth_grpc_server_add(server, "berth.test.Test", methods, NULL);
	if (berth_grpc_server_listen(server, argv[1], 0600, &err)) {
		fprintf(stderr, "%s\n", err->msg);
		return 1;
	}
	uv_signal_init(berth_loop_uv(loop), &term);
	uv_signal_start(&term, terminate, SIGTERM);
	puts("ready");
	fflush(stdout);
	berth_loop_run(loop);
	berth_grpc_server_free(server);
	berth_loop_free(loop);
	return 0;
}
