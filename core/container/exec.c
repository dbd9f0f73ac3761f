#include "container/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "spec/spec.h"

/* After the command has ended: how long a process that it left behind may hold the output. */
#define DRAIN_MS 1000
#define EXEC_ID_BYTES 16

struct stream {
	int fd;
	struct berth_fdwatch *watch;
	struct berth_buf *to;
	struct berth_exec *exec;
};

struct berth_exec {
	struct berth_exec *next;
	struct berth_container *c;
	char id[2 * EXEC_ID_BYTES + 1];
	char **argv;
	struct berth_stdio io;
	struct stream out, err_out;
	struct berth_exec_result result;
	size_t total_max;
	uint64_t timeout_s;
	struct berth_timer *timeout, *drain;
	bool begun, begin_over, ended, killing, done, abandoned;
	struct berth_error *err;
	berth_exec_fn fn;
	void *arg;
};

struct berth_execs {
	struct berth_exec *first;
};

static void exec_free(struct berth_exec *e)
{
	struct berth_execs *all = e->c->d->execs;
	for (struct berth_exec **p = &all->first; *p; p = &(*p)->next) {
		if (*p == e) {
			*p = e->next;
			break;
		}
	}
	berth_timer_free(e->timeout);
	berth_timer_free(e->drain);
	berth_buf_finish(&e->result.out);
	berth_buf_finish(&e->result.err);
	berth_error_free(e->err);
	berth_strv_free(e->argv);
	berth_container_unref(e->c);
	free(e);
}

static void stream_close(struct stream *s)
{
	s->watch = berth_fdwatch_free(s->watch);
	s->fd = berth_close(s->fd);
}

/* Ends when the command has ended and its output is drained; a kill job holds it, too. */
static void maybe_over(struct berth_exec *e)
{
	if (e->done || !e->begin_over || e->killing)
		return;
	if (e->begun && (!e->ended || e->out.fd >= 0 || e->err_out.fd >= 0))
		return;
	e->done = true;
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
	stream_close(&e->out);
	stream_close(&e->err_out);
	maybe_over(e);
}

static void kill_work(void *arg)
{
	struct berth_exec *e = arg;
	berth_exec_kill(e->c->pod->handler->instance, e->c->id, e->id);
}

static void kill_done(void *arg)
{
	struct berth_exec *e = arg;
	e->killing = false;
	maybe_over(e);
}

static void kill_it(struct berth_exec *e)
{
	struct berth_daemon *d = e->c->d;
	if (e->ended || e->killing || !e->begun)
		return;
	e->killing = true;
	if (berth_work(d->flows, d->loop, kill_work, kill_done, e) < 0)
		e->killing = false; /* the next tick of the timer tries again */
}

static void timed_out(void *arg)
{
	struct berth_exec *e = arg;
	e->timeout = berth_timer_free(e->timeout);
	if (!e->err)
		berth_error_set(&e->err, BERTH_DEADLINE_EXCEEDED,
		        "container %s: the command \"%s\" did not end within %llu s", e->c->id,
		        e->argv[0], (unsigned long long)e->timeout_s);
	kill_it(e);
	e->timeout = berth_timer_start(e->c->d->loop, 1000, timed_out, e);
}

void berth_exec_abandon(struct berth_exec *e)
{
	e->abandoned = true;
	if (!e->err)
		berth_error_set(&e->err, BERTH_CANCELLED,
		        "container %s: the command \"%s\" was abandoned", e->c->id, e->argv[0]);
	berth_timer_free(e->timeout);
	e->timeout = NULL;
	if (!e->begin_over)
		return; /* killed as soon as it is there */
	kill_it(e);
	e->timeout = berth_timer_start(e->c->d->loop, 1000, timed_out, e);
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

void berth_exec_ended(struct berth_daemon *d, const char *object_id, const char *exec_id,
        const struct berth_exit *exit)
{
	for (struct berth_exec *e = d->execs->first; e; e = e->next) {
		if (e->ended || strcmp(e->id, exec_id) != 0 || strcmp(e->c->id, object_id) != 0)
			continue;
		e->ended = true;
		e->result.exit = *exit;
		e->timeout = berth_timer_free(e->timeout);
		if (e->begin_over && (e->out.fd >= 0 || e->err_out.fd >= 0))
			e->drain = berth_timer_start(d->loop, DRAIN_MS, drained, e);
		maybe_over(e);
		return;
	}
}

static json_t *read_config(
        struct berth_container *c, const char *bundle, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_path(bundle, "config.json", NULL);
	_cleanup_free_ char *text = NULL;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);
	json_t *j = r == 0 ? json_loads(text, 0, NULL) : NULL;
	if (!j)
		berth_error_set(
		        ret_err, BERTH_INTERNAL, "container %s: %s cannot be read", c->id, path);
	return j;
}

