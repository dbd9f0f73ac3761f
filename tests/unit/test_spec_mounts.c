/* core/spec: mounts, and how they propagate. */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "spec_cmocka.h"

#define PRIVATE RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE
#define DOWN RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER
#define BOTH RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL

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

static void test_proc(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Mount m, *list[] = {&m};
	static const char *const bad[] = {"/proc/x", "/proc/self/attr", "/x/../proc//1/",
	        "/proc/sys", "/proc/meminfo/x", "/proc/cpu"};
	static const char *const good[] = {"/proc/meminfo", "/proc/net/dev", "/process"};
	char path[128];

	f->c.mounts = list;
	f->c.n_mounts = 1;
	snprintf(path, sizeof(path), "%s/never", f->dir);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		init_mount(&m, bad[i], path);
		must_fail(f, BERTH_INVALID_ARGUMENT, "lies inside /proc");
	}
	const char *const no_proc[] = {"/tmp", "/proc/sys", "/proc/1", path};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(no_proc); i++) {
		init_mount(&m, "/proc", no_proc[i]);
		must_fail(f, BERTH_INVALID_ARGUMENT, "only a proc file system");
	}
	assert_int_equal(access(path, F_OK), -1);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(good); i++) {
		init_mount(&m, good[i], "/etc/hosts");
		must_build(f);
		assert_string_equal(source(f, good[i]), "/etc/hosts");
	}
	init_mount(&m, "/proc", "/proc");
	must_build(f);
	assert_string_equal(source(f, "/proc"), "/proc");
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

/* Mounts on /dev, /etc and /sys, above what is ours. */
static void init_above(struct fixture *f, Runtime__V1__Mount *m, const char *source)
{
	static const char *const above[] = {"/dev/", "/etc", "/sys"};

	f->in.hostname_path = "/run/p/hostname";
	f->in.hosts_path = "/run/p/hosts";
	f->in.resolv_path = "/run/p/resolv.conf";
	f->in.shm_path = "/run/p/shm";
	for (size_t i = 0; i < BERTH_ARRAY_LEN(above); i++)
		init_mount(&m[i], above[i], source);
}

static void test_above_ours(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Mount m[3], *list[] = {&m[0], &m[1], &m[2]};
	static const char *const there[] = {"/dev", "/etc", "/sys", "/dev/shm", "/etc/hosts",
	        "/etc/hostname", "/etc/resolv.conf", "/sys/fs/cgroup", "/proc"};

	init_above(f, m, "/tmp");
	f->c.mounts = list;
	f->c.n_mounts = BERTH_ARRAY_LEN(list);
	must_build(f);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(there); i++)
		assert_non_null(fixture_mount(f, there[i]));
	assert_int_equal(json_array_size(fixture_get(f, "mounts")), BERTH_ARRAY_LEN(there));
	assert_string_equal(source(f, "/dev/shm"), "/run/p/shm");
	/* It is the path that counts, not how it begins. */
	init_mount(&m[0], "/dev/p", "/tmp");
	must_build(f);
	assert_non_null(fixture_mount(f, "/dev/pts"));
	assert_non_null(fixture_mount(f, "/dev/mqueue"));
	assert_string_equal(source(f, "/dev"), "tmpfs");
}

/* What is ours would appear on the node, and stay. `source`: of a shared mount. */
static int above_ours_shared(struct fixture *f, const char *source)
{
	Runtime__V1__Mount m[3], *list[] = {&m[0], &m[1], &m[2]};
	static const char *const there[] = {"/dev", "/etc", "/sys", "/proc"};

	init_above(f, m, source);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(m); i++)
		m[i].propagation = BOTH;
	f->c.mounts = list;
	f->c.n_mounts = BERTH_ARRAY_LEN(list);
	if (fixture_build(f) < 0)
		return 10;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(there); i++)
		if (!fixture_mount(f, there[i]))
			return 11;
	if (json_array_size(fixture_get(f, "mounts")) != BERTH_ARRAY_LEN(there))
		return 12;
	/* So would what the runtime mounts, and nobody could leave that out. */
	char *masked[] = {S("/proc/kcore"), S("/sys/firmware")};
	f->sec.masked_paths = masked;
	f->sec.n_masked_paths = 1;
	if (fixture_build(f) < 0)
		return 13;
	f->sec.n_masked_paths = 2;
	if (fixture_build(f) == 0 || f->err->code != BERTH_INVALID_ARGUMENT ||
	        !strstr(f->err->msg, "mounts[2]: PROPAGATION_BIDIRECTIONAL at /sys") ||
	        !strstr(f->err->msg, "/sys/firmware"))
		return 14;
	f->sec.n_masked_paths = 0;
	f->c.tty = 1;
	if (fixture_build(f) == 0 || f->err->code != BERTH_INVALID_ARGUMENT ||
	        !strstr(f->err->msg, "/dev/console"))
		return 15;
	m[0].propagation = PRIVATE;
	return fixture_build(f) == 0 ? 0 : 16;
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

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
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
	return above_ours_shared(f, path[1]);
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

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_defaults), T(test_request_mounts),
	        T(test_bad_mounts), T(test_proc), T(test_staged_mounts), T(test_above_ours),
	        T(test_propagation)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
