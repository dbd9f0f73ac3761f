/* A call from its handler's answer to its trailers. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "grpc/internal.h"

#define UNREAD_MAX (8 * BERTH_LIMIT_GRPC_UNREAD)

static nghttp2_nv nv(const char *name, const char *value)
{
	return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
	        strlen(value), NGHTTP2_NV_FLAG_NONE};
}

/* grpc-status and, where there is a text, grpc-message; returns how many. */
static size_t status_headers(
        const struct berth_grpc_call *call, char number[static 4], nghttp2_nv out[static 2])
{
	snprintf(number, 4, "%u", (unsigned int)call->code % 100);
	out[0] = nv("grpc-status", number);
	if (!call->status_text)
		return 1;
	out[1] = nv("grpc-message", call->status_text);
	return 2;
}

static void pop_chunk(struct berth_grpc_call *call)
{
	struct grpc_chunk *k = call->out;
	call->out = k->next;
	if (!call->out)
		call->out_tail = &call->out;
	free(k);
}

static void took(struct berth_grpc_call *call, size_t n)
{
	call->out_bytes -= n;
	if (call->conn)
		call->conn->unread -= n;
}

void grpc_call_drop_output(struct berth_grpc_call *call)
{
	while (call->out)
		pop_chunk(call);
	took(call, call->out_bytes);
}

/* nghttp2 asks for the next bytes of the stream. */
static ssize_t read_output(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t length,
        uint32_t *data_flags, nghttp2_data_source *source, void *arg)
{
	struct berth_grpc_call *call = source->ptr;
	size_t n = 0;

	while (call->out && n < length) {
		struct grpc_chunk *k = call->out;
		size_t m = k->len - k->off < length - n ? k->len - k->off : length - n;
		memcpy(buf + n, k->data + k->off, m);
		k->off += m;
		n += m;
		if (k->off == k->len)
			pop_chunk(call);
	}
	took(call, n);
	if (call->out)
		return (ssize_t)n;
	if (call->settled) {
		char number[4];
		nghttp2_nv trailers[2];
		size_t count = status_headers(call, number, trailers);
		*data_flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
		if (nghttp2_submit_trailer(session, stream_id, trailers, count) != 0)
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
		return (ssize_t)n;
	}
	if (n == 0)
		return NGHTTP2_ERR_DEFERRED;
	call->got_empty = call->conn->any_writable = true;
	return (ssize_t)n;
}

static void submit_headers(struct berth_grpc_call *call)
{
	const nghttp2_nv headers[] = {
	        nv(":status", "200"),
	        nv("content-type", "application/grpc"),
	        nv("grpc-accept-encoding", "identity,gzip"),
	};
	nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_output};

	call->headers_sent = true;
	(void)nghttp2_submit_response(
	        call->conn->session, call->stream_id, headers, BERTH_ARRAY_LEN(headers), &provider);
}

static void submit_status_only(struct berth_grpc_call *call)
{
	char number[4];
	nghttp2_nv headers[5] = {
	        nv(":status", "200"),
	        nv("content-type", "application/grpc"),
	        nv("grpc-accept-encoding", "identity,gzip"),
	};
	size_t count = 3 + status_headers(call, number, headers + 3);

	call->headers_sent = true;
	(void)nghttp2_submit_response(call->conn->session, call->stream_id, headers, count, NULL);
}

/* From here on the status is known, whatever the handler says later. */
static void mark_settled(struct berth_grpc_call *call, const struct berth_error *err)
{
	const struct berth_grpc_opts *o = &call->server->opts;

	call->settled = true;
	call->timer = berth_timer_free(call->timer);
	call->code = !err ? BERTH_OK_ : err->code == BERTH_OK_ ? BERTH_UNKNOWN : err->code;
	if (err)
		call->status_text = berth_grpc_percent_encode(err->msg);
	if (o->observe)
		o->observe(call->path ? call->path : "", err, berth_now_ns() - call->start_ns,
		        o->observe_arg);
}

void grpc_call_settle(struct berth_grpc_call *call, const struct berth_error *err)
{
	if (call->settled)
		return;
	mark_settled(call, err);
	if (!call->stream_open)
		return;
	if (call->headers_sent)
		(void)nghttp2_session_resume_data(call->conn->session, call->stream_id);
	else if (err && !call->out)
		submit_status_only(call);
	else
		submit_headers(call);
	grpc_conn_dirty(call->conn);
}

void grpc_call_settlef(struct berth_grpc_call *call, enum berth_code code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	struct berth_error err = {.code = code, .msg = berth_vasprintf(fmt, ap)};
	va_end(ap);
	grpc_call_settle(call, &err);
	free(err.msg);
}

