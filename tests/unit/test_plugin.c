/* core/plugin: loading, dispatch, services, with a real shared object. argv[1] is its path. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "loop/child.h"
#include "loop/pool.h"
#include "host_fixture.h"
#include "plugin/host.h"

static const char *probe_path;
static char **refused; /* for ABI 0.1, for ABI 1, without an entry, without a note */
static char **lacking; /* nothing, stat, mounts, sense, and sense once it has started */

struct env {
	struct berth_loop *loop;
	struct berth_plugin_host *host;
	struct berth_instance *probe;
	struct berth_pool *workers;
	char dir[64];
	int ticks;
	struct berth_exit exec_exit;
	char exec_id[64];
	bool exec_ended;
};

static void on_event(struct berth_instance *i, const struct berth_event *ev, void *arg)
{
	struct env *e = arg;
	assert_true(berth_on_loop());
	if (ev->type == BERTH_EV_HEALTH)
		e->ticks++;
	if (ev->type == BERTH_EV_EXIT) {
		e->exec_exit = ev->exit;
		snprintf(e->exec_id, sizeof(e->exec_id), "%s/%s", ev->object_id, ev->exec_id);
		e->exec_ended = true;
	}
	(void)i;
}

static json_t *conf(const char *text)
{
	json_t *j = json_loads(text, 0, NULL);
	json_object_set_new(j, "plugin_path", json_string(probe_path));
	return j;
}

static struct berth_instance *instance(struct env *e, const char *config, struct berth_error **err)
{
	json_t *j = conf(config);
	struct berth_instance *i = berth_instance_new(e->host, "probe", "probe", j, err);
	json_decref(j);
	return i;
}

static int setup(void **state)
{
	struct env *e = berth_new(struct env);
	berth_log_set_level(BERTH_LOG_LVL_ERROR);
	snprintf(e->dir, sizeof(e->dir), "/tmp/berth-test-XXXXXX");
	assert_non_null(mkdtemp(e->dir));
	e->loop = berth_loop_new();
	berth_child_init(e->loop, NULL, NULL);
	e->host = host_in(e->dir, e->loop, on_event, e);
	e->workers = berth_pool_new(
	        &(struct berth_pool_opts){.name = "flow", .max_threads = 8, .max_queued = 100});
	struct berth_error *err = NULL;
	e->probe = instance(
	        e, "{\"nested\":{\"number\":3},\"text\":\"x\",\"lanes\":{\"general\":4}}", &err);
	assert_non_null(e->probe);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;
	berth_pool_free(e->workers);
	berth_plugin_host_free(e->host);
	berth_child_finish();
	berth_loop_free(e->loop);
	assert_int_equal(berth_rm_tree(AT_FDCWD, e->dir), 0);
	free(e);
	return 0;
}

static void run_until(struct env *e, const bool *flag)
{
	uint64_t end = berth_now_ns() + 10000000000ull;
	while (!*flag && berth_now_ns() < end) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_true(*flag);
}

struct job {
	struct env *e;
	enum berth_opcode op;
	const char *id, *json;
	int ms;
	uint64_t deadline_ns;
	struct berth_cancel *cancel;
	struct berth_ctr_state state;
	int result;
	struct berth_error *err;
	bool ended;
	int *order, place;
};

static void job_work(void *arg)
{
	struct job *j = arg;
	struct berth_call *c = berth_call_new(j->e->probe, j->op, j->id);
	struct berth_ctr_args a = {
	        .size = sizeof(a), .id = j->id, .json = j->json, .signal = j->ms};
	if (j->deadline_ns)
		berth_call_set_deadline(c, j->deadline_ns);
	if (j->cancel)
		berth_call_set_cancel(c, j->cancel);
	j->state.size = sizeof(j->state);
	j->result =
	        berth_call_run(c, &a, j->op == BERTH_OP_RUNTIME_STATE ? &j->state : NULL, &j->err);
	berth_call_free(c);
}

