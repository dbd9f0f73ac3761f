/* core/loop: posting, timers, pools. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/mem.h"
#include "loop/child.h"
#include "loop/loop.h"
#include "loop/pool.h"

struct counts {
	struct berth_loop *loop;
	atomic_int worked;
	int done, wanted;
};

static void work(void *arg)
{
	struct counts *c = arg;
	assert_false(berth_on_loop());
	atomic_fetch_add(&c->worked, 1);
}

static void done(void *arg)
{
	struct counts *c = arg;
	assert_true(berth_on_loop());
	if (++c->done == c->wanted)
		berth_loop_stop(c->loop);
}

static void every_job_runs_and_reports(void **state)
{
	struct counts c = {.loop = berth_loop_new(), .wanted = 500};
	struct berth_pool *p = berth_pool_new(&(struct berth_pool_opts){
	        .name = "test", .max_threads = 4, .max_queued = 1000, .idle_ms = 10});
	for (int i = 0; i < c.wanted; i++)
		assert_int_equal(berth_work(p, c.loop, work, done, &c), 0);
	berth_loop_run(c.loop);
	assert_int_equal(c.worked, c.wanted);
	berth_pool_free(p);
	berth_loop_free(c.loop);
}

struct ended_socket {
	struct berth_loop *loop;
	struct berth_fdwatch *watch;
	int packets;
};

static void on_packet(int fd, int events, void *arg)
{
	struct ended_socket *e = arg;
	char p;
	(void)events;
	if (read(fd, &p, 1) > 0) {
		e->packets++;
		return;
	}
	e->watch = berth_fdwatch_free(e->watch);
	berth_loop_stop(e->loop);
}

static void stop_loop(void *arg)
{
	berth_loop_stop(arg);
}

static void what_came_before_an_error_is_read(void **state)
{
	struct ended_socket e = {.loop = berth_loop_new()};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fds[2], l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&a, &len), 0);
	fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fds[1], (struct sockaddr *)&a, sizeof(a)), 0);
	fds[0] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(write(fds[1], "xxxxx", 5), 5);
	assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
	                         sizeof(struct linger)),
	        0);
	close(fds[1]); /* a reset */
	close(l);
	e.watch = berth_fdwatch_start(e.loop, fds[0], UV_READABLE, on_packet, &e);
	struct berth_timer *late = berth_timer_start(e.loop, 5000, stop_loop, e.loop);
	berth_loop_run(e.loop);
	assert_int_equal(e.packets, 5);
	assert_null(e.watch);
	berth_timer_free(late);
	uv_run(berth_loop_uv(e.loop), UV_RUN_NOWAIT); /* what was closed is freed there */
	close(fds[0]);
	berth_loop_free(e.loop);
}

static void hold(void *arg)
{
	atomic_int *go = arg;
	while (!atomic_load(go))
		usleep(1000);
}

static void nothing(void *arg)
{
}

static void a_full_queue_refuses(void **state)
{
	atomic_int go = 0;
	struct berth_pool *p = berth_pool_new(
	        &(struct berth_pool_opts){.name = "test", .max_threads = 1, .max_queued = 2});
	assert_int_equal(berth_pool_run(p, hold, &go), 0);
	usleep(50000); /* the only thread has taken it */
	assert_int_equal(berth_pool_run(p, nothing, NULL), 0);
	assert_int_equal(berth_pool_run(p, nothing, NULL), 0);
	assert_int_equal(berth_pool_run(p, nothing, NULL), -EAGAIN);
	atomic_store(&go, 1);
	berth_pool_free(p);
}

static void a_stuck_worker_is_replaced_once(void **state)
{
	atomic_int go = 0;
	struct berth_pool *p = berth_pool_new(
	        &(struct berth_pool_opts){.name = "test", .max_threads = 1, .max_queued = 8});
	struct counts c = {.worked = 0};
	assert_int_equal(berth_pool_run(p, hold, &go), 0);
	usleep(50000);
	assert_int_equal(berth_pool_run(p, work, &c), 0);
	usleep(50000);
	assert_int_equal(c.worked, 0);
	assert_true(berth_pool_replace_stuck(p, 1));
	assert_false(berth_pool_replace_stuck(p, 1));
	for (int i = 0; i < 1000 && !c.worked; i++)
		usleep(1000);
	assert_int_equal(c.worked, 1);
	atomic_store(&go, 1);
	berth_pool_unstuck(p);
	berth_pool_free(p);
}

static struct berth_timer *timer;
static int fired;

static void stop(void *arg)
{
	fired++;
	timer = berth_timer_free(timer);
	berth_loop_stop(arg);
}

