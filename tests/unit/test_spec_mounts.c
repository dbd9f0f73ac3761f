/* core/spec: mounts, devices, and what restricts a container. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))
#define PRIVATE RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE
#define DOWN RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER
#define BOTH RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL

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
}

static json_t *options(struct fixture *f, const char *dest)
{
	return json_object_get(fixture_mount(f, dest), "options");
}

static const char *source(struct fixture *f, const char *dest)
{
	const char *s = json_string_value(json_object_get(fixture_mount(f, dest), "source"));
	return s ? s : "(none)";
}

static void test_defaults(void **state)
{
	struct fixture *f = *state;
	static const char *const dests[] = {
	        "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys", "/sys/fs/cgroup"};

	must_build(f);
	assert_int_equal(json_array_size(fixture_get(f, "mounts")), BERTH_ARRAY_LEN(dests));
	for (size_t i = 0; i < BERTH_ARRAY_LEN(dests); i++)
		assert_non_null(fixture_mount(f, dests[i]));
	assert_true(fixture_has(options(f, "/sys"), "ro"));
	assert_true(fixture_has(options(f, "/sys/fs/cgroup"), "ro"));

	f->in.hostname_path = "/run/p/hostname";
	f->in.hosts_path = "/run/p/hosts";
	f->in.resolv_path = "/run/p/resolv.conf";
	f->in.shm_path = "/run/p/shm";
	must_build(f);
	assert_string_equal(source(f, "/etc/hosts"), "/run/p/hosts");
	assert_string_equal(source(f, "/etc/hostname"), "/run/p/hostname");
	assert_string_equal(source(f, "/etc/resolv.conf"), "/run/p/resolv.conf");
	assert_string_equal(source(f, "/dev/shm"), "/run/p/shm");
	assert_true(fixture_has(options(f, "/etc/hosts"), "rw"));
	f->sec.readonly_rootfs = 1;
	must_build(f);
	assert_true(fixture_has(options(f, "/etc/hosts"), "ro"));
	assert_true(fixture_has(options(f, "/dev/shm"), "rw"));
	assert_true(json_is_true(fixture_get(f, "root.readonly")));
	f->sec.privileged = f->pod_sec.privileged = 1;
	must_build(f);
	assert_true(fixture_has(options(f, "/sys"), "rw"));
	assert_true(fixture_has(options(f, "/sys/fs/cgroup"), "rw"));
	assert_true(f->out.privileged);
}

static void init_mount(Runtime__V1__Mount *m, const char *dest, const char *host)
{
	runtime__v1__mount__init(m);
	m->container_path = S(dest);
	m->host_path = S(host);
}

static void test_request_mounts(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Mount a, b, c, *list[] = {&a, &b, &c};
	char dir[128], link[128], missing[128], real[128];
	struct stat st;

	snprintf(dir, sizeof(dir), "%s/vol", f->dir);
	snprintf(link, sizeof(link), "%s/link", f->dir);
	snprintf(missing, sizeof(missing), "%s/a/b/c", f->dir);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(symlink(dir, link), 0);
	init_mount(&a, "/data/deep//down/", link);
	init_mount(&b, "/data", missing);
	init_mount(&c, "/etc/hosts", "/etc/hosts");
	a.readonly = 1;
	c.selinux_relabel = 1;
	f->c.mounts = list;
	f->c.n_mounts = 3;
	f->in.hosts_path = "/run/p/hosts";
	must_build(f);

	assert_string_equal(source(f, "/data/deep/down"), dir);
	assert_true(fixture_has(options(f, "/data/deep/down"), "ro"));
	assert_true(fixture_has(options(f, "/data/deep/down"), "rprivate"));
	assert_true(fixture_has(options(f, "/data"), "rw"));
	assert_int_equal(stat(missing, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0755);
	/* The request's hosts file replaces the pod's. */
	assert_string_equal(source(f, "/etc/hosts"), "/etc/hosts");
	size_t i, hosts = 0, data = 0, deep = 0;
	json_t *v;
	json_array_foreach (fixture_get(f, "mounts"), i, v) {
		const char *d = json_string_value(json_object_get(v, "destination"));
		hosts += strcmp(d, "/etc/hosts") == 0;
		data = strcmp(d, "/data") == 0 ? i : data;
		deep = strcmp(d, "/data/deep/down") == 0 ? i : deep;
	}
	assert_int_equal(hosts, 1);
	assert_true(data < deep);
	assert_int_equal(f->out.n_mounts, 3);
	assert_string_equal(f->out.mounts[0].host_path, link);
	assert_true(f->out.mounts[0].readonly);
	assert_true(f->out.mounts[2].selinux_relabel);

	snprintf(real, sizeof(real), "%s/dangling", f->dir);
	assert_int_equal(symlink("/nowhere/at/all/x", real), 0);
	b.host_path = real;
	must_fail(f, BERTH_NOT_FOUND, "mounts[1]");
}

