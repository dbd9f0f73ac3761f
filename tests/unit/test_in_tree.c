/* The in-tree plugins and the fake one in the real host: loader, lanes, watches, events. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "loop/child.h"
#include "loop/pool.h"
#include "mount/mount.h"
#include "host_fixture.h"
#include "plugin/host.h"

#define FAKE BERTH_TEST_PLUGINS "/../tests/fake/fake.so"
#define EXAMPLE BERTH_TEST_PLUGINS "/../tests/fake/storage-dir.so"
#define PULLS 6
#define LAYERS 5

struct env {
	struct berth_loop *loop;
	struct berth_plugin_host *host;
	struct berth_pool *workers;
	char dir[64];
	int health, exits;
	struct berth_exit exit;
	char ended[64];
};

static void on_event(struct berth_instance *i, const struct berth_event *ev, void *arg)
{
	struct env *e = arg;

	(void)i;
	assert_true(berth_on_loop());
	if (ev->type == BERTH_EV_HEALTH)
		e->health++;
	if (ev->type == BERTH_EV_EXIT) {
		e->exits++;
		e->exit = ev->exit;
		snprintf(e->ended, sizeof(e->ended), "%s/%s", ev->object_id,
		        ev->exec_id ? ev->exec_id : "");
	}
}

static int setup(void **state)
{
	struct env *e = berth_new(struct env);

	berth_log_set_level(BERTH_LOG_LVL_ERROR);
	snprintf(e->dir, sizeof(e->dir), "/tmp/berth-in-tree-XXXXXX");
	assert_non_null(mkdtemp(e->dir));
	e->loop = berth_loop_new();
	berth_child_init(e->loop, NULL, NULL);
	e->host = host_in(e->dir, e->loop, on_event, e);
	e->workers = berth_pool_new(
	        &(struct berth_pool_opts){.name = "flow", .max_threads = 16, .max_queued = 100});
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

static struct berth_instance *load(struct env *e, const char *name, const char *path,
        const char *config, struct berth_error **err)
{
	json_t *j = json_loads(config, 0, NULL);

	assert_non_null(j);
	json_object_set_new(j, "plugin_path", json_string(path));
	struct berth_instance *i = berth_instance_new(e->host, name, name, j, err);
	json_decref(j);
	return i;
}

static struct berth_instance *load_ok(
        struct env *e, const char *name, const char *path, const char *config)
{
	struct berth_error *err = NULL;
	struct berth_instance *i = load(e, name, path, config, &err);

	if (!i)
		fail_msg("%s", err->msg);
	return i;
}

static int call(struct berth_instance *i, enum berth_opcode op, const char *object, const void *in,
        void *out, struct berth_error **err)
{
	struct berth_call *c = berth_call_new(i, op, object);
	int r = berth_call_run(c, in, out, err);

	berth_call_free(c);
	return r;
}

static void call_ok(struct berth_instance *i, enum berth_opcode op, const char *object,
        const void *in, void *out)
{
	struct berth_error *err = NULL;

	if (call(i, op, object, in, out, &err) < 0)
		fail_msg("%s", err->msg);
}

static void run_until(struct env *e, const int *counter, int at_least)
{
	uint64_t end = berth_now_ns() + 10000000000ull;

	while (*counter < at_least && berth_now_ns() < end) {
		uv_run(berth_loop_uv(e->loop), UV_RUN_NOWAIT);
		usleep(1000);
	}
	assert_true(*counter >= at_least);
}

static void put(const char *dir, const char *name, const char *text)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", dir, name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

static void the_fake_serves_all_kinds(void **state)
{
	struct env *e = *state;
	struct berth_instance *i = load_ok(e, "fake", FAKE, "{\"mounts\":\"none\"}");
	struct berth_ctr_args a = {
	        .size = sizeof(a), .id = "c1", .bundle = e->dir, .signal = SIGTERM};
	struct berth_ctr_state s = {.size = sizeof(s)};
	struct berth_stdio io = {.size = sizeof(io)};

	assert_true(berth_instance_has_storage(i) && berth_instance_has_runtime(i) &&
	            berth_instance_has_network(i));
	put(e->dir, "config.json", "{\"process\":{\"args\":[\"x\"]}}");
	call_ok(i, BERTH_OP_RUNTIME_CREATE, "c1", &a, NULL);
	call_ok(i, BERTH_OP_RUNTIME_START, "c1", &a, NULL);
	a.exec_id = "e1";
	a.json = "{\"args\":[\"true\"]}";
	call_ok(i, BERTH_OP_RUNTIME_EXEC, "c1", &a, &io);
	berth_close(io.in_fd);
	berth_close(io.out_fd);
	berth_close(io.err_fd);
	run_until(e, &e->exits, 1);
	assert_string_equal(e->ended, "c1/e1");
	assert_int_equal(e->exit.code, 0);
	a.exec_id = NULL;
	call_ok(i, BERTH_OP_RUNTIME_KILL, "c1", &a, NULL);
	run_until(e, &e->exits, 2);
	assert_string_equal(e->ended, "c1/");
	call_ok(i, BERTH_OP_RUNTIME_STATE, "c1", &a, &s);
	assert_int_equal(s.status, BERTH_ST_STOPPED);

	struct berth_net_args n = {.size = sizeof(n), .sandbox_id = "p"};
	struct berth_net_result nr = {.size = sizeof(nr)};
	call_ok(i, BERTH_OP_NETWORK_ATTACH, "p", &n, &nr);
	assert_int_equal(nr.n_ips, 2);
	struct berth_snap_args sa = {.size = sizeof(sa), .key = "k"};
	struct berth_mounts_result mr = {.size = sizeof(mr)};
	call_ok(i, BERTH_OP_STORAGE_PREPARE, "k", &sa, &mr);
	assert_int_equal(mr.n, 0);
}

static void a_misspelt_key_is_named(void **state)
{
	struct env *e = *state;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL, *err2 = NULL;

	assert_null(load(e, "fake", FAKE, "{\"delay_mz\":1}", &err));
	assert_non_null(strstr(err->msg, "delay_mz"));
	assert_non_null(strstr(err->msg, "delay_ms"));
	assert_null(load(e, "net-cni", BERTH_TEST_PLUGINS "/net-cni/net-cni.so",
	        "{\"bin_dirs\":[\"relative\"]}", &err2));
	assert_int_equal(err2->code, BERTH_INVALID_ARGUMENT);
}

static void the_example_stores_layers(void **state)
{
	struct env *e = *state;
	struct berth_instance *i = load_ok(e, "storage-dir", EXAMPLE, "{}");
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_snap_args a = {.size = sizeof(a), .key = "pull", .name = "sha256:1"};
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_list l = {.size = sizeof(l)};

	struct berth_call *c = berth_call_new(i, BERTH_OP_STORAGE_PREPARE, "pull");
	assert_int_equal(berth_call_run(c, &a, &r, &err), 0);
	put(r.mounts[0]->source, "f", "text");
	berth_call_free(c);
	call_ok(i, BERTH_OP_STORAGE_COMMIT, "pull", &a, NULL);
	a = (struct berth_snap_args){.size = sizeof(a), .key = "ctr", .parent = "sha256:1"};
	c = berth_call_new(i, BERTH_OP_STORAGE_PREPARE, "ctr");
	assert_int_equal(berth_call_run(c, &a, &r, &err), 0);
	_cleanup_free_ char *f = berth_asprintf("%s/f", r.mounts[0]->source), *text = NULL;
	assert_int_equal(berth_read_file(AT_FDCWD, f, 10, &text, NULL), 0);
	assert_string_equal(text, "text");
	berth_call_free(c);
	c = berth_call_new(i, BERTH_OP_STORAGE_LIST, "list");
	assert_int_equal(berth_call_run(c, NULL, &l, &err), 0);
	assert_int_equal(l.n, 2);
	for (uint32_t n = 0; n < l.n; n++)
		if (l.snaps[n]->kind == BERTH_SNAP_ACTIVE)
			assert_string_equal(l.snaps[n]->parent, "sha256:1");
	berth_call_free(c);
	call_ok(i, BERTH_OP_STORAGE_REMOVE, "ctr", &a, NULL);
	call_ok(i, BERTH_OP_STORAGE_REMOVE, "ctr", &a, NULL);
	assert_int_equal(call(i, BERTH_OP_STORAGE_MOUNTS, "ctr", &a, &r, &err), -1);
	assert_int_equal(err->code, BERTH_NOT_FOUND);
	call_ok(i, BERTH_OP_STORAGE_CLEANUP, "cleanup", NULL, NULL);
}

static void the_network_comes_up_with_its_file(void **state)
{
	struct env *e = *state;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *conf = berth_asprintf("%s/net.d", e->dir),
	                    *text = berth_asprintf(
	                            "{\"conf_dir\":\"%s\",\"bin_dirs\":[\"%s\"]}", conf, e->dir);
	struct berth_instance *i =
	        load_ok(e, "net-cni", BERTH_TEST_PLUGINS "/net-cni/net-cni.so", text);

	assert_int_equal(call(i, BERTH_OP_NETWORK_STATUS, "network", NULL, NULL, &err), -1);
	assert_int_equal(err->code, BERTH_UNAVAILABLE);
	assert_int_equal(mkdir(conf, 0755), 0);
	put(e->dir, "plug",
	        "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo "
	        "'{\"ips\":[{\"address\":\"10.0.0.7/24\"}]}'\n");
	_cleanup_free_ char *plug = berth_asprintf("%s/plug", e->dir);
	assert_int_equal(chmod(plug, 0755), 0);
	run_until(e, &e->health, 1); /* another reason now: the directory is empty */
	put(conf, "1.conf", "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"type\":\"plug\"}");
	/* One event may come while the file is being written, the next when it is closed. */
	int ready = 0;
	for (int seen = 2; !ready; seen++) {
		_cleanup_(berth_error_freep) struct berth_error *not_yet = NULL;
		run_until(e, &e->health, seen);
		ready = call(i, BERTH_OP_NETWORK_STATUS, "network", NULL, NULL, &not_yet) == 0;
	}
	struct berth_net_args n = {
	        .size = sizeof(n), .sandbox_id = "p", .netns = "/proc/self/ns/net"};
	struct berth_net_result r = {.size = sizeof(r)};
	struct berth_call *c = berth_call_new(i, BERTH_OP_NETWORK_ATTACH, "p");
	err = berth_error_free(err);
	assert_int_equal(berth_call_run(c, &n, &r, &err), 0);
	assert_string_equal(r.ips[0], "10.0.0.7");
	berth_call_free(c);
	call_ok(i, BERTH_OP_NETWORK_DETACH, "p", &n, NULL);
}

