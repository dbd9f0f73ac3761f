/* host->run(): a child to completion, with bounded output, that ends with its op's cancel or
 * deadline. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/limits.h"
#include "loop/child.h"
#include "plugin/internal.h"

#define REAP_MS 5000  /* for what a marked child leaves */
#define DRAIN_MS 2000 /* for output that a grandchild may hold open after the child has ended */

struct capture {
	int fd; /* our end of the pipe */
	struct berth_buf buf;
	uint64_t max;
};

struct running {
	struct berth_op *op;
	const struct berth_run *spec;
	pid_t pid;
	int pidfd, in_fd;
	uint64_t in_done;
	struct capture out[2];
	bool exited, terminated, killed;
	uint64_t mark;
	uint64_t kill_at_ns, drain_until_ns;
};

static int make_pipe(int fds[2])
{
	return pipe2(fds, O_CLOEXEC);
}

static void capture_read(struct capture *c)
{
	char chunk[16384];
	ssize_t n = read(c->fd, chunk, sizeof(chunk));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		c->fd = berth_close(c->fd);
		return;
	}
	/* What is beyond the cap is read and thrown away: the child must not stall. */
	size_t room = c->buf.len < c->max ? (size_t)(c->max - c->buf.len) : 0;
	berth_buf_add(&c->buf, chunk, (size_t)n < room ? (size_t)n : room);
}

static void feed(struct running *r)
{
	const char *p = r->spec->in;
	ssize_t n = write(r->in_fd, p + r->in_done, r->spec->in_len - r->in_done);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n > 0)
		r->in_done += (uint64_t)n;
	if (n < 0 || r->in_done == r->spec->in_len)
		r->in_fd = berth_close(r->in_fd); /* EPIPE: a child need not read its input */
}

static void end_child(struct running *r, uint64_t now)
{
	if (!r->terminated) {
		r->terminated = true;
		r->kill_at_ns = now + (uint64_t)r->spec->term_grace_ms * 1000000u;
		if (r->spec->term_grace_ms)
			kill(-r->pid, SIGTERM); /* it leads its own session */
	}
	if (!r->killed && now >= r->kill_at_ns) {
		r->killed = true;
		berth_kill_tree(r->pid, r->mark, 0);
	}
}

static int until(uint64_t when_ns, uint64_t now)
{
	return when_ns <= now ? 0 : (int)((when_ns - now) / 1000000u) + 1;
}

/* One round of waiting; false once all is done. */
static bool step(struct running *r)
{
	struct pollfd p[5];
	nfds_t n = 0;
	int i_exit = -1, i_in = -1, i_out[2] = {-1, -1}, timeout = -1;
	uint64_t now = berth_now_ns();

	if (r->exited) {
		if ((r->out[0].fd < 0 && r->out[1].fd < 0) || now >= r->drain_until_ns)
			return false;
		timeout = until(r->drain_until_ns, now);
	} else {
		i_exit = (int)n;
		p[n++] = (struct pollfd){.fd = r->pidfd, .events = POLLIN};
		if (!r->terminated)
			p[n++] = (struct pollfd){
			        .fd = berth_service_cancel_fd(r->op), .events = POLLIN};
		else if (!r->killed)
			timeout = until(r->kill_at_ns, now);
	}
	if (r->in_fd >= 0) {
		i_in = (int)n;
		p[n++] = (struct pollfd){.fd = r->in_fd, .events = POLLOUT};
	}
	for (int i = 0; i < 2; i++) {
		if (r->out[i].fd >= 0) {
			i_out[i] = (int)n;
			p[n++] = (struct pollfd){.fd = r->out[i].fd, .events = POLLIN};
		}
	}
	if (poll(p, n, timeout) < 0)
		return true; /* EINTR */
	if (i_in >= 0 && p[i_in].revents)
		feed(r);
	for (int i = 0; i < 2; i++) {
		if (i_out[i] >= 0 && p[i_out[i]].revents)
			capture_read(&r->out[i]);
	}
	if (i_exit >= 0 && p[i_exit].revents) {
		r->exited = true;
		r->drain_until_ns = berth_now_ns() + DRAIN_MS * 1000000ull;
	} else if (!r->exited &&
	           (r->terminated || call_of(r->op)->instance->table.op_cancelled(r->op))) {
		end_child(r, berth_now_ns());
	}
	return true;
}