static void a_timer_fires_once_and_may_free_itself(void **state)
{
	struct berth_loop *l = berth_loop_new();
	timer = berth_timer_start(l, 5, stop, l);
	struct berth_timer *never = berth_timer_start(l, 1, stop, l);
	berth_timer_free(never);
	berth_loop_run(l);
	assert_int_equal(fired, 1);
	berth_loop_free(l);
}

struct child_case {
	struct berth_loop *loop;
	int status, calls;
	pid_t orphan;
	int orphan_status;
};

static void child_done(pid_t pid, int status, void *arg)
{
	struct child_case *c = arg;
	assert_true(pid > 0);
	c->status = status;
	c->calls++;
	berth_loop_stop(c->loop);
}

static void orphan_done(pid_t pid, int status, void *arg)
{
	struct child_case *c = arg;
	c->orphan = pid;
	c->orphan_status = status;
	berth_loop_stop(c->loop);
}

static void children_are_waited_for_and_orphans_swept(void **state)
{
	struct child_case c = {.loop = berth_loop_new()};
	struct berth_error *err = NULL;
	pid_t pid;
	int pidfd, status;

	berth_child_init(c.loop, orphan_done, &c);
	/* One that the worker way waits for, with output and a passed fd. */
	int out[2], passed[2];
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(passed, O_CLOEXEC), 0);
	const char *const argv[] = {"/bin/sh", "-c",
	        "echo hello; echo three >&3; ls /proc/self/fd | wc -l >&3; exit 7", NULL};
	struct berth_child_spec spec = {
	        .argv = argv, .stdio = {-1, out[1], -1}, .keep_fds = &passed[1], .n_keep_fds = 1};
	assert_int_equal(berth_child_start(&spec, &pid, &pidfd, &err), 0);
	close(out[1]);
	close(passed[1]);
	assert_int_equal(berth_child_wait(pid, pidfd, &status), 0);
	assert_int_equal(WEXITSTATUS(status), 7);
	close(pidfd);
	char *text = NULL;
	assert_int_equal(berth_read_fd(out[0], 100, &text, NULL), 0);
	assert_string_equal(text, "hello\n");
	free(text);
	assert_int_equal(berth_read_fd(passed[0], 100, &text, NULL), 0);
	assert_string_equal(text, "three\n5\n"); /* 0 1 2 3 and ls's own */
	free(text);
	close(out[0]);
	close(passed[0]);

	/* One that the loop watches; it leaves an orphan behind. */
	const char *const argv2[] = {"/bin/sh", "-c", "(sleep 0.3; exit 5) & exit 3", NULL};
	spec = (struct berth_child_spec){.argv = argv2, .stdio = {-1, -1, -1}};
	assert_int_equal(berth_child_start(&spec, &pid, &pidfd, &err), 0);
	berth_child_watch(c.loop, pid, pidfd, child_done, &c);
	berth_loop_run(c.loop);
	assert_int_equal(c.calls, 1);
	assert_int_equal(WEXITSTATUS(c.status), 3);
	close(pidfd);
	berth_loop_run(c.loop);
	assert_true(c.orphan > 0);
	assert_int_equal(WEXITSTATUS(c.orphan_status), 5);

	/* What cannot be started says why, and leaves nothing. */
	const char *const none[] = {"/nonexistent/prog", NULL};
	spec = (struct berth_child_spec){.argv = none, .stdio = {-1, -1, -1}};
	assert_int_equal(berth_child_start(&spec, &pid, &pidfd, &err), -1);
	assert_int_equal(err->code, BERTH_NOT_FOUND);
	assert_non_null(strstr(err->msg, "/nonexistent/prog"));
	err = berth_error_free(err);

	/* A tree dies as a whole. */
	const char *const tree[] = {
	        "/bin/sh", "-c", "sleep 1000 & sh -c 'sleep 1000; true' & wait", NULL};
	spec = (struct berth_child_spec){.argv = tree, .stdio = {-1, -1, -1}};
	assert_int_equal(berth_child_start(&spec, &pid, &pidfd, &err), 0);
	usleep(100000);
	berth_kill_tree(pid, 0, 0);
	assert_int_equal(berth_child_wait(pid, pidfd, &status), 0);
	assert_int_equal(WTERMSIG(status), SIGKILL);
	close(pidfd);
	int left = 0;
	for (int i = 0; i < 100; i++) {
		left = waitid(P_ALL, 0, &(siginfo_t){0}, WEXITED | WNOWAIT | WNOHANG);
		if (left < 0)
			break;
		uv_run(berth_loop_uv(c.loop), UV_RUN_NOWAIT);
		usleep(10000);
	}
	assert_int_equal(left, -1); /* ECHILD: nothing is left of any of them */
	berth_child_finish();
	berth_loop_free(c.loop);
	(void)state;
}

