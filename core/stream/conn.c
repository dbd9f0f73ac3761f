/* A connection: the request's head, then bytes between the socket and the transport. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/log.h"
#include "stream/internal.h"

static void set_timer(struct strm_conn *c, uint64_t ms, berth_fn fn);

static void drop_tls(struct strm_conn *c)
{
	if (c->tls)
		c->tls_api->free(c->tls);
	c->tls = NULL;
}

static void free_later(void *arg)
{
	strm_conn_free(arg);
}

void strm_conn_free(struct strm_conn *c)
{
	c->closed = true;
	if (c->session)
		c->session->gone(c);
	while (c->chans)
		strm_chan_free(c->chans);
	if (c->transport)
		c->transport->free(c);
	berth_timer_free(c->timer);
	berth_fdwatch_free(c->watch);
	drop_tls(c);
	berth_close(c->fd);
	berth_buf_finish(&c->head);
	berth_buf_finish(&c->up.answer);
	strm_queue_finish(&c->out);
	strm_queue_finish(&c->tunnel);
	strm_request_free(c->req);
	DL_DELETE(c->server->conns, c);
	c->server->n_conns--;
	free(c);
}

void strm_conn_close(struct strm_conn *c, const char *why)
{
	if (c->closed)
		return;
	c->closed = true;
	if (why)
		berth_log_debug("stream closed", "cause", why);
	c->watch = berth_fdwatch_free(c->watch);
	drop_tls(c);
	c->fd = berth_close(c->fd);
	c->timer = berth_timer_free(c->timer);
	berth_loop_post(c->d->loop, free_later, c);
}

/* ---- timers ---- */

static void too_late(void *arg)
{
	strm_conn_close(arg, "no request in time");
}

static void lingered(void *arg)
{
	strm_conn_close(arg, "the client did not close in time");
}

static void idle(void *arg)
{
	struct strm_conn *c = arg;
	uint64_t ms = (berth_now_ns() - c->active_ns) / 1000000u;

	if (ms >= STREAM_IDLE_MS)
		strm_conn_close(c, "idle for too long");
	else
		set_timer(c, STREAM_IDLE_MS - ms, idle);
}

static void set_timer(struct strm_conn *c, uint64_t ms, berth_fn fn)
{
	berth_timer_free(c->timer);
	c->timer = berth_timer_start(c->d->loop, ms, fn, c);
}

/* ---- writing ---- */

static void update_events(struct strm_conn *c)
{
	if (c->closed)
		return;
	size_t waits = strm_queue_len(&c->out);
	bool read_on = !c->eof &&
	               (c->state == STRM_LINGER || (c->n_full == 0 && waits <= STREAM_CONN_OUT));
	int events = (read_on ? UV_READABLE : 0) |
	             (waits > 0 || (read_on && c->read_wants_write) ? UV_WRITABLE : 0);
	/* A client that has gone while nothing is read from it. */
	if (!c->eof && !c->hung_up)
		events |= UV_DISCONNECT;
	if (events != c->events)
		berth_fdwatch_change(c->watch, events);
	c->events = events;
}

/* n > 0 bytes, 0 where the socket takes none now, -1 where it takes no more and the connection is
 * closed. */
static ssize_t socket_write(struct strm_conn *c, const char *p, size_t len)
{
	ssize_t n;

	if (c->tls) {
		n = c->tls_api->write(c->tls, p, len);
		if (n == BERTH_TLS_FAILED)
			strm_conn_close(c, c->tls_api->why(c->tls));
		return n > 0 ? n : n == BERTH_TLS_FAILED ? -1 : 0;
	}
	do
		n = send(c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0)
		strm_conn_close(c, strerror(errno));
	return n;
}

/* False where the connection is gone. */
static bool send_out(struct strm_conn *c)
{
	while (strm_queue_len(&c->out) > 0) {
		ssize_t n = socket_write(c, strm_queue_data(&c->out), strm_queue_len(&c->out));
		if (n <= 0)
			return n == 0;
		c->active_ns = berth_now_ns();
		strm_queue_drop(&c->out, (size_t)n);
	}
	return true;
}

static bool all_sent(const struct strm_conn *c)
{
	for (const struct strm_chan *ch = c->chans; ch; ch = ch->next)
		if (!ch->reset && (strm_queue_len(&ch->out) > 0 || (ch->out_fin && !ch->out_ended)))
			return false;
	return true;
}

static void say_room(struct strm_conn *c)
{
	for (struct strm_chan *ch = c->chans, *next; ch && !c->closed; ch = next) {
		next = ch->next;
		if (ch->want_room && strm_chan_room(ch) >= STREAM_CHAN_OUT / 2 && ch->on_room) {
			ch->want_room = false;
			ch->on_room(ch); /* only arms a watch */
		}
	}
}