static void job_done(void *arg)
{
	struct job *j = arg;
	j->ended = true;
	if (j->order)
		j->place = (*j->order)++;
}

static void begin(struct job *j)
{
	assert_int_equal(berth_work(j->e->workers, j->e->loop, job_work, job_done, j), 0);
}

static void run_job(struct job *j)
{
	begin(j);
	run_until(j->e, &j->ended);
}

static void one_object_is_served_in_order_and_alone(void **state)
{
	struct env *e = *state;
	struct job jobs[5];
	for (int i = 0; i < 5; i++) {
		jobs[i] =
		        (struct job){.e = e, .op = BERTH_OP_RUNTIME_START, .id = "same", .ms = 20};
		begin(&jobs[i]);
	}
	for (int i = 0; i < 5; i++) {
		run_until(e, &jobs[i].ended);
		assert_int_equal(jobs[i].result, 0);
	}
	struct job st = {.e = e, .op = BERTH_OP_RUNTIME_STATE, .id = "same"};
	run_job(&st);
	assert_int_equal(st.state.pid, 1);
	/* Different objects run side by side. */
	char names[3][8];
	for (int i = 0; i < 3; i++) {
		snprintf(names[i], sizeof(names[i]), "o%d", i);
		jobs[i] = (struct job){
		        .e = e, .op = BERTH_OP_RUNTIME_START, .id = names[i], .ms = 100};
		begin(&jobs[i]);
	}
	for (int i = 0; i < 3; i++)
		run_until(e, &jobs[i].ended);
	st = (struct job){.e = e, .op = BERTH_OP_RUNTIME_STATE, .id = "same"};
	run_job(&st);
	assert_true(st.state.pid >= 2);
}

static void errors_are_the_plugins_own_words(void **state)
{
	struct env *e = *state;
	struct job j = {.e = e, .op = BERTH_OP_RUNTIME_START, .id = "fails"};
	run_job(&j);
	assert_int_equal(j.result, -1);
	assert_int_equal(j.err->code, BERTH_NOT_FOUND);
	assert_string_equal(j.err->msg, "container fails: no such thing");
	berth_error_free(j.err);
	j = (struct job){.e = e, .op = BERTH_OP_RUNTIME_START, .id = "mute"};
	run_job(&j);
	assert_int_equal(j.err->code, BERTH_UNAVAILABLE);
	assert_non_null(strstr(j.err->msg, "did not say why"));
	berth_error_free(j.err);
	j = (struct job){.e = e, .op = BERTH_OP_RUNTIME_PAUSE, .id = "x"};
	run_job(&j);
	assert_int_equal(j.err->code, BERTH_UNIMPLEMENTED);
	assert_non_null(strstr(j.err->msg, "runtime.pause"));
	berth_error_free(j.err);
}

static void threads_of_a_plugin_share_an_op(void **state)
{
	struct env *e = *state;
	struct job j = {.e = e, .op = BERTH_OP_RUNTIME_REMOVE, .id = "x"};
	run_job(&j);
	assert_string_equal(j.err->msg, "all is well");
	berth_error_free(j.err);
}

static void watches_come_and_go(void **state)
{
	struct env *e = *state;
	struct job j = {.e = e, .op = BERTH_OP_RUNTIME_RESUME, .id = "x"};
	run_job(&j);
	assert_int_equal(j.result, 0);
}

