/* plugins/runtime-runc: a create that fails, hangs, is slow, or whose daemon died. Needs root.
 * argv: the plugin's file, the directory of berth-monitor. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "loop/pool.h"
#include "runc_fixture.h"

static void a_failing_create_says_why_and_leaves_nothing(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	struct berth_ctr_args a = {.log_path = e->log};
	struct stat st;
	char path[160];
	write_config(e, "false", "[\"/no/such/program\"]");
	assert_int_equal(call(e, BERTH_OP_RUNTIME_CREATE, &a, NULL, &err), -1);
	if (!strstr(err->msg, "c1") || !strstr(err->msg, "/no/such/program"))
		fail_msg("%s", err->msg);
	assert_null(strstr(err->msg, "\"level\""));
	berth_error_free(err);
	assert_int_equal(entries_of_state(e), 0);
	snprintf(path, sizeof(path), "%s/monitor.json", e->ctr);
	assert_int_equal(lstat(path, &st), -1);
	assert_int_equal(status(e, NULL), 100 + BERTH_NOT_FOUND);
	/* And the same name works right after. */
	create(e, "[\"true\"]");
	must(e, BERTH_OP_RUNTIME_START, (struct berth_ctr_args){0});
	run_until(e, &e->exits, 1);
	assert_int_equal(e->exit.code, 0);
	err = NULL;
	assert_int_equal(call(e, BERTH_OP_RUNTIME_CREATE, &a, NULL, &err), -1);
	assert_int_equal(err->code, BERTH_ALREADY_EXISTS);
	berth_error_free(err);
}

static void a_hanging_create_is_cancelled(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	char script[128], path[160];
	snprintf(script, sizeof(script), "%s/hang", e->dir);
	static const char text[] =
	        "#!/bin/sh\nsleep 1000 & echo $! >\"$0.pid\"; wait; sleep 1000\n";
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, script, text, strlen(text), 0755, false), 0);
	const char *argv[] = {script, NULL};
	char pid_file[128];
	snprintf(pid_file, sizeof(pid_file), "%s/pid", e->ctr);
	struct berth_monitor_spec s = {.id = "c1",
	        .dir = e->ctr,
	        .cwd = e->bundle,
	        .argv = argv,
	        .pid_file = pid_file,
	        .cancel_fd = -1,
	        .deadline_ns = berth_now_ns() + 500000000};
	struct berth_monitor_result res;
	assert_int_equal(berth_monitor_start(&s, &res, &err), -1);
	assert_int_equal(err->code, BERTH_DEADLINE_EXCEEDED);
	berth_error_free(err);
	snprintf(path, sizeof(path), "%s.pid", script);
	char *pid;
	assert_int_equal(berth_read_file(AT_FDCWD, path, 64, &pid, NULL), 0);
	for (int i = 0; i < 2000 && kill(atoi(pid), 0) == 0; i++) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_int_equal(kill(atoi(pid), 0), -1);
	free(pid);
	struct stat st;
	snprintf(path, sizeof(path), "%s/monitor.json", e->ctr);
	assert_int_equal(lstat(path, &st), -1);
}

static void set_later(void *arg)
{
	usleep(200000);
	berth_cancel_set(arg);
}

static int create_in_time(struct env *e, struct berth_instance *i, struct berth_cancel *cancel,
        uint64_t deadline_ns, struct berth_error **err)
{
	struct berth_ctr_args a = {.size = sizeof(a), .id = "c1", .bundle = e->bundle};
	struct berth_call *c = berth_call_new(i, BERTH_OP_RUNTIME_CREATE, "c1");
	struct berth_pool *pool = berth_pool_new(
	        &(struct berth_pool_opts){.name = "later", .max_threads = 1, .max_queued = 1});

	berth_call_set_cancel(c, cancel);
	berth_call_set_deadline(c, deadline_ns);
	assert_int_equal(cancel ? berth_pool_run(pool, set_later, cancel) : 0, 0);
	int r = berth_call_run(c, &a, NULL, err);
	berth_pool_free(pool);
	berth_call_free(c);
	return r;
}

