/* plugins/runtime-runc over core/plugin and core/monitor, with the real runc: needs root.
 * argv: the plugin's file, the directory of berth-monitor. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "loop/child.h"
#include "runc_fixture.h"

static void a_container_lives_and_ends(void **state)
{
	struct env *e = *state;
	struct berth_exit x;
	assert_int_equal(status(e, NULL), 100 + BERTH_NOT_FOUND);
	create(e, "[\"sh\",\"-c\",\"echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep "
	          "0.05; done\"]");
	assert_int_equal(status(e, NULL), BERTH_ST_CREATED);
	assert_int_equal(started_ns, 0);
	assert_int_equal(entries_of_state(e), 1);
	must(e, BERTH_OP_RUNTIME_START, (struct berth_ctr_args){0});
	assert_int_equal(status(e, NULL), BERTH_ST_RUNNING);
	assert_true(berth_realtime_ns() - started_ns < 10000000000ull);
	/* The same when nobody could note the start. */
	char marker[160];
	snprintf(marker, sizeof(marker), "%s/plugins/runc/ctr/c1/started", e->dir);
	assert_int_equal(unlink(marker), 0);
	assert_int_equal(status(e, NULL), BERTH_ST_RUNNING);
	assert_true(berth_realtime_ns() - started_ns < 10000000000ull);
	must(e, BERTH_OP_RUNTIME_PAUSE, (struct berth_ctr_args){0});
	assert_int_equal(status(e, NULL), BERTH_ST_PAUSED);
	must(e, BERTH_OP_RUNTIME_RESUME, (struct berth_ctr_args){0});
	/* What a host that was killed right before a pause leaves. */
	snprintf(marker, sizeof(marker), "%s/plugins/runc/ctr/c1/paused", e->dir);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, marker, "", 0, 0600, false), 0);
	assert_int_equal(status(e, NULL), BERTH_ST_PAUSED);
	struct berth_error *err = NULL;
	assert_int_not_equal(
	        call(e, BERTH_OP_RUNTIME_RESUME, &(struct berth_ctr_args){0}, NULL, &err), 0);
	berth_error_free(err);
	assert_int_equal(status(e, NULL), BERTH_ST_RUNNING);
	must(e, BERTH_OP_RUNTIME_UPDATE,
	        (struct berth_ctr_args){.json = "{\"cpu\":{\"shares\":512}}"});
	usleep(200000);
	assert_int_equal(e->exits, 0);
	must(e, BERTH_OP_RUNTIME_KILL, (struct berth_ctr_args){.signal = SIGTERM});
	run_until(e, &e->exits, 1);
	assert_int_equal(e->exit.flags, BERTH_EXIT_KNOWN);
	assert_int_equal(e->exit.code, 7);
	assert_int_equal(status(e, &x), BERTH_ST_STOPPED);
	assert_int_equal(x.code, 7);
	/* Too late is no error. */
	must(e, BERTH_OP_RUNTIME_KILL, (struct berth_ctr_args){.signal = SIGKILL});
	must(e, BERTH_OP_RUNTIME_REMOVE, (struct berth_ctr_args){0});
	must(e, BERTH_OP_RUNTIME_REMOVE, (struct berth_ctr_args){0});
	assert_int_equal(entries_of_state(e), 0);
	char *text;
	assert_int_equal(berth_read_file(AT_FDCWD, e->log, 4096, &text, NULL), 0);
	assert_non_null(strstr(text, "Z stdout F out\n"));
	assert_non_null(strstr(text, "Z stderr F err\n"));
	free(text);
}

static void sigkill_reaches_a_paused_container(void **state)
{
	struct env *e = *state;
	create(e, "[\"sleep\",\"100\"]");
	must(e, BERTH_OP_RUNTIME_START, (struct berth_ctr_args){0});
	must(e, BERTH_OP_RUNTIME_PAUSE, (struct berth_ctr_args){0});
	must(e, BERTH_OP_RUNTIME_KILL, (struct berth_ctr_args){.signal = SIGKILL});
	run_until(e, &e->exits, 1);
	assert_int_equal(e->exit.flags, BERTH_EXIT_KNOWN | BERTH_EXIT_SIGNALLED);
	assert_int_equal(e->exit.code, SIGKILL);
}