static int start(struct running *r, struct berth_error **ret_err)
{
	const struct berth_run *spec = r->spec;
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
	int result = -1;
	char **procs = berth_cgroup_procs(spec->cgroup);

	if ((spec->in_len && make_pipe(in) < 0) || make_pipe(out) < 0 || make_pipe(err) < 0) {
		berth_error_errno(ret_err, errno, "%s: pipes", spec->argv[0]);
		goto end;
	}
	struct berth_child_spec child = {
	        .argv = spec->argv,
	        .envp = spec->envp,
	        .cwd = spec->cwd,
	        .stdio = {in[0], out[1], err[1]},
	        .keep_fds = spec->keep_fds,
	        .n_keep_fds = spec->n_keep_fds,
	        .cgroup_procs = (const char *const *)(void *)procs,
	        .new_session = 1,
	        .mark = r->mark,
	};
	result = berth_child_start(&child, &r->pid, &r->pidfd, ret_err);
	if (result == 0) {
		r->in_fd = berth_take_fd(&in[1]);
		r->out[0].fd = berth_take_fd(&out[0]);
		r->out[1].fd = berth_take_fd(&err[0]);
		if (r->in_fd >= 0)
			(void)!berth_set_nonblock(r->in_fd, true);
	}
end:
	for (int i = 0; i < 2; i++) {
		berth_close(in[i]);
		berth_close(out[i]);
		berth_close(err[i]);
	}
	berth_strv_free(procs);
	return result;
}

static const char *to_arena(struct berth_call *c, struct berth_buf *b)
{
	char *p = berth_call_alloc(c, b->len + 1);
	if (b->len)
		memcpy(p, b->data, b->len);
	return p;
}

berth_status berth_service_run(
        struct berth_op *op, const struct berth_run *spec, struct berth_run_result *res)
{
	struct berth_call *c = call_of(op);
	uint64_t max = spec->out_max ? spec->out_max : BERTH_LIMIT_RUN_OUTPUT;
	if (max > BERTH_LIMIT_RUN_OUTPUT_MAX)
		max = BERTH_LIMIT_RUN_OUTPUT_MAX;
	struct running r = {.op = op,
	        .spec = spec,
	        .mark = c->mark,
	        .pidfd = -1,
	        .in_fd = -1,
	        .out = {{.fd = -1, .max = max}, {.fd = -1, .max = max}}};

	berth_status st = berth_call_check(c);
	if (st != BERTH_OK)
		return st;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	if (start(&r, &err) < 0)
		return berth_service_fail(op, -(berth_status)err->code, err->errnum, err->msg);
	while (step(&r))
		;
	int status = 0;
	int waited = berth_child_wait(r.pid, r.pidfd, &status);
	if (r.mark)
		berth_kill_tree(0, r.mark, REAP_MS);
	berth_close(r.in_fd);
	berth_close(r.pidfd);
	for (int i = 0; i < 2; i++)
		berth_close(r.out[i].fd);
	if (waited == 0 && BERTH_HAS(struct berth_run_result, res, wait_status))
		res->wait_status = status;
	if (BERTH_HAS(struct berth_run_result, res, err_len)) {
		res->out = to_arena(c, &r.out[0].buf);
		res->out_len = r.out[0].buf.len;
		res->err = to_arena(c, &r.out[1].buf);
		res->err_len = r.out[1].buf.len;
	}
	berth_buf_finish(&r.out[0].buf);
	berth_buf_finish(&r.out[1].buf);
	if (waited < 0)
		return berth_service_failf(
		        op, BERTH_E_INTERNAL, -waited, "%s: its exit was lost", spec->argv[0]);
	return r.terminated ? berth_call_check(c) : BERTH_OK;
}
