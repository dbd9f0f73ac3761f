/* Port forwarding: pairs of channels, data and error, each pair a connection of its own to a port
 * of the pod. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/log.h"
#include "stream/forward.h"
#include "stream/internal.h"

#define CONNECT_MS 10000
#define REQUEST_ID_MAX 64

struct forward;

struct pair {
	struct pair *prev, *next;
	struct forward *f;
	char id[REQUEST_ID_MAX + 1]; /* the client's name for it */
	uint16_t port;
	struct strm_chan *data, *error;
	struct berth_timer *timer; /* for the other channel; for the connection */
	struct forward_dial *dial;
	struct strm_pump to, from;
	bool begun, failed, to_ended, from_ended;
};

struct forward {
	struct strm_conn *conn;
	struct pair *pairs;
	size_t n_ending; /* pairs that may be over soon */
	struct berth_timer *reaper;
};

static void pair_free(struct pair *p)
{
	struct forward *f = p->f;

	DL_DELETE(f->pairs, p);
	if (p->to_ended || p->from_ended || p->failed)
		f->n_ending--;
	forward_dial_drop(p->dial);
	berth_timer_free(p->timer);
	strm_pump_stop(&p->to);
	strm_pump_stop(&p->from);
	if (p->data)
		strm_chan_free(p->data);
	if (p->error)
		strm_chan_free(p->error);
	free(p);
}

static void ending(struct pair *p, bool *which)
{
	if (!p->to_ended && !p->from_ended && !p->failed)
		p->f->n_ending++;
	*which = true;
}

static bool is_said(const struct strm_chan *ch)
{
	return !ch || ch->reset || ch->out_ended;
}

static bool is_over(const struct pair *p)
{
	bool ws = p->f->conn->up.wire == BERTH_WIRE_WS; /* its clients cannot end one direction */

	if (p->data && p->data->reset)
		return true;
	if (p->failed)
		return is_said(p->data) && is_said(p->error);
	return p->from_ended && (p->to_ended || ws) && is_said(p->data) && is_said(p->error);
}

static void reap(void *arg)
{
	struct forward *f = arg;
	struct pair *p, *tmp;

	f->reaper = berth_timer_free(f->reaper);
	DL_FOREACH_SAFE (f->pairs, p, tmp) {
		if (is_over(p))
			pair_free(p);
	}
	if (!f->pairs && f->conn->up.wire == BERTH_WIRE_WS)
		strm_conn_finish(f->conn);
	else
		strm_conn_kick(f->conn);
}

static void forward_sweep(struct strm_conn *c)
{
	struct forward *f = c->own;
	struct pair *p;

	if (!f || f->n_ending == 0 || f->reaper)
		return;
	DL_FOREACH (f->pairs, p) {
		if (is_over(p)) {
			f->reaper = berth_timer_start(c->d->loop, 0, reap, f);
			return;
		}
	}
}

/* ---- the connection ---- */

static void fail(struct pair *p, const char *why)
{
	const struct berth_pod *pod = p->f->conn->req->pod;
	_cleanup_free_ char *text = berth_asprintf(
	        "error forwarding port %u to pod %s, uid : %s", p->port, pod->id, why);

	berth_log_debug("a port is not forwarded", "pod", pod->id, "error", text);
	p->timer = berth_timer_free(p->timer);
	if (p->failed)
		return;
	ending(p, &p->failed);
	if (p->error) {
		strm_chan_write(p->error, text, strlen(text));
		strm_chan_end(p->error);
	}
	if (p->data) {
		p->data->on_in = NULL;
		strm_chan_consumed(p->data, strm_queue_len(&p->data->in));
		strm_chan_end(p->data);
	}
	strm_conn_kick(p->f->conn);
}

static void to_ended(struct strm_pump *pump, void *arg)
{
	struct pair *p = arg;

	ending(p, &p->to_ended);
	if (p->from.fd >= 0)
		(void)shutdown(p->from.fd, SHUT_WR); /* another fd of the same socket */
	(void)pump;
	strm_conn_kick(p->f->conn);
}

static void from_ended(struct strm_pump *pump, void *arg)
{
	struct pair *p = arg;
	(void)pump;

	ending(p, &p->from_ended);
	strm_chan_end(p->error);
	strm_chan_end(p->data);
	strm_conn_kick(p->f->conn);
}

static void connected(int fd, const char *why, void *arg)
{
	struct pair *p = arg;
	struct berth_loop *l = p->f->conn->d->loop;

	p->dial = NULL;
	p->timer = berth_timer_free(p->timer);
	if (fd < 0) {
		fail(p, why);
		return;
	}
	int in = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (in < 0) {
		fail(p, strerror(errno));
		berth_close(fd);
		return;
	}
	strm_pump_from_fd(&p->from, l, fd, p->data, from_ended, p);
	strm_pump_to_fd(&p->to, l, in, p->data, to_ended, p);
}

static void connect_late(void *arg)
{
	struct pair *p = arg;
	p->timer = berth_timer_free(p->timer);
	forward_dial_drop(p->dial);
	p->dial = NULL;
	fail(p, "the connection was not made in time");
}