static void test_bad_mounts(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Mount m, *list[] = {&m};
	Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps[] = {&map};
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	char path[128];
	struct stat st;

	f->c.mounts = list;
	f->c.n_mounts = 1;
	init_mount(&m, "rel", "/tmp");
	must_fail(f, BERTH_INVALID_ARGUMENT, "mounts[0]: container_path");
	init_mount(&m, "/x", "");
	must_fail(f, BERTH_INVALID_ARGUMENT, "mounts[0]: host_path");
	init_mount(&m, "/x/..", "/tmp");
	must_fail(f, BERTH_INVALID_ARGUMENT, "root file system");
	/* Nothing is made on the host for a request that is refused. */
	snprintf(path, sizeof(path), "%s/never\xff", f->dir);
	init_mount(&m, "/x", path);
	must_fail(f, BERTH_INVALID_ARGUMENT, "not UTF-8");
	assert_int_equal(stat(path, &st), -1);

	init_mount(&m, "/x", "/tmp");
	m.n_uidmappings = 1;
	m.uidmappings = maps;
	must_fail(f, BERTH_INVALID_ARGUMENT, "mounts[0]: uidMappings[0]: the range is empty");
	map.length = 1;
	must_fail(f, BERTH_INVALID_ARGUMENT, "go together");
	m.n_gidmappings = 1;
	m.gidmappings = maps;
	must_fail(f, BERTH_UNIMPLEMENTED, "mounts[0]");
	map.host_id = 0xffffffff;
	must_fail(f, BERTH_INVALID_ARGUMENT, "last id");
	map.host_id = 0;
	m.n_gidmappings = 341;
	must_fail(f, BERTH_INVALID_ARGUMENT, "more than 340");
	init_mount(&m, "/x", "");
	m.image_sub_path = S("etc");
	must_fail(f, BERTH_INVALID_ARGUMENT, "image_sub_path without image");
	image.image = S("img");
	m.image = &image;
	must_fail(f, BERTH_INVALID_ARGUMENT,
	        "ImageVolumeMountFailed: mounts[0]: image: it is not readonly");
	m.readonly = 1;
	must_fail(f, BERTH_UNIMPLEMENTED, "mounts[0]");
	m.propagation = DOWN;
	must_fail(f, BERTH_INVALID_ARGUMENT, "not PRIVATE");
	m.propagation = PRIVATE;
	m.host_path = S("/tmp");
	must_fail(f, BERTH_INVALID_ARGUMENT, "host_path is set");
	init_mount(&m, "/x", "/tmp");
	m.propagation = (Runtime__V1__MountPropagation)7;
	must_fail(f, BERTH_INVALID_ARGUMENT, "propagation 7");

	init_mount(&m, "/x", "/tmp");
	m.recursive_read_only = 1;
	must_fail(f, BERTH_INVALID_ARGUMENT, "without readonly");
	m.readonly = 1;
	m.propagation = DOWN;
	must_fail(f, BERTH_INVALID_ARGUMENT, "other than PRIVATE");
	m.propagation = PRIVATE;
	must_build(f);
	assert_true(fixture_has(options(f, "/x"), "rro"));
	assert_true(f->out.mounts[0].recursive_read_only);
	f->in.handler_rro = false;
	must_fail(f, BERTH_FAILED_PRECONDITION, "RROUnsupported");
	assert_ptr_equal(strstr(f->err->msg, "RROUnsupported"), f->err->msg);
}

struct staged {
	size_t i;
	char source[64];
	uint64_t propagation;
	int calls;
	const char *fail;
};

static int stage(void *arg, size_t i, const char *source, uint64_t propagation, char **ret,
        struct berth_error **ret_err)
{
	struct staged *st = arg;

	if (st->fail)
		return berth_error_set(ret_err, BERTH_NOT_FOUND, "%s", st->fail);
	st->i = i;
	snprintf(st->source, sizeof(st->source), "%s", source ? source : "(image)");
	st->propagation = propagation;
	st->calls++;
	*ret = berth_strdup("/staged");
	return 0;
}