/* Runs a shell that leaves `what` behind and ends; the pid of that. */
static pid_t leave_behind(const char *what, uint64_t mark)
{
	_cleanup_free_ char *script = berth_asprintf("%s & echo $!", what);
	const char *const argv[] = {"/bin/sh", "-c", script, NULL};
	struct berth_error *err = NULL;
	int out[2], pidfd, status;
	pid_t pid;
	char *text = NULL;

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	struct berth_child_spec spec = {
	        .argv = argv, .stdio = {-1, out[1], -1}, .new_session = 1, .mark = mark};
	assert_int_equal(berth_child_start(&spec, &pid, &pidfd, &err), 0);
	close(out[1]);
	assert_int_equal(berth_child_wait(pid, pidfd, &status), 0);
	assert_int_equal(status, 0);
	close(pidfd);
	assert_int_equal(berth_read_fd(out[0], 100, &text, NULL), 0);
	close(out[0]);
	pid = (pid_t)atoi(text);
	free(text);
	assert_true(pid > 1);
	return pid;
}

static void an_orphan_is_claimed(void **state)
{
	struct child_case c = {.loop = berth_loop_new()};
	int pidfd, status = -1;
	siginfo_t si;

	berth_child_init(c.loop, orphan_done, &c);
	berth_child_expect();
	/* One that runs: it is ours to wait for, and the sweeper lets it be. */
	pid_t pid = leave_behind("(exec >&-; sleep 0.3; exit 5)", 0);
	assert_int_equal(berth_child_claim(pid, &pidfd, &status), 0);
	assert_true(pidfd >= 0);
	berth_child_watch(c.loop, pid, pidfd, child_done, &c);
	berth_loop_run(c.loop);
	assert_int_equal(c.calls, 1);
	assert_int_equal(WEXITSTATUS(c.status), 5);
	assert_int_equal(c.orphan, 0);
	close(pidfd);
	/* One that the sweeper had before us. */
	pid = leave_behind("(exec >&-; exit 6)", 0);
	berth_loop_run(c.loop);
	assert_int_equal(c.orphan, pid);
	assert_int_equal(berth_child_claim(pid, &pidfd, &status), 0);
	assert_int_equal(pidfd, -1);
	assert_int_equal(WEXITSTATUS(status), 6);
	berth_child_expect_end();
	/* It is not remembered for ever, and others' processes are not ours. */
	berth_child_expect();
	assert_int_equal(berth_child_claim(pid, &pidfd, &status), -ECHILD);
	assert_int_equal(berth_child_claim(getpid(), &pidfd, &status), -ECHILD);
	berth_child_expect_end();
	assert_int_equal(waitid(P_ALL, 0, &si, WEXITED | WNOWAIT | WNOHANG), -1);
	berth_child_finish();
	berth_loop_free(c.loop);
	(void)state;
}

static void a_mark_stays_with_all_descendants(void **state)
{
	struct child_case c = {.loop = berth_loop_new()};
	uint64_t mark = berth_child_mark("one"), other = berth_child_mark("two");

	assert_true(mark != other && mark == berth_child_mark("one"));
	assert_true(mark > UINT64_C(1) << 61 && other > UINT64_C(1) << 61);
	berth_child_init(c.loop, NULL, NULL);
	pid_t a = leave_behind("(exec >&-; exec setsid sleep 1000)", mark),
	      b = leave_behind("(exec >&-; exec setsid sleep 1000)", other),
	      none = leave_behind("(exec >&-; exec setsid sleep 1000)", 0);
	usleep(100000);
	berth_kill_tree(0, mark, 0);
	for (int i = 0; i < 200 && kill(a, 0) == 0; i++) {
		uv_run(berth_loop_uv(c.loop), UV_RUN_NOWAIT);
		usleep(10000);
	}
	assert_int_equal(kill(a, 0), -1);
	assert_int_equal(kill(b, 0), 0);
	assert_int_equal(kill(none, 0), 0);
	kill(none, SIGKILL);
	berth_kill_tree(0, other, 0);
	for (int i = 0; i < 200 && (kill(b, 0) == 0 || kill(none, 0) == 0); i++) {
		uv_run(berth_loop_uv(c.loop), UV_RUN_NOWAIT);
		usleep(10000);
	}
	assert_int_equal(kill(b, 0), -1);
	berth_child_finish();
	berth_loop_free(c.loop);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_came_before_an_error_is_read),
	        cmocka_unit_test(every_job_runs_and_reports),
	        cmocka_unit_test(a_full_queue_refuses),
	        cmocka_unit_test(a_stuck_worker_is_replaced_once),
	        cmocka_unit_test(a_timer_fires_once_and_may_free_itself),
	        cmocka_unit_test(children_are_waited_for_and_orphans_swept),
	        cmocka_unit_test(an_orphan_is_claimed),
	        cmocka_unit_test(a_mark_stays_with_all_descendants),
	};
	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
