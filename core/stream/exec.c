/* A streamed exec: the pipes or the terminal of a command. */
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "container/session.h"
#include "stream/internal.h"

/* After the command has ended: how long a process that it left behind may keep silent and hold the
 * output. */
#define DRAIN_MS 500
/* A runtime that copies the output itself does not end before the client has read it. After the end
 * of the container it may have as long. */
#define WATCH_MS 5000

static void maybe_over(struct strm_term *t)
{
	struct berth_error *err = NULL;

	if (!t->ended || strm_pump_runs(&t->out) || strm_pump_runs(&t->err))
		return;
	if (!t->exit.flags)
		berth_error_set(&err, BERTH_INTERNAL,
		        "container %s: nobody saw how the command \"%s\" ended", t->req->c->id,
		        t->req->argv[0]);
	strm_term_over(
	        t, err, (t->exit.flags & BERTH_EXIT_SIGNALLED) ? 128 + t->exit.code : t->exit.code);
	berth_error_free(err);
}

static void output_ended(struct strm_pump *p, void *arg)
{
	struct strm_term *t = arg;
	if (p->chan)
		strm_chan_end(p->chan);
	maybe_over(t);
}

static void input_ended(struct strm_pump *p, void *arg)
{
	(void)p; /* the fd is closed: the command sees the end of its input */
	(void)arg;
}

static void drain(void *arg)
{
	struct strm_term *t = arg;
	struct strm_pump *pumps[] = {&t->out, &t->err};

	t->drain = berth_timer_free(t->drain);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(pumps); i++) {
		struct strm_pump *p = pumps[i];
		struct strm_chan *ch = p->chan;
		if (!strm_pump_runs(p))
			continue;
		if (!p->moved && !strm_pump_is_held(p)) {
			strm_pump_stop(p);
			if (ch)
				strm_chan_end(ch);
		}
		p->moved = false;
	}
	if (strm_pump_runs(&t->out) || strm_pump_runs(&t->err))
		t->drain = berth_timer_start(t->conn->d->loop, DRAIN_MS, drain, t);
	maybe_over(t);
}

static void exec_resize(struct strm_term *t)
{
	struct winsize ws = {.ws_col = t->width, .ws_row = t->height};
	if (strm_pump_runs(&t->out) && t->width && ioctl(t->out.fd, TIOCSWINSZ, &ws) < 0)
		berth_log_debug("a terminal was not resized", "container", t->req->c->id);
}

static void begun(const struct berth_stdio *io, const struct berth_error *err, void *arg)
{
	struct strm_term *t = arg;
	struct berth_loop *l = t->conn->d->loop;

	if (err) {
		strm_term_over(t, err, 0);
		return;
	}
	strm_pump_from_fd(&t->out, l, io->out_fd, t->chan[STRM_STDOUT], output_ended, t);
	exec_resize(t);
	if (io->err_fd >= 0)
		strm_pump_from_fd(&t->err, l, io->err_fd, t->chan[STRM_STDERR], output_ended, t);
	else if (t->chan[STRM_STDERR])
		strm_chan_end(t->chan[STRM_STDERR]);
	if (io->in_fd >= 0 && t->chan[STRM_STDIN])
		strm_pump_to_fd(&t->in, l, io->in_fd, t->chan[STRM_STDIN], input_ended, t);
	else
		berth_close(io->in_fd);
}

static void ended(const struct berth_exit *exit, void *arg)
{
	struct strm_term *t = arg;

	t->ended = true;
	t->exit = *exit;
	t->out.moved = t->err.moved = true;
	if (strm_pump_runs(&t->out) || strm_pump_runs(&t->err))
		t->drain = berth_timer_start(t->conn->d->loop, DRAIN_MS, drain, t);
	maybe_over(t);
}

static void watch(void *arg)
{
	struct strm_term *t = arg;
	bool running = t->req->c->phase == BERTH_CTR_RUNNING;

	t->watch = berth_timer_free(t->watch);
	if (t->ended || t->over)
		return;
	if (!running && t->waits > 0)
		berth_session_kill(t->exec);
	t->waits = running ? 0 : t->waits + 1;
	t->watch = berth_timer_start(t->conn->d->loop, WATCH_MS, watch, t);
}

static void exec_begin(struct strm_term *t)
{
	static const struct berth_session_ops ops = {.begun = begun, .ended = ended};
	struct strm_request *q = t->req;
	uint32_t flags = (q->tty ? BERTH_IO_TTY : 0) | (q->want[STRM_STDIN] ? BERTH_IO_STDIN : 0);

	t->watch = berth_timer_start(t->conn->d->loop, WATCH_MS, watch, t);
	t->exec = berth_session_start(q->c, berth_strv_len(q->argv), q->argv, flags, &ops, t);
}

static void exec_stop(struct strm_term *t)
{
	t->watch = berth_timer_free(t->watch);
	t->exec = berth_session_release(t->exec);
}

const struct strm_term_ops strm_exec_ops = {
        .begin = exec_begin,
        .resize = exec_resize,
        .stop = exec_stop,
};
