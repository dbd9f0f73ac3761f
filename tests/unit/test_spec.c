/* core/spec: the process of a container: arguments, environment, users. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "spec_cmocka.h"

static void test_basics(void **state)
{
	struct fixture *f = *state;
	must_build(f);
	assert_string_equal(fixture_str(f, "ociVersion"), "1.0.2");
	assert_string_equal(fixture_str(f, "root.path"), f->rootfs);
	assert_true(json_is_false(fixture_get(f, "root.readonly")));
	assert_true(json_is_false(fixture_get(f, "process.terminal")));
	assert_true(json_is_false(fixture_get(f, "process.noNewPrivileges")));
	assert_null(fixture_get(f, "process.rlimits"));
	assert_null(fixture_get(f, "linux.seccomp"));
	assert_null(fixture_get(f, "hostname"));
	assert_int_equal(f->out.stop_signal, 15);
	assert_false(f->out.privileged);
	json_t *a = fixture_get(f, "annotations");
	assert_string_equal(
	        json_string_value(json_object_get(a, "io.kubernetes.cri.container-type")),
	        "container");
	assert_string_equal(
	        json_string_value(json_object_get(a, "io.kubernetes.cri.container-name")), "ctr");
	assert_string_equal(json_string_value(json_object_get(a, "io.kubernetes.cri.sandbox-id")),
	        f->in.pod_id);
	assert_string_equal(
	        json_string_value(json_object_get(a, "io.kubernetes.cri.sandbox-namespace")), "ns");

	/* A broken request names the container. */
	f->c.metadata = NULL;
	must_fail(f, BERTH_INVALID_ARGUMENT, f->in.container_id);
}

static void test_args(void **state)
{
	struct fixture *f = *state;
	char *extra[] = {S("x"), S("y")};

	json_object_set_new(f->image, "entrypoint", json_pack("[s,s]", "/entry", "-e"));
	json_object_set_new(f->image, "cmd", json_pack("[s]", "-c"));
	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "process.args")), 1);
	assert_string_equal(fixture_str(f, "process.args.0"), "/bin/true");

	f->c.args = extra;
	f->c.n_args = 2;
	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "process.args")), 3);
	assert_string_equal(fixture_str(f, "process.args.2"), "y");

	f->c.n_command = 0;
	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "process.args")), 4);
	assert_string_equal(fixture_str(f, "process.args.0"), "/entry");
	assert_string_equal(fixture_str(f, "process.args.2"), "x");

	f->c.n_args = 0;
	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "process.args")), 3);
	assert_string_equal(fixture_str(f, "process.args.2"), "-c");

	json_object_del(f->image, "entrypoint");
	must_build(f);
	assert_string_equal(fixture_str(f, "process.args.0"), "-c");
	json_object_del(f->image, "cmd");
	must_fail(f, BERTH_INVALID_ARGUMENT, "nothing to run");

	extra[0] = S("");
	f->c.n_args = 1;
	must_fail(f, BERTH_INVALID_ARGUMENT, "empty");
	extra[0] = S("a\xff");
	must_fail(f, BERTH_INVALID_ARGUMENT, "args: not UTF-8");
}

