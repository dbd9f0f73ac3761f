/* core/spec against the real thing: runc and crun run what berth_spec_container() wrote. Skipped
 * where not root, or without either of them or a static busybox. */
#include <fcntl.h>
#include <glob.h>
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

#include "base/fd.h"
#include "base/mem.h"
#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))
#define BUSYBOX "/bin/busybox"
enum { OUTPUT_MAX = 65536, SKIPPED = 77 };

static const char *const applets[] = {"sh", "ls", "id", "cat", "grep", "touch", "pwd", "unshare",
        "mount", "true", "stat", "env", "hostname", "readlink", "echo"};

static char parent[64]; /* cgroup of all containers of this run */

static const char *runtime; /* the one that this round tests */

static const char *find(const char *name)
{
	static const char *const places[] = {"/usr/sbin", "/usr/bin", "/usr/local/sbin"};
	static char path[64];
	for (size_t i = 0; i < BERTH_ARRAY_LEN(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", places[i], name);
		if (access(path, X_OK) == 0)
			return path;
	}
	return NULL;
}

/* crun refuses a hybrid hierarchy: it gets a view of the host without the unified part. */
static bool hide_unified(void)
{
	if (access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) < 0)
		return true;
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) == 0 &&
	       umount2("/sys/fs/cgroup/unified", MNT_DETACH) == 0;
}

/* A dynamic busybox would need a libc that the root file system lacks. Its interpreter's name
 * stands near the beginning of the file. */
static bool busybox_is_static(void)
{
	char head[4096];
	_cleanup_close_ int fd = open(BUSYBOX, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof(head));
	return n > 0 && !memmem(head, (size_t)n, "/ld-linux", strlen("/ld-linux"));
}

static int setup(void **state)
{
	struct fixture *f = fixture_new();
	_cleanup_free_ char *data = NULL, *bin = berth_asprintf("%s/bin", f->rootfs);
	_cleanup_free_ char *box = berth_asprintf("%s/busybox", bin);
	size_t n;

	*state = f;
	if (berth_read_file(-1, BUSYBOX, 16 << 20, &data, &n) < 0 || mkdir(bin, 0755) < 0 ||
	        berth_write_file_atomic(-1, box, data, n, 0755, false) < 0)
		return -1;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(applets); i++) {
		_cleanup_free_ char *name = berth_asprintf("%s/%s", bin, applets[i]);
		if (link(box, name) < 0)
			return -1;
	}
	f->in.cgroup_parent = parent;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *pattern = berth_asprintf("/sys/fs/cgroup/*%s", parent);
	glob_t g;

	/* The root file system must not be anybody's any more: runc has deleted the container. */
	fixture_free(f);
	if (glob(pattern, 0, NULL, &g) == 0) {
		for (size_t i = 0; i < g.gl_pathc; i++)
			rmdir(g.gl_pathv[i]);
		globfree(&g);
	}
	_cleanup_free_ char *v2 = berth_asprintf("/sys/fs/cgroup%s", parent);
	rmdir(v2);
	return 0;
}

static char *capture(const struct fixture *f, int *status)
{
	_cleanup_free_ char *root = berth_asprintf("%s/state", f->dir);
	_cleanup_free_ char *bundle = berth_strdup(f->dir);
	_cleanup_free_ char *id = berth_asprintf("berth-test-%d", (int)getpid());
	char *argv[] = {S(runtime), S("--root"), root, S("run"), S("--bundle"), bundle, id, NULL};
	char *out = NULL;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY);
		if (null < 0 || dup2(null, 0) < 0 || dup2(p[1], 1) < 0 || dup2(p[1], 2) < 0)
			_exit(126);
		if (strstr(runtime, "crun") && !hide_unified())
			_exit(125);
		execv(runtime, argv);
		_exit(127);
	}
	close(p[1]);
	int r = berth_read_fd(p[0], OUTPUT_MAX, &out, NULL);
	close(p[0]);
	assert_int_equal(waitpid(pid, status, 0), pid);
	assert_int_equal(r, 0);
	return out;
}

