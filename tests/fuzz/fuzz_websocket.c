/* What a WebSocket's client sends after the upgrade: plain channels, base64, and SPDY in a tunnel.
 * The first byte chooses between them, the second how the bytes come apart. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "stream/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 1 << 20 }; /* no input of these sizes makes so much of answers */

static size_t delivered;

/* ---- a connection of which the transport sees nothing but this ---- */

void strm_conn_close(struct strm_conn *c, const char *why)
{
	(void)why;
	c->closed = true;
}

void strm_conn_client_gone(struct strm_conn *c)
{
	c->eof = true;
}

void strm_conn_kick(struct strm_conn *c)
{
	if (c->closed || c->kicking)
		return;
	c->kicking = true;
	while (c->transport->flush(c) && !c->closed) {
		if (strm_queue_len(&c->out) > OUT_MAX)
			abort();
		strm_queue_drop(&c->out, strm_queue_len(&c->out));
	}
	strm_queue_drop(&c->out, strm_queue_len(&c->out));
	c->kicking = false;
}

/* Takes half of what there is, and echoes it. */
static void on_in(struct strm_chan *ch)
{
	size_t n = strm_queue_len(&ch->in), take = ch->in_fin ? n : n - n / 2;
	size_t room = strm_chan_room(ch);

	delivered += take;
	if (take > 0)
		strm_chan_write(ch, strm_queue_data(&ch->in), take < room ? take : room);
	if (take > 0)
		strm_chan_consumed(ch, take);
	if (ch->in_fin)
		strm_chan_end(ch);
}

static bool opened(struct strm_chan *ch, const struct berth_spdy_headers *h)
{
	size_t n;
	const char *type = berth_spdy_header(h, "streamtype", &n);

	ch->on_in = on_in;
	return type && n > 0;
}

static void ready(struct strm_conn *c)
{
	(void)c;
}

static const struct strm_session_ops session = {.opened = opened, .ready = ready};

static void feed(struct strm_conn *c, const uint8_t *data, size_t size, size_t piece)
{
	for (size_t i = 0; i < size && !c->closed && !c->eof; i += piece) {
		size_t n = size - i < piece ? size - i : piece;
		char *p = berth_memdup(data + i, n); /* of its own: reads past it are seen */
		int r = c->transport->feed(c, p, n);
		free(p);
		if (r < 0 && !c->closed)
			abort();
		if (!c->closed)
			strm_conn_kick(c);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int versions[] = {0, 4, 5, 5};
	struct strm_request req = {
	        .kind = BERTH_STREAM_EXEC, .want = {true, true, true, true, true}};
	struct strm_conn c = {.fd = -1, .req = &req, .transport = &strm_ws, .session = &session};

	if (size < 2)
		return 0;
	bool tunnel = (data[0] & 8) != 0;
	c.state = STRM_OPEN;
	c.up.version = versions[data[0] & 3];
	c.up.base64 = !tunnel && (data[0] & 4);
	c.up.wire = tunnel ? BERTH_WIRE_WS_SPDY : BERTH_WIRE_WS;
	req.kind = tunnel ? BERTH_STREAM_FORWARD : BERTH_STREAM_EXEC;
	delivered = 0;
	if (c.transport->start(&c) < 0)
		abort();
	for (uint32_t i = 0; i < STRM_TERM_KINDS && !tunnel; i++)
		strm_chan_new(&c, i, (enum strm_kind)i)->on_in = on_in;
	feed(&c, data + 2, size - 2, data[1] ? data[1] : size);
	if (delivered > size || c.n_chans > STREAM_CHANNELS)
		abort();
	if (!c.closed && !c.eof)
		c.transport->finish(&c);
	while (c.chans)
		strm_chan_free(c.chans);
	if (c.n_chans || c.n_full)
		abort();
	c.transport->free(&c);
	strm_queue_finish(&c.out);
	strm_queue_finish(&c.tunnel);
	return 0;
}
