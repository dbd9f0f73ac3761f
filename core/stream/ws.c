/* WebSocket as a transport. A message is the number of its channel and data; where SPDY is
 * tunnelled, messages are pieces of its byte stream. */
#include <nettle/base64.h>
#include <string.h>
#include <wslay/wslay.h>

#include "base/log.h"
#include "stream/internal.h"

#define CLOSE_CHANNEL 255 /* since version 5: [255, N] ends channel N of the client */
#define NO_CHANNEL 256u

struct ws {
	struct strm_conn *conn;
	wslay_event_context_ptr ctx;
	const char *p; /* what is being fed */
	size_t left;
	/* The message under way; its frames may be several. */
	bool data_frame, first;
	unsigned int channel;
	struct base64_decode_ctx base64;
	bool closing;
};

static struct ws *ws_of(void *arg)
{
	return ((struct strm_conn *)arg)->ws;
}

/* ---- receiving ---- */

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *arg)
{
	struct ws *w = ws_of(arg);
	(void)flags;

	if (w->left == 0 || w->conn->closed) {
		wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	if (len > w->left)
		len = w->left;
	memcpy(buf, w->p, len);
	w->p += len;
	w->left -= len;
	return (ssize_t)len;
}

static ssize_t on_send(
        wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags, void *arg)
{
	struct strm_conn *c = arg;
	(void)ctx;
	(void)flags;
	strm_queue_add(&c->out, data, len);
	return (ssize_t)len;
}

static void on_frame_start(
        wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_start_arg *f, void *arg)
{
	struct ws *w = ws_of(arg);
	(void)ctx;

	w->data_frame = !wslay_is_ctrl_frame(f->opcode);
	if (w->data_frame && f->opcode != WSLAY_CONTINUATION_FRAME) {
		w->first = true;
		base64_decode_init(&w->base64);
		w->channel = NO_CHANNEL;
	}
}

static void deliver(struct ws *w, const char *p, size_t n)
{
	struct strm_conn *c = w->conn;
	struct strm_chan *ch;

	if (w->channel == CLOSE_CHANNEL && c->up.version >= 5 && n > 0) {
		ch = strm_chan_find(c, (unsigned char)*p);
		if (ch)
			strm_chan_received(ch, NULL, 0, true);
		return;
	}
	ch = strm_chan_find(c, w->channel);
	if (ch && n > 0)
		strm_chan_received(ch, p, n, false);
}

static int decode(struct ws *w, const char *p, size_t n)
{
	uint8_t out[BASE64_DECODE_LENGTH(STREAM_FRAME)];

	while (n > 0) {
		size_t take = n < STREAM_FRAME ? n : STREAM_FRAME, len = 0;
		if (!base64_decode_update(&w->base64, &len, out, take, p))
			return -1;
		deliver(w, (const char *)out, len);
		p += take;
		n -= take;
	}
	return 0;
}

static void on_frame_chunk(
        wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_chunk_arg *f, void *arg)
{
	struct ws *w = ws_of(arg);
	struct strm_conn *c = w->conn;
	const char *p = (const char *)f->data;
	size_t n = f->data_length;
	(void)ctx;

	if (!w->data_frame || c->closed || n == 0)
		return;
	if (c->up.wire == BERTH_WIRE_WS_SPDY) {
		(void)strm_spdy.feed(c, p, n); /* where it fails the connection is closed */
		return;
	}
	if (w->first) {
		w->first = false;
		w->channel = (unsigned char)*p++;
		n--;
		if (c->up.base64 && w->channel >= '0' && w->channel <= '9')
			w->channel -= '0';
		else if (c->up.base64 && w->channel != CLOSE_CHANNEL)
			w->channel = NO_CHANNEL;
	}
	if (!c->up.base64)
		deliver(w, p, n);
	else if (decode(w, p, n) < 0)
		strm_conn_close(c, "a WebSocket message is not in base64");
}

static int ws_feed(struct strm_conn *c, const char *p, size_t n)
{
	struct ws *w = c->ws;

	w->p = p;
	w->left = n;
	while (w->left > 0 && !c->closed && wslay_event_want_read(w->ctx)) {
		int r = wslay_event_recv(w->ctx);
		if (r != 0) {
			strm_conn_close(c, "WebSocket: a frame is broken");
			return -1;
		}
	}
	w->left = 0;
	if (c->closed)
		return -1;
	(void)wslay_event_send(w->ctx); /* pongs; on_send takes all */
	if (wslay_event_get_close_received(w->ctx) && c->state == STRM_OPEN) {
		strm_conn_kick(c); /* the answer to it */
		strm_conn_client_gone(c);
	} else if (!wslay_event_want_read(w->ctx) && c->state == STRM_OPEN) {
		strm_conn_kick(c);
		strm_conn_close(c, "WebSocket: a protocol error");
	}
	return c->closed ? -1 : 0;
}

/* ---- sending ---- */

static int send_message(struct ws *w, int opcode, const void *p, size_t n)
{
	struct wslay_event_msg msg = {.opcode = (uint8_t)opcode, .msg = p, .msg_length = n};
	if (wslay_event_queue_msg(w->ctx, &msg) != 0 || wslay_event_send(w->ctx) != 0) {
		strm_conn_close(w->conn, "WebSocket: a message cannot be sent");
		return -1;
	}
	return 0;
}

static int send_piece(struct ws *w, const struct strm_chan *ch, const char *p, size_t n)
{
	char msg[1 + BASE64_ENCODE_RAW_LENGTH(STREAM_FRAME)];

	if (!w->conn->up.base64) {
		msg[0] = (char)ch->id;
		if (n > 0)
			memcpy(msg + 1, p, n);
		return send_message(w, WSLAY_BINARY_FRAME, msg, n + 1);
	}
	msg[0] = (char)('0' + ch->id);
	base64_encode_raw(msg + 1, n, (const uint8_t *)p);
	return send_message(w, WSLAY_TEXT_FRAME, msg, BASE64_ENCODE_RAW_LENGTH(n) + 1);
}

static bool send_some(struct ws *w, struct strm_chan *ch)
{
	size_t n = strm_queue_len(&ch->out);

	if (ch->out_fin && n == 0)
		ch->out_ended = true; /* nothing tells it to the client */
	if (ch->reset || n == 0)
		return false;
	if (n > STREAM_FRAME)
		n = STREAM_FRAME;
	if (send_piece(w, ch, strm_queue_data(&ch->out), n) < 0)
		return false;
	strm_queue_drop(&ch->out, n);
	if (ch->out_fin && strm_queue_len(&ch->out) == 0)
		ch->out_ended = true;
	return true;
}

static bool wrap_tunnel(struct strm_conn *c)
{
	bool any = false;

	(void)strm_spdy.flush(c);
	while (strm_queue_len(&c->tunnel) > 0 && strm_queue_len(&c->out) < STREAM_CONN_OUT) {
		size_t n = strm_queue_len(&c->tunnel);
		if (n > STREAM_FRAME)
			n = STREAM_FRAME;
		if (send_message(c->ws, WSLAY_BINARY_FRAME, strm_queue_data(&c->tunnel), n) < 0)
			return false;
		strm_queue_drop(&c->tunnel, n);
		any = true;
	}
	return any;
}

static bool ws_flush(struct strm_conn *c)
{
	struct ws *w = c->ws;
	bool any = false, again = true;

	if (w->closing)
		return false;
	if (c->up.wire == BERTH_WIRE_WS_SPDY)
		return wrap_tunnel(c);
	while (again && !c->closed) {
		again = false;
		for (struct strm_chan *ch = c->chans; ch && !c->closed; ch = ch->next) {
			if (strm_queue_len(&c->out) >= STREAM_CONN_OUT) {
				strm_chan_rotate(c, ch);
				return any;
			}
			again = send_some(w, ch) || again;
			any = any || again;
		}
	}
	return any;
}

static void ws_consumed(struct strm_chan *ch, size_t n)
{
	if (ch->conn->spdy)
		strm_spdy.consumed(ch, n);
}

static void ws_reset(struct strm_chan *ch, uint32_t status)
{
	if (ch->conn->spdy)
		strm_spdy.reset(ch, status);
	else
		strm_chan_was_reset(ch);
}

static void ws_finish(struct strm_conn *c)
{
	struct ws *w = c->ws;

	if (c->spdy) {
		strm_spdy.finish(c);
		(void)wrap_tunnel(c);
	}
	if (c->closed)
		return;
	w->closing = true;
	(void)wslay_event_queue_close(w->ctx, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);
	(void)wslay_event_send(w->ctx);
}

static int ws_start(struct strm_conn *c)
{
	static const struct wslay_event_callbacks callbacks = {
	        .recv_callback = on_recv,
	        .send_callback = on_send,
	        .on_frame_recv_start_callback = on_frame_start,
	        .on_frame_recv_chunk_callback = on_frame_chunk,
	};
	struct ws *w = berth_new(struct ws);

	w->conn = c;
	c->ws = w;
	if (wslay_event_context_server_init(&w->ctx, &callbacks, c) != 0)
		return -1;
	wslay_event_config_set_no_buffering(w->ctx, 1);
	if (c->req->kind != BERTH_STREAM_FORWARD) {
		/* Clients wait for an empty message on the lowest channel that they read. */
		const struct strm_chan hello = {.id = c->req->want[STRM_STDOUT]   ? STRM_STDOUT
		                                      : c->req->want[STRM_STDERR] ? STRM_STDERR
		                                                                  : STRM_ERROR};
		if (send_piece(w, &hello, "", 0) < 0)
			return -1;
	}
	return c->up.wire == BERTH_WIRE_WS_SPDY ? strm_spdy.start(c) : 0;
}

static void ws_free(struct strm_conn *c)
{
	if (!c->ws)
		return;
	if (c->ws->ctx)
		wslay_event_context_free(c->ws->ctx);
	free(c->ws);
	c->ws = NULL;
	strm_spdy.free(c);
}

const struct strm_transport strm_ws = {
        .start = ws_start,
        .feed = ws_feed,
        .flush = ws_flush,
        .consumed = ws_consumed,
        .reset = ws_reset,
        .finish = ws_finish,
        .free = ws_free,
};
