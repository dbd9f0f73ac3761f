/* A gRPC server over unix sockets: nghttp2 and libuv, unary and server-streaming calls. Everything
 * here is [loop].
 *
 * A handler runs on the loop, must not block, and answers now or later, exactly once, by
 * berth_grpc_reply() or berth_grpc_fail() (streaming: any number of berth_grpc_send(), then
 * berth_grpc_finish() or berth_grpc_fail()). When the client goes away, cancels, or its deadline
 * passes, the client is answered by the server at once and the call's cancel function runs; the
 * handler still owes its one answer, which is then thrown away. Until that answer the call, its
 * request and its arena stay valid. */
#ifndef BERTH_GRPC_SERVER_H
#define BERTH_GRPC_SERVER_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"
#include "loop/loop.h"

struct berth_grpc_server;
struct berth_grpc_call;

typedef void (*berth_grpc_handler)(
        struct berth_grpc_call *call, const ProtobufCMessage *request, void *arg);

/* One method. Tables of these are static; the list ends with a NULL name. */
struct berth_grpc_method {
	const char *name; /* "Version" */
	const ProtobufCMessageDescriptor *request, *response;
	bool server_streaming;
	berth_grpc_handler handler; /* NULL = UNIMPLEMENTED */
};

struct berth_grpc_opts {
	size_t max_receive_bytes, max_send_bytes; /* 0 = BERTH_LIMIT_GRPC_MESSAGE */
	/* Called once for each finished call, for metrics and the request log; may be NULL. `err`
	 * NULL = OK. */
	void (*observe)(
	        const char *path, const struct berth_error *err, uint64_t duration_ns, void *arg);
	void *observe_arg;
};

struct berth_grpc_server *berth_grpc_server_new(
        struct berth_loop *l, const struct berth_grpc_opts *opts);
/* `service`: "runtime.v1.RuntimeService". `methods` is static and outlives the server. */
void berth_grpc_server_add(struct berth_grpc_server *s, const char *service,
        const struct berth_grpc_method *methods, void *arg);
/* Binds and listens. A stale socket file is replaced; one that a process listens on is
 * ALREADY_EXISTS. mode: of the file. */
int berth_grpc_server_listen(struct berth_grpc_server *s, const char *path, unsigned int mode,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Serves one connected stream socket, whose fd it takes: for socket activation and tests. */
int berth_grpc_server_adopt(
        struct berth_grpc_server *s, int fd, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Stops accepting, sends GOAWAY, lets calls end for up to grace_ms, then `done` runs with
 * everything closed. */
void berth_grpc_server_drain(
        struct berth_grpc_server *s, uint64_t grace_ms, berth_fn done, void *arg);
struct berth_grpc_server *berth_grpc_server_free(
        struct berth_grpc_server *s); /* after drain's done, or at once in tests */
/* How many connections, calls in flight: for tests and status. */
void berth_grpc_server_counts(
        const struct berth_grpc_server *s, size_t *connections, size_t *calls);

/* The arena dies with the call: build responses in it. */
struct berth_arena *berth_grpc_arena(struct berth_grpc_call *call);
const char *berth_grpc_path(
        const struct berth_grpc_call *call); /* "/runtime.v1.RuntimeService/Version" */
uint64_t berth_grpc_deadline_ns(const struct berth_grpc_call *call); /* CLOCK_MONOTONIC; 0 = none */
bool berth_grpc_cancelled(const struct berth_grpc_call *call);
/* `fn` runs at most once, when the call is cancelled or its deadline passes before the answer. fn
 * NULL clears it. If the call is cancelled already, fn runs before the return. */
void berth_grpc_on_cancel(struct berth_grpc_call *call, berth_fn fn, void *arg);

/* Unary: packs `response` and ends the call; `response` is not kept. */
void berth_grpc_reply(struct berth_grpc_call *call, const ProtobufCMessage *response);
void berth_grpc_fail(struct berth_grpc_call *call, const struct berth_error *err);
/* The same with the text at hand. */
void berth_grpc_failf(struct berth_grpc_call *call, enum berth_code code, const char *fmt, ...)
        BERTH_PRINTF(3, 4);

/* Streaming: queues one message. -EPIPE after the client has gone. Messages are queued without
 * limit of their own: the caller keeps berth_grpc_queued() bounded and waits for `writable`, which
 * runs whenever the queue got empty. */
int berth_grpc_send(struct berth_grpc_call *call, const ProtobufCMessage *message);
size_t berth_grpc_queued(
        const struct berth_grpc_call *call); /* bytes not yet taken by the socket */
void berth_grpc_on_writable(struct berth_grpc_call *call, berth_fn fn, void *arg);
void berth_grpc_finish(struct berth_grpc_call *call); /* OK trailers; the call is gone */

#endif
