/* Pumps: between an fd and a channel, with the channel's buffer as the only one. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "monitor/protocol.h"
#include "stream/internal.h"

/* The monitor's packets are this large at most; pipes like it, too. */
#define WRITE_MAX BERTH_MON_ATTACH_IN

static void want(struct strm_pump *p, int events)
{
	if (p->fd >= 0 && p->events != events)
		berth_fdwatch_change(p->watch, events);
	p->events = events;
}

void strm_pump_stop(struct strm_pump *p)
{
	struct strm_chan *chans[] = {p->chan, p->chan2};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(chans); i++) {
		struct strm_chan *ch = chans[i];
		if (ch && ch->in_owner == p) {
			ch->on_in = NULL;
			ch->in_owner = NULL;
		}
		if (ch && ch->room_owner == p) {
			ch->on_room = NULL;
			ch->room_owner = NULL;
		}
	}
	p->chan = p->chan2 = NULL;
	p->watch = berth_fdwatch_free(p->watch);
	p->fd = berth_close(p->fd);
}

static void end(struct strm_pump *p)
{
	p->watch = berth_fdwatch_free(p->watch);
	p->fd = berth_close(p->fd);
	p->ended(p, p->arg);
}

/* ---- from an fd ---- */

static size_t room(const struct strm_pump *p)
{
	size_t n = STREAM_READ;
	if (p->chan && strm_chan_room(p->chan) < n)
		n = strm_chan_room(p->chan);
	if (p->chan2 && strm_chan_room(p->chan2) < n)
		n = strm_chan_room(p->chan2);
	return p->packets && n < BERTH_MON_ATTACH_OUT ? 0 : n;
}

bool strm_pump_is_held(const struct strm_pump *p)
{
	/* Between full and half empty there is room, but nobody looks at the fd yet. */
	return p->fd >= 0 && (p->events == 0 || room(p) == 0);
}

static void put(struct strm_chan *ch, const char *data, size_t n)
{
	if (ch)
		strm_chan_write(ch, data, n);
}

static void room_again(struct strm_chan *ch)
{
	struct strm_pump *p = ch->room_owner;
	if (p->fd >= 0)
		want(p, room(p) > 0 ? UV_READABLE : 0);
}

static void on_source(int fd, int events, void *arg)
{
	struct strm_pump *p = arg;
	static char chunk[STREAM_READ + 1]; /* the loop's alone */
	size_t max = room(p);
	(void)events;

	if (max == 0) {
		if (p->chan)
			p->chan->want_room = true;
		if (p->chan2)
			p->chan2->want_room = true;
		want(p, 0);
		return;
	}
	ssize_t n = read(fd, chunk, p->packets ? sizeof(chunk) : max);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		return;
	}
	if (n <= 0) {
		p->failed = n < 0 && errno != EIO; /* EIO: the other side of a terminal has gone */
		end(p);
		return;
	}
	p->moved = true;
	if (!p->packets)
		put(p->chan, chunk, (size_t)n);
	else
		put(chunk[0] == BERTH_MON_STDERR ? p->chan2 : p->chan, chunk + 1, (size_t)n - 1);
}

void strm_pump_from_fd(struct strm_pump *p, struct berth_loop *l, int fd, struct strm_chan *chan,
        void (*ended)(struct strm_pump *p, void *arg), void *arg)
{
	p->loop = l;
	p->fd = fd;
	p->chan = chan;
	p->ended = ended;
	p->arg = arg;
	struct strm_chan *chans[] = {p->chan, p->chan2};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(chans); i++) {
		if (!chans[i])
			continue;
		chans[i]->room_owner = p;
		chans[i]->on_room = room_again;
	}
	(void)!berth_set_nonblock(fd, true);
	p->events = UV_READABLE;
	p->watch = berth_fdwatch_start(l, fd, UV_READABLE, on_source, p);
}

/* ---- to an fd ---- */

static void drain_into(struct strm_pump *p)
{
	struct strm_chan *ch = p->chan;

	while (ch && p->fd >= 0 && strm_queue_len(&ch->in) > 0) {
		size_t n = strm_queue_len(&ch->in);
		ssize_t w = write(p->fd, strm_queue_data(&ch->in), n < WRITE_MAX ? n : WRITE_MAX);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0 && errno == EAGAIN) {
			want(p, UV_WRITABLE);
			return;
		}
		if (w < 0) { /* nobody reads it any more: what still comes is thrown away */
			p->failed = true;
			ch->on_in = NULL;
			ch->in_owner = NULL;
			strm_chan_consumed(ch, n);
			end(p);
			return;
		}
		p->moved = true;
		strm_chan_consumed(ch, (size_t)w);
	}
	if (p->fd < 0)
		return;
	want(p, 0);
	if (ch && ch->in_fin) {
		ch->on_in = NULL;
		ch->in_owner = NULL;
		end(p);
	}
}

static void on_input(struct strm_chan *ch)
{
	drain_into(ch->in_owner);
}

static void on_sink(int fd, int events, void *arg)
{
	(void)fd;
	(void)events;
	drain_into(arg);
}

void strm_pump_to_fd(struct strm_pump *p, struct berth_loop *l, int fd, struct strm_chan *chan,
        void (*ended)(struct strm_pump *p, void *arg), void *arg)
{
	p->loop = l;
	p->fd = fd;
	p->chan = chan;
	p->ended = ended;
	p->arg = arg;
	chan->in_owner = p;
	chan->on_in = on_input;
	(void)!berth_set_nonblock(fd, true);
	p->events = 0;
	p->watch = berth_fdwatch_start(l, fd, 0, on_sink, p);
	drain_into(p);
}