static void end_output(struct strm_conn *c)
{
	if (c->tls)
		c->tls_api->end(c->tls);
	(void)shutdown(c->fd, SHUT_WR); /* an error is found by reading */
}

void strm_conn_kick(struct strm_conn *c)
{
	if (c->closed || c->kicking)
		return;
	c->kicking = true;
	for (bool more = true; more;) {
		/* What was full may be empty after this round: then there is room for more frames.
		 */
		more = strm_queue_len(&c->out) > 0;
		more = (c->transport && c->transport->flush(c)) || more;
		if (c->state == STRM_LINGER && !c->shut && c->transport && all_sent(c)) {
			c->shut = true;
			c->transport->finish(c);
		}
		if (!send_out(c) || strm_queue_len(&c->out) > 0)
			break;
	}
	c->kicking = false;
	if (c->closed)
		return;
	say_room(c);
	if (c->session && c->session->sweep)
		c->session->sweep(c);
	/* Without a transport it was an HTTP answer. */
	if (c->state == STRM_LINGER && strm_queue_len(&c->out) == 0 &&
	        (!c->transport || (c->shut && c->up.wire != BERTH_WIRE_SPDY)))
		end_output(c);
	update_events(c);
}

void strm_conn_finish(struct strm_conn *c)
{
	if (c->closed || c->state == STRM_LINGER)
		return;
	c->state = STRM_LINGER;
	set_timer(c, STREAM_LINGER_MS, lingered);
	for (struct strm_chan *ch = c->chans; ch; ch = ch->next) {
		ch->on_in = ch->on_room = NULL; /* what comes now is thrown away */
		strm_chan_consumed(ch, strm_queue_len(&ch->in));
	}
	strm_conn_kick(c);
}

/* ---- the head ---- */

static void refuse(struct strm_conn *c, int status, const char *reason, const char *extra)
{
	static const struct {
		int status;
		const char *text;
	} texts[] = {{400, "Bad Request"}, {403, "Forbidden"}, {404, "Not Found"},
	        {405, "Method Not Allowed"}, {426, "Upgrade Required"},
	        {431, "Request Header Fields Too Large"}};
	const char *text = "Error";
	struct berth_buf b = {0};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(texts); i++)
		if (texts[i].status == status)
			text = texts[i].text;
	berth_buf_addf(&b,
	        "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/plain; "
	        "charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: "
	        "%zu\r\n%s\r\n%s\n",
	        status, text, strlen(reason) + 1, extra ? extra : "", reason);
	berth_log_debug("stream refused", "cause", reason);
	strm_queue_add(&c->out, b.data, b.len);
	berth_buf_finish(&b);
	strm_conn_finish(c);
}

static void open_up(struct strm_conn *c)
{
	static const struct strm_session_ops *const sessions[] = {
	        &strm_term, &strm_term, &strm_forward};

	c->state = STRM_OPEN;
	strm_queue_add(&c->out, c->up.answer.data, c->up.answer.len);
	berth_buf_finish(&c->up.answer);
	set_timer(c, STREAM_IDLE_MS, idle);
	c->transport = c->up.wire == BERTH_WIRE_SPDY ? &strm_spdy : &strm_ws;
	if (c->transport->start(c) < 0) {
		strm_conn_close(c, "no memory");
		return;
	}
	const struct strm_session_ops *s = sessions[c->req->kind];
	c->session = s;
	if (s->start(c) < 0)
		strm_conn_close(c, "the session cannot start");
	strm_conn_kick(c);
}

static void handle_head(struct strm_conn *c, const struct berth_http_head *h)
{
	struct berth_http_text token;
	enum berth_stream_kind kind;
	struct berth_buf extra = {0};
	const char *why = NULL;

	if (berth_stream_path(&h->target, &kind, &token) < 0) {
		refuse(c, 404, "there is nothing here", NULL);
		return;
	}
	int status = berth_upgrade(h, kind, &c->up, &extra, &why);
	if (status != 0) {
		refuse(c, status, why, extra.data); /* the token stays good */
		berth_buf_finish(&extra);
		return;
	}
	c->req = berth_tokens_take(c->server->tokens, token.p, token.n);
	if (!c->req || c->req->kind != kind)
		refuse(c, 404, "the token is not known: it is good once, for a minute", NULL);
	else if (kind == BERTH_STREAM_FORWARD && c->up.wire == BERTH_WIRE_WS && !c->req->n_ports)
		refuse(c, 400, "over a plain WebSocket, PortForward must name its ports", NULL);
	else
		open_up(c);
}