static void cancel_and_deadline_reach_the_op(void **state)
{
	struct env *e = *state;
	struct job j = {
	        .e = e, .op = BERTH_OP_RUNTIME_KILL, .id = "x", .cancel = berth_cancel_new()};
	begin(&j);
	usleep(50000);
	berth_cancel_set(j.cancel);
	run_until(e, &j.ended);
	assert_int_equal(j.err->code, BERTH_CANCELLED);
	assert_string_equal(j.err->msg, "stopped as asked");
	berth_error_free(j.err);
	/* Set before the start: the plugin is never called. */
	struct job k = {.e = e, .op = BERTH_OP_RUNTIME_START, .id = "fails", .cancel = j.cancel};
	run_job(&k);
	assert_int_equal(k.err->code, BERTH_CANCELLED);
	berth_error_free(k.err);
	berth_cancel_unref(j.cancel);
	j = (struct job){.e = e, .op = BERTH_OP_RUNTIME_KILL, .id = "x"};
	j.deadline_ns = berth_now_ns() + 50000000;
	run_job(&j);
	assert_int_equal(j.result, -1);
	assert_string_equal(j.err->msg, "stopped as asked");
	berth_error_free(j.err);
}

static void run_collects_bounded_output(void **state)
{
	struct env *e = *state;
	struct job j = {.e = e,
	        .op = BERTH_OP_RUNTIME_UPDATE,
	        .id = "x",
	        .json = "cat; echo ' 12345678901234567890'; echo oops >&2; exit 3"};
	run_job(&j);
	assert_string_equal(j.err->msg, "3|input 12345678901234|oops\n");
	berth_error_free(j.err);
	/* A grandchild that keeps the pipe does not hold us up for ever. */
	uint64_t before = berth_now_ns();
	j = (struct job){.e = e,
	        .op = BERTH_OP_RUNTIME_UPDATE,
	        .id = "x",
	        .json = "sleep 30 & echo started; echo $! >&2"};
	run_job(&j);
	assert_true(berth_now_ns() - before < 8000000000ull);
	assert_memory_equal(j.err->msg, "0|started\n|", 11);
	kill(atoi(j.err->msg + 11), SIGKILL);
	berth_error_free(j.err);
	/* Cancelled: TERM is ignored here, so KILL follows, to the children as well. */
	j = (struct job){.e = e,
	        .op = BERTH_OP_RUNTIME_UPDATE,
	        .id = "x",
	        .json = "trap '' TERM; sleep 100 & wait; sleep 100"};
	j.deadline_ns = berth_now_ns() + 200000000;
	before = berth_now_ns();
	run_job(&j);
	assert_true(berth_now_ns() - before < 8000000000ull);
	assert_int_equal(j.err->code, BERTH_DEADLINE_EXCEEDED);
	berth_error_free(j.err);
}

static void a_spawned_child_reports_its_end(void **state)
{
	struct env *e = *state;
	struct berth_stdio io = {.size = sizeof(io)};
	struct berth_ctr_args a = {.size = sizeof(a),
	        .id = "c",
	        .exec_id = "e1",
	        .flags = BERTH_RUN_F_STDIN,
	        .json = "read x; echo got $x; exit 9"};
	struct berth_call *c = berth_call_new(e->probe, BERTH_OP_RUNTIME_EXEC, "c");
	struct berth_error *err = NULL;
	assert_int_equal(berth_call_run(c, &a, &io, &err), 0);
	berth_call_free(c);
	assert_int_equal(write(io.in_fd, "word\n", 5), 5);
	run_until(e, &e->exec_ended);
	assert_int_equal(e->exec_exit.flags, BERTH_EXIT_KNOWN);
	assert_int_equal(e->exec_exit.code, 9);
	assert_string_equal(e->exec_id, "c/e1");
	char *text = NULL;
	assert_int_equal(berth_read_fd(io.out_fd, 100, &text, NULL), 0);
	assert_string_equal(text, "got word\n");
	free(text);
	close(io.in_fd);
	close(io.out_fd);
	close(io.err_fd);
	/* One on a terminal, killed with its descendants. */
	e->exec_ended = false;
	a.exec_id = "e2";
	a.flags = BERTH_RUN_F_TTY;
	a.json = "tty; sleep 100; true";
	c = berth_call_new(e->probe, BERTH_OP_RUNTIME_EXEC, "c");
	assert_int_equal(berth_call_run(c, &a, &io, &err), 0);
	berth_call_free(c);
	char line[64] = "";
	assert_true(read(io.out_fd, line, sizeof(line) - 1) > 0);
	assert_memory_equal(line, "/dev/pts/", 9);
	berth_exec_kill(e->probe, "c", "e2");
	run_until(e, &e->exec_ended);
	assert_int_equal(e->exec_exit.flags, BERTH_EXIT_KNOWN | BERTH_EXIT_SIGNALLED);
	assert_int_equal(e->exec_exit.code, 9);
	close(io.in_fd);
	close(io.out_fd);
}

