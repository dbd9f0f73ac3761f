/* A call from its first header to its handler. */
#include <string.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/limits.h"
#include "grpc/internal.h"

/* Request bodies of one connection, and of all: what is above must be small. */
#define CONN_BODIES 2
#define SERVER_BODIES 8
#define SMALL_BODY BERTH_KIB(64)

struct berth_grpc_call *grpc_call_new(struct grpc_conn *c, int32_t stream_id)
{
	struct berth_grpc_call *call = berth_new(struct berth_grpc_call);
	call->server = c->server;
	grpc_server_ref(c->server);
	c->server->n_calls++;
	call->conn = c;
	call->stream_id = stream_id;
	call->stream_open = true;
	call->arena = berth_arena_new();
	call->reader.limit = c->server->opts.max_receive_bytes;
	call->out_tail = &call->out;
	call->start_ns = berth_now_ns();
	DL_APPEND(c->calls, call);
	return call;
}

static void account_body(struct berth_grpc_call *call, size_t now)
{
	call->server->body_bytes += now - call->body_bytes;
	if (call->conn)
		call->conn->body_bytes += now - call->body_bytes;
	call->body_bytes = now;
}

static void drop_body(struct berth_grpc_call *call)
{
	berth_grpc_reader_reset(&call->reader);
	account_body(call, 0);
}

void grpc_call_try_free(struct berth_grpc_call *call)
{
	struct berth_grpc_server *s = call->server;
	if (call->stream_open || call->owes || call->pinned)
		return;
	if (call->conn)
		DL_DELETE(call->conn->calls, call);
	berth_timer_free(call->timer);
	berth_arena_free(call->arena);
	free(call->status_text);
	free(call);
	s->n_calls--;
	grpc_server_unref(s);
}

static void leave_ready(struct berth_grpc_call *call)
{
	struct grpc_conn *c = call->conn;
	if (!call->queued)
		return;
	LL_DELETE2(c->ready, call, ready_next);
	c->ready_tail = &c->ready;
	while (*c->ready_tail)
		c->ready_tail = &(*c->ready_tail)->ready_next;
	call->queued = false;
}

static void close_stream(struct berth_grpc_call *call, const char *why)
{
	if (!call->stream_open)
		return;
	call->stream_open = false;
	leave_ready(call);
	drop_body(call);
	grpc_call_cancel(call, BERTH_CANCELLED, why);
	grpc_call_drop_output(call);
}

void grpc_call_stream_closed(struct berth_grpc_call *call)
{
	call->pinned = true;
	close_stream(call, "the client cancelled the call");
	call->pinned = false;
	grpc_call_try_free(call);
}

void grpc_call_detach(struct berth_grpc_call *call)
{
	call->pinned = true;
	close_stream(call, "the client's connection was closed");
	DL_DELETE(call->conn->calls, call);
	call->conn = NULL;
	call->pinned = false;
	grpc_call_try_free(call);
}

static bool name_is(const uint8_t *name, size_t len, const char *want)
{
	return len == strlen(want) && memcmp(name, want, len) == 0;
}

static char *keep(struct berth_grpc_call *call, const uint8_t *p, size_t n)
{
	char *s = berth_arena_alloc(call->arena, n + 1);
	memcpy(s, p, n);
	return s;
}

void grpc_call_header(struct berth_grpc_call *call, const uint8_t *name, size_t name_len,
        const uint8_t *value, size_t value_len)
{
	/* As SETTINGS_MAX_HEADER_LIST_SIZE counts. */
	call->header_bytes += name_len + value_len + 32;
	if (call->header_bytes > BERTH_LIMIT_GRPC_HEADERS)
		return;
	if (name_is(name, name_len, ":path"))
		call->path = keep(call, value, value_len);
	else if (name_is(name, name_len, ":method"))
		call->is_post = name_is(value, value_len, "POST");
	else if (name_is(name, name_len, "content-type"))
		call->content_type = keep(call, value, value_len);
	else if (name_is(name, name_len, "grpc-timeout"))
		call->timeout = keep(call, value, value_len);
	else if (name_is(name, name_len, "grpc-encoding"))
		call->encoding = name_is(value, value_len, "identity") ? GRPC_IDENTITY
		                 : name_is(value, value_len, "gzip")   ? GRPC_GZIP
		                                                       : GRPC_ENCODING_OTHER;
}

static void deadline_passed(void *arg);

/* The loop's timers count in milliseconds, from a clock that may lag a little. */
static void arm_deadline(struct berth_grpc_call *call, uint64_t ns)
{
	call->timer = berth_timer_start(
	        call->server->loop, ns / 1000000 + (ns % 1000000 != 0), deadline_passed, call);
}

static void deadline_passed(void *arg)
{
	struct berth_grpc_call *call = arg;
	uint64_t now = berth_now_ns();
	call->timer = berth_timer_free(call->timer);
	if (now < call->deadline_ns) {
		arm_deadline(call, call->deadline_ns - now);
		return;
	}
	leave_ready(call);
	grpc_call_cancel(call, BERTH_DEADLINE_EXCEEDED, "the deadline of the call has passed");
}

