/* The channels of exec and attach: up to five, by name (SPDY) or by number (WebSocket). */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "container/session.h"
#include "stream/internal.h"

#define RESIZE_MAX 1024 /* of one message, and of what a client sends that is none */

/* ---- the end ---- */

static char *status_json(const char *status, const char *message, const char *reason,
        const char *cause, const char *cause_message, int code)
{
	json_t *j = json_pack("{s:{}, s:s}", "metadata", "status", status);
	if (message) {
		json_object_set_new(j, "message", json_string(message));
		json_object_set_new(j, "reason", json_string(reason));
		json_t *c = json_object();
		if (cause)
			json_object_set_new(c, "reason", json_string(cause));
		json_object_set_new(c, "message", json_string(cause_message));
		json_object_set_new(j, "details", json_pack("{s:[o]}", "causes", c));
	}
	if (code)
		json_object_set_new(j, "code", json_integer(code));
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

void strm_term_over(struct strm_term *t, const struct berth_error *err, int exit_code)
{
	struct strm_conn *c = t->conn;
	struct strm_chan *ch = t->chan[STRM_ERROR];
	_cleanup_free_ char *json = NULL, *text = NULL;
	char code[16];

	if (t->over || c->closed)
		return;
	t->over = true;
	if (err) {
		berth_log_debug("stream failed", "container", t->req->c->id, "error", err->msg);
		text = berth_strdup(err->msg);
		json = status_json("Failure", text, "InternalError", NULL, text, 500);
	} else if (exit_code != 0) {
		snprintf(code, sizeof(code), "%d", exit_code);
		text = berth_asprintf("command terminated with non-zero exit code: %s", code);
		json = status_json("Failure", text, "NonZeroExitCode", "ExitCode", code, 0);
	} else {
		json = status_json("Success", NULL, NULL, NULL, NULL, 0);
	}
	const char *say = c->up.version >= 4 ? json : text;
	if (ch && say)
		strm_chan_write(ch, say, strlen(say));
	for (size_t i = 0; i < STRM_TERM_KINDS; i++)
		if (t->chan[i])
			strm_chan_end(t->chan[i]);
	strm_pump_stop(&t->in);
	strm_pump_stop(&t->out);
	strm_pump_stop(&t->err);
	t->drain = berth_timer_free(t->drain);
	strm_conn_finish(c);
}

/* ---- resize ---- */

static void take_size(struct strm_term *t, const char *p, size_t n)
{
	json_t *j = json_loadb(p, n, 0, NULL);
	json_int_t w = json_integer_value(json_object_get(j, "Width"));
	json_int_t h = json_integer_value(json_object_get(j, "Height"));

	json_decref(j);
	if (w <= 0 || h <= 0 || w > UINT16_MAX || h > UINT16_MAX)
		return; /* what clients send before they know their size */
	t->width = (uint16_t)w;
	t->height = (uint16_t)h;
	if (t->begun && !t->over)
		t->ops->resize(t);
}

/* JSON objects, one after the other. */
static void on_resize(struct strm_chan *ch)
{
	struct strm_term *t = ch->in_owner;

	while (strm_queue_len(&ch->in) > 0) {
		const char *p = strm_queue_data(&ch->in);
		size_t n = strm_queue_len(&ch->in);
		const char *end = memchr(p, '}', n);
		if (!end && n < RESIZE_MAX)
			return;
		size_t len = end ? (size_t)(end - p) + 1 : n;
		if (end && len <= RESIZE_MAX)
			take_size(t, p, len);
		if (ch->conn->closed || !ch->on_in)
			return; /* the end came in between */
		strm_chan_consumed(ch, len);
	}
}

/* ---- the channels ---- */

static bool wanted(const struct strm_term *t, enum strm_kind kind)
{
	if (kind == STRM_RESIZE && t->conn->up.wire == BERTH_WIRE_SPDY && t->conn->up.version < 3)
		return false; /* older versions have no such channel */
	return t->req->want[kind];
}

static void hold(struct strm_chan *ch)
{
	(void)ch; /* input from before the beginning waits in the channel */
}

static void add(struct strm_term *t, struct strm_chan *ch, enum strm_kind kind)
{
	ch->kind = kind;
	ch->in_owner = t;
	ch->on_in = kind == STRM_RESIZE ? on_resize : kind == STRM_STDIN ? hold : NULL;
	t->chan[kind] = ch;
}

static bool complete(const struct strm_term *t)
{
	for (unsigned int i = 0; i < STRM_TERM_KINDS; i++)
		if (wanted(t, (enum strm_kind)i) && !t->chan[i])
			return false;
	return true;
}

static void maybe_begin(struct strm_term *t)
{
	if (t->begun || !complete(t))
		return;
	t->creation = berth_timer_free(t->creation);
	if (t->req->c->phase != BERTH_CTR_RUNNING) {
		struct berth_error *err = NULL;
		berth_error_set(&err, BERTH_FAILED_PRECONDITION, "container %s is not running",
		        t->req->c->id);
		strm_term_over(t, err, 0);
		berth_error_free(err);
		return;
	}
	t->begun = true;
	t->ops->begin(t);
}

static bool term_opened(struct strm_chan *ch, const struct berth_spdy_headers *h)
{
	static const char *const names[STRM_TERM_KINDS] = {
	        "stdin", "stdout", "stderr", "error", "resize"};
	struct strm_term *t = ch->conn->own;
	size_t n;
	const char *type = berth_spdy_header(h, "streamtype", &n);

	if (!type || t->begun || t->over)
		return false;
	for (unsigned int i = 0; i < STRM_TERM_KINDS; i++) {
		if (n != strlen(names[i]) || memcmp(type, names[i], n) != 0)
			continue;
		if (!wanted(t, (enum strm_kind)i) || t->chan[i])
			return false;
		add(t, ch, (enum strm_kind)i);
		return true;
	}
	return false;
}

static void creation_late(void *arg)
{
	struct strm_term *t = arg;
	t->creation = berth_timer_free(t->creation);
	strm_conn_close(t->conn, "the client did not open its streams in time");
}

static void begin_soon(void *arg)
{
	struct strm_term *t = arg;
	t->creation = berth_timer_free(t->creation);
	maybe_begin(t);
}

static int term_start(struct strm_conn *c)
{
	struct strm_term *t = berth_new(struct strm_term);

	t->conn = c;
	t->req = c->req;
	t->in.fd = t->out.fd = t->err.fd = -1;
	t->ops = c->req->kind == BERTH_STREAM_EXEC ? &strm_exec_ops : &strm_attach_ops;
	c->own = t;
	if (c->up.wire == BERTH_WIRE_SPDY) {
		t->creation = berth_timer_start(c->d->loop, STREAM_CREATION_MS, creation_late, t);
		return 0;
	}
	for (unsigned int i = 0; i < STRM_TERM_KINDS; i++)
		if (t->req->want[i])
			add(t, strm_chan_new(c, i, (enum strm_kind)i), (enum strm_kind)i);
	t->creation = berth_timer_start(c->d->loop, 0, begin_soon, t);
	return 0;
}

static void term_ready(struct strm_conn *c)
{
	struct strm_term *t = c->own;
	if (c->up.wire == BERTH_WIRE_SPDY && !t->over)
		maybe_begin(t);
}

static void term_gone(struct strm_conn *c)
{
	struct strm_term *t = c->own;

	if (!t)
		return;
	t->over = true;
	t->ops->stop(t);
	strm_pump_stop(&t->in);
	strm_pump_stop(&t->out);
	strm_pump_stop(&t->err);
	berth_timer_free(t->creation);
	berth_timer_free(t->drain);
	free(t);
	c->own = NULL;
}

const struct strm_session_ops strm_term = {
        .start = term_start,
        .opened = term_opened,
        .ready = term_ready,
        .gone = term_gone,
};
