/* Attach: the monitor's attach socket. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "monitor/host.h"
#include "stream/internal.h"

/* The socket ends together with the container; until we know of that: */
#define WAIT_MS 50
#define WAITS 40

/* One request to the monitor is under way, and the newest size waits behind it. */
struct strm_resize {
	struct strm_term *term; /* NULL: it has gone */
	struct berth_container *c;
	uint16_t width, height;
	bool again;
};

static void maybe_over(void *arg)
{
	struct strm_term *t = arg;
	struct berth_error *err = NULL;

	t->drain = berth_timer_free(t->drain);
	if (t->req->c->phase == BERTH_CTR_RUNNING) {
		if (t->waits++ < WAITS) {
			t->drain = berth_timer_start(t->conn->d->loop, WAIT_MS, maybe_over, t);
			return;
		}
		berth_error_set(&err, BERTH_ABORTED,
		        "container %s: the attached client was cut off: it does not read as fast "
		        "as the container writes",
		        t->req->c->id);
	}
	strm_term_over(t, err, 0);
	berth_error_free(err);
}

static void output_ended(struct strm_pump *p, void *arg)
{
	(void)p;
	maybe_over(arg);
}

static void input_ended(struct strm_pump *p, void *arg)
{
	struct strm_term *t = arg;
	/* Another fd of the same socket. */
	if (!p->failed && strm_pump_runs(&t->out))
		(void)shutdown(t->out.fd, SHUT_WR); /* fails where the container has ended */
	/* A client that neither sends nor gets anything has nothing to wait for. */
	if (!t->req->want[STRM_STDOUT] && !t->req->want[STRM_STDERR])
		strm_term_over(t, NULL, 0);
}

/* ---- resize ---- */

static void resize_work(void *arg)
{
	struct strm_resize *r = arg;
	struct berth_container *c = r->c;
	_cleanup_free_ char *dir = berth_container_dir(c);
	struct berth_error *err = NULL;

	if (berth_monitor_resize(dir, r->width, r->height, &err) < 0) {
		berth_log_debug(
		        "a terminal was not resized", "container", c->id, "error", err->msg);
		berth_error_free(err);
	}
}

static void resize_done(void *arg)
{
	struct strm_resize *r = arg;
	struct strm_term *t = r->term;
	bool again = r->again;

	if (t)
		t->resize = NULL;
	berth_container_unref(r->c);
	free(r);
	if (t && again && !t->over)
		t->ops->resize(t);
}

static void attach_resize(struct strm_term *t)
{
	if (!t->width)
		return;
	if (t->resize) {
		t->resize->again = true;
		return;
	}
	struct strm_resize *r = berth_new(struct strm_resize);
	r->term = t;
	r->c = berth_container_ref(t->req->c);
	r->width = t->width;
	r->height = t->height;
	t->resize = r;
	if (berth_work(t->conn->d->flows, t->conn->d->loop, resize_work, resize_done, r) < 0)
		resize_done(r); /* the next size, then */
}

/* ---- the beginning ---- */

static void attach_begin(struct strm_term *t)
{
	struct berth_loop *l = t->conn->d->loop;
	_cleanup_free_ char *dir = berth_container_dir(t->req->c);
	struct berth_error *err = NULL;
	int fd = -1;

	if (berth_monitor_attach(dir, &fd, &err) < 0) {
		berth_error_wrap(&err, "container %s: attach", t->req->c->id);
		strm_term_over(t, err, 0);
		berth_error_free(err);
		return;
	}
	int in = t->chan[STRM_STDIN] ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	t->out.packets = true;
	t->out.chan2 = t->chan[STRM_STDERR];
	strm_pump_from_fd(&t->out, l, fd, t->chan[STRM_STDOUT], output_ended, t);
	attach_resize(t);
	if (in >= 0)
		strm_pump_to_fd(&t->in, l, in, t->chan[STRM_STDIN], input_ended, t);
}

static void attach_stop(struct strm_term *t)
{
	if (t->resize)
		t->resize->term = NULL;
}

const struct strm_term_ops strm_attach_ops = {
        .begin = attach_begin,
        .resize = attach_resize,
        .stop = attach_stop,
};