static void feed_head(struct strm_conn *c, const char *p, size_t n)
{
	struct berth_http_head h;
	size_t before = c->head.len,
	       take = STREAM_HEAD_MAX - before < n ? STREAM_HEAD_MAX - before : n;

	berth_buf_add(&c->head, p, take);
	int len = berth_http_parse(c->head.data, c->head.len, &h);
	if (len < 0) {
		refuse(c, 400, "this is no HTTP/1.1 request", NULL);
	} else if (len == 0 && c->head.len == STREAM_HEAD_MAX) {
		refuse(c, 431, "the request's head is too large", NULL);
	} else if (len > 0) {
		handle_head(c, &h);
		if (c->state == STRM_OPEN && !c->closed) {
			size_t used = (size_t)len - before; /* of p */
			berth_buf_finish(&c->head);
			if (used < n && c->transport->feed(c, p + used, n - used) < 0)
				return;
		}
	}
}

/* ---- reading ---- */

void strm_conn_client_gone(struct strm_conn *c)
{
	if (c->eof || c->closed)
		return;
	c->eof = true;
	if (c->state != STRM_OPEN) {
		strm_conn_close(c, NULL);
		return;
	}
	/* What it sent last may still be under way to a port or to a container's stdin; a command
	 * of its own ends with it. */
	bool waits = false;
	for (struct strm_chan *ch = c->chans; ch; ch = ch->next)
		waits = waits || (!ch->reset && strm_queue_len(&ch->in) > 0);
	if (!waits || c->req->kind == BERTH_STREAM_EXEC) {
		strm_conn_close(c, "the client has gone");
		return;
	}
	for (struct strm_chan *ch = c->chans; ch && !c->closed; ch = ch->next)
		strm_chan_received(ch, NULL, 0, true);
	if (!c->closed) {
		set_timer(c, STREAM_LINGER_MS, lingered);
		update_events(c);
	}
}

/* n > 0 bytes; 0 where there are none now, or no more, which the connection knows by now. */
static size_t socket_read(struct strm_conn *c, char *chunk, size_t size)
{
	ssize_t n;

	if (!c->tls) {
		n = recv(c->fd, chunk, size, MSG_DONTWAIT);
		if (n == 0)
			strm_conn_client_gone(c);
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			strm_conn_close(c, strerror(errno));
		return n > 0 ? (size_t)n : 0;
	}
	n = c->tls_api->read(c->tls, chunk, size);
	c->read_wants_write = n == BERTH_TLS_WANT_WRITE;
	if (n == BERTH_TLS_END) {
		strm_conn_client_gone(c);
	} else if (n == BERTH_TLS_PLAIN) {
		drop_tls(c);
		refuse(c, 400, "this server speaks HTTPS, and the request came as HTTP", NULL);
	} else if (n == BERTH_TLS_FAILED && c->state == STRM_HEAD) {
		/* The client is told why by an alert, which closing at once might destroy. */
		berth_log_debug("stream refused", "cause", c->tls_api->why(c->tls));
		drop_tls(c);
		strm_conn_finish(c);
	} else if (n == BERTH_TLS_FAILED) {
		strm_conn_close(c, c->tls_api->why(c->tls));
	}
	return n > 0 ? (size_t)n : 0;
}

static void on_socket(int fd, int events, void *arg)
{
	struct strm_conn *c = arg;
	static char chunk[STREAM_READ]; /* the loop's alone; a whole record of TLS at least */
	int readable = UV_READABLE | (c->read_wants_write ? UV_WRITABLE : 0);
	(void)fd;

	if ((events & readable) && (c->events & UV_READABLE)) {
		size_t n = socket_read(c, chunk, sizeof(chunk));
		if (n > 0) {
			c->active_ns = berth_now_ns();
			if (c->state == STRM_HEAD)
				feed_head(c, chunk, n);
			else if (c->state == STRM_OPEN || (c->transport && !c->shut))
				(void)c->transport->feed(c, chunk, n);
			/* else: thrown away, so that closing does not destroy what was sent */
		}
	} else if (events & UV_DISCONNECT) {
		/* What it has sent still lies in the socket and cannot be taken now. */
		if (c->state == STRM_OPEN && c->req->kind != BERTH_STREAM_EXEC) {
			c->hung_up = true;
			set_timer(c, STREAM_LINGER_MS, lingered);
		} else {
			strm_conn_close(c, "the client has gone");
		}
	}
	if (!c->closed)
		strm_conn_kick(c);
}

void strm_conn_accept(struct berth_streams *s, int fd)
{
	struct strm_conn *c = berth_new(struct strm_conn);

	c->server = s;
	c->d = s->d;
	c->fd = fd;
	c->active_ns = berth_now_ns();
	DL_APPEND(s->conns, c);
	s->n_conns++;
	if (s->tls) {
		c->tls_api = strm_tls_open(s->tls, fd, &c->tls);
		if (!c->tls) {
			berth_log_warn("no memory for a stream's TLS");
			strm_conn_free(c);
			return;
		}
	}
	c->events = UV_READABLE | UV_DISCONNECT;
	c->watch = berth_fdwatch_start(s->d->loop, fd, c->events, on_socket, c);
	set_timer(c, STREAM_HANDSHAKE_MS, too_late);
}