/* Late, but it ends by itself: killed in the middle, runc would leave half a container. */
static void a_slow_create_may_end(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	char script[128];
	static const char text[] =
	        "#!/bin/sh\ncase \"$*\" in *\" create \"*) sleep `cat \"$0.time\"`;; esac\n"
	        "exec runc \"$@\"\n";

	snprintf(script, sizeof(script), "%s/slow", e->dir);
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, script, text, strlen(text), 0755, false), 0);
	_cleanup_free_ char *time = berth_asprintf("%s.time", script);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, time, "0.8", 3, 0644, false), 0);
	struct berth_instance *slow = make_instance(e, script);
	write_config(e, "false", "[\"sleep\",\"100\"]");
	for (int way = 0; way < 2; way++) {
		struct berth_cancel *cancel = way == 0 ? berth_cancel_new() : NULL;
		uint64_t deadline = berth_now_ns() + (way == 0 ? 60000000000u : 200000000u);
		if (create_in_time(e, slow, cancel, deadline, &err) < 0)
			fail_msg("%s", err->msg);
		berth_cancel_unref(cancel);
		assert_int_equal(status(e, NULL), BERTH_ST_CREATED);
		berth_monitor_watch(e->rt, "c1", e->bundle);
		must(e, BERTH_OP_RUNTIME_KILL, (struct berth_ctr_args){.signal = SIGKILL});
		run_until(e, &e->exits, way + 1);
		must(e, BERTH_OP_RUNTIME_REMOVE, (struct berth_ctr_args){0});
		berth_monitor_destroy(e->ctr);
		for (int i = 0; i < 5000 && busy(e); i++) {
			uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
			usleep(1000);
		}
	}
	/* Too slow: the grace has an end, and the cause is told. */
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, time, "1000", 4, 0644, false), 0);
	struct berth_cancel *cancel = berth_cancel_new();
	uint64_t before = berth_now_ns();
	assert_int_equal(create_in_time(e, slow, cancel, berth_now_ns() + 60000000000u, &err), -1);
	berth_cancel_unref(cancel);
	assert_int_equal(err->code, BERTH_CANCELLED);
	berth_error_free(err);
	assert_in_range(berth_now_ns() - before, 1600000000u, 10000000000u);
	assert_int_equal(status(e, NULL), 100 + BERTH_NOT_FOUND);
}

static void abort_it(void *arg)
{
	struct env *e = arg;
	char path[160];
	struct stat st;
	snprintf(path, sizeof(path), "%s/hang.pid", e->dir);
	for (int i = 0; i < 5000 && (lstat(path, &st) < 0 || st.st_size == 0); i++)
		usleep(1000);
	berth_monitor_abort(e->ctr);
}

static void a_create_of_a_dead_daemon_is_aborted(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	char script[128], pid_file[128], path[160];
	snprintf(script, sizeof(script), "%s/hang", e->dir);
	static const char text[] = "#!/bin/sh\necho $$ >\"$0.pid\"; sleep 1000\n";
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, script, text, strlen(text), 0755, false), 0);
	const char *argv[] = {script, NULL};
	snprintf(pid_file, sizeof(pid_file), "%s/pid", e->ctr);
	struct berth_monitor_spec s = {.id = "c1",
	        .dir = e->ctr,
	        .cwd = e->bundle,
	        .argv = argv,
	        .pid_file = pid_file,
	        .cancel_fd = -1};
	struct berth_monitor_result res;
	struct berth_pool *pool = berth_pool_new(
	        &(struct berth_pool_opts){.name = "abort", .max_threads = 1, .max_queued = 1});
	assert_int_equal(berth_pool_run(pool, abort_it, e), 0);
	assert_int_equal(berth_monitor_start(&s, &res, &err), -1);
	assert_non_null(strstr(err->msg, "without a report"));
	berth_error_free(err);
	berth_pool_free(pool);
	char *pid;
	snprintf(path, sizeof(path), "%s.pid", script);
	assert_int_equal(berth_read_file(AT_FDCWD, path, 64, &pid, NULL), 0);
	for (int i = 0; i < 2000 && kill(atoi(pid), 0) == 0; i++) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_int_equal(kill(atoi(pid), 0), -1);
	free(pid);
	/* One whose container is made is left alone. */
	create(e, "[\"sleep\",\"100\"]");
	berth_monitor_abort(e->ctr);
	assert_int_equal(status(e, NULL), BERTH_ST_CREATED);
	berth_monitor_destroy(e->ctr);
	assert_int_equal(status(e, NULL), 100 + BERTH_NOT_FOUND);
	berth_monitor_destroy(e->ctr);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        T(a_failing_create_says_why_and_leaves_nothing),
	        T(a_hanging_create_is_cancelled),
	        T(a_slow_create_may_end),
	        T(a_create_of_a_dead_daemon_is_aborted),
	};
	if (!runc_tests_can_run(argc, argv))
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