static void test_env(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__KeyValue a, b, *envs[] = {&a, &b};
	uint8_t raw[] = {'v', 0xc3, 0xa9}, bad[] = {0xff}, zero[] = {'a', 0, 'b'};

	must_build(f);
	assert_string_equal(fixture_env(f, "PATH"),
	        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	assert_string_equal(fixture_env(f, "HOSTNAME"), "node-1");
	assert_string_equal(fixture_env(f, "HOME"), "/root");
	assert_null(fixture_env(f, "TERM"));

	runtime__v1__key_value__init(&a);
	runtime__v1__key_value__init(&b);
	a.key = S("A");
	a.value.data = raw;
	a.value.len = sizeof(raw);
	b.key = S("EMPTY");
	f->c.envs = envs;
	f->c.n_envs = 2;
	f->c.tty = 1;
	json_object_set_new(f->image, "env",
	        json_pack("[s,s,s,s,s]", "PATH=/image", "A=image", "B=1", "novalue", "=x"));
	must_build(f);
	assert_string_equal(fixture_env(f, "PATH"), "/image");
	assert_string_equal(fixture_env(f, "A"), "v\xc3\xa9");
	assert_string_equal(fixture_env(f, "B"), "1");
	assert_string_equal(fixture_env(f, "EMPTY"), "");
	assert_string_equal(fixture_env(f, "TERM"), "xterm");
	assert_true(json_is_true(fixture_get(f, "process.terminal")));
	assert_int_equal(json_array_size(fixture_get(f, "process.env")), 7);

	a.value.data = bad;
	a.value.len = 1;
	must_fail(f, BERTH_INVALID_ARGUMENT, "envs[0]: A is not UTF-8");
	a.value.data = zero;
	a.value.len = 3;
	must_fail(f, BERTH_INVALID_ARGUMENT, "zero byte");
	a.value.len = 0;
	a.key = S("A=B");
	must_fail(f, BERTH_INVALID_ARGUMENT, "envs[0]");
	a.key = S("HOSTNAME");
	b.key = S("HOME");
	must_build(f);
	assert_string_equal(fixture_env(f, "HOSTNAME"), "");
	assert_string_equal(fixture_env(f, "HOME"), "");
}

static void test_cwd(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	char path[256], target[256];

	must_build(f);
	assert_string_equal(fixture_str(f, "process.cwd"), "/");
	json_object_set_new(f->image, "working_dir", json_string("srv/app"));
	must_build(f);
	assert_string_equal(fixture_str(f, "process.cwd"), "/srv/app");
	snprintf(path, sizeof(path), "%s/srv/app", f->rootfs);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);

	/* An absolute link is the container's, not the host's. */
	snprintf(path, sizeof(path), "%s/evil", f->rootfs);
	snprintf(target, sizeof(target), "%s/outside", f->dir);
	assert_int_equal(mkdir(target, 0755), 0);
	assert_int_equal(symlink(target, path), 0);
	f->c.working_dir = S("/evil/../evil/deep");
	must_fail(f, BERTH_INVALID_ARGUMENT, "working_dir");
	snprintf(path, sizeof(path), "%s/outside/deep", f->dir);
	assert_int_equal(stat(path, &st), -1);
	f->c.working_dir = S("/link/deep");
	snprintf(path, sizeof(path), "%s/link", f->rootfs);
	assert_int_equal(symlink("/srv", path), 0);
	must_build(f);
	snprintf(path, sizeof(path), "%s/srv/deep", f->rootfs);
	assert_int_equal(stat(path, &st), 0);

	f->c.working_dir = S("rel");
	must_fail(f, BERTH_INVALID_ARGUMENT, "absolute");
	f->c.working_dir = S("/etc/passwd");
	must_fail(f, BERTH_INVALID_ARGUMENT, "not a directory");

	f->c.working_dir = S("");
	json_object_set_new(f->image, "volumes", json_pack("[s,s]", "/data/vol", "/etc/passwd"));
	must_build(f);
	snprintf(path, sizeof(path), "%s/data/vol", f->rootfs);
	assert_int_equal(stat(path, &st), 0);
}

static void expect_user(struct fixture *f, uint32_t uid, uint32_t gid, const char *groups)
{
	struct berth_buf b = {0};
	must_build(f);
	assert_int_equal(f->out.uid, uid);
	assert_int_equal(f->out.gid, gid);
	assert_int_equal(json_integer_value(fixture_get(f, "process.user.uid")), uid);
	assert_int_equal(json_integer_value(fixture_get(f, "process.user.gid")), gid);
	for (size_t i = 0; i < f->out.n_groups; i++)
		berth_buf_addf(&b, "%s%u", i ? " " : "", f->out.groups[i]);
	_cleanup_free_ char *have = berth_buf_steal(&b);
	assert_string_equal(have, groups);
	assert_int_equal(
	        json_array_size(fixture_get(f, "process.user.additionalGids")), f->out.n_groups);
}

static void test_user(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Int64Value uid = RUNTIME__V1__INT64_VALUE__INIT, gid = uid;
	int64_t groups[] = {1234, 60000, 1234};

	expect_user(f, 0, 0, "0 10");
	json_object_set_new(f->image, "user", json_string("app"));
	expect_user(f, 1000, 1000, "10 1000 50000");
	assert_string_equal(fixture_env(f, "HOME"), "/home/app");
	json_object_set_new(f->image, "user", json_string("1000:extra"));
	expect_user(f, 1000, 50000, "10 50000");
	json_object_set_new(f->image, "user", json_string("4711"));
	expect_user(f, 4711, 0, "0");
	assert_string_equal(fixture_env(f, "HOME"), "/");
	json_object_set_new(f->image, "user", json_string(":7"));
	expect_user(f, 0, 7, "0 7 10");
	json_object_set_new(f->image, "user", json_string("short"));
	expect_user(f, 1500, 1500, "1500");
	json_object_set_new(f->image, "user", json_string("nobody-here"));
	must_fail(f, BERTH_NOT_FOUND, "nobody-here");
	json_object_set_new(f->image, "user", json_string("app:nogroup"));
	must_fail(f, BERTH_NOT_FOUND, "nogroup");

	/* The request goes before the image, group and all. */
	uid.value = 1000;
	f->sec.run_as_user = &uid;
	expect_user(f, 1000, 1000, "10 1000 50000");
	gid.value = 3000;
	f->sec.run_as_group = &gid;
	f->sec.supplemental_groups = groups;
	f->sec.n_supplemental_groups = 3;
	expect_user(f, 1000, 3000, "10 1234 3000 50000 60000");
	f->sec.supplemental_groups_policy = RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
	expect_user(f, 1000, 3000, "1234 3000 60000");

	f->sec.run_as_username = S("app");
	must_fail(f, BERTH_INVALID_ARGUMENT, "run_as_username");
	f->sec.run_as_user = NULL;
	expect_user(f, 1000, 3000, "1234 3000 60000");
	f->sec.run_as_username = S("");
	must_fail(f, BERTH_INVALID_ARGUMENT, "run_as_group");
	f->sec.run_as_group = NULL;
	f->sec.run_as_user = &uid;
	uid.value = -1;
	must_fail(f, BERTH_INVALID_ARGUMENT, "run_as_user: -1");
	uid.value = 1LL << 40;
	must_fail(f, BERTH_INVALID_ARGUMENT, "out of range");
	uid.value = 1;
	groups[0] = -5;
	must_fail(f, BERTH_INVALID_ARGUMENT, "supplemental_groups: -5");
}