/* What the runtime cannot do is bound from where it was made. */
static void test_staged_mounts(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Mount plain, rro, img, *list[] = {&plain, &rro, &img};
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	struct staged st = {0};

	f->c.mounts = list;
	f->c.n_mounts = 3;
	init_mount(&plain, "/plain", "/tmp");
	init_mount(&rro, "/rro", "/tmp");
	rro.readonly = rro.recursive_read_only = 1;
	init_mount(&img, "/img", "");
	image.image = S("some");
	img.image = &image;
	img.image_sub_path = S("etc");
	img.readonly = 1;
	f->in.stage = stage;
	f->in.stage_arg = &st;

	f->in.handler_rro = true;
	must_build(f);
	assert_int_equal(st.calls, 1);
	assert_int_equal(st.i, 2);
	assert_string_equal(st.source, "(image)");
	assert_string_equal(
	        json_string_value(json_object_get(fixture_mount(f, "/img"), "source")), "/staged");
	assert_true(fixture_has(options(f, "/img"), "ro"));
	assert_true(fixture_has(options(f, "/img"), "rbind"));
	assert_true(fixture_has(options(f, "/rro"), "rro"));

	f->in.handler_rro = false;
	f->c.n_mounts = 2;
	must_build(f);
	assert_int_equal(st.calls, 2);
	assert_string_equal(st.source, "/tmp");
	assert_int_equal(st.propagation, MS_PRIVATE);
	assert_true(fixture_has(options(f, "/rro"), "ro"));
	assert_false(fixture_has(options(f, "/rro"), "rro"));
	assert_string_equal(
	        json_string_value(json_object_get(fixture_mount(f, "/plain"), "source")), "/tmp");

	st.fail = "gone";
	must_fail(f, BERTH_NOT_FOUND, "mounts[1]: gone");
	st.fail = "ImageVolumeMountFailed: gone";
	must_fail(f, BERTH_NOT_FOUND, "gone");
	assert_ptr_equal(strstr(f->err->msg, "ImageVolumeMountFailed"), f->err->msg);
}

/* In a mount namespace of its own: a private, a shared and a slave tmpfs. */
static int propagation_child(struct fixture *f)
{
	static const char *const kinds[] = {"private", "shared", "slave"};
	static const unsigned long flags[] = {MS_PRIVATE, MS_SHARED, MS_SLAVE};
	static const Runtime__V1__MountPropagation modes[] = {PRIVATE, DOWN, BOTH};
	static const int allowed[3][3] = {{1, 0, 0}, {1, 1, 1}, {1, 1, 0}};
	static const char *const option[] = {"rprivate", "rslave", "rshared"};
	static const char *const root[] = {NULL, "rslave", "rshared"};
	Runtime__V1__Mount m, *list[] = {&m};
	char path[3][128];

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 77;
	f->c.mounts = list;
	f->c.n_mounts = 1;
	for (int k = 0; k < 3; k++) {
		snprintf(path[k], sizeof(path[k]), "%s/%s", f->dir, kinds[k]);
		if (mkdir(path[k], 0755) < 0 || mount("t", path[k], "tmpfs", 0, NULL) < 0 ||
		        (k == 2 && mount(NULL, path[k], NULL, MS_SHARED, NULL) < 0))
			return 2;
	}
	/* A slave needs a master: a second mount of a shared one. */
	if (mount(path[2], path[2], NULL, MS_BIND, NULL) < 0)
		return 3;
	for (int k = 0; k < 3; k++)
		if (mount(NULL, path[k], NULL, flags[k], NULL) < 0)
			return 4;
	for (int k = 0; k < 3; k++) {
		for (int p = 0; p < 3; p++) {
			/* The directory need not be the mount point itself. */
			char sub[400];
			snprintf(sub, sizeof(sub), "%s/sub", path[k]);
			init_mount(&m, "/x", sub);
			m.propagation = modes[p];
			int ok = fixture_build(f) == 0;
			if (ok != allowed[k][p] ||
			        (!ok && f->err->code != BERTH_FAILED_PRECONDITION)) {
				fprintf(stderr, "%s %s: %s\n", kinds[k], option[p],
				        f->err ? f->err->msg : "built");
				return 5;
			}
			const char *r =
			        json_string_value(fixture_get(f, "linux.rootfsPropagation"));
			if (ok && (!fixture_has(options(f, "/x"), option[p]) ||
			                  (root[p] ? !r || strcmp(r, root[p]) != 0 : r != NULL)))
				return 6;
		}
	}
	/* What holds the root file systems of containers is never copied as private. */
	init_mount(&m, "/host", f->dir);
	if (mount(f->dir, f->dir, NULL, MS_BIND | MS_REC, NULL) < 0 ||
	        mount(NULL, f->dir, NULL, MS_SHARED, NULL) < 0)
		return 7;
	if (fixture_build(f) < 0 || !fixture_has(options(f, "/host"), "rslave") ||
	        fixture_get(f, "linux.rootfsPropagation"))
		return 8;
	return 0;
}

static void test_propagation(void **state)
{
	struct fixture *f = *state;
	int status;

	if (geteuid() != 0)
		skip();
	pid_t pid = fork();
	if (pid == 0)
		_exit(propagation_child(f));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

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
	init_mount(&m, "/dev", "/dev");
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

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_defaults), T(test_request_mounts),
	        T(test_bad_mounts), T(test_staged_mounts), T(test_propagation), T(test_devices),
	        T(test_privileged), T(test_restrictions)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