static void begin_work(void *arg)
{
	struct berth_exec *e = arg;
	struct berth_container *c = e->c;
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_error *err = NULL;
	json_t *process = NULL, *config = read_config(c, bundle, &err);

	int r = !config ? -1
	                : berth_spec_exec_process(config, c->id, berth_strv_len(e->argv), e->argv,
	                          false, &process, &err);
	json_decref(config);
	if (r == 0) {
		_cleanup_free_ char *text = json_dumps(process, JSON_COMPACT);
		struct berth_ctr_args a = {.size = sizeof(a),
		        .id = c->id,
		        .sandbox_id = c->pod->id,
		        .exec_id = e->id,
		        .bundle = bundle,
		        .json = text};
		_cleanup_(berth_call_freep) struct berth_call *call =
		        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_EXEC, e->id);
		e->io = (struct berth_stdio){
		        .size = sizeof(e->io), .in_fd = -1, .out_fd = -1, .err_fd = -1};
		r = berth_call_run(call, &a, &e->io, &err);
		json_decref(process);
	}
	e->begun = r == 0;
	if (r < 0) {
		berth_error_wrap(&err, "container %s: exec", c->id);
		e->err = err;
	}
}

static void begin_done(void *arg)
{
	struct berth_exec *e = arg;

	e->begin_over = true;
	if (e->begun) {
		berth_close(e->io.in_fd);
		stream_start(e, &e->out, e->io.out_fd, &e->result.out);
		stream_start(e, &e->err_out, e->io.err_fd, &e->result.err);
		if (e->ended)
			e->drain = berth_timer_start(e->c->d->loop, DRAIN_MS, drained, e);
		else if (e->err) /* abandoned meanwhile */
			berth_exec_abandon(e);
		else if (e->timeout_s)
			e->timeout = berth_timer_start(
			        e->c->d->loop, e->timeout_s * 1000u, timed_out, e);
	}
	maybe_over(e);
}

struct berth_exec *berth_exec_sync(struct berth_container *c, size_t argc, char *const *argv,
        uint64_t timeout_s, size_t total_max, berth_exec_fn fn, void *arg)
{
	struct berth_daemon *d = c->d;
	struct berth_exec *e = berth_new(struct berth_exec);

	if (!d->execs)
		d->execs = berth_new(struct berth_execs);
	e->c = berth_container_ref(c);
	berth_random_hex(e->id, EXEC_ID_BYTES);
	for (size_t i = 0; i < argc; i++)
		e->argv = berth_strv_append(e->argv, argv[i]);
	e->timeout_s = timeout_s;
	e->total_max = total_max;
	e->out.fd = e->err_out.fd = -1;
	e->fn = fn;
	e->arg = arg;
	e->next = d->execs->first;
	d->execs->first = e;
	if (berth_work(d->flows, d->loop, begin_work, begin_done, e) < 0) {
		berth_error_set(&e->err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", c->id);
		berth_loop_post(d->loop, begin_done, e);
	}
	return e;
}

void berth_execs_end(struct berth_daemon *d)
{
	for (struct berth_exec *e = d->execs ? d->execs->first : NULL; e; e = e->next) {
		if (!e->abandoned)
			berth_exec_abandon(e);
	}
}

bool berth_execs_over(const struct berth_daemon *d)
{
	return !d->execs || !d->execs->first;
}
