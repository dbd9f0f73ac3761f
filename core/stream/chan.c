/* Channels and their buffers. */
#include <string.h>
#include <utlist.h>

#include "stream/internal.h"

void strm_queue_add(struct strm_queue *q, const void *p, size_t n)
{
	if (n == 0)
		return;
	if (q->off > 0 && q->off >= q->b.len / 2) {
		memmove(q->b.data, q->b.data + q->off, q->b.len - q->off);
		q->b.len -= q->off;
		q->off = 0;
	}
	berth_buf_add(&q->b, p, n);
}

void strm_queue_drop(struct strm_queue *q, size_t n)
{
	q->off += n;
	if (q->off == q->b.len)
		strm_queue_finish(q);
}

void strm_queue_finish(struct strm_queue *q)
{
	berth_buf_finish(&q->b);
	q->off = 0;
}

struct strm_chan *strm_chan_new(struct strm_conn *c, uint32_t id, enum strm_kind kind)
{
	if (c->n_chans >= STREAM_CHANNELS)
		return NULL;
	struct strm_chan *ch = berth_new(struct strm_chan);
	ch->conn = c;
	ch->id = id;
	ch->kind = kind;
	ch->send_window = BERTH_SPDY_WINDOW;
	DL_APPEND(c->chans, ch);
	c->n_chans++;
	return ch;
}

static void set_full(struct strm_chan *ch)
{
	bool full = !ch->reset && strm_queue_len(&ch->in) > STREAM_CHAN_IN;
	if (full == ch->full)
		return;
	ch->full = full;
	if (full)
		ch->conn->n_full++;
	else
		ch->conn->n_full--;
}

void strm_chan_free(struct strm_chan *ch)
{
	struct strm_conn *c = ch->conn;
	strm_queue_finish(&ch->in);
	set_full(ch);
	strm_queue_finish(&ch->out);
	DL_DELETE(c->chans, ch);
	c->n_chans--;
	free(ch);
}

struct strm_chan *strm_chan_find(struct strm_conn *c, uint32_t id)
{
	for (struct strm_chan *ch = c->chans; ch; ch = ch->next)
		if (ch->id == id)
			return ch;
	return NULL;
}

void strm_chan_rotate(struct strm_conn *c, struct strm_chan *ch)
{
	if (ch == c->chans)
		return;
	c->chans->prev->next = c->chans;
	ch->prev->next = NULL;
	c->chans = ch;
}

size_t strm_chan_room(const struct strm_chan *ch)
{
	size_t n = strm_queue_len(&ch->out);
	return n < STREAM_CHAN_OUT ? STREAM_CHAN_OUT - n : 0;
}

void strm_chan_write(struct strm_chan *ch, const void *p, size_t n)
{
	if (ch->reset || ch->out_fin || ch->conn->closed)
		return;
	strm_queue_add(&ch->out, p, n);
	strm_conn_kick(ch->conn);
}

void strm_chan_end(struct strm_chan *ch)
{
	if (ch->reset || ch->out_fin)
		return;
	ch->out_fin = true;
	strm_conn_kick(ch->conn);
}

void strm_chan_consumed(struct strm_chan *ch, size_t n)
{
	strm_queue_drop(&ch->in, n);
	set_full(ch);
	if (!ch->conn->closed && ch->conn->transport)
		ch->conn->transport->consumed(ch, n);
	strm_conn_kick(ch->conn);
}

void strm_chan_received(struct strm_chan *ch, const char *p, size_t n, bool fin)
{
	if (ch->in_fin || ch->reset)
		return;
	strm_queue_add(&ch->in, p, n);
	ch->in_fin = fin;
	set_full(ch);
	if (ch->on_in) {
		if (n > 0 || fin)
			ch->on_in(ch);
	} else if (n > 0) {
		strm_chan_consumed(ch, strm_queue_len(&ch->in));
	}
}

void strm_chan_was_reset(struct strm_chan *ch)
{
	if (ch->reset)
		return;
	ch->reset = ch->in_fin = true;
	strm_queue_finish(&ch->in);
	strm_queue_finish(&ch->out);
	set_full(ch);
	if (ch->on_in)
		ch->on_in(ch);
	if (ch->want_room && ch->on_room) {
		ch->want_room = false;
		ch->on_room(ch);
	}
}
