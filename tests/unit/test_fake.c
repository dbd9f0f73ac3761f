/* The fake plugin does what tests of everything above it rely on. No privilege is needed. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "testhost.h"

#define PLUGIN BERTH_TEST_PLUGINS "/../tests/fake/fake.so"

static char dir[64];
static struct testhost *h;

static char *at(const char *name)
{
	return berth_asprintf("%s/%s", dir, name);
}

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *p = at(name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

static void start(const char *config)
{
	_cleanup_free_ char *state = at("state"), *run = at("run"), *msg = NULL;

	h = testhost_new(PLUGIN, state, run, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

static int setup(void **s)
{
	snprintf(dir, sizeof(dir), "/tmp/berth-fake-XXXXXX");
	assert_non_null(mkdtemp(dir));
	static const char *const dirs[] = {"state", "run", "bundle"};
	for (size_t i = 0; i < 3; i++) {
		_cleanup_free_ char *p = at(dirs[i]);
		assert_int_equal(berth_mkdir_p(p, 0755), 0);
	}
	put("bundle/config.json", "{\"process\":{\"args\":[\"sleep\",\"inf\"]}}");
	h = NULL;
	return 0;
}

static int teardown(void **s)
{
	h = testhost_free(h);
	return berth_rm_tree(AT_FDCWD, dir);
}

static struct berth_ctr_args ctr(const char *id)
{
	static char bundle[128], log[128];
	snprintf(bundle, sizeof(bundle), "%s/bundle", dir);
	snprintf(log, sizeof(log), "%s/ctr.log", dir);
	return (struct berth_ctr_args){
	        .size = sizeof(struct berth_ctr_args), .id = id, .bundle = bundle, .log_path = log};
}

static struct berth_ctr_state state_of(const char *id)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_ctr_args a = ctr(id);
	struct berth_ctr_state s = {.size = sizeof(s)};
	OK(op, testhost_plugin(h)->runtime->state(op, testhost_self(h), &a, &s));
	s.id = NULL; /* of the op's */
	return s;
}

