/* core/spec: the process of a container: arguments, environment, users, namespaces, resources. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))

static int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

static void must_build(struct fixture *f)
{
	if (fixture_build(f) < 0)
		fail_msg("%s: %s", berth_code_name(f->err->code), f->err->msg);
}

static void must_fail(struct fixture *f, enum berth_code code, const char *word)
{
	assert_int_equal(fixture_build(f), -1);
	if (f->err->code != code || !strstr(f->err->msg, word))
		fail_msg("%s: %s (expected %s: %s)", berth_code_name(f->err->code), f->err->msg,
		        berth_code_name(code), word);
	assert_null(f->out.config);
}

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

static json_t *namespace_of(struct fixture *f, const char *type)
{
	json_t *v, *list = fixture_get(f, "linux.namespaces");
	size_t i;
	json_array_foreach (list, i, v) {
		if (strcmp(json_string_value(json_object_get(v, "type")), type) == 0)
			return v;
	}
	return NULL;
}

static const char *path_of(struct fixture *f, const char *type)
{
	const char *p = json_string_value(json_object_get(namespace_of(f, type), "path"));
	return p ? p : "(none)";
}

static void test_namespaces(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__UserNamespace u = RUNTIME__V1__USER_NAMESPACE__INIT;
	Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps[] = {&map};

	f->host.cgroup_v2 = false;
	must_build(f);
	assert_null(namespace_of(f, "network"));
	assert_null(namespace_of(f, "ipc"));
	assert_null(namespace_of(f, "uts"));
	assert_null(namespace_of(f, "cgroup"));
	assert_non_null(namespace_of(f, "mount"));
	assert_string_equal(path_of(f, "pid"), "(none)");
	assert_non_null(namespace_of(f, "pid"));
	assert_string_equal(
	        json_string_value(json_object_get(fixture_mount(f, "/dev/shm"), "source")),
	        "/dev/shm");

	f->host.cgroup_v2 = true;
	f->in.ns.net = "/run/x/net";
	f->in.ns.ipc = "/run/x/ipc";
	f->in.ns.uts = "/run/x/uts";
	f->in.ns.pid = "/run/x/pid";
	f->ns.network = f->ns.ipc = f->ns.pid = RUNTIME__V1__NAMESPACE_MODE__POD;
	f->pod_ns = f->ns;
	must_build(f);
	assert_string_equal(path_of(f, "network"), "/run/x/net");
	assert_string_equal(path_of(f, "ipc"), "/run/x/ipc");
	assert_string_equal(path_of(f, "uts"), "/run/x/uts");
	assert_string_equal(path_of(f, "pid"), "/run/x/pid");
	assert_non_null(namespace_of(f, "cgroup"));
	assert_string_equal(fixture_str(f, "hostname"), "node-1");
	assert_string_equal(
	        json_string_value(json_object_get(fixture_mount(f, "/dev/shm"), "type")), "tmpfs");

	/* A container gets no more of the host than its pod. */
	f->ns.network = RUNTIME__V1__NAMESPACE_MODE__NODE;
	must_fail(f, BERTH_INVALID_ARGUMENT, "namespace_options.network");
	f->ns.network = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	must_fail(f, BERTH_INVALID_ARGUMENT, "network");
	f->ns.network = RUNTIME__V1__NAMESPACE_MODE__POD;
	f->in.ns.net = NULL;
	must_fail(f, BERTH_FAILED_PRECONDITION, "network");
	f->in.ns.net = "/run/x/net";
	f->in.ns.pid = NULL;
	must_fail(f, BERTH_FAILED_PRECONDITION, "pid");
	f->ns.pid = RUNTIME__V1__NAMESPACE_MODE__TARGET;
	must_fail(f, BERTH_FAILED_PRECONDITION, "TARGET");
	f->in.target_pid = 77;
	must_build(f);
	assert_string_equal(path_of(f, "pid"), "/proc/77/ns/pid");
	f->ns.pid = RUNTIME__V1__NAMESPACE_MODE__NODE;
	must_fail(f, BERTH_INVALID_ARGUMENT, "namespace_options.pid");
	f->pod_ns.pid = RUNTIME__V1__NAMESPACE_MODE__NODE;
	must_build(f);
	assert_null(namespace_of(f, "pid"));
	/* A request without a word on it follows the pod. */
	f->sec.namespace_options = NULL;
	must_build(f);
	assert_null(namespace_of(f, "pid"));
	f->pod_ns.pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	must_build(f);
	assert_non_null(namespace_of(f, "pid"));
	assert_string_equal(path_of(f, "pid"), "(none)");
	f->sec.namespace_options = &f->ns;
	f->ns.pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;

	f->ns.userns_options = &u;
	must_build(f);
	u.uids = maps;
	u.n_uids = 1;
	u.gids = maps;
	u.n_gids = 1;
	map.host_id = map.length = 1000;
	must_fail(f, BERTH_INVALID_ARGUMENT, "not those of the pod");
	Runtime__V1__UserNamespace pod = u;
	f->pod_ns.userns_options = &pod;
	must_fail(f, BERTH_FAILED_PRECONDITION, "is gone");
	f->in.ns.user = "/run/user";
	must_build(f);
	assert_string_equal(path_of(f, "user"), "/run/user");
	assert_int_equal(json_integer_value(fixture_get(f, "linux.uidMappings.0.hostID")), 1000);
	assert_int_equal(json_integer_value(fixture_get(f, "linux.gidMappings.0.size")), 1000);
	f->ns.userns_options = NULL;
	must_build(f);
	assert_string_equal(path_of(f, "user"), "/run/user");
	/* The node's is asked for in a pod with its own, other ranges, and the other way round. */
	Runtime__V1__UserNamespace other = RUNTIME__V1__USER_NAMESPACE__INIT;
	f->ns.userns_options = &other;
	must_build(f);
	other.mode = RUNTIME__V1__NAMESPACE_MODE__NODE;
	must_fail(f, BERTH_INVALID_ARGUMENT, "not those of the pod");
	Runtime__V1__IDMapping less = map, *list[] = {&less};
	less.length = 999;
	other = pod;
	other.gids = list;
	must_fail(f, BERTH_INVALID_ARGUMENT, "not those of the pod");
	f->in.ns.user = NULL;
	f->pod_ns.userns_options = NULL;
	f->ns.userns_options = NULL;
}

