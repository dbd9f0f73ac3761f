/* A WebSocket client of the streaming server. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ctl/wire.h"

#define CLOSE_CHANNEL 255 /* since version 5: [255, N] ends channel N */
#define NO_CHANNEL 256u

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *arg)
{
	struct ctl_ws *ws = arg;
	(void)flags;

	if (ws->left == 0) {
		wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	if (len > ws->left)
		len = ws->left;
	memcpy(buf, ws->p, len);
	ws->p += len;
	ws->left -= len;
	return (ssize_t)len;
}

static ssize_t on_send(
        wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags, void *arg)
{
	struct ctl_ws *ws = arg;
	(void)ctx;
	(void)flags;
	berth_buf_add(&ws->wire->out, data, len);
	return (ssize_t)len;
}

static int on_genmask(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, void *arg)
{
	(void)ctx;
	(void)arg;
	return getrandom(buf, len, 0) == (ssize_t)len ? 0 : -1;
}

static void on_frame_start(
        wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_start_arg *f, void *arg)
{
	struct ctl_ws *ws = arg;
	(void)ctx;

	ws->data_frame = !wslay_is_ctrl_frame(f->opcode);
	if (ws->data_frame && f->opcode != WSLAY_CONTINUATION_FRAME) {
		ws->first = true;
		ws->channel = NO_CHANNEL;
	}
}

static void on_frame_chunk(
        wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_chunk_arg *f, void *arg)
{
	struct ctl_ws *ws = arg;
	const char *p = (const char *)f->data;
	size_t n = f->data_length;
	(void)ctx;

	if (!ws->data_frame || n == 0)
		return;
	if (ws->first) {
		ws->first = false;
		ws->channel = (unsigned char)*p++;
		n--;
	}
	if (n > 0)
		ws->got(ws->arg, ws->channel, p, n);
}

int ctl_ws_open(struct ctl *c, struct ctl_ws *ws, struct ctl_wire *w, const char *url,
        struct berth_error **err)
{
	static const char *const protocols[] = {"v5.channel.k8s.io", "v4.channel.k8s.io", NULL};
	static const struct wslay_event_callbacks callbacks = {
	        .recv_callback = on_recv,
	        .send_callback = on_send,
	        .genmask_callback = on_genmask,
	        .on_frame_recv_start_callback = on_frame_start,
	        .on_frame_recv_chunk_callback = on_frame_chunk,
	};

	if (ctl_wire_open(c, w, url, "websocket", protocols, err) < 0)
		return -1;
	ws->wire = w;
	ws->version = !w->protocol                             ? 0
	              : strcmp(w->protocol, protocols[0]) == 0 ? 5
	              : strcmp(w->protocol, protocols[1]) == 0 ? 4
	                                                       : 0;
	if (ws->version == 0)
		return berth_error_set(err, BERTH_FAILED_PRECONDITION,
		        "the streaming server at %s knows neither %s nor %s", w->host, protocols[0],
		        protocols[1]);
	if (wslay_event_context_client_init(&ws->ctx, &callbacks, ws) != 0)
		return berth_error_set(err, BERTH_INTERNAL, "no memory for a WebSocket");
	wslay_event_config_set_no_buffering(ws->ctx, 1);
	return ctl_ws_feed(ws, w->in.data, w->in.len, err);
}

int ctl_ws_feed(struct ctl_ws *ws, const char *p, size_t n, struct berth_error **err)
{
	ws->p = p;
	ws->left = n;
	while (ws->left > 0 && wslay_event_want_read(ws->ctx))
		if (wslay_event_recv(ws->ctx) != 0)
			break;
	bool broken = ws->left > 0 && !wslay_event_get_close_received(ws->ctx);
	ws->left = 0;
	(void)wslay_event_send(ws->ctx); /* pongs, and the answer to a goodbye */
	if (broken || (!wslay_event_want_read(ws->ctx) && !wslay_event_get_close_received(ws->ctx)))
		return berth_error_set(err, BERTH_INTERNAL,
		        "the stream from %s: it breaks the rules of WebSocket", ws->wire->host);
	ws->ended = wslay_event_get_close_received(ws->ctx);
	return 0;
}

/* Writing into the queue cannot fail. */
static void send_message(struct ctl_ws *ws, const char *p, size_t n)
{
	struct wslay_event_msg msg = {
	        .opcode = WSLAY_BINARY_FRAME, .msg = (const uint8_t *)p, .msg_length = n};
	if (wslay_event_queue_msg(ws->ctx, &msg) == 0)
		(void)wslay_event_send(ws->ctx);
}

void ctl_ws_send(struct ctl_ws *ws, unsigned int channel, const void *p, size_t n)
{
	char msg[1 + CTL_WIRE_READ];
	const char *from = p;

	while (n > 0) {
		size_t take = n < CTL_WIRE_READ ? n : CTL_WIRE_READ;
		msg[0] = (char)channel;
		memcpy(msg + 1, from, take);
		send_message(ws, msg, take + 1);
		from += take;
		n -= take;
	}
}

bool ctl_ws_end(struct ctl_ws *ws, unsigned int channel)
{
	const char msg[2] = {(char)CLOSE_CHANNEL, (char)channel};

	if (ws->version < 5)
		return false;
	send_message(ws, msg, sizeof(msg));
	return true;
}

void ctl_ws_bye(struct ctl_ws *ws)
{
	if (!ws->ctx)
		return;
	(void)wslay_event_queue_close(ws->ctx, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);
	(void)wslay_event_send(ws->ctx);
}

void ctl_ws_free(struct ctl_ws *ws)
{
	if (ws->ctx)
		wslay_event_context_free(ws->ctx);
	ws->ctx = NULL;
}