static void containers_run_until_they_are_killed(void **s)
{
	start("{\"ignore_term\": true}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_runtime_ops *o = testhost_plugin(h)->runtime;
	void *self = testhost_self(h);
	struct berth_ctr_args a = ctr("c1");

	OK(op, o->create(op, self, &a));
	FAILS(op, o->create(op, self, &a), BERTH_E_EXISTS, "c1");
	assert_int_equal(state_of("c1").status, BERTH_ST_CREATED);
	OK(op, o->start(op, self, &a));
	FAILS(op, o->start(op, self, &a), BERTH_E_PRECONDITION, "c1");
	assert_int_equal(state_of("c1").status, BERTH_ST_RUNNING);
	FAILS(op, o->remove(op, self, &a), BERTH_E_PRECONDITION, "running");
	a.signal = SIGTERM;
	OK(op, o->kill(op, self, &a));
	assert_int_equal(testhost_n_events(h), 0);
	/* A killed daemon finds it again. */
	h = testhost_kill(h);
	start("{}");
	self = testhost_self(h);
	op = testop_free(op);
	op = testop_new(h);
	struct berth_ctr_list l = {.size = sizeof(l)};
	OK(op, o->list(op, self, &l));
	assert_int_equal(l.n, 1);
	assert_string_equal(l.ctrs[0]->id, "c1");
	assert_int_equal(l.ctrs[0]->status, BERTH_ST_RUNNING);
	a.signal = SIGKILL;
	OK(op, o->kill(op, self, &a));
	assert_int_equal(testhost_n_events(h), 1);
	const struct testevent *ev = testhost_event(h, 0);
	assert_int_equal(ev->type, BERTH_EV_EXIT);
	assert_string_equal(ev->object_id, "c1");
	assert_null(ev->exec_id);
	assert_int_equal(ev->exit.flags, BERTH_EXIT_KNOWN | BERTH_EXIT_SIGNALLED);
	assert_int_equal(ev->exit.code, SIGKILL);
	struct berth_ctr_state st = state_of("c1");
	assert_int_equal(st.status, BERTH_ST_STOPPED);
	assert_int_equal(st.exit.code, SIGKILL);
	assert_true(st.finished_ns >= st.started_ns && st.started_ns > 0);
	OK(op, o->remove(op, self, &a));
	OK(op, o->remove(op, self, &a));
	struct berth_ctr_state none = {.size = sizeof(none)};
	FAILS(op, o->state(op, self, &a, &none), BERTH_E_NOT_FOUND, "c1");
	_cleanup_free_ char *log = at("ctr.log"), *text = NULL;
	assert_int_equal(berth_read_file(AT_FDCWD, log, 4096, &text, NULL), 0);
	assert_non_null(strstr(text, "Z stdout F started\n"));
	assert_non_null(strstr(text, "Z stdout F got signal 15\n"));
	assert_non_null(strstr(text, "Z stdout F ended by signal 9\n"));
}

static void containers_end_by_themselves(void **s)
{
	start("{\"exit_after_ms\": 30, \"exit_code\": 7}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_runtime_ops *o = testhost_plugin(h)->runtime;
	struct berth_ctr_args a = ctr("c1"), b = ctr("c2");
	OK(op, o->create(op, testhost_self(h), &a));
	OK(op, o->start(op, testhost_self(h), &a));
	for (int i = 0; i < 100 && testhost_n_events(h) == 0; i++)
		testhost_dispatch(h, 50);
	assert_int_equal(testhost_n_events(h), 1);
	assert_int_equal(testhost_event(h, 0)->exit.flags, BERTH_EXIT_KNOWN);
	assert_int_equal(testhost_event(h, 0)->exit.code, 7);
	/* One more is on its way when the plugin stops. */
	OK(op, o->create(op, testhost_self(h), &b));
	OK(op, o->start(op, testhost_self(h), &b));
}

static void exec_is_a_real_process(void **s)
{
	start("{}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_runtime_ops *o = testhost_plugin(h)->runtime;
	void *self = testhost_self(h);
	struct berth_ctr_args a = ctr("c1");
	struct berth_stdio io = {.size = sizeof(io)};
	OK(op, o->create(op, self, &a));
	a.exec_id = "e1";
	a.json = "{\"args\":[\"sh\",\"-c\",\"echo $X; cat; exit "
	         "5\"],\"env\":[\"X=hello\",\"PATH=/bin\"]}";
	a.flags = BERTH_IO_STDIN;
	FAILS(op, o->exec(op, self, &a, &io), BERTH_E_PRECONDITION, "not running");
	OK(op, o->start(op, self, &a));
	OK(op, o->exec(op, self, &a, &io));
	assert_int_equal(berth_write_all(io.in_fd, "in\n", 3), 0);
	close(io.in_fd);
	_cleanup_free_ char *out = NULL;
	assert_int_equal(berth_read_fd(io.out_fd, 4096, &out, NULL), 0);
	assert_string_equal(out, "hello\nin\n");
	close(io.out_fd);
	close(io.err_fd);
	for (int i = 0; i < 100 && testhost_n_events(h) == 0; i++)
		testhost_dispatch(h, 50);
	assert_string_equal(testhost_event(h, 0)->exec_id, "e1");
	assert_int_equal(testhost_event(h, 0)->exit.code, 5);
	a.json = "{\"args\":[\"no-such-program\"]}";
	FAILS(op, o->exec(op, self, &a, &io), BERTH_E_NOT_FOUND, "no-such-program");
}

static void snapshots_hold_their_parents_content(void **s)
{
	start("{\"mounts\": \"bind\"}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_storage_ops *o = testhost_plugin(h)->storage;
	void *self = testhost_self(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = {.size = sizeof(a), .key = "k1", .name = "sha256:one"};
	OK(op, o->prepare(op, self, &a, &r));
	_cleanup_free_ char *f = berth_asprintf("%s/f", r.mounts[0]->source);
	_cleanup_close_ int fd = open(f, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	OK(op, o->commit(op, self, &a));
	struct berth_snap_args b = {.size = sizeof(b), .key = "c1", .parent = "sha256:one"};
	OK(op, o->prepare(op, self, &b, &r));
	_cleanup_free_ char *f2 = berth_asprintf("%s/f", r.mounts[0]->source);
	assert_string_not_equal(f, f2);
	assert_int_equal(access(f2, F_OK), 0);
	a.key = "sha256:one";
	FAILS(op, o->remove(op, self, &a), BERTH_E_PRECONDITION, "c1");
	OK(op, o->remove(op, self, &b));
	OK(op, o->remove(op, self, &a));
	struct berth_snap_list l = {.size = sizeof(l)};
	OK(op, o->list(op, self, &l));
	assert_int_equal(l.n, 0);
	assert_int_equal(access(f, F_OK), -1);
	/* Without privilege nothing is to be mounted. */
	put("run/inject", "mounts=none\n");
	OK(op, o->prepare(op, self, &(struct berth_snap_args){.size = sizeof(a), .key = "n"}, &r));
	assert_int_equal(r.n, 0);
}

static void addresses_are_unique_and_kept(void **s)
{
	start("{}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_network_ops *o = testhost_plugin(h)->network;
	struct berth_net_result r1 = {.size = sizeof(r1)}, r2 = r1, r3 = r1;
	struct berth_net_args a = {.size = sizeof(a), .sandbox_id = "p1"},
	                      b = {.size = sizeof(b), .sandbox_id = "p2"},
	                      c = {.size = sizeof(c), .sandbox_id = "p3"};
	OK(op, o->attach(op, testhost_self(h), &a, &r1));
	OK(op, o->attach(op, testhost_self(h), &b, &r2));
	assert_int_equal(r1.n_ips, 2);
	assert_string_not_equal(r1.ips[0], r2.ips[0]);
	_cleanup_free_ char *ip2 = berth_strdup(r2.ips[0]);
	op = testop_free(op);
	h = testhost_kill(h);
	start("{}");
	op = testop_new(h);
	OK(op, o->attach(op, testhost_self(h), &c, &r3));
	assert_string_not_equal(ip2, r3.ips[0]);
	const char *valid[] = {"p1"};
	struct berth_net_gc_args gc = {.size = sizeof(gc), .n_valid = 1, .valid = valid};
	OK(op, o->gc(op, testhost_self(h), &gc));
	OK(op, o->check(op, testhost_self(h), &a));
	FAILS(op, o->check(op, testhost_self(h), &b), BERTH_E_NOT_FOUND, "p2");
	OK(op, o->status(op, testhost_self(h)));
	put("run/inject", "not_ready=no cable\n");
	FAILS(op, o->status(op, testhost_self(h)), BERTH_E_UNAVAILABLE, "no cable");
}

static void faults_come_on_demand(void **s)
{
	start("{\"fail_op\": \"storage.commit,create\", \"fail_status\": 8, \"fail_count\": 1}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_runtime_ops *o = testhost_plugin(h)->runtime;
	void *self = testhost_self(h);
	struct berth_ctr_args a = ctr("c1");
	FAILS(op, o->create(op, self, &a), BERTH_E_EXHAUSTED, "runtime.create");
	OK(op, o->create(op, self, &a));
	put("run/inject", "fail_op=runtime.start\nfail_count=0\nfail_status=14\n");
	FAILS(op, o->start(op, self, &a), BERTH_E_UNAVAILABLE, "runtime.start");
	put("run/inject", "delay_op=start\ndelay_ms=60000\n");
	testop_set_deadline_ms(op, 1);
	testop_cancel(op);
	FAILS(op, o->start(op, self, &a), BERTH_E_CANCELLED, "runtime.start");
	op = testop_free(op);
	op = testop_new(h);
	put("run/inject", "delay_op=start\ndelay_ms=20\n");
	uint64_t begin = berth_now_ns();
	OK(op, o->start(op, self, &a));
	assert_true(berth_now_ns() - begin >= 20000000);
	/* The process itself ends, after the work and before the answer. */
	put("run/inject", "kill_op=runtime.kill\nkill_when=after\n");
	pid_t pid = fork();
	if (pid == 0) {
		a.signal = SIGKILL;
		o->kill(op, self, &a);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(state_of("c1").status, BERTH_ST_STOPPED);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(containers_run_until_they_are_killed),
	        T(containers_end_by_themselves),
	        T(exec_is_a_real_process),
	        T(snapshots_hold_their_parents_content),
	        T(addresses_are_unique_and_kept),
	        T(faults_come_on_demand),
	};
	return cmocka_run_group_tests_name("fake", tests, NULL, NULL);
}