/* ---- many pulls at once into the overlay driver ---- */

struct pull {
	struct env *e;
	struct berth_instance *storage;
	int number;
	char *said; /* the first unexpected error */
};

static int finished;

static void pull_done(void *arg)
{
	(void)arg;
	finished++;
}

static bool expect(struct pull *p, int r, struct berth_error **err, enum berth_code also)
{
	bool ok = r == 0 || (*err)->code == also;

	if (!ok && !p->said)
		p->said = berth_strdup((*err)->msg);
	*err = berth_error_free(*err);
	return ok;
}

/* All pull the same layers, in an order of their own, then commit in the right one: one wins each
 * layer, the others are told. Then a container comes and goes. */
static void pull(void *arg)
{
	struct pull *p = arg;
	struct berth_error *err = NULL;
	struct berth_snap_args a = {.size = sizeof(a)};
	char key[64], name[64], parent[64];

	for (int n = 0; n < LAYERS; n++) {
		struct berth_mounts_result r = {.size = sizeof(r)};
		snprintf(key, sizeof(key), "pull-%d-%d", p->number, (n + p->number) % LAYERS);
		a = (struct berth_snap_args){
		        .size = sizeof(a), .key = key, .flags = BERTH_SNAP_F_LAYER};
		struct berth_call *c = berth_call_new(p->storage, BERTH_OP_STORAGE_PREPARE, key);
		int res = berth_call_run(c, &a, &r, &err);
		if (res == 0)
			put(r.mounts[0]->source, key, key);
		berth_call_free(c);
		expect(p, res, &err, BERTH_OK_);
	}
	for (int n = 0; n < LAYERS; n++) {
		snprintf(key, sizeof(key), "pull-%d-%d", p->number, n);
		snprintf(name, sizeof(name), "sha256:%d", n);
		snprintf(parent, sizeof(parent), "sha256:%d", n - 1);
		a = (struct berth_snap_args){
		        .size = sizeof(a), .key = key, .name = name, .parent = n ? parent : NULL};
		expect(p, call(p->storage, BERTH_OP_STORAGE_COMMIT, key, &a, NULL, &err), &err,
		        BERTH_ALREADY_EXISTS);
		a = (struct berth_snap_args){.size = sizeof(a), .key = key};
		expect(p, call(p->storage, BERTH_OP_STORAGE_REMOVE, key, &a, NULL, &err), &err,
		        BERTH_OK_);
	}
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_list l = {.size = sizeof(l)};
	snprintf(key, sizeof(key), "ctr-%d", p->number);
	snprintf(parent, sizeof(parent), "sha256:%d", LAYERS - 1);
	a = (struct berth_snap_args){.size = sizeof(a), .key = key, .parent = parent};
	expect(p, call(p->storage, BERTH_OP_STORAGE_PREPARE, key, &a, &r, &err), &err, BERTH_OK_);
	expect(p, call(p->storage, BERTH_OP_STORAGE_LIST, "list", NULL, &l, &err), &err, BERTH_OK_);
	expect(p, call(p->storage, BERTH_OP_STORAGE_CLEANUP, "cleanup", NULL, NULL, &err), &err,
	        BERTH_OK_);
	expect(p, call(p->storage, BERTH_OP_STORAGE_REMOVE, key, &a, NULL, &err), &err, BERTH_OK_);
}