/* Runs a shell script in a container of this request; `want` must be in its output. */
static void run(struct fixture *f, const char *script, const char *want)
{
	char *argv[] = {S("/bin/sh"), S("-c"), S(script)};
	_cleanup_free_ char *path = berth_asprintf("%s/config.json", f->dir);
	int status;

	f->c.command = argv;
	f->c.n_command = 3;
	if (fixture_build(f) < 0)
		fail_msg("%s", f->err->msg);
	assert_int_equal(json_dump_file(f->out.config, path, JSON_COMPACT), 0);
	_cleanup_free_ char *out = capture(f, &status);
	if (!strstr(out, want))
		fail_msg("%s: %s\nstatus %x, said:\n%s\nexpected: %s", runtime, script,
		        (unsigned)status, out, want);
}

static void test_plain(void **state)
{
	struct fixture *f = *state;
	f->c.working_dir = S("/made/for/it");
	run(f,
	        "echo $(id -u) $(id -G) $HOME $HOSTNAME $(pwd); "
	        "grep -E 'Seccomp:|NoNewPrivs:|CapEff' /proc/self/status",
	        "0 0 10 /root node-1 /made/for/it\n");
	run(f, "grep Seccomp: /proc/self/status", "Seccomp:\t0");
	run(f, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0");
	run(f, "touch /sys/x", "Read-only file system");
	run(f, "echo pid $$", "pid 1\n");
	run(f, "touch /dev/shm/x /x && echo written", "written");
}

static void test_seccomp(void **state)
{
	struct fixture *f = *state;
	run(f, "unshare -U true && echo allowed", "allowed");
	f->sec.seccomp = &f->seccomp;
	run(f, "grep Seccomp: /proc/self/status", "Seccomp:\t2");
	run(f, "unshare -U true || echo refused", "Operation not permitted");
	run(f, "(echo a; echo b) | grep b | cat; ls -l / > /tmp.txt && stat /tmp.txt", "tmp.txt");
	fixture_write(f, "own.json",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"mkdir\","
	        "\"mkdirat\",\"a_call_of_the_future\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":"
	        "28}]}");
	f->host.seccomp_root = f->dir;
	f->seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	f->seccomp.localhost_ref = S("own.json");
	run(f, "busybox mkdir /no || echo refused", "No space left on device");
}

static void test_capabilities(void **state)
{
	struct fixture *f = *state;
	char *all[] = {S("ALL")}, *chown[] = {S("CHOWN")}, *bind[] = {S("NET_BIND_SERVICE")};
	Runtime__V1__Int64Value uid = {
	        .base = PROTOBUF_C_MESSAGE_INIT(&runtime__v1__int64_value__descriptor),
	        .value = 1000};

	f->sec.capabilities = &f->caps;
	f->caps.drop_capabilities = all;
	f->caps.n_drop_capabilities = 1;
	f->sec.no_new_privs = 1;
	run(f, "grep Cap /proc/self/status", "CapEff:\t0000000000000000\n");
	run(f, "grep Cap /proc/self/status", "CapBnd:\t0000000000000000\n");
	run(f, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1");
	f->caps.add_capabilities = chown;
	f->caps.n_add_capabilities = 1;
	run(f, "grep Cap /proc/self/status", "CapEff:\t0000000000000001\n");
	f->caps.add_ambient_capabilities = bind;
	f->caps.n_add_ambient_capabilities = 1;
	f->sec.run_as_user = &uid;
	run(f, "grep Cap /proc/self/status", "CapAmb:\t0000000000000400\n");
	run(f, "grep Cap /proc/self/status", "CapEff:\t0000000000000400\n");
}

static void test_user(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Int64Value uid = {
	        .base = PROTOBUF_C_MESSAGE_INIT(&runtime__v1__int64_value__descriptor),
	        .value = 1000};
	f->sec.run_as_user = &uid;
	run(f, "echo $(id -u) $(id -g) $(id -G) $HOME", "1000 1000 1000 10 50000 /home/app\n");
	f->sec.supplemental_groups_policy = RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
	run(f, "echo $(id -G)", "1000\n");
}

static void test_hidden(void **state)
{
	struct fixture *f = *state;
	char *masked[] = {S("/bin/ls"), S("/proc/interrupts"), S("/proc/acpi"), S("/nowhere")};
	char *ro[] = {S("/proc/sys"), S("/etc")};

	f->sec.masked_paths = masked;
	f->sec.n_masked_paths = BERTH_ARRAY_LEN(masked);
	f->sec.readonly_paths = ro;
	f->sec.n_readonly_paths = BERTH_ARRAY_LEN(ro);
	run(f, "/bin/ls", "/bin/sh: /bin/ls: Permission denied");
	run(f, "echo bytes: $(cat /proc/interrupts | busybox wc -c)", "bytes: 0\n");
	run(f, "touch /etc/x", "Read-only file system");
	f->sec.n_masked_paths = f->sec.n_readonly_paths = 0;
	f->sec.readonly_rootfs = 1;
	run(f, "touch /x", "Read-only file system");
	run(f, "touch /dev/shm/x && echo written", "written");
}

static void test_privileged(void **state)
{
	struct fixture *f = *state;
	char want[64];

	f->sec.privileged = f->pod_sec.privileged = 1;
	snprintf(want, sizeof(want), "CapEff:\t%016llx\n", (unsigned long long)f->host.bounding);
	run(f, "grep Cap /proc/self/status", want);
	run(f, "mount | grep 'on /sys type sysfs'", "(rw,");
	run(f, "mount -t tmpfs t /etc && mount | grep /etc", "on /etc type tmpfs");
}

static void test_mounts_and_devices(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Mount m, rec, *mounts[] = {&m, &rec};
	Runtime__V1__Device dev, *devices[] = {&dev};
	_cleanup_free_ char *vol = berth_asprintf("%s/vol", f->dir);
	_cleanup_free_ char *hosts = berth_asprintf("%s/hosts", f->dir);

	fixture_write(f, "vol/file", "content\n");
	fixture_write(f, "hosts", "10.0.0.1 there\n");
	runtime__v1__mount__init(&m);
	runtime__v1__mount__init(&rec);
	runtime__v1__device__init(&dev);
	m.container_path = S("/vol");
	m.host_path = vol;
	rec.container_path = S("/vol/made-by-runc");
	rec.host_path = vol;
	rec.readonly = rec.recursive_read_only = 1;
	dev.host_path = S("/dev/full");
	dev.container_path = S("/dev/my-full");
	dev.permissions = S("rw");
	f->in.hosts_path = hosts;
	f->c.mounts = mounts;
	f->c.n_mounts = 2;
	f->c.devices = devices;
	f->c.n_devices = 1;
	run(f, "cat /vol/file /etc/hosts", "content\n10.0.0.1 there\n");
	run(f, "touch /vol/new && echo written", "written");
	run(f, "touch /vol/made-by-runc/new2", "Read-only file system");
	run(f, "echo x > /dev/my-full", "No space left on device");
}

static void test_limits(void **state)
{
	struct fixture *f = *state;
	f->res.memory_limit_in_bytes = 64 << 20;
	f->res.cpu_shares = 300;
	f->res.oom_score_adj = -500;
	f->in.pids_limit = 50;
	char want[64];
	snprintf(want, sizeof(want), "adj %d\n",
	        f->host.can_lower_oom || f->host.oom_score_adj < -500 ? -500
	                                                              : f->host.oom_score_adj);
	run(f, "echo adj $(cat /proc/self/oom_score_adj)", want);
	run(f, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max",
	        "67108864\n");
	run(f, "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max", "50\n");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_plain), T(test_seccomp), T(test_capabilities),
	        T(test_user), T(test_hidden), T(test_privileged), T(test_mounts_and_devices),
	        T(test_limits)};
	int failed = 0, ran = 0;

	if (geteuid() != 0 || !busybox_is_static())
		return SKIPPED;
	snprintf(parent, sizeof(parent), "/berth-test-%d", (int)getpid());
	static const char *const names[] = {"runc", "crun"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		runtime = find(names[i]);
		if (!runtime)
			continue;
		ran++;
		failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return !ran ? SKIPPED : failed;
}