static void a_timer_runs_on_a_worker(void **state)
{
	struct env *e = *state;
	for (int i = 0; i < 1000 && e->ticks == 0; i++) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_int_equal(e->ticks, 1);
}

static void what_a_plugin_says_of_its_health_counts(void **state)
{
	struct env *e = *state;
	const char *why = NULL;

	assert_true(berth_instance_healthy(e->probe, &why));
	berth_instance_says(e->probe, "the pool is full");
	assert_false(berth_instance_healthy(e->probe, &why));
	assert_string_equal(why, "the pool is full");
	berth_instance_says(e->probe, "the pool has failed");
	assert_false(berth_instance_healthy(e->probe, &why));
	assert_string_equal(why, "the pool has failed");
	berth_instance_says(e->probe, NULL);
	assert_true(berth_instance_healthy(e->probe, &why));
	berth_instance_says(e->probe, "again"); /* and freed with the instance */
}

static void expect_refused(
        struct env *e, const char *config, enum berth_code code, const char *words)
{
	struct berth_error *err = NULL;
	assert_null(instance(e, config, &err));
	assert_int_equal(err->code, code);
	if (!strstr(err->msg, words))
		fail_msg("\"%s\" lacks \"%s\"", err->msg, words);
	berth_error_free(err);
}

static void refuse_file(struct env *e, const char *path, const char *words)
{
	struct berth_error *err = NULL;
	json_t *j = json_pack("{s:s}", "plugin_path", path);
	assert_null(berth_instance_new(e->host, "other", "other", j, &err));
	json_decref(j);
	if (!strstr(err->msg, words) || !strstr(err->msg, "other"))
		fail_msg("\"%s\" lacks \"%s\"", err->msg, words);
	berth_error_free(err);
}

static void copy(const char *from, const char *path, mode_t mode)
{
	char *text;
	size_t n;
	assert_int_equal(berth_read_file(AT_FDCWD, from, 100 << 20, &text, &n), 0);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, path, text, n, mode, false), 0);
	assert_int_equal(chmod(path, mode), 0);
	free(text);
}

static void copy_to(const char *path, mode_t mode)
{
	copy(probe_path, path, mode);
}

static void patch(const char *path, off_t at, unsigned char byte)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

/* A file with each fault that can be seen from outside; its constructor would tell. */
static void what_is_not_to_be_trusted_does_not_run(void **state)
{
	struct env *e = *state;
	char mark[128], path[128], dir[96];

	snprintf(mark, sizeof(mark), "%s/ran", e->dir);
	assert_int_equal(setenv("BERTH_TEST_MARK", mark, 1), 0);
	snprintf(dir, sizeof(dir), "%s/others", e->dir);
	assert_int_equal(mkdir(dir, 0755), 0);
	snprintf(path, sizeof(path), "%s/other.so", dir);

	copy(refused[0], path, 0664);
	refuse_file(e, path, "other.so is writable by its group or by others (mode 0664)");
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(chmod(dir, 0777), 0);
	refuse_file(e, path, "others is writable by its group or by others (mode 0777)");
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(chown(path, 1000, 0), 0);
	refuse_file(e, path, "other.so belongs to uid 1000; it must be root's");
	assert_int_equal(chown(path, 0, 0), 0);
	assert_int_equal(chown(dir, 1000, 0), 0);
	refuse_file(e, path, "others belongs to uid 1000; it must be root's");
	assert_int_equal(chown(dir, 0, 0), 0);
	patch(path, 18, 0xf7); /* e_machine */
	refuse_file(e, path, "it is made for another machine");
	copy(refused[0], path, 0644);
	patch(path, 4, 1); /* 32 bits */
	refuse_file(e, path, "it is made for another machine");
	copy(refused[0], path, 0644);
	patch(path, 16, 2); /* an executable */
	refuse_file(e, path, "it is no shared object");
	copy(refused[2], path, 0644);
	refuse_file(e, path, "it has no entry symbol berth_plugin_v0");
	copy(refused[1], path, 0644);
	refuse_file(e, path, "it is made for ABI 1, this host has 0.0");
	refuse_file(e, dir, "not a regular file");
	copy(refused[0], path, 0644);
	refuse_file(e, path, "it needs ABI 0.1, this host has 0.0");
	copy(refused[3], path, 0644);
	refuse_file(e, path, "it has no note of the ABI that it needs");
	assert_int_equal(access(mark, F_OK), -1);
}