static void test_resources(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__HugepageLimit page = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, *pages[] = {&page};

	f->host = (struct berth_spec_host){.swap_accounting = true,
	        .hugetlb = true,
	        .oom_score_adj = -200,
	        .bounding = UINT64_MAX,
	        .seccomp_root = "/nowhere"};
	must_build(f);
	assert_null(fixture_get(f, "linux.resources.cpu"));
	assert_null(fixture_get(f, "linux.resources.memory"));
	assert_null(fixture_get(f, "linux.resources.pids"));
	assert_int_equal(json_integer_value(fixture_get(f, "process.oomScoreAdj")), 0);

	f->res.cpu_shares = 512;
	f->res.cpu_quota = 50000;
	f->res.cpu_period = 100000;
	f->res.cpuset_cpus = S("0-1");
	f->res.memory_limit_in_bytes = 64 << 20;
	f->res.oom_score_adj = -998;
	page.page_size = S("2MB");
	page.limit = UINT64_MAX;
	f->res.hugepage_limits = pages;
	f->res.n_hugepage_limits = 1;
	f->in.pids_limit = 100;
	must_build(f);
	assert_int_equal(json_integer_value(fixture_get(f, "linux.resources.cpu.shares")), 512);
	assert_int_equal(json_integer_value(fixture_get(f, "linux.resources.cpu.quota")), 50000);
	assert_int_equal(json_integer_value(fixture_get(f, "linux.resources.cpu.period")), 100000);
	assert_string_equal(fixture_str(f, "linux.resources.cpu.cpus"), "0-1");
	assert_int_equal(
	        json_integer_value(fixture_get(f, "linux.resources.memory.limit")), 64 << 20);
	assert_int_equal(
	        json_integer_value(fixture_get(f, "linux.resources.memory.swap")), 64 << 20);
	assert_int_equal(json_integer_value(fixture_get(f, "linux.resources.pids.limit")), 100);
	assert_string_equal(fixture_str(f, "linux.resources.hugepageLimits.0.pageSize"), "2MB");
	assert_int_equal(json_integer_value(fixture_get(f, "process.oomScoreAdj")), -200);
	assert_int_equal(
	        json_integer_value(json_object_get(f->out.resources, "oom_score_adj")), -998);
	f->host.can_lower_oom = true;
	f->host.hugetlb = f->host.swap_accounting = false;
	f->in.pids_limit = -1;
	must_build(f);
	assert_int_equal(json_integer_value(fixture_get(f, "process.oomScoreAdj")), -998);
	assert_null(fixture_get(f, "linux.resources.memory.swap"));
	assert_null(fixture_get(f, "linux.resources.hugepageLimits"));
	assert_null(fixture_get(f, "linux.resources.pids"));

	f->res.cpuset_cpus = S("all");
	must_fail(f, BERTH_INVALID_ARGUMENT, "resources.cpuset_cpus");
	f->res.cpuset_cpus = S("");
	page.page_size = S("2M");
	must_fail(f, BERTH_INVALID_ARGUMENT, "page size");
	page.page_size = S("1GB");
	f->res.memory_swap_limit_in_bytes = 1 << 20;
	must_fail(f, BERTH_INVALID_ARGUMENT, "memory_swap_limit_in_bytes");
}

static void test_cgroups_path(void **state)
{
	struct fixture *f = *state;
	char want[256];

	f->in.cgroup_parent = "/kubepods//burstable/pod1/";
	must_build(f);
	snprintf(want, sizeof(want), "/kubepods/burstable/pod1/%s", f->in.container_id);
	assert_string_equal(fixture_str(f, "linux.cgroupsPath"), want);
	assert_string_equal(f->out.cgroups_path, want);
	f->in.cgroup_driver = BERTH_CGROUP_SYSTEMD;
	f->in.cgroup_parent = "/kubepods.slice/kubepods-pod1.slice";
	must_build(f);
	snprintf(want, sizeof(want), "kubepods-pod1.slice:berth:%s", f->in.container_id);
	assert_string_equal(f->out.cgroups_path, want);
	f->in.cgroup_parent = "";
	must_build(f);
	snprintf(want, sizeof(want), "system.slice:berth:%s", f->in.container_id);
	assert_string_equal(f->out.cgroups_path, want);
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

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_basics), T(test_args), T(test_env), T(test_cwd),
	        T(test_user), T(test_passwd_of_hostile_images), T(test_stop_signal),
	        T(test_namespaces), T(test_resources), T(test_cgroups_path), T(test_annotations),
	        T(test_exec_process)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