static void start_deadline(struct berth_grpc_call *call)
{
	uint64_t ns = 0;
	if (!call->timeout)
		return;
	if (berth_grpc_parse_timeout(call->timeout, &ns) < 0) {
		grpc_call_settlef(
		        call, BERTH_INTERNAL, "malformed grpc-timeout '%.20s'", call->timeout);
		return;
	}
	call->deadline_ns = call->start_ns + ns;
	arm_deadline(call, ns);
}

void grpc_call_headers_done(struct berth_grpc_call *call)
{
	static const char type[] = "application/grpc";
	bool have_service = false;

	if (call->header_bytes > BERTH_LIMIT_GRPC_HEADERS) {
		grpc_call_settlef(call, BERTH_RESOURCE_EXHAUSTED,
		        "headers of %zu bytes are larger than the limit of %zu", call->header_bytes,
		        BERTH_LIMIT_GRPC_HEADERS);
		return;
	}
	if (!call->is_post) {
		grpc_call_reject_http(call, "405", "gRPC calls are POST requests");
		return;
	}
	/* "application/grpc", "application/grpc+proto" or with parameters. */
	char after = call->content_type && strncmp(call->content_type, type, sizeof(type) - 1) == 0
	                     ? call->content_type[sizeof(type) - 1]
	                     : 'x';
	if (after != '\0' && after != '+' && after != ';') {
		grpc_call_reject_http(call, "415", "the content-type is not application/grpc");
		return;
	}
	call->method = grpc_server_find(
	        call->server, call->path ? call->path : "", &have_service, &call->method_arg);
	if (!call->method || !call->method->handler)
		grpc_call_settlef(call, BERTH_UNIMPLEMENTED, "unknown %s in %.200s",
		        have_service ? "method" : "service", call->path ? call->path : "");
	else if (call->encoding == GRPC_ENCODING_OTHER)
		grpc_call_settlef(
		        call, BERTH_UNIMPLEMENTED, "messages may be compressed by gzip alone");
	else
		start_deadline(call);
}

static bool fits(const struct berth_grpc_call *call)
{
	size_t max = call->server->opts.max_receive_bytes;
	if (call->body_bytes <= SMALL_BODY)
		return call->conn->body_bytes <= CONN_BODIES * max + SMALL_BODY;
	return call->conn->body_bytes <= CONN_BODIES * max &&
	       call->server->body_bytes <= SERVER_BODIES * max;
}

void grpc_call_data(struct berth_grpc_call *call, const uint8_t *p, size_t n)
{
	struct berth_error *err = NULL;

	while (n > 0 && !call->settled) {
		if (call->have_message) {
			grpc_call_settlef(call, BERTH_INVALID_ARGUMENT,
			        "more than one message in the request");
			break;
		}
		if (berth_grpc_reader_feed(&call->reader, &p, &n, &call->have_message, &err)) {
			grpc_call_settle(call, err);
			err = berth_error_free(err);
			break;
		}
		account_body(call, call->reader.cap);
		if (!fits(call))
			grpc_call_settlef(call, BERTH_RESOURCE_EXHAUSTED,
			        "too much memory is taken by requests that are being received");
	}
	if (call->settled)
		drop_body(call);
}

void grpc_call_end_of_request(struct berth_grpc_call *call)
{
	struct grpc_conn *c = call->conn;

	call->end_of_request = true;
	if (call->settled)
		return;
	if (!call->have_message) {
		grpc_call_settlef(call, BERTH_INVALID_ARGUMENT,
		        berth_grpc_reader_empty(&call->reader)
		                ? "the request has no message"
		                : "the request ends inside its message");
		drop_body(call);
		return;
	}
	call->queued = true;
	call->ready_next = NULL;
	*c->ready_tail = call;
	c->ready_tail = &call->ready_next;
}

static ProtobufCMessage *unpack(struct berth_grpc_call *call, struct berth_error **ret_err)
{
	const uint8_t *data = call->reader.data;
	size_t len = call->reader.size;
	_cleanup_free_ uint8_t *inflated = NULL;

	if (berth_grpc_reader_compressed(&call->reader)) {
		if (call->encoding != GRPC_GZIP) {
			berth_error_set(ret_err, BERTH_INTERNAL,
			        "the message is compressed, but grpc-encoding names no algorithm");
			return NULL;
		}
		if (berth_grpc_inflate(data, len, call->reader.limit, &inflated, &len, ret_err))
			return NULL;
		data = inflated;
	}
	return berth_grpc_unpack(
	        call->method->request, call->arena, BERTH_LIMIT_GRPC_UNPACKED, data, len, ret_err);
}

void grpc_call_dispatch(struct berth_grpc_call *call)
{
	struct berth_error *err = NULL;
	ProtobufCMessage *request = NULL;

	if (call->settled)
		return;
	if (call->conn->n_handlers >= BERTH_LIMIT_GRPC_HANDLERS)
		berth_error_set(&err, BERTH_RESOURCE_EXHAUSTED,
		        "%zu calls of this connection are at work already", call->conn->n_handlers);
	else
		request = unpack(call, &err);
	drop_body(call);
	if (!request) {
		grpc_call_settle(call, err);
		berth_error_free(err);
		return;
	}
	call->owes = true;
	call->conn->n_handlers++;
	call->method->handler(call, request, call->method_arg);
}
