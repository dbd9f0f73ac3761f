/* What nghttp2 tells about a connection. */
#include <stdlib.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "grpc/internal.h"

static struct berth_grpc_call *call_of(nghttp2_session *session, int32_t stream_id)
{
	return nghttp2_session_get_stream_user_data(session, stream_id);
}

static bool is_request(const nghttp2_frame *frame)
{
	return frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
}

static int begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	if (!is_request(frame))
		return 0;
	struct berth_grpc_call *call = grpc_call_new(arg, frame->hd.stream_id);
	return nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
}

static int header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
        size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
	struct berth_grpc_call *call = call_of(session, frame->hd.stream_id);
	if (call && is_request(frame))
		grpc_call_header(call, name, name_len, value, value_len);
	return 0;
}

static int data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
        const uint8_t *data, size_t len, void *arg)
{
	struct berth_grpc_call *call = call_of(session, stream_id);
	if (call)
		grpc_call_data(call, data, len);
	return 0;
}

/* Opening and resetting streams is cheap for a client and dear for us: a token bucket bounds it.
 * Streams that end by the client's mistakes count, too. */
void grpc_count_reset(struct grpc_conn *c)
{
	uint64_t now = berth_now_ns();
	uint64_t refill = (now - c->reset_refill_ns) / (1000000000 / BERTH_LIMIT_GRPC_RESETS_PER_S);
	if (refill > 0) {
		c->reset_refill_ns = now;
		c->resets_left = refill > BERTH_LIMIT_GRPC_RESETS - c->resets_left
		                         ? BERTH_LIMIT_GRPC_RESETS
		                         : c->resets_left + (size_t)refill;
	}
	if (c->resets_left > 0) {
		c->resets_left--;
		return;
	}
	berth_log_warn("connection closed", "cause", "its client resets too many streams");
	(void)nghttp2_session_terminate_session(c->session, NGHTTP2_ENHANCE_YOUR_CALM);
}

static int frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct grpc_conn *c = arg;
	struct berth_grpc_call *call = NULL;

	switch (frame->hd.type) {
	case NGHTTP2_SETTINGS:
		c->is_open = true;
		c->preface = berth_timer_free(c->preface);
		break;
	case NGHTTP2_RST_STREAM:
		grpc_count_reset(c);
		break;
	case NGHTTP2_HEADERS:
	case NGHTTP2_DATA:
		call = call_of(session, frame->hd.stream_id);
		if (call && is_request(frame))
			grpc_call_headers_done(call);
		if (call && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
			grpc_call_end_of_request(call);
		break;
	default:
		break;
	}
	return 0;
}

static int invalid_frame(
        nghttp2_session *session, const nghttp2_frame *frame, int lib_error_code, void *arg)
{
	grpc_count_reset(arg);
	return 0;
}

/* The answer is complete; a client that still sends its request is told to stop. */
static int frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	const struct berth_grpc_call *call = call_of(session, frame->hd.stream_id);
	if (!call || call->end_of_request)
		return 0;
	return nghttp2_submit_rst_stream(
	        session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
}

static int stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *arg)
{
	struct berth_grpc_call *call = call_of(session, stream_id);
	if (call)
		grpc_call_stream_closed(call);
	return 0;
}

nghttp2_session_callbacks *grpc_session_callbacks(void)
{
	nghttp2_session_callbacks *cb = NULL;
	if (nghttp2_session_callbacks_new(&cb) != 0)
		abort();
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(cb, header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, data_chunk);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, frame_recv);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, invalid_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, frame_sent);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, stream_close);
	return cb;
}

nghttp2_option *grpc_session_option(void)
{
	nghttp2_option *o = NULL;
	if (nghttp2_option_new(&o) != 0)
		abort();
	nghttp2_option_set_no_closed_streams(o, 1);
	nghttp2_option_set_max_outbound_ack(o, 512);
	return o;
}