static void test_passwd_of_hostile_images(void **state)
{
	struct fixture *f = *state;
	char path[256];

	snprintf(path, sizeof(path), "%s/etc/passwd", f->rootfs);
	assert_int_equal(unlink(path), 0);
	expect_user(f, 0, 0, "0");
	/* A link out of the root file system ends in it. */
	assert_int_equal(symlink("../../../../../../../etc/passwd", path), 0);
	must_fail(f, BERTH_FAILED_PRECONDITION, "/etc/passwd");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0644), 0);
	must_fail(f, BERTH_FAILED_PRECONDITION, "not a regular file");
	assert_int_equal(unlink(path), 0);
	char *big = berth_zalloc(4 * 1024 * 1024 + 2);
	memset(big, 'x', 4 * 1024 * 1024 + 1);
	fixture_write(f, "rootfs/etc/passwd", big);
	free(big);
	must_fail(f, BERTH_FAILED_PRECONDITION, "larger than");
}

static void test_stop_signal(void **state)
{
	struct fixture *f = *state;
	json_object_set_new(f->image, "stop_signal", json_string("SIGRTMIN+3"));
	must_build(f);
	assert_int_equal(f->out.stop_signal, 37);
	f->c.stop_signal = RUNTIME__V1__SIGNAL__SIGUSR1;
	must_build(f);
	assert_int_equal(f->out.stop_signal, 10);
	f->c.stop_signal = (Runtime__V1__Signal)99;
	must_fail(f, BERTH_INVALID_ARGUMENT, "stop_signal: 99");
	f->c.stop_signal = 0;
	json_object_set_new(f->image, "stop_signal", json_string("SIGWHAT"));
	must_fail(f, BERTH_INVALID_ARGUMENT, "SIGWHAT");
}

static void test_annotations(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__ContainerConfig__AnnotationsEntry e, *list[] = {&e};

	runtime__v1__container_config__annotations_entry__init(&e);
	e.key = S("io.kubernetes.cri.container-type");
	e.value = S("sandbox");
	f->c.annotations = list;
	f->c.n_annotations = 1;
	must_build(f);
	json_t *a = fixture_get(f, "annotations");
	assert_string_equal(json_string_value(json_object_get(a, e.key)), "container");
	e.key = S("my/annotation");
	must_build(f);
	a = fixture_get(f, "annotations");
	assert_string_equal(json_string_value(json_object_get(a, "my/annotation")), "sandbox");
	e.value = S("\xc0");
	must_fail(f, BERTH_INVALID_ARGUMENT, "annotations");
}

static void test_exec_process(void **state)
{
	struct fixture *f = *state;
	char *argv[] = {S("ls"), S("-l")};
	struct berth_error *err = NULL;
	json_t *p;

	must_build(f);
	assert_int_equal(berth_spec_exec_process(f->out.config, "c1", 2, argv, true, &p, &err), 0);
	assert_string_equal(json_string_value(json_array_get(json_object_get(p, "args"), 1)), "-l");
	assert_true(json_is_true(json_object_get(p, "terminal")));
	assert_true(json_equal(json_object_get(p, "env"), fixture_get(f, "process.env")));
	assert_true(json_is_false(fixture_get(f, "process.terminal")));
	json_decref(p);
	assert_int_equal(berth_spec_exec_process(f->out.config, "c1", 0, argv, true, &p, &err), -1);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	assert_non_null(strstr(err->msg, "c1"));
	err = berth_error_free(err);
	argv[1] = S("\xff");
	assert_int_equal(berth_spec_exec_process(f->out.config, "c1", 2, argv, true, &p, &err), -1);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	berth_error_free(err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_basics), T(test_args), T(test_env), T(test_cwd),
	        T(test_user), T(test_passwd_of_hostile_images), T(test_stop_signal),
	        T(test_annotations), T(test_exec_process)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
