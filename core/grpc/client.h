/* A blocking gRPC client over a unix socket, for berthctl and tests: nghttp2 without a loop. Not
 * thread-safe. */
#ifndef BERTH_GRPC_CLIENT_H
#define BERTH_GRPC_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "base/error.h"

struct berth_grpc_client;

/* `target`: a path or unix:///path. UNAVAILABLE names the path where nobody answers. A call is
 * UNAVAILABLE, too, once the connection is lost; no later call on the client succeeds then. */
struct berth_grpc_client *berth_grpc_client_connect(
        const char *target, struct berth_error **ret_err);
struct berth_grpc_client *berth_grpc_client_free(struct berth_grpc_client *c);

/* One unary call. path: "/runtime.v1.RuntimeService/Version". timeout_ms 0 = none. The response is
 * freed by protobuf_c_message_free_unpacked(). NULL with the server's status and message in
 * ret_err. */
ProtobufCMessage *berth_grpc_client_call(struct berth_grpc_client *c, const char *path,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
        uint64_t timeout_ms, struct berth_error **ret_err);

/* A server stream: each(message, arg) for each message, which is valid during the call; a non-zero
 * return cancels the call and ends it as OK. */
int berth_grpc_client_stream(struct berth_grpc_client *c, const char *path,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
        uint64_t timeout_ms, int (*each)(const ProtobufCMessage *message, void *arg), void *arg,
        struct berth_error **ret_err);

/* The largest response that is taken; BERTH_LIMIT_GRPC_CLIENT_MESSAGE at first. */
void berth_grpc_client_set_limit(struct berth_grpc_client *c, size_t max_receive_bytes);

#endif
