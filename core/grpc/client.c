#include "grpc/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "grpc/client_internal.h"

/* After the deadline has gone to the server, its answer is waited for a little longer: it says
 * more than our own clock does. */
#define GRACE_NS UINT64_C(500000000)

static struct client_call *call_of(const struct berth_grpc_client *c, int32_t stream_id)
{
	return c->call && c->call->stream_id == stream_id ? c->call : NULL;
}

static bool is(const uint8_t *p, size_t n, const char *want)
{
	return n == strlen(want) && memcmp(p, want, n) == 0;
}

static int header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
        size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
	struct client_call *call = call_of(arg, frame->hd.stream_id);
	if (!call)
		return 0;
	if (is(name, name_len, ":status") && value_len == 3) {
		memcpy(call->http_status, value, 3);
	} else if (is(name, name_len, "grpc-status")) {
		call->have_status = true;
		call->status = (unsigned int)strtoul((const char *)value, NULL, 10);
	} else if (is(name, name_len, "grpc-message")) {
		free(call->status_text);
		call->status_text = berth_grpc_percent_decode((const char *)value, value_len);
	} else if (is(name, name_len, "grpc-encoding")) {
		call->gzip = is(value, value_len, "gzip");
	}
	return 0;
}

static int take_message(struct client_call *call)
{
	_cleanup_free_ uint8_t *inflated = NULL;
	const uint8_t *data = call->reader.data;
	size_t len = call->reader.size;

	if (berth_grpc_reader_compressed(&call->reader)) {
		if (!call->gzip)
			return berth_error_set(&call->err, BERTH_INTERNAL,
			        "the response is compressed, but names no algorithm");
		if (berth_grpc_inflate(data, len, call->reader.limit, &inflated, &len, &call->err))
			return -1;
		data = inflated;
	}
	static const uint8_t nothing[1];
	ProtobufCMessage *m =
	        protobuf_c_message_unpack(call->response, NULL, len, data ? data : nothing);
	if (!m)
		return berth_error_set(&call->err, BERTH_INTERNAL,
		        "%zu bytes of a response are not a message of type %s", len,
		        call->response->name);
	if (call->each(m, call->each_arg) != 0)
		call->stopped = true;
	return 0;
}

static int data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
        const uint8_t *data, size_t len, void *arg)
{
	struct client_call *call = call_of(arg, stream_id);
	while (call && len > 0 && !call->err && !call->stopped) {
		bool complete = false;
		if (berth_grpc_reader_feed(&call->reader, &data, &len, &complete, &call->err))
			break;
		if (complete) {
			(void)take_message(call); /* the error is in the call */
			berth_grpc_reader_reset(&call->reader);
		}
	}
	return 0;
}

static int stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *arg)
{
	struct client_call *call = call_of(arg, stream_id);
	if (call) {
		call->closed = true;
		call->http2_error = error_code;
	}
	return 0;
}

static ssize_t read_request(nghttp2_session *session, int32_t stream_id, uint8_t *buf,
        size_t length, uint32_t *data_flags, nghttp2_data_source *source, void *arg)
{
	struct client_call *call = source->ptr;
	size_t n = call->out_len - call->out_off;
	if (n > length)
		n = length;
	memcpy(buf, call->out + call->out_off, n);
	call->out_off += n;
	if (call->out_off == call->out_len)
		*data_flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static int new_session(struct berth_grpc_client *c)
{
	nghttp2_session_callbacks *cb = NULL;
	/* Windows so large that a response of many megabytes is one stream of bytes. */
	const nghttp2_settings_entry settings[] = {
	        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20},
	};
	if (nghttp2_session_callbacks_new(&cb) != 0)
		return -1;
	nghttp2_session_callbacks_set_send_callback(cb, client_send_bytes);
	nghttp2_session_callbacks_set_on_header_callback(cb, header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, data_chunk);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, stream_close);
	int r = nghttp2_session_client_new(&c->session, cb, c);
	nghttp2_session_callbacks_del(cb);
	if (r == 0)
		r = nghttp2_submit_settings(
		        c->session, NGHTTP2_FLAG_NONE, settings, BERTH_ARRAY_LEN(settings));
	if (r == 0)
		r = nghttp2_session_set_local_window_size(
		        c->session, NGHTTP2_FLAG_NONE, 0, 1 << 20);
	return r;
}

