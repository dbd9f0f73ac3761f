/* SPDY/3.1 as a transport. Kubernetes' own clients know no flow control: they neither give windows
 * nor keep to ours. So a client's windows bind us from its first WINDOW_UPDATE or SETTINGS window
 * on; before, and for the other direction always, it is TCP that holds the sender back. */
#include "base/log.h"
#include "stream/internal.h"

/* What a client that does flow control may send on all streams together: the streams' own windows
 * bound it. */
#define SESSION_WINDOW (BERTH_SPDY_WINDOW * 256u)
#define WINDOW_MAX 0x7fffffff

struct spdy {
	struct strm_conn *conn;
	struct strm_queue *to; /* the connection's, or the tunnel's */
	struct berth_spdy_in in;
	struct berth_spdy_out out;
	struct berth_buf frames;
	uint32_t last_id;
	bool flow_control;
	int64_t window;
	uint32_t initial_window, unacked;
	bool going;
};

static void emit(struct spdy *s)
{
	strm_queue_add(s->to, s->frames.data, s->frames.len);
	s->frames.len = 0;
}

static void say(struct spdy *s, enum berth_spdy_type type, uint32_t id, uint32_t v)
{
	berth_spdy_put_words(&s->frames, type, id, v);
	emit(s);
}

static int on_syn(
        void *arg, uint32_t id, bool fin, bool one_way, const struct berth_spdy_headers *h)
{
	struct spdy *s = arg;
	struct strm_conn *c = s->conn;

	if (id % 2 == 0 || id <= s->last_id) {
		s->in.why = "a stream's number is wrong";
		return -1;
	}
	s->last_id = id;
	struct strm_chan *ch = s->going || one_way ? NULL : strm_chan_new(c, id, STRM_DATA);
	if (ch)
		ch->send_window = s->initial_window;
	if (!ch || !c->session->opened(ch, h)) {
		if (ch)
			strm_chan_free(ch);
		say(s, BERTH_SPDY_RST_STREAM, id, BERTH_SPDY_REFUSED_STREAM);
		return 0;
	}
	if (berth_spdy_put_headers(&s->out, &s->frames, BERTH_SPDY_SYN_REPLY, id, NULL, 0) < 0) {
		s->in.why = "no memory for zlib";
		return -1;
	}
	emit(s);
	if (fin)
		strm_chan_received(ch, NULL, 0, true);
	c->session->ready(c);
	return c->closed ? -1 : 0;
}

static int on_data(void *arg, uint32_t id, const char *p, size_t n, bool fin)
{
	struct spdy *s = arg;
	struct strm_chan *ch = strm_chan_find(s->conn, id);

	s->unacked += (uint32_t)n;
	if (s->unacked >= SESSION_WINDOW / 2) {
		say(s, BERTH_SPDY_WINDOW_UPDATE, 0, s->unacked);
		s->unacked = 0;
	}
	if (ch)
		strm_chan_received(ch, p, n, fin);
	return s->conn->closed ? -1 : 0;
}

static int on_fin(void *arg, uint32_t id)
{
	return on_data(arg, id, NULL, 0, true);
}

static int on_rst(void *arg, uint32_t id, uint32_t status)
{
	struct spdy *s = arg;
	struct strm_chan *ch = strm_chan_find(s->conn, id);
	(void)status;

	if (ch)
		strm_chan_was_reset(ch);
	return s->conn->closed ? -1 : 0;
}

static int on_setting(void *arg, uint32_t id, uint32_t value)
{
	struct spdy *s = arg;

	if (id != BERTH_SPDY_SETTING_WINDOW)
		return 0;
	if (value > WINDOW_MAX) {
		s->in.why = "a window is too large";
		return -1;
	}
	for (struct strm_chan *ch = s->conn->chans; ch; ch = ch->next)
		ch->send_window += (int64_t)value - s->initial_window;
	s->initial_window = value;
	s->flow_control = true;
	return 0;
}

static int on_ping(void *arg, uint32_t id)
{
	struct spdy *s = arg;

	if (id % 2 == 1) { /* the others answer pings that we never sent */
		berth_spdy_put_ping(&s->frames, id);
		emit(s);
	}
	return 0;
}

static int on_goaway(void *arg)
{
	struct spdy *s = arg;
	s->going = true; /* it opens no more streams; those that are there go on */
	return 0;
}

