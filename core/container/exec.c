#include "container/exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "container/session.h"

/* After the command has ended: its own output is in the pipes by then. How long a process that it
 * left behind may keep silent, and how long it may go on. */
#define QUIET_MS 100
#define DRAIN_MS 1000

struct stream {
	int fd;
	struct berth_fdwatch *watch;
	struct berth_buf *to;
	struct berth_exec *exec;
};

struct berth_exec {
	struct berth_container *c;
	char *name; /* argv[0] */
	struct berth_session *session;
	struct stream out, err_out;
	struct berth_exec_result result;
	size_t total_max;
	uint64_t timeout_s;
	struct berth_timer *timeout, *drain;
	bool begin_over, ended, moved;
	uint64_t drain_until;
	struct berth_error *err;
	berth_exec_fn fn;
	void *arg;
};

static void exec_free(struct berth_exec *e)
{
	berth_session_release(e->session);
	berth_timer_free(e->timeout);
	berth_timer_free(e->drain);
	berth_buf_finish(&e->result.out);
	berth_buf_finish(&e->result.err);
	berth_error_free(e->err);
	free(e->name);
	berth_container_unref(e->c);
	free(e);
}

static void stream_close(struct stream *s)
{
	s->watch = berth_fdwatch_free(s->watch);
	s->fd = berth_close(s->fd);
}

/* Ends when the command has ended and its output is drained. */
static void maybe_over(struct berth_exec *e)
{
	if (!e->begin_over || !e->ended || e->out.fd >= 0 || e->err_out.fd >= 0)
		return;
	e->fn(&e->result, e->err, e->arg);
	exec_free(e);
}

static void on_output(int fd, int events, void *arg)
{
	struct stream *s = arg;
	struct berth_exec *e = s->exec;
	static char chunk[65536]; /* the loop's alone */
	(void)events;

	ssize_t n = read(fd, chunk, sizeof(chunk));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		stream_close(s);
		maybe_over(e);
		return;
	}
	e->moved = true;
	size_t total = e->result.out.len + e->result.err.len;
	size_t room =
	        s->to->len < BERTH_LIMIT_EXEC_OUTPUT ? BERTH_LIMIT_EXEC_OUTPUT - s->to->len : 0;
	size_t left = total < e->total_max ? e->total_max - total : 0;
	room = room < left ? room : left;
	berth_buf_add(s->to, chunk, (size_t)n < room ? (size_t)n : room);
}

static void drained(void *arg)
{
	struct berth_exec *e = arg;

	e->drain = berth_timer_free(e->drain);
	if (e->moved && berth_now_ns() < e->drain_until) {
		e->moved = false;
		e->drain = berth_timer_start(e->c->d->loop, QUIET_MS, drained, e);
		return;
	}
	stream_close(&e->out);
	stream_close(&e->err_out);
	maybe_over(e);
}

static void timed_out(void *arg)
{
	struct berth_exec *e = arg;
	e->timeout = berth_timer_free(e->timeout);
	if (!e->err)
		berth_error_set(&e->err, BERTH_DEADLINE_EXCEEDED,
		        "container %s: the command \"%s\" did not end within %llu s", e->c->id,
		        e->name, (unsigned long long)e->timeout_s);
	berth_session_kill(e->session);
}

void berth_exec_abandon(struct berth_exec *e)
{
	if (!e->err)
		berth_error_set(&e->err, BERTH_CANCELLED,
		        "container %s: the command \"%s\" was abandoned", e->c->id, e->name);
	e->timeout = berth_timer_free(e->timeout);
	berth_session_kill(e->session);
}

static void stream_start(struct berth_exec *e, struct stream *s, int fd, struct berth_buf *to)
{
	s->fd = fd;
	s->to = to;
	s->exec = e;
	if (fd < 0)
		return;
	(void)!berth_set_nonblock(fd, true);
	s->watch = berth_fdwatch_start(e->c->d->loop, fd, UV_READABLE, on_output, s);
}

static void ended(const struct berth_exit *exit, void *arg)
{
	struct berth_exec *e = arg;

	e->ended = true;
	e->result.exit = *exit;
	e->timeout = berth_timer_free(e->timeout);
	if (e->c->d->draining && !exit->flags) { /* the daemon's own end: nobody waits any more */
		stream_close(&e->out);
		stream_close(&e->err_out);
	} else if (e->out.fd >= 0 || e->err_out.fd >= 0) {
		e->moved = true;
		e->drain_until = berth_now_ns() + DRAIN_MS * 1000000ull;
		e->drain = berth_timer_start(e->c->d->loop, QUIET_MS, drained, e);
	}
	maybe_over(e);
}

static void begun(const struct berth_stdio *io, const struct berth_error *err, void *arg)
{
	struct berth_exec *e = arg;

	e->begin_over = true;
	if (err) {
		if (!e->err)
			e->err = berth_error_copy(err);
		e->ended = true;
	} else {
		berth_close(io->in_fd);
		stream_start(e, &e->out, io->out_fd, &e->result.out);
		stream_start(e, &e->err_out, io->err_fd, &e->result.err);
	}
	maybe_over(e);
}

struct berth_exec *berth_exec_sync(struct berth_container *c, size_t argc, char *const *argv,
        uint64_t timeout_s, size_t total_max, berth_exec_fn fn, void *arg)
{
	static const struct berth_session_ops ops = {.begun = begun, .ended = ended};
	struct berth_exec *e = berth_new(struct berth_exec);

	e->c = berth_container_ref(c);
	e->name = berth_strdup(argv[0]);
	e->timeout_s = timeout_s;
	e->total_max = total_max;
	e->out.fd = e->err_out.fd = -1;
	e->fn = fn;
	e->arg = arg;
	if (timeout_s)
		e->timeout = berth_timer_start(c->d->loop, timeout_s * 1000u, timed_out, e);
	e->session = berth_session_start(c, argc, argv, 0, &ops, e);
	return e;
}
