/* core/spec: what a container shares and what it may take: namespaces, resources, cgroups. */
#include <stdio.h>
#include <string.h>

#include "spec_cmocka.h"

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
	        json_integer_value(json_object_get(f->out.resources, "oom_score_adj")), -200);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_namespaces), T(test_resources), T(test_cgroups_path)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