struct berth_grpc_client *berth_grpc_client_connect(
        const char *target, struct berth_error **ret_err)
{
	const char *path = target;
	_cleanup_close_ int fd = -1;

	if (strncmp(path, "unix://", 7) == 0)
		path += 7;
	else if (strncmp(path, "unix:", 5) == 0)
		path += 5;
	if (path[0] != '/') {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "endpoint '%s' is not the absolute path of a unix socket", target);
		return NULL;
	}
	if (client_connect(path, &fd, ret_err))
		return NULL;
	struct berth_grpc_client *c = berth_new(struct berth_grpc_client);
	c->fd = berth_take_fd(&fd);
	c->target = berth_strdup(path);
	c->limit = BERTH_LIMIT_GRPC_CLIENT_MESSAGE;
	if (new_session(c) != 0) {
		berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED, "no memory for a session");
		return berth_grpc_client_free(c);
	}
	return c;
}

struct berth_grpc_client *berth_grpc_client_free(struct berth_grpc_client *c)
{
	if (!c)
		return NULL;
	nghttp2_session_del(c->session);
	berth_close(c->fd);
	free(c->target);
	free(c);
	return NULL;
}

void berth_grpc_client_set_limit(struct berth_grpc_client *c, size_t max_receive_bytes)
{
	c->limit = max_receive_bytes;
}

static nghttp2_nv nv(const char *name, const char *value)
{
	return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
	        strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static int submit(struct berth_grpc_client *c, struct client_call *call, const char *path,
        const char *timeout, struct berth_error **ret_err)
{
	const nghttp2_nv headers[] = {
	        nv(":method", "POST"),
	        nv(":scheme", "http"),
	        nv(":path", path),
	        nv(":authority", "localhost"),
	        nv("content-type", "application/grpc"),
	        nv("te", "trailers"),
	        nv("user-agent", "berth"),
	        nv("grpc-accept-encoding", "identity,gzip"),
	        nv("grpc-timeout", timeout),
	};
	size_t n = BERTH_ARRAY_LEN(headers) - (timeout[0] ? 0 : 1);
	nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_request};

	call->stream_id = nghttp2_submit_request(c->session, NULL, headers, n, &provider, NULL);
	if (call->stream_id < 0)
		return berth_error_set(ret_err, BERTH_UNAVAILABLE, "call %s of %s: %s", path,
		        c->target, nghttp2_strerror(call->stream_id));
	return 0;
}

/* The outcome of a call whose stream is closed. */
static int outcome(struct berth_grpc_client *c, struct client_call *call, const char *path,
        struct berth_error **ret_err)
{
	if (call->err)
		return berth_error_move(ret_err, &call->err);
	if (call->stopped)
		return 0;
	if (call->have_status && call->status == BERTH_OK_) {
		if (berth_grpc_reader_empty(&call->reader))
			return 0;
		return berth_error_set(ret_err, BERTH_INTERNAL, "a response ended in its middle");
	}
	if (call->have_status) {
		enum berth_code code = call->status > BERTH_UNAUTHENTICATED
		                               ? BERTH_UNKNOWN
		                               : (enum berth_code)call->status;
		return berth_error_set(ret_err, code, "%s",
		        call->status_text && call->status_text[0] ? call->status_text
		                                                  : berth_code_name(code));
	}
	if (call->http_status[0] && strcmp(call->http_status, "200") != 0)
		return berth_error_set(ret_err, BERTH_UNKNOWN, "%s answered HTTP status %s",
		        c->target, call->http_status);
	enum berth_code code = call->http2_error == NGHTTP2_REFUSED_STREAM ? BERTH_UNAVAILABLE
	                       : call->http2_error == NGHTTP2_CANCEL       ? BERTH_CANCELLED
	                       : call->http2_error == NGHTTP2_ENHANCE_YOUR_CALM
	                               ? BERTH_RESOURCE_EXHAUSTED
	                               : BERTH_INTERNAL;
	return berth_error_set(ret_err, code, "call %s was ended by %s without a status (%s)", path,
	        c->target, nghttp2_http2_strerror(call->http2_error));
}

