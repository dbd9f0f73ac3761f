#include "host_fixture.h"
#include "runc_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "loop/child.h"
#include "runc_bundle.h"

#define BUSYBOX "/bin/busybox"

static const char *plugin_path, *helpers;

bool runc_tests_can_run(int argc, char **argv)
{
	if (argc < 3 || geteuid() != 0 || access("/usr/sbin/runc", X_OK) < 0 ||
	        access(BUSYBOX, X_OK) < 0)
		return false;
	plugin_path = argv[1];
	helpers = argv[2];
	return true;
}

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

void set_up_monitor(struct env *e)
{
	struct berth_error *err = NULL;
	int r = berth_monitor_init(
	        &(struct berth_monitor_opts){
	                .loop = e->loop, .helpers_dir = helpers, .plugins = e->host},
	        &err);
	if (r < 0)
		fail_msg("%s", err->msg);
}

void write_config(struct env *e, const char *terminal, const char *args)
{
	char text[4096], path[256], cgroup[64];
	/* Test programs run at once. */
	snprintf(cgroup, sizeof(cgroup), "/berth-test/rt%d", (int)getpid());
	int n = snprintf(text, sizeof(text), RUNC_CONFIG, terminal, args, cgroup);
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

struct berth_instance *make_instance(struct env *e, const char *runtime)
{
	struct berth_error *err = NULL;
	json_t *j = json_pack("{s:s, s:s}", "plugin_path", plugin_path, "path", runtime);
	struct berth_instance *i = berth_instance_new(e->host, "runtime-runc", "runc", j, &err);
	json_decref(j);
	if (!i)
		fail_msg("%s", err->msg);
	return i;
}

int setup(void **state)
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
	e->host = host_in(e->dir, e->loop, on_event, e);
	make_rootfs(e);
	set_up_monitor(e);
	e->rt = make_instance(e, "/usr/sbin/runc");
	*state = e;
	return 0;
}

int call(struct env *e, enum berth_opcode op, struct berth_ctr_args *a, void *out,
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

void must(struct env *e, enum berth_opcode op, struct berth_ctr_args a)
{
	struct berth_error *err = NULL;
	if (call(e, op, &a, NULL, &err) < 0)
		fail_msg("%s", err->msg);
}

uint64_t started_ns;

uint32_t status(struct env *e, struct berth_exit *ret_exit)
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

bool busy(struct env *e)
{
	struct berth_error *err = NULL;
	struct berth_monitor_state st = {0};
	siginfo_t si = {0};
	if (berth_monitor_state("c1", e->ctr, &st, &err) < 0)
		berth_error_free(err);
	return st.monitor_pid ||
	       (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid);
}

int teardown(void **state)
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

void run_until(struct env *e, const int *count, int want)
{
	uint64_t end = berth_now_ns() + 20000000000ull;
	while (*count < want && berth_now_ns() < end) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_int_equal(*count, want);
}

void create(struct env *e, const char *args)
{
	write_config(e, "false", args);
	must(e, BERTH_OP_RUNTIME_CREATE, (struct berth_ctr_args){.log_path = e->log});
	berth_monitor_watch(e->rt, "c1", e->bundle);
}

size_t entries_of_state(struct env *e)
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
