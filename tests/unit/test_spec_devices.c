/* core/spec: devices, and what restricts a container. */
#include <string.h>

#include "base/mem.h"
#include "spec_cmocka.h"

static json_t *device(struct fixture *f, const char *path)
{
	json_t *v;
	size_t i;
	json_array_foreach (fixture_get(f, "linux.devices"), i, v) {
		if (strcmp(json_string_value(json_object_get(v, "path")), path) == 0)
			return v;
	}
	return NULL;
}

static void test_devices(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Device a, b, *list[] = {&a, &b};

	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "linux.devices")), 0);
	assert_int_equal(json_array_size(fixture_get(f, "linux.resources.devices")), 1);
	assert_true(json_is_false(fixture_get(f, "linux.resources.devices.0.allow")));

	runtime__v1__device__init(&a);
	runtime__v1__device__init(&b);
	a.host_path = S("/dev/full");
	a.container_path = S("/dev/other/./full");
	a.permissions = S("rw");
	b.host_path = S("/dev/null");
	f->c.devices = list;
	f->c.n_devices = 2;
	must_build(f);
	json_t *d = device(f, "/dev/other/full");
	assert_non_null(d);
	assert_int_equal(json_integer_value(json_object_get(d, "major")), 1);
	assert_int_equal(json_integer_value(json_object_get(d, "minor")), 7);
	assert_string_equal(json_string_value(json_object_get(d, "type")), "c");
	assert_non_null(device(f, "/dev/null"));
	assert_string_equal(fixture_str(f, "linux.resources.devices.1.access"), "rw");
	assert_string_equal(fixture_str(f, "linux.resources.devices.2.access"), "rwm");

	b.host_path = S("/dev");
	b.container_path = S("/hostdev");
	must_build(f);
	assert_non_null(device(f, "/hostdev/null"));
	assert_non_null(device(f, "/hostdev/zero"));
	assert_null(device(f, "/hostdev/pts/0"));
	assert_null(device(f, "/hostdev/pts/ptmx"));

	a.permissions = S("rx");
	must_fail(f, BERTH_INVALID_ARGUMENT, "devices[0]: permissions");
	a.permissions = S("rr");
	must_fail(f, BERTH_INVALID_ARGUMENT, "permissions");
	a.permissions = S("");
	b.host_path = S("/dev/no-such-device");
	must_fail(f, BERTH_NOT_FOUND, "/dev/no-such-device");
	b.host_path = S("/etc/passwd");
	must_fail(f, BERTH_INVALID_ARGUMENT, "neither a device nor a directory");
	b.host_path = S("dev");
	must_fail(f, BERTH_INVALID_ARGUMENT, "absolute");

	Runtime__V1__CDIDevice cdi = RUNTIME__V1__CDIDEVICE__INIT, *cdis[] = {&cdi};
	f->c.n_devices = 0;
	f->c.cdi_devices = cdis;
	f->c.n_cdi_devices = 1;
	must_fail(f, BERTH_INVALID_ARGUMENT, "CDI_devices");
}

static void test_privileged(void **state)
{
	struct fixture *f = *state;
	char *masked[] = {S("/proc/kcore")};
	Runtime__V1__Mount m, *list[] = {&m};

	f->sec.privileged = f->pod_sec.privileged = 1;
	f->sec.masked_paths = masked;
	f->sec.n_masked_paths = 1;
	f->seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault;
	f->sec.seccomp = &f->seccomp;
	f->pod_sec.privileged = 0;
	must_fail(f, BERTH_INVALID_ARGUMENT, "the pod is not privileged");
	f->pod_sec.privileged = 1;
	must_build(f);
	assert_non_null(device(f, "/dev/null"));
	assert_non_null(device(f, "/dev/zero"));
	assert_true(json_is_true(fixture_get(f, "linux.resources.devices.0.allow")));
	assert_int_equal(json_array_size(fixture_get(f, "linux.maskedPaths")), 0);
	assert_null(fixture_get(f, "linux.seccomp"));
	assert_int_equal(json_array_size(fixture_get(f, "process.capabilities.bounding")),
	        __builtin_popcountll(f->host.bounding));
	f->host.cgroup_v2 = true;
	must_build(f);
	json_t *v;
	size_t i;
	json_array_foreach (fixture_get(f, "linux.namespaces"), i, v) {
		assert_string_not_equal(json_string_value(json_object_get(v, "type")), "cgroup");
	}
	runtime__v1__mount__init(&m);
	m.container_path = m.host_path = S("/dev");
	f->c.mounts = list;
	f->c.n_mounts = 1;
	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "linux.devices")), 0);
}