static int on_window(void *arg, uint32_t id, uint32_t delta)
{
	struct spdy *s = arg;
	struct strm_chan *ch = id ? strm_chan_find(s->conn, id) : NULL;
	int64_t *w = id == 0 ? &s->window : ch ? &ch->send_window : NULL;

	s->flow_control = true;
	if (!w)
		return 0; /* of a stream that has ended */
	if (delta == 0 || *w + delta > WINDOW_MAX) {
		s->in.why = "a window is out of range";
		return -1;
	}
	*w += delta;
	return 0;
}

static const struct berth_spdy_events events = {
        .syn_stream = on_syn,
        .data = on_data,
        .fin = on_fin,
        .rst = on_rst,
        .setting = on_setting,
        .ping = on_ping,
        .goaway = on_goaway,
        .window = on_window,
};

static int spdy_start(struct strm_conn *c)
{
	struct spdy *s = berth_new(struct spdy);

	s->conn = c;
	s->to = c->up.wire == BERTH_WIRE_SPDY ? &c->out : &c->tunnel;
	s->window = s->initial_window = BERTH_SPDY_WINDOW;
	berth_spdy_in_init(&s->in, &events, s);
	c->spdy = s;
	say(s, BERTH_SPDY_WINDOW_UPDATE, 0, SESSION_WINDOW - BERTH_SPDY_WINDOW);
	return 0;
}

static int spdy_feed(struct strm_conn *c, const char *p, size_t n)
{
	struct spdy *s = c->spdy;

	if (berth_spdy_in_feed(&s->in, p, n) == 0)
		return 0;
	strm_conn_close(c, s->in.why);
	return -1;
}

/* One frame of a channel. */
static bool send_frame(struct spdy *s, struct strm_chan *ch)
{
	size_t n = strm_queue_len(&ch->out);
	bool held = false;

	if (ch->reset || ch->out_ended)
		return false;
	if (n > STREAM_FRAME)
		n = STREAM_FRAME;
	if (s->flow_control && n > 0) {
		int64_t w = ch->send_window < s->window ? ch->send_window : s->window;
		held = w <= 0;
		if (w < (int64_t)n)
			n = w > 0 ? (size_t)w : 0;
	}
	bool fin = ch->out_fin && n == strm_queue_len(&ch->out);
	if (held || (n == 0 && !fin))
		return false;
	berth_spdy_put_data_head(&s->frames, ch->id, n, fin);
	berth_buf_add(&s->frames, strm_queue_data(&ch->out), n);
	emit(s);
	strm_queue_drop(&ch->out, n);
	ch->send_window -= (int64_t)n;
	s->window -= (int64_t)n;
	ch->out_ended = fin;
	return true;
}

static bool spdy_flush(struct strm_conn *c)
{
	struct spdy *s = c->spdy;
	bool any = false, again = true;

	while (again) {
		again = false;
		for (struct strm_chan *ch = c->chans; ch; ch = ch->next) {
			if (strm_queue_len(s->to) >= STREAM_CONN_OUT) {
				strm_chan_rotate(c, ch);
				return any;
			}
			again = send_frame(s, ch) || again;
			any = any || again;
		}
	}
	return any;
}

static void spdy_consumed(struct strm_chan *ch, size_t n)
{
	struct spdy *s = ch->conn->spdy;

	ch->unacked += (uint32_t)n;
	if (ch->unacked < BERTH_SPDY_WINDOW / 2 || ch->in_fin)
		return;
	say(s, BERTH_SPDY_WINDOW_UPDATE, ch->id, ch->unacked);
	ch->unacked = 0;
}

static void spdy_reset(struct strm_chan *ch, uint32_t status)
{
	if (ch->reset)
		return;
	say(ch->conn->spdy, BERTH_SPDY_RST_STREAM, ch->id, status);
	strm_chan_was_reset(ch);
}

static void spdy_finish(struct strm_conn *c)
{
	struct spdy *s = c->spdy;
	say(s, BERTH_SPDY_GOAWAY, s->last_id, 0);
}

static void spdy_free(struct strm_conn *c)
{
	struct spdy *s = c->spdy;

	if (!s)
		return;
	berth_spdy_in_finish(&s->in);
	berth_spdy_out_finish(&s->out);
	berth_buf_finish(&s->frames);
	free(s);
	c->spdy = NULL;
}

const struct strm_transport strm_spdy = {
        .start = spdy_start,
        .feed = spdy_feed,
        .flush = spdy_flush,
        .consumed = spdy_consumed,
        .reset = spdy_reset,
        .finish = spdy_finish,
        .free = spdy_free,
};