static void bad_plugins_and_settings_are_refused(void **state)
{
	struct env *e = *state;
	char path[128];

	expect_refused(e, "{\"refuse\":true}", BERTH_FAILED_PRECONDITION, "told to refuse");
	expect_refused(e, "{\"txet\":\"y\"}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.txet: unknown key; did you mean \"text\"?");
	expect_refused(e, "{\"nested\":{\"nmber\":1}}", BERTH_INVALID_ARGUMENT,
	        "did you mean \"nested.number\"?");
	/* Not done, and not passed over. */
	expect_refused(e, "{\"optional\":true}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.optional: unknown key");
	expect_refused(
	        e, "{\"probe\":true}", BERTH_INVALID_ARGUMENT, "plugins.probe.probe: unknown key");
	expect_refused(e, "{\"plugin\":\"x\"}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.plugin: unknown key");
	/* A value of another type is no reason to serve with the default. */
	expect_refused(e, "{\"text\":448}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.text must be text, not a number (quote it to make it text)");
	expect_refused(e, "{\"text\":[\"x\"]}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.text must be text, not a list");
	expect_refused(e, "{\"nested\":{\"number\":\"5000\"}}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.nested.number must be a whole number, not text");
	expect_refused(e, "{\"nested\":{\"number\":1.5}}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.nested.number must be a whole number, not a fraction");
	expect_refused(e, "{\"either\":{\"a\":1}}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.either must be text or true or false, not a map");
	expect_refused(e, "{\"refuse\":\"true\"}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.refuse must be true or false, not text");
	/* Where create() fails it may be for the want of the value. */
	expect_refused(e, "{\"refuse\":true,\"text\":1}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.text must be text");
	expect_refused(e, "{\"late\":7}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.late must be text, not a number");
	expect_refused(
	        e, "{\"lanes\":4}", BERTH_INVALID_ARGUMENT, "plugins.probe.lanes must be a map");
	expect_refused(e, "{\"lanes\":{\"bogus\":3}}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.lanes.bogus: no such lane");
	expect_refused(e, "{\"lanes\":{\"general\":\"many\"}}", BERTH_INVALID_ARGUMENT,
	        "plugins.probe.lanes.general must be a whole number of threads within 1 and 256");
	expect_refused(
	        e, "{\"lanes\":{\"control\":0}}", BERTH_INVALID_ARGUMENT, "lanes.control must");
	expect_refused(
	        e, "{\"lanes\":{\"storage\":257}}", BERTH_INVALID_ARGUMENT, "lanes.storage must");
	snprintf(path, sizeof(path), "%s/other.so", e->dir);
	refuse_file(e, path, "No such file");
	copy_to(path, 0666);
	refuse_file(e, path, "writable by its group or by others");
	copy_to(path, 0644);
	refuse_file(e, path, "calls itself \"probe\"");
	assert_int_equal(chown(path, 1, -1), 0);
	refuse_file(e, path, "belongs to uid 1");
	assert_int_equal(chown(path, 0, -1), 0);
	/* Another file: the one above is mapped by now. */
	snprintf(path, sizeof(path), "%s/other-cut.so", e->dir);
	copy_to(path, 0644);
	assert_int_equal(truncate(path, 5000), 0);
	refuse_file(e, path, "other-cut.so: it");
	assert_int_equal(truncate(path, 10), 0);
	refuse_file(e, path, "it is no ELF file");
}

