/* plugins/runtime-runc over core/plugin and core/monitor, with the real runc: needs root.
 * argv: the plugin's file, the directory of berth-monitor. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "loop/child.h"
#include "loop/pool.h"
#include "monitor/host.h"
#include "plugin/host.h"
#include "runc_bundle.h"

#define BUSYBOX "/bin/busybox"

static const char *plugin_path, *helpers;

struct env {
	struct berth_loop *loop;
	struct berth_plugin_host *host;
	struct berth_instance *rt;
	char dir[64], bundle[128], ctr[96], log[128];
	int exits, exec_exits, ooms;
	struct berth_exit exit, exec_exit;
};

static void on_event(struct berth_instance *i, const struct berth_event *ev, void *arg)
{
	struct env *e = arg;
	(void)i;
	if (ev->type == BERTH_EV_OOM)
		e->ooms++;
	if (ev->type != BERTH_EV_EXIT)
		return;
	if (ev->exec_id) {
		e->exec_exits++;
		e->exec_exit = ev->exit;
	} else {
		assert_string_equal(ev->object_id, "c1");
		e->exits++;
		e->exit = ev->exit;
	}
}

static void on_orphan(pid_t pid, int status, void *arg)
{
	(void)arg;
	berth_monitor_orphan(pid, status);
}

static void set_up_monitor(struct env *e)
{
	struct berth_error *err = NULL;
	int r = berth_monitor_init(
	        &(struct berth_monitor_opts){
	                .loop = e->loop, .helpers_dir = helpers, .plugins = e->host},
	        &err);
	if (r < 0)
		fail_msg("%s", err->msg);
}

static void write_config(struct env *e, const char *terminal, const char *args)
{
	char text[4096], path[256];
	int n = snprintf(text, sizeof(text), RUNC_CONFIG, terminal, args, "/berth-test/rt");
	snprintf(path, sizeof(path), "%s/config.json", e->bundle);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, path, text, (size_t)n, 0600, false), 0);
}

static void make_rootfs(struct env *e)
{
	static const char *const names[] = {"sh", "echo", "sleep", "cat", "true", "stty", "tty"};
	char path[256], link_name[300];
	snprintf(path, sizeof(path), "%s/rootfs/bin", e->bundle);
	assert_int_equal(berth_mkdir_p(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/rootfs/bin/busybox", e->bundle);
	char *text;
	size_t n;
	assert_int_equal(berth_read_file(AT_FDCWD, BUSYBOX, 64 << 20, &text, &n), 0);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, path, text, n, 0755, false), 0);
	free(text);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		snprintf(link_name, sizeof(link_name), "%s/rootfs/bin/%s", e->bundle, names[i]);
		assert_int_equal(link(path, link_name), 0);
	}
}

static struct berth_instance *make_instance(struct env *e, const char *runtime)
{
	struct berth_error *err = NULL;
	json_t *j = json_pack("{s:s, s:s}", "plugin_path", plugin_path, "path", runtime);
	struct berth_instance *i = berth_instance_new(e->host, "runtime-runc", "runc", j, &err);
	json_decref(j);
	if (!i)
		fail_msg("%s", err->msg);
	return i;
}

static int setup(void **state)
{
	struct env *e = berth_new(struct env);
	berth_log_set_level(BERTH_LOG_LVL_ERROR);
	snprintf(e->dir, sizeof(e->dir), "/tmp/berth-runc-XXXXXX");
	assert_non_null(mkdtemp(e->dir));
	snprintf(e->ctr, sizeof(e->ctr), "%s/c1", e->dir);
	snprintf(e->bundle, sizeof(e->bundle), "%s/c1/bundle", e->dir);
	snprintf(e->log, sizeof(e->log), "%s/log", e->dir);
	e->loop = berth_loop_new();
	berth_child_init(e->loop, on_orphan, e);
	e->host = berth_plugin_host_new(&(struct berth_plugin_host_opts){.loop = e->loop,
	        .plugin_dir = e->dir,
	        .state_root = e->dir,
	        .run_root = e->dir,
	        .host_version = "test",
	        .on_event = on_event,
	        .event_arg = e});
	make_rootfs(e);
	set_up_monitor(e);
	e->rt = make_instance(e, "/usr/sbin/runc");
	*state = e;
	return 0;
}

static int call(struct env *e, enum berth_opcode op, struct berth_ctr_args *a, void *out,
        struct berth_error **err)
{
	a->size = sizeof(*a);
	a->id = "c1";
	a->bundle = e->bundle;
	struct berth_call *c = berth_call_new(e->rt, op, "c1");
	int r = berth_call_run(c, a, out, err);
	berth_call_free(c);
	return r;
}

static void must(struct env *e, enum berth_opcode op, struct berth_ctr_args a)
{
	struct berth_error *err = NULL;
	if (call(e, op, &a, NULL, &err) < 0)
		fail_msg("%s", err->msg);
}

static uint64_t started_ns;

static uint32_t status(struct env *e, struct berth_exit *ret_exit)
{
	struct berth_error *err = NULL;
	struct berth_ctr_state s = {.size = sizeof(s)};
	struct berth_ctr_args a = {0};
	if (call(e, BERTH_OP_RUNTIME_STATE, &a, &s, &err) < 0) {
		uint32_t code = 100 + (uint32_t)err->code;
		berth_error_free(err);
		return code;
	}
	if (ret_exit)
		*ret_exit = s.exit;
	started_ns = s.started_ns;
	return s.status;
}

static bool busy(struct env *e)
{
	struct berth_error *err = NULL;
	struct berth_monitor_state st = {0};
	siginfo_t si = {0};
	if (berth_monitor_state("c1", e->ctr, &st, &err) < 0)
		berth_error_free(err);
	return st.monitor_pid ||
	       (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid);
}

static int teardown(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	struct berth_ctr_args a = {0};
	if (call(e, BERTH_OP_RUNTIME_REMOVE, &a, NULL, &err) < 0)
		fail_msg("%s", err->msg);
	/* Nobody reaps a monitor whose end comes after that; the next test has the same process. */
	for (int i = 0; i < 5000 && busy(e); i++) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	berth_monitor_finish();
	uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT); /* what was posted refers to the instance */
	berth_plugin_host_free(e->host);
	berth_child_finish();
	berth_loop_free(e->loop);
	assert_int_equal(berth_rm_tree(AT_FDCWD, e->dir), 0);
	free(e);
	return 0;
}

