/* The parts of the client. Internal to grpc/. */
#ifndef BERTH_GRPC_CLIENT_INTERNAL_H
#define BERTH_GRPC_CLIENT_INTERNAL_H

#include <nghttp2/nghttp2.h>

#include "grpc/client.h"
#include "grpc/wire.h"

/* The one call that runs. */
struct client_call {
	int32_t stream_id;
	uint8_t *out; /* the request with its prefix */
	size_t out_len, out_off;
	const ProtobufCMessageDescriptor *response;
	struct berth_grpc_reader reader;
	bool gzip;
	int (*each)(const ProtobufCMessage *message, void *arg);
	void *each_arg;
	bool stopped; /* each() wants no more */
	bool closed;
	uint32_t http2_error;
	char http_status[4];
	bool have_status;
	unsigned int status;
	char *status_text;
	struct berth_error *err; /* found on our side; ends the call */
};

struct berth_grpc_client {
	int fd;
	char *target;
	nghttp2_session *session;
	size_t limit;
	struct client_call *call;
	bool broken;  /* no more calls */
	bool blocked; /* the socket takes nothing now */
};

/* client_io.c */
int client_connect(const char *path, int *ret_fd, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Moves bytes both ways until the call is closed or failed on our side. deadline_ns:
 * CLOCK_MONOTONIC or 0. DEADLINE_EXCEEDED or UNAVAILABLE. */
int client_run(struct berth_grpc_client *c, struct client_call *call, uint64_t deadline_ns,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
void client_flush(
        struct berth_grpc_client *c); /* what nghttp2 has, as far as the socket takes it */
ssize_t client_send_bytes(
        nghttp2_session *session, const uint8_t *p, size_t n, int flags, void *arg);

#endif