static int run(struct berth_grpc_client *c, struct client_call *call, const char *path,
        const ProtobufCMessage *request, uint64_t timeout_ms, struct berth_error **ret_err)
{
	size_t n = protobuf_c_message_get_packed_size(request);
	char timeout[16] = "";
	uint64_t deadline_ns = 0;
	int r = -1;

	if (c->broken)
		return berth_error_set(
		        ret_err, BERTH_UNAVAILABLE, "the connection to %s is lost", c->target);
	call->out = berth_try_zalloc(BERTH_GRPC_PREFIX + n);
	if (!call->out)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "no memory for a request of %zu bytes", n);
	berth_grpc_write_prefix(call->out, n);
	protobuf_c_message_pack(request, call->out + BERTH_GRPC_PREFIX);
	call->out_len = BERTH_GRPC_PREFIX + n;
	call->reader.limit = c->limit;
	if (timeout_ms) {
		berth_grpc_format_timeout(timeout, timeout_ms);
		deadline_ns = berth_now_ns() + timeout_ms * 1000000 + GRACE_NS;
	}
	c->call = call;
	if (submit(c, call, path, timeout, ret_err) == 0 &&
	        client_run(c, call, deadline_ns, ret_err) == 0)
		r = outcome(c, call, path, ret_err);
	if (!call->closed && call->stream_id > 0 && !c->broken) {
		(void)nghttp2_submit_rst_stream(
		        c->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
		/* The data source points into this call: it is gone once the stream is. */
		client_flush(c);
		if (!call->closed)
			c->broken = true;
	}
	c->call = NULL;
	berth_grpc_reader_reset(&call->reader);
	berth_error_free(call->err);
	free(call->status_text);
	free(call->out);
	return r;
}

struct one {
	ProtobufCMessage *message;
	bool more;
};

static int take_one(const ProtobufCMessage *m, void *arg)
{
	struct one *o = arg;
	if (o->message) {
		o->more = true;
		protobuf_c_message_free_unpacked((ProtobufCMessage *)(uintptr_t)m, NULL);
	} else {
		o->message = (ProtobufCMessage *)(uintptr_t)m;
	}
	return 0;
}

ProtobufCMessage *berth_grpc_client_call(struct berth_grpc_client *c, const char *path,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
        uint64_t timeout_ms, struct berth_error **ret_err)
{
	struct one o = {0};
	struct client_call call = {.response = response, .each = take_one, .each_arg = &o};

	int r = run(c, &call, path, request, timeout_ms, ret_err);
	if (r == 0 && (!o.message || o.more))
		r = berth_error_set(ret_err, BERTH_INTERNAL, "%s answered %s with %s message",
		        c->target, path, o.more ? "more than one" : "no");
	if (r == 0)
		return o.message;
	if (o.message)
		protobuf_c_message_free_unpacked(o.message, NULL);
	return NULL;
}

struct many {
	int (*each)(const ProtobufCMessage *message, void *arg);
	void *arg;
};

static int take_many(const ProtobufCMessage *m, void *arg)
{
	const struct many *many = arg;
	int r = many->each(m, many->arg);
	protobuf_c_message_free_unpacked((ProtobufCMessage *)(uintptr_t)m, NULL);
	return r;
}

int berth_grpc_client_stream(struct berth_grpc_client *c, const char *path,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
        uint64_t timeout_ms, int (*each)(const ProtobufCMessage *message, void *arg), void *arg,
        struct berth_error **ret_err)
{
	struct many many = {each, arg};
	struct client_call call = {.response = response, .each = take_many, .each_arg = &many};
	return run(c, &call, path, request, timeout_ms, ret_err);
}