static void run_until(struct env *e, const int *count, int want)
{
	uint64_t end = berth_now_ns() + 20000000000ull;
	while (*count < want && berth_now_ns() < end) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_int_equal(*count, want);
}

static void create(struct env *e, const char *args)
{
	write_config(e, "false", args);
	must(e, BERTH_OP_RUNTIME_CREATE, (struct berth_ctr_args){.log_path = e->log});
	berth_monitor_watch(e->rt, "c1", e->bundle);
}

static size_t entries_of_state(struct env *e)
{
	struct berth_error *err = NULL;
	struct berth_ctr_list l = {.size = sizeof(l)};
	struct berth_call *c = berth_call_new(e->rt, BERTH_OP_RUNTIME_LIST, "");
	if (berth_call_run(c, NULL, &l, &err) < 0)
		fail_msg("%s", err->msg);
	size_t n = l.n;
	berth_call_free(c);
	return n;
}

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
	        cmocka_unit_test_setup_teardown(a_container_lives_and_ends, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                sigkill_reaches_a_paused_container, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                a_failing_create_says_why_and_leaves_nothing, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                an_exec_session_has_streams_and_an_exit, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_new_daemon_adopts, setup, teardown),
	        cmocka_unit_test_setup_teardown(the_code_survives_the_monitor, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_hanging_create_is_cancelled, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_slow_create_may_end, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                a_create_of_a_dead_daemon_is_aborted, setup, teardown),
	        cmocka_unit_test_setup_teardown(runtimes_tell_what_they_can, setup, teardown),
	};
	if (argc < 3 || geteuid() != 0 || access("/usr/sbin/runc", X_OK) < 0 ||
	        access(BUSYBOX, X_OK) < 0)
		return 77;
	plugin_path = argv[1];
	helpers = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
