/* A connection: bytes between its socket and nghttp2, and the turns of its calls. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "grpc/internal.h"

/* How often one flush asks handlers for more before other connections have their turn. */
#define ROUNDS_MAX 16
/* Frames that wait in nghttp2 while the socket takes nothing; then no more is read. */
#define FRAMES_WAITING_MAX 64

static void alloc_read(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
	struct grpc_conn *c = h->data;
	(void)suggested;
	*buf = uv_buf_init(c->server->read_buf, GRPC_SCRATCH);
}

static void read_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct grpc_conn *c = stream->data;
	if (n == 0 || c->closing)
		return;
	if (n < 0) {
		grpc_conn_close(c);
		return;
	}
	int r = grpc_filter_feed(c, (const uint8_t *)buf->base, (size_t)n);
	if (r < 0) {
		berth_log_debug("connection closed", "cause", nghttp2_strerror(r));
		grpc_conn_close(c);
		return;
	}
	grpc_conn_flush(c);
}

static int set_reading(struct grpc_conn *c, bool on)
{
	if (c->reading == on)
		return 0;
	c->reading = on;
	if (on)
		return uv_read_start((uv_stream_t *)&c->pipe, alloc_read, read_bytes);
	return uv_read_stop((uv_stream_t *)&c->pipe);
}

static void preface_late(void *arg)
{
	struct grpc_conn *c = arg;
	c->preface = berth_timer_free(c->preface);
	if (c->is_open)
		return;
	berth_log_debug("connection closed", "cause", "no HTTP/2 preface in time");
	grpc_conn_close(c);
}

struct grpc_conn *grpc_conn_new(struct berth_grpc_server *s)
{
	struct grpc_conn *c = berth_new(struct grpc_conn);
	c->server = s;
	grpc_server_ref(s);
	c->ready_tail = &c->ready;
	c->filter.preface_left = NGHTTP2_CLIENT_MAGIC_LEN;
	c->resets_left = BERTH_LIMIT_GRPC_RESETS;
	c->reset_refill_ns = berth_now_ns();
	uv_pipe_init(berth_loop_uv(s->loop), &c->pipe, 0);
	c->pipe.data = c;
	DL_APPEND(s->conns, c);
	s->n_conns++;
	return c;
}

int grpc_conn_start(struct grpc_conn *c)
{
	const nghttp2_settings_entry settings[] = {
	        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, BERTH_LIMIT_GRPC_STREAMS},
	        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, BERTH_LIMIT_GRPC_HEADERS},
	};
	if (nghttp2_session_server_new2(&c->session, c->server->callbacks, c, c->server->option) !=
	        0)
		return -ENOMEM;
	if (nghttp2_submit_settings(
	            c->session, NGHTTP2_FLAG_NONE, settings, BERTH_ARRAY_LEN(settings)) != 0)
		return -ENOMEM;
	c->preface = berth_timer_start(c->server->loop, GRPC_PREFACE_TIMEOUT_MS, preface_late, c);
	if (c->server->draining)
		grpc_conn_goaway(c);
	int r = set_reading(c, true);
	if (r == 0)
		grpc_conn_dirty(c);
	return r;
}

static void conn_closed(uv_handle_t *h)
{
	struct grpc_conn *c = h->data;
	struct berth_grpc_server *s = c->server;
	free(c);
	grpc_server_unref(s);
}

static void forget_dirty(struct grpc_conn **list, const struct grpc_conn *c)
{
	while (*list && *list != c)
		list = &(*list)->dirty_next;
	if (*list)
		*list = c->dirty_next;
}

void grpc_conn_close(struct grpc_conn *c)
{
	struct berth_grpc_server *s = c->server;
	if (c->closing)
		return;
	c->closing = true;
	DL_DELETE(s->conns, c);
	s->n_conns--;
	if (c->is_dirty) {
		forget_dirty(&s->dirty, c);
		forget_dirty(&s->flushing, c);
	}
	c->preface = berth_timer_free(c->preface);
	while (c->calls)
		grpc_call_detach(c->calls);
	nghttp2_session_del(c->session);
	c->session = NULL;
	uv_close((uv_handle_t *)&c->pipe, conn_closed);
	grpc_server_conn_gone(s);
}

void grpc_conn_goaway(struct grpc_conn *c)
{
	if (!c->session)
		return;
	(void)nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE,
	        nghttp2_session_get_last_proc_stream_id(c->session), NGHTTP2_NO_ERROR, NULL, 0);
	grpc_conn_dirty(c);
}