static void begin(struct pair *p)
{
	struct strm_conn *c = p->f->conn;
	const struct berth_pod *pod = c->req->pod;

	p->begun = true;
	berth_timer_free(p->timer);
	p->timer = NULL;
	if (pod->phase != BERTH_POD_READY) {
		fail(p, "the pod is not ready");
		return;
	}
	p->timer = berth_timer_start(c->d->loop, CONNECT_MS, connect_late, p);
	p->dial = forward_dial(c->req->pod, p->port, connected, p);
}

/* ---- the channels ---- */

static void hold(struct strm_chan *ch)
{
	(void)ch; /* what comes before the connection waits in the channel */
}

static struct pair *pair_new(struct forward *f, uint16_t port)
{
	struct pair *p = berth_new(struct pair);
	p->f = f;
	p->port = port;
	p->to.fd = p->from.fd = -1;
	DL_APPEND(f->pairs, p);
	return p;
}

static void other_late(void *arg)
{
	struct pair *p = arg;
	p->timer = berth_timer_free(p->timer);
	fail(p, "the client did not open the other stream of the pair in time");
}

static int parse_port(const char *s, size_t n, uint16_t *ret)
{
	unsigned int v = 0;
	if (!s || n == 0 || n > 5)
		return -1;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -1;
		v = v * 10 + (unsigned int)(s[i] - '0');
	}
	if (v == 0 || v > UINT16_MAX)
		return -1;
	*ret = (uint16_t)v;
	return 0;
}

static struct pair *pair_find(struct forward *f, const char *id)
{
	struct pair *p;
	DL_FOREACH (f->pairs, p) {
		if (strcmp(p->id, id) == 0)
			return p;
	}
	return NULL;
}

static bool forward_opened(struct strm_chan *ch, const struct berth_spdy_headers *h)
{
	struct forward *f = ch->conn->own;
	size_t type_len = 0, port_len = 0, id_len = 0;
	const char *type = berth_spdy_header(h, "streamtype", &type_len);
	const char *port_text = berth_spdy_header(h, "port", &port_len);
	const char *id = berth_spdy_header(h, "requestid", &id_len);
	char name[REQUEST_ID_MAX + 1];
	uint16_t port;

	bool is_data = type_len == 4 && memcmp(type, "data", 4) == 0;
	bool is_error = type_len == 5 && memcmp(type, "error", 5) == 0;
	if ((!is_data && !is_error) || parse_port(port_text, port_len, &port) < 0 ||
	        id_len > REQUEST_ID_MAX || (id && memchr(id, '\0', id_len)))
		return false;
	/* Clients without ids open the error stream and, right after it, the data stream. */
	if (id && id_len > 0)
		snprintf(name, sizeof(name), "%.*s", (int)id_len, id);
	else
		snprintf(name, sizeof(name), "#%u", is_data ? ch->id - 2 : ch->id);
	struct pair *p = pair_find(f, name);
	if (p && (p->begun || p->failed || p->port != port || (is_data ? p->data : p->error)))
		return false;
	if (!p) {
		p = pair_new(f, port);
		memcpy(p->id, name, sizeof(name));
		p->timer = berth_timer_start(f->conn->d->loop, STREAM_CREATION_MS, other_late, p);
	}
	ch->kind = is_data ? STRM_DATA : STRM_ERROR;
	if (is_data) {
		p->data = ch;
		ch->on_in = hold;
	} else {
		p->error = ch;
	}
	return true;
}

static void forward_ready(struct strm_conn *c)
{
	struct forward *f = c->own;
	struct pair *p, *tmp;
	DL_FOREACH_SAFE (f->pairs, p, tmp) {
		if (!p->begun && !p->failed && p->data && p->error)
			begin(p);
	}
}

static int forward_start(struct strm_conn *c)
{
	struct forward *f = berth_new(struct forward);

	f->conn = c;
	c->own = f;
	if (c->up.wire != BERTH_WIRE_WS)
		return 0;
	for (uint32_t i = 0; i < c->req->n_ports; i++) {
		struct pair *p = pair_new(f, c->req->ports[i]);
		unsigned char le[2] = {
		        (unsigned char)(p->port & 0xff), (unsigned char)(p->port >> 8)};
		p->data = strm_chan_new(c, 2 * i, STRM_DATA);
		p->error = strm_chan_new(c, 2 * i + 1, STRM_ERROR);
		if (!p->data || !p->error)
			return -1;
		p->data->on_in = hold;
		strm_chan_write(p->data, le, sizeof(le));
		strm_chan_write(p->error, le, sizeof(le));
	}
	forward_ready(c);
	return 0;
}

static void forward_gone(struct strm_conn *c)
{
	struct forward *f = c->own;

	if (!f)
		return;
	while (f->pairs)
		pair_free(f->pairs);
	berth_timer_free(f->reaper);
	free(f);
	c->own = NULL;
}

const struct strm_session_ops strm_forward = {
        .start = forward_start,
        .opened = forward_opened,
        .ready = forward_ready,
        .sweep = forward_sweep,
        .gone = forward_gone,
};