static void what_a_kind_needs_is_there_before_it_starts(void **state)
{
	static const struct {
		bool loads, starts;
		enum berth_code code;
		const char *words;
	} wanted[] = {{.loads = true, .starts = true},
	        {.code = BERTH_UNIMPLEMENTED,
	                .words = "lacking-stat.so: it has no op storage.stat"},
	        {.code = BERTH_UNIMPLEMENTED,
	                .words = "lacking-mounts.so: it has no op storage.mounts"},
	        {.code = BERTH_INVALID_ARGUMENT, .words = "two ways of writing deletions"},
	        {.loads = true,
	                .code = BERTH_INVALID_ARGUMENT,
	                .words = "two ways of writing deletions"}};

	(void)state;
	for (size_t n = 0; n < BERTH_ARRAY_LEN(wanted); n++) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL, *err2 = NULL;
		void *one; /* a name is loaded once */
		setup(&one);
		struct env *e = one;
		assert_int_equal(berth_plugin_try(e->dir, "lacking", lacking[n], &err),
		        wanted[n].loads ? 0 : -1);
		json_t *j = json_pack("{s:s}", "plugin_path", lacking[n]);
		bool starts = berth_instance_new(e->host, "lacking", "lacking", j, &err2);
		json_decref(j);
		assert_int_equal(starts, wanted[n].starts);
		for (int k = 0; k < 2; k++) {
			const struct berth_error *told = k ? err2 : err;
			if (told && (!strstr(told->msg, wanted[n].words) ||
			                    told->code != wanted[n].code))
				fail_msg("\"%s\" lacks \"%s\"", told->msg, wanted[n].words);
		}
		teardown(&one);
	}
}

static void a_value_fits_one_of_the_types_asked_for(void **state)
{
	static const char *const good[] = {"{\"either\":\"on\"}", "{\"either\":true}",
	        "{\"either\":null,\"text\":null}", "{\"any\":{\"a\":[1]}}", "{\"any\":{\"b\":5}}"};
	struct env *e = *state;

	for (size_t n = 0; n < BERTH_ARRAY_LEN(good); n++) {
		struct berth_error *err = NULL;
		if (!instance(e, good[n], &err))
			fail_msg("%s: %s", good[n], err->msg);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(
	                one_object_is_served_in_order_and_alone, setup, teardown),
	        cmocka_unit_test_setup_teardown(errors_are_the_plugins_own_words, setup, teardown),
	        cmocka_unit_test_setup_teardown(cancel_and_deadline_reach_the_op, setup, teardown),
	        cmocka_unit_test_setup_teardown(threads_of_a_plugin_share_an_op, setup, teardown),
	        cmocka_unit_test_setup_teardown(watches_come_and_go, setup, teardown),
	        cmocka_unit_test_setup_teardown(run_collects_bounded_output, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_spawned_child_reports_its_end, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_timer_runs_on_a_worker, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                what_a_plugin_says_of_its_health_counts, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                what_is_not_to_be_trusted_does_not_run, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                bad_plugins_and_settings_are_refused, setup, teardown),
	        cmocka_unit_test(what_a_kind_needs_is_there_before_it_starts),
	        cmocka_unit_test_setup_teardown(
	                a_value_fits_one_of_the_types_asked_for, setup, teardown),
	};
	if (argc < 11 || geteuid() != 0)
		return 77;
	probe_path = argv[1];
	refused = argv + 2;
	lacking = argv + 6;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