static void test_restrictions(void **state)
{
	struct fixture *f = *state;
	char *masked[] = {S("/proc/kcore"), S("/proc/keys")}, *ro[] = {S("/proc/sys")};
	char *drop[] = {S("ALL")};
	Runtime__V1__SecurityProfile aa = RUNTIME__V1__SECURITY_PROFILE__INIT;

	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "linux.maskedPaths")), 0);
	assert_int_equal(json_array_size(fixture_get(f, "process.capabilities.bounding")),
	        __builtin_popcountll(f->host.bounding & 0xa80425fb));
	f->sec.masked_paths = masked;
	f->sec.n_masked_paths = 2;
	f->sec.readonly_paths = ro;
	f->sec.n_readonly_paths = 1;
	f->sec.no_new_privs = 1;
	f->caps.drop_capabilities = drop;
	f->caps.n_drop_capabilities = 1;
	f->sec.capabilities = &f->caps;
	f->sec.seccomp = &f->seccomp;
	f->in.selinux_process_label = "u:r:t:s0:c1,c2";
	f->in.selinux_mount_label = "u:r:f:s0:c1,c2";
	must_build(f);
	assert_string_equal(fixture_str(f, "linux.maskedPaths.1"), "/proc/keys");
	assert_string_equal(fixture_str(f, "linux.readonlyPaths.0"), "/proc/sys");
	assert_true(json_is_true(fixture_get(f, "process.noNewPrivileges")));
	assert_int_equal(json_array_size(fixture_get(f, "process.capabilities.effective")), 0);
	assert_string_equal(fixture_str(f, "linux.seccomp.defaultAction"), "SCMP_ACT_ERRNO");
	assert_string_equal(fixture_str(f, "process.selinuxLabel"), "u:r:t:s0:c1,c2");
	assert_string_equal(fixture_str(f, "linux.mountLabel"), "u:r:f:s0:c1,c2");
	masked[0] = S("proc");
	must_fail(f, BERTH_INVALID_ARGUMENT, "masked_paths[0]");
	f->sec.n_masked_paths = 0;
	drop[0] = S("EVERYTHING");
	must_fail(f, BERTH_INVALID_ARGUMENT, "EVERYTHING");
	f->caps.n_drop_capabilities = 0;

	f->seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	must_build(f);
	assert_null(fixture_get(f, "linux.seccomp"));
	f->seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	must_fail(f, BERTH_INVALID_ARGUMENT, "seccomp.localhost_ref");
	fixture_write(f, "profiles/log.json", "{\"defaultAction\":\"SCMP_ACT_LOG\"}");
	_cleanup_free_ char *root = berth_asprintf("%s/profiles", f->dir);
	f->host.seccomp_root = root;
	f->seccomp.localhost_ref = S("log.json");
	must_build(f);
	assert_string_equal(fixture_str(f, "linux.seccomp.defaultAction"), "SCMP_ACT_LOG");
	_cleanup_free_ char *full = berth_asprintf("localhost/%s/log.json", root);
	f->seccomp.localhost_ref = full;
	must_build(f);
	assert_string_equal(fixture_str(f, "linux.seccomp.defaultAction"), "SCMP_ACT_LOG");
	f->seccomp.localhost_ref = S("absent.json");
	must_fail(f, BERTH_NOT_FOUND, "absent.json");
	f->sec.seccomp = NULL;

	f->sec.apparmor = &aa;
	f->host.apparmor = false;
	must_build(f);
	aa.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	aa.localhost_ref = S("localhost/mine");
	must_fail(f, BERTH_FAILED_PRECONDITION, "apparmor: profile \"mine\"");
	aa.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	must_build(f);
	assert_null(fixture_get(f, "process.apparmorProfile"));
	f->host.apparmor = true;
	must_build(f);
	assert_string_equal(fixture_str(f, "process.apparmorProfile"), "unconfined");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_devices), T(test_privileged), T(test_restrictions)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
