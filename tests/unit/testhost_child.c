/* The children of the plugin host for unit tests: run to their end, or spawned. */
#include "testhost_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

#define RUN_OUT_DEFAULT 65536

static char *const default_env[] = {(char *)(uintptr_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

static pid_t start_child(const struct berth_run *r, const int io[3])
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	for (int i = 0; i < 3; i++) {
		int fd = io[i] >= 0 ? io[i] : open("/dev/null", O_RDWR | O_CLOEXEC);
		if (dup2(fd, i) < 0)
			_exit(126);
	}
	setsid();
	if (chdir(r->cwd ? r->cwd : "/") < 0)
		_exit(126);
	char *const *argv = (char *const *)(uintptr_t)r->argv;
	execve(argv[0], argv,
	        r->envp ? (char *const *)(uintptr_t)r->envp : (char *const *)default_env);
	_exit(127);
}

static void pump_in(int *fd, const char *in, uint64_t len, uint64_t *done)
{
	ssize_t w = *done < len ? write(*fd, in + *done, len - *done) : 0;

	if (w > 0)
		*done += (uint64_t)w;
	if (*done == len || (w < 0 && errno != EAGAIN))
		*fd = berth_close(*fd);
}

static bool pump_out(int *fd, struct berth_buf *b, uint64_t max)
{
	char chunk[4096];
	ssize_t n = read(*fd, chunk, sizeof(chunk));

	if (n <= 0) {
		*fd = berth_close(*fd);
		return true;
	}
	if (b->len + (size_t)n > max)
		return false;
	berth_buf_add(b, chunk, (size_t)n);
	return true;
}

berth_status host_run(struct berth_op *op, const struct berth_run *r, struct berth_run_result *res)
{
	int in[2], out[2], err[2];
	struct berth_buf bo = {0}, be = {0};
	uint64_t done = 0, max = r->out_max ? r->out_max : RUN_OUT_DEFAULT;
	bool fits = true;

	op->h->n_runs++;
	if (access(r->argv[0], X_OK) < 0)
		return host_fail(op, BERTH_E_NOT_FOUND, errno, r->argv[0]);
	CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 &&
	        pipe2(err, O_CLOEXEC) == 0);
	pid_t pid = start_child(r, (int[]){in[0], out[1], err[1]});
	CHECK(pid > 0);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	CHECK(berth_set_nonblock(in[1], true) == 0);
	while (out[0] >= 0 || err[0] >= 0) {
		struct pollfd p[4] = {{in[1], POLLOUT, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0},
		        {op->cancel_fd, POLLIN, 0}};
		CHECK(poll(p, 4, 100) >= 0 || errno == EINTR);
		if (host_cancelled(op) || !fits) {
			if (kill(-pid, SIGKILL) < 0) /* it may not lead its group yet */
				kill(pid, SIGKILL);
			break;
		}
		if (p[0].revents)
			pump_in(&in[1], r->in, r->in_len, &done);
		if (p[1].revents)
			fits = pump_out(&out[0], &bo, max) && fits;
		if (p[2].revents)
			fits = pump_out(&err[0], &be, max) && fits;
	}
	berth_close(in[1]);
	berth_close(out[0]);
	berth_close(err[0]);
	CHECK(waitpid(pid, &res->wait_status, 0) == pid);
	_cleanup_free_ char *o = berth_buf_steal(&bo), *e = berth_buf_steal(&be);
	res->out = berth_arena_strdup(op->arena, o);
	res->err = berth_arena_strdup(op->arena, e);
	res->out_len = strlen(o);
	res->err_len = strlen(e);
	if (host_cancelled(op))
		return host_fail(op, BERTH_E_CANCELLED, 0, "cancelled");
	if (!fits)
		return host_fail(op, BERTH_E_EXHAUSTED, 0, "more output than allowed");
	return BERTH_OK;
}

berth_status host_spawn(struct berth_op *op, const struct berth_run *r, const char *object_id,
        const char *exec_id, struct berth_stdio *stdio)
{
	int in[2], out[2], err[2];

	CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 &&
	        pipe2(err, O_CLOEXEC) == 0);
	struct spawned *s = berth_new(struct spawned);
	s->pid = start_child(r, (int[]){in[0], out[1], err[1]});
	CHECK(s->pid > 0);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	s->object_id = berth_strdup(object_id);
	s->exec_id = berth_strdup(exec_id);
	s->next = op->h->children;
	op->h->children = s;
	stdio->in_fd = in[1];
	stdio->out_fd = out[0];
	stdio->err_fd = err[0];
	return BERTH_OK;
}

int reap(struct testhost *h)
{
	int n = 0, status;

	for (struct spawned **p = &h->children; *p;) {
		struct spawned *s = *p;
		if (waitpid(s->pid, &status, WNOHANG) != s->pid) {
			p = &s->next;
			continue;
		}
		struct berth_event ev = {.size = sizeof(ev),
		        .type = BERTH_EV_EXIT,
		        .object_id = s->object_id,
		        .exec_id = s->exec_id};
		ev.exit.flags =
		        BERTH_EXIT_KNOWN | (WIFSIGNALED(status) ? BERTH_EXIT_SIGNALLED : 0u);
		ev.exit.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
		host_emit(&h->host, &ev);
		*p = s->next;
		free(s->object_id);
		free(s->exec_id);
		free(s);
		n++;
	}
	return n;
}