static void an_exec_session_has_streams_and_an_exit(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	struct berth_stdio io = {.size = sizeof(io)};
	create(e, "[\"sleep\",\"100\"]");
	must(e, BERTH_OP_RUNTIME_START, (struct berth_ctr_args){0});
	struct berth_ctr_args a = {.exec_id = "x1",
	        .flags = BERTH_IO_STDIN,
	        .json = "{\"terminal\":false,\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/"
	                "\",\"args\":[\"sh\","
	                "\"-c\",\"read a; echo got $a; exit 4\"],\"env\":[\"PATH=/bin\"]}"};
	if (call(e, BERTH_OP_RUNTIME_EXEC, &a, &io, &err) < 0)
		fail_msg("%s", err->msg);
	assert_int_equal(write(io.in_fd, "it\n", 3), 3);
	run_until(e, &e->exec_exits, 1);
	assert_int_equal(e->exec_exit.flags, BERTH_EXIT_KNOWN);
	assert_int_equal(e->exec_exit.code, 4);
	char *text;
	assert_int_equal(berth_read_fd(io.out_fd, 4096, &text, NULL), 0);
	assert_string_equal(text, "got it\n");
	free(text);
	close(io.in_fd);
	close(io.out_fd);
	close(io.err_fd);
	assert_int_equal(e->exits, 0);
}

static void a_new_daemon_adopts(void **state)
{
	struct env *e = *state;
	create(e, "[\"sh\",\"-c\",\"sleep 0.6; exit 21\"]");
	must(e, BERTH_OP_RUNTIME_START, (struct berth_ctr_args){0});
	uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
	struct berth_monitor_state s;
	struct berth_error *err = NULL;
	assert_int_equal(berth_monitor_state("c1", e->ctr, &s, &err), 0);
	berth_monitor_finish();
	set_up_monitor(e);
	berth_monitor_watch(e->rt, "c1", e->bundle);
	run_until(e, &e->exits, 1);
	assert_int_equal(e->exit.code, 21);
	/* And once more for one that learns it later. */
	berth_monitor_watch(e->rt, "c1", e->bundle);
	run_until(e, &e->exits, 2);
	assert_int_equal(e->exit.code, 21);
	int wait_status; /* it is still our child, which a real new daemon's would not be */
	assert_int_equal(berth_child_wait(s.monitor_pid, -1, &wait_status), 0);
}

static void kill_monitor(struct env *e)
{
	struct berth_error *err = NULL;
	struct berth_monitor_state s;
	if (berth_monitor_state("c1", e->ctr, &s, &err) < 0)
		fail_msg("%s", err->msg);
	assert_true(s.monitor_pid > 1);
	assert_int_equal(kill(s.monitor_pid, SIGKILL), 0);
}

static void the_code_survives_the_monitor(void **state)
{
	struct env *e = *state;
	struct berth_exit x;
	create(e, "[\"sh\",\"-c\",\"sleep 0.5; exit 33\"]");
	must(e, BERTH_OP_RUNTIME_START, (struct berth_ctr_args){0});
	kill_monitor(e);
	run_until(e, &e->exits, 1);
	assert_int_equal(e->exit.flags, BERTH_EXIT_KNOWN);
	assert_int_equal(e->exit.code, 33);
	assert_int_equal(status(e, &x), BERTH_ST_STOPPED);
	assert_int_equal(x.code, 33);
	struct berth_error *err = NULL;
	assert_int_equal(berth_monitor_reopen_log(e->ctr, &err), -1);
	assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
	berth_error_free(err);
}

static void runtimes_tell_what_they_can(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	struct berth_runtime_info info = {.size = sizeof(info)};
	struct berth_call *c = berth_call_new(e->rt, BERTH_OP_RUNTIME_INFO, "");
	if (berth_call_run(c, NULL, &info, &err) < 0)
		fail_msg("%s", err->msg);
	json_t *j = json_loads(info.features_json, 0, NULL);
	assert_true(json_is_string(json_object_get(j, "ociVersionMax")));
	json_decref(j);
	berth_call_free(c);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        T(a_container_lives_and_ends),
	        T(sigkill_reaches_a_paused_container),
	        T(an_exec_session_has_streams_and_an_exit),
	        T(a_new_daemon_adopts),
	        T(the_code_survives_the_monitor),
	        T(runtimes_tell_what_they_can),
	};
	if (!runc_tests_can_run(argc, argv))
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