static void concurrent_pulls_store_each_layer_once(void **state)
{
	struct env *e = *state;
	struct berth_error *err = NULL;
	struct pull pulls[PULLS] = {0};

	struct berth_instance *i = load(e, "storage-overlay",
	        BERTH_TEST_PLUGINS "/storage-overlay/storage-overlay.so", "{}", &err);
	if (!i && err->code == BERTH_FAILED_PRECONDITION) {
		print_message("skipped: %s\n", err->msg);
		berth_error_free(err);
		skip();
	}
	assert_non_null(i);
	/* What the instance says, not the file. */
	assert_int_equal(
	        berth_instance_features(i) & BERTH_F_DETACHED_LAYERS, BERTH_F_DETACHED_LAYERS);
	assert_int_equal(berth_instance_descriptor(i)->features & BERTH_F_QUOTA, 0);
	if (!(berth_instance_features(i) & BERTH_F_QUOTA))
		assert_non_null(strstr(berth_instance_no_quota(i), ": "));
	finished = 0;
	for (int n = 0; n < PULLS; n++) {
		pulls[n] = (struct pull){.e = e, .storage = i, .number = n};
		assert_int_equal(berth_work(e->workers, e->loop, pull, pull_done, &pulls[n]), 0);
	}
	run_until(e, &finished, PULLS);
	for (int n = 0; n < PULLS; n++)
		if (pulls[n].said)
			fail_msg("%s", pulls[n].said);
	struct berth_snap_list l = {.size = sizeof(l)};
	struct berth_call *c = berth_call_new(i, BERTH_OP_STORAGE_LIST, "list");
	assert_int_equal(berth_call_run(c, NULL, &l, &err), 0);
	assert_int_equal(l.n, LAYERS);
	for (uint32_t n = 0; n < l.n; n++)
		assert_int_equal(l.snaps[n]->kind, BERTH_SNAP_COMMITTED);
	berth_call_free(c);
	/* From the top down they go. */
	for (int n = LAYERS; n-- > 0;) {
		char name[64];
		snprintf(name, sizeof(name), "sha256:%d", n);
		struct berth_snap_args a = {.size = sizeof(a), .key = name};
		call_ok(i, BERTH_OP_STORAGE_REMOVE, name, &a, NULL);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(the_fake_serves_all_kinds),
	        T(a_misspelt_key_is_named),
	        T(the_example_stores_layers),
	        T(the_network_comes_up_with_its_file),
	        T(concurrent_pulls_store_each_layer_once),
	};
	return cmocka_run_group_tests_name("in-tree", tests, NULL, NULL);
}