void grpc_conn_dirty(struct grpc_conn *c)
{
	if (c->is_dirty || c->closing)
		return;
	c->is_dirty = true;
	LL_PREPEND2(c->server->dirty, c, dirty_next);
}

static void written(uv_write_t *req, int status)
{
	struct grpc_write *w = BERTH_CONTAINER_OF(req, struct grpc_write, req);
	struct grpc_conn *c = w->conn;
	free(w);
	if (c->closing)
		return;
	c->writes--;
	if (status < 0)
		grpc_conn_close(c);
	else if (c->writes == 0)
		grpc_conn_flush(c);
}

/* All of it now, or the rest once the socket takes it. */
static int write_bytes(struct grpc_conn *c, const char *p, size_t n)
{
	uv_buf_t buf = uv_buf_init((char *)(uintptr_t)p, (unsigned int)n);
	int r = uv_try_write((uv_stream_t *)&c->pipe, &buf, 1);
	if (r < 0 && r != UV_EAGAIN)
		return r;
	size_t done = r < 0 ? 0 : (size_t)r;
	if (done == n)
		return 0;
	struct grpc_write *w = berth_zalloc(sizeof(*w) + n - done);
	w->conn = c;
	memcpy(w->data, p + done, n - done);
	buf = uv_buf_init(w->data, (unsigned int)(n - done));
	r = uv_write(&w->req, (uv_stream_t *)&c->pipe, &buf, 1, written);
	if (r < 0)
		free(w);
	else
		c->writes++;
	return r;
}

/* Moves frames from nghttp2 to the socket until one of them has no more. */
static int send_frames(struct grpc_conn *c)
{
	char *out = c->server->write_buf;
	size_t len = 0;
	while (c->writes == 0) {
		const uint8_t *p = NULL;
		ssize_t n = nghttp2_session_mem_send(c->session, &p);
		if (n < 0)
			return (int)n;
		if (len > 0 && (n == 0 || (size_t)n > GRPC_SCRATCH - len)) {
			/* `p` stays valid until the next mem_send. */
			int r = write_bytes(c, out, len);
			if (r < 0)
				return r;
			len = 0;
		}
		if (n == 0)
			return 0;
		if (c->writes > 0 || (size_t)n > GRPC_SCRATCH) {
			/* The socket filled up in between: this frame is nghttp2's no more, so it
			 * goes to the queue of libuv behind the other. */
			int r = write_bytes(c, (const char *)p, (size_t)n);
			if (r < 0)
				return r;
			continue;
		}
		memcpy(out + len, p, (size_t)n);
		len += (size_t)n;
	}
	return 0;
}

/* Requests wait while their client does not read what it has asked for already. */
static bool dispatch_ready(struct grpc_conn *c)
{
	bool any = false;
	while (c->ready && c->unread < BERTH_LIMIT_GRPC_UNREAD) {
		struct berth_grpc_call *call = c->ready;
		c->ready = call->ready_next;
		if (!c->ready)
			c->ready_tail = &c->ready;
		call->queued = false;
		grpc_call_dispatch(call);
		any = true;
	}
	return any;
}

static bool run_writable(struct grpc_conn *c)
{
	if (!c->any_writable)
		return false;
	c->any_writable = false;
	for (struct berth_grpc_call *call = c->calls, *next; call; call = next) {
		next = call->next;
		if (!call->got_empty || !call->on_writable)
			continue;
		call->got_empty = false;
		call->on_writable(call->writable_arg);
		/* It may have ended other calls: begin again. */
		next = c->calls;
	}
	return true;
}

void grpc_conn_flush(struct grpc_conn *c)
{
	bool again = true;
	for (int round = 0; again && !c->closing; round++) {
		if (round == ROUNDS_MAX) {
			grpc_conn_dirty(c);
			break;
		}
		again = dispatch_ready(c);
		int r = c->writes > 0 ? 0 : send_frames(c);
		if (r < 0) {
			grpc_conn_close(c);
			return;
		}
		again = run_writable(c) || again ||
		        (c->ready && c->unread < BERTH_LIMIT_GRPC_UNREAD);
	}
	if (c->closing)
		return;
	if (c->writes == 0 && !nghttp2_session_want_read(c->session) &&
	        !nghttp2_session_want_write(c->session)) {
		grpc_conn_close(c);
		return;
	}
	/* A peer that reads nothing must not have us collect answers to its frames. It is read
	 * again once the socket takes bytes; its WINDOW_UPDATEs are not needed before. */
	bool stuck = c->writes > 0 &&
	             nghttp2_session_get_outbound_queue_size(c->session) > FRAMES_WAITING_MAX;
	if (set_reading(c, !stuck) < 0)
		grpc_conn_close(c);
}