void grpc_call_reject_http(struct berth_grpc_call *call, const char *status, const char *why)
{
	struct berth_error err = {.code = BERTH_UNKNOWN, .msg = (char *)(uintptr_t)why};
	const nghttp2_nv headers[] = {nv(":status", status)};

	mark_settled(call, &err);
	call->headers_sent = true;
	(void)nghttp2_submit_response(call->conn->session, call->stream_id, headers, 1, NULL);
	grpc_conn_dirty(call->conn);
}

void grpc_call_cancel(struct berth_grpc_call *call, enum berth_code code, const char *why)
{
	berth_fn fn = call->on_cancel;
	if (call->settled)
		return;
	call->cancelled = true;
	call->on_cancel = NULL;
	/* What the client did not read yet does not hold up the status; half a message cannot be
	 * followed by one, though. */
	bool half = call->out && call->out->off > 0;
	grpc_call_drop_output(call);
	if (half && call->stream_open)
		(void)nghttp2_submit_rst_stream(
		        call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
	grpc_call_settlef(call, code, "%s", why);
	if (fn)
		fn(call->cancel_arg);
}

/* The handler's one answer. */
static void answered(struct berth_grpc_call *call)
{
	assert(call->owes);
	call->owes = false;
	call->on_cancel = call->on_writable = NULL;
	if (call->conn)
		call->conn->n_handlers--;
	grpc_call_try_free(call);
}

/* Queues a message, with its prefix. */
static int push_message(
        struct berth_grpc_call *call, const ProtobufCMessage *m, struct berth_error **ret_err)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	size_t limit = call->server->opts.max_send_bytes;

	if (n > limit)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "the response of %zu bytes is larger than the limit of %zu", n, limit);
	if (call->conn->unread + n > UNREAD_MAX)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "the client has %zu bytes of other responses to read first",
		        call->conn->unread);
	struct grpc_chunk *k = berth_try_zalloc(sizeof(*k) + BERTH_GRPC_PREFIX + n);
	if (!k)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "no memory for a response of %zu bytes", n);
	berth_grpc_write_prefix(k->data, n);
	protobuf_c_message_pack(m, k->data + BERTH_GRPC_PREFIX);
	k->len = BERTH_GRPC_PREFIX + n;
	*call->out_tail = k;
	call->out_tail = &k->next;
	call->out_bytes += k->len;
	call->conn->unread += k->len;
	call->got_empty = false;
	return 0;
}

void berth_grpc_reply(struct berth_grpc_call *call, const ProtobufCMessage *response)
{
	struct berth_error *err = NULL;

	berth_assert_loop();
	assert(!call->method->server_streaming);
	if (!call->settled)
		(void)push_message(call, response, &err);
	grpc_call_settle(call, err);
	berth_error_free(err);
	answered(call);
}

void berth_grpc_fail(struct berth_grpc_call *call, const struct berth_error *err)
{
	berth_assert_loop();
	grpc_call_settle(call, err);
	answered(call);
}

void berth_grpc_failf(struct berth_grpc_call *call, enum berth_code code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	struct berth_error err = {.code = code, .msg = berth_vasprintf(fmt, ap)};
	va_end(ap);
	berth_grpc_fail(call, &err);
	free(err.msg);
}

int berth_grpc_send(struct berth_grpc_call *call, const ProtobufCMessage *message)
{
	struct berth_error *err = NULL;

	berth_assert_loop();
	assert(call->method->server_streaming && call->owes);
	if (call->settled)
		return -EPIPE;
	if (push_message(call, message, &err)) {
		berth_error_free(err);
		return -EMSGSIZE;
	}
	if (call->headers_sent)
		(void)nghttp2_session_resume_data(call->conn->session, call->stream_id);
	else
		submit_headers(call);
	grpc_conn_dirty(call->conn);
	return 0;
}

void berth_grpc_finish(struct berth_grpc_call *call)
{
	berth_assert_loop();
	assert(call->method->server_streaming);
	grpc_call_settle(call, NULL);
	answered(call);
}

size_t berth_grpc_queued(const struct berth_grpc_call *call)
{
	return call->out_bytes;
}

void berth_grpc_on_writable(struct berth_grpc_call *call, berth_fn fn, void *arg)
{
	call->on_writable = fn;
	call->writable_arg = arg;
}

void berth_grpc_on_cancel(struct berth_grpc_call *call, berth_fn fn, void *arg)
{
	berth_assert_loop();
	if (call->cancelled && fn) {
		fn(arg);
		return;
	}
	call->on_cancel = fn;
	call->cancel_arg = arg;
}

bool berth_grpc_cancelled(const struct berth_grpc_call *call)
{
	return call->cancelled;
}

struct berth_arena *berth_grpc_arena(struct berth_grpc_call *call)
{
	return call->arena;
}

const char *berth_grpc_path(const struct berth_grpc_call *call)
{
	return call->path;
}

uint64_t berth_grpc_deadline_ns(const struct berth_grpc_call *call)
{
	return call->deadline_ns;
}
