#include "dm_fixture.h"

const char *lacking;
char dir[] = "/var/tmp/berth-dm-XXXXXX";

/* ---- the outside ---- */

__attribute__((format(printf, 1, 2))) int sh(const char *format, ...)
{
	char *cmd = NULL;
	va_list ap;

	va_start(ap, format);
	assert_true(vasprintf(&cmd, format, ap) > 0);
	va_end(ap);
	int r = system(cmd);
	free(cmd);
	return r;
}

/* The number that a command prints. */
__attribute__((format(printf, 1, 2))) long long number(const char *format, ...)
{
	char *cmd = NULL, text[64] = "";
	va_list ap;

	va_start(ap, format);
	assert_true(vasprintf(&cmd, format, ap) > 0);
	va_end(ap);
	FILE *f = popen(cmd, "r");
	assert_non_null(f);
	(void)!fgets(text, sizeof(text), f);
	pclose(f);
	free(cmd);
	return atoll(text);
}

const char *what_is_lacking(void)
{
	static const char *const tools[] = {"dmsetup", "thin_check", "thin_ls", "mkfs.ext4"};

	if (geteuid() != 0)
		return "needs root";
	if (access("/dev/mapper/control", F_OK) < 0)
		return "needs a device mapper: there is no /dev/mapper/control";
	for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++)
		if (sh("command -v %s >/dev/null", tools[i]) != 0)
			return "needs dmsetup, thin-provisioning-tools and e2fsprogs";
	(void)sh("modprobe -q loop; modprobe -q dm-thin-pool");
	if (sh("dmsetup targets | grep -q thin-pool") != 0)
		return "needs a kernel with the target thin-pool";
	return NULL;
}

/* Devices of the store that are active, the pool aside. */
int active(void)
{
	return (int)number("dmsetup ls | grep -c \"^berth-$(sed 's/.*tag=\\([0-9a-f]*\\).*/\\1/' "
	                   "%s/pool)-[0-9]\"",
	        state);
}

void pool_name(char name[64])
{
	_cleanup_free_ char *path = berth_asprintf("%s/pool", state), *text = NULL;

	assert_int_equal(berth_read_file(AT_FDCWD, path, 4096, &text, NULL), 0);
	assert_non_null(strstr(text, "tag="));
	snprintf(name, 64, "berth-%.8s-pool", strstr(text, "tag=") + 4);
}

/* How many thin devices the pool knows, active or not. */
int devices_in(const char *pool)
{
	return (int)number("p=%s; m=$(dmsetup table $p | cut -d' ' -f4); "
	                   "m=/dev/$(basename $(readlink /sys/dev/block/$m)); "
	                   "dmsetup message $p 0 reserve_metadata_snap && "
	                   "thin_ls -m --no-headers -o DEV $m | grep -c .; "
	                   "dmsetup message $p 0 release_metadata_snap",
	        pool);
}

int devices(void)
{
	char name[64];

	pool_name(name);
	return devices_in(name);
}

void forget_pools(void)
{
	(void)sh("t=$(sed 's/.*tag=\\([0-9a-f]*\\).*/\\1/' %s/pool 2>/dev/null); [ -n \"$t\" ] || "
	         "exit; "
	         "for d in $(dmsetup ls | grep -o \"^berth-$t-[0-9]*\" | grep '[0-9]$') "
	         "berth-$t-pool; do "
	         "dmsetup info $d >/dev/null 2>&1 && dmsetup remove --retry $d; done",
	        state);
}

int group_setup(void **s)
{
	lacking = what_is_lacking();
	if (lacking) {
		print_message("storage-devmapper: %s\n", lacking);
		return 0;
	}
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return -1;
	assert_non_null(mkdtemp(dir));
	state = berth_asprintf("%s/state", dir);
	target = berth_asprintf("%s/mnt", dir);
	return berth_mkdir_p(target, 0755);
}

int group_teardown(void **s)
{
	if (lacking)
		return 0;
	free(state);
	free(target);
	return berth_rm_tree(AT_FDCWD, dir);
}

/* ---- the plugin ---- */

void start(const char *config)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_new(PLUGIN, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

void refused(const char *config, berth_status want, const char *part)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_new(PLUGIN, state, NULL, config);
	berth_status st = testhost_start(h, &msg);
	h = testhost_kill(h);
	if (st != want || !msg || !strstr(msg, part))
		fail_msg("%d '%s', expected '%s'", st, msg, part);
}

int setup(void **s)
{
	return lacking ? 0 : berth_mkdir_p(state, 0700);
}

int teardown(void **s)
{
	if (lacking)
		return 0;
	while (umount2(target, MNT_DETACH) == 0)
		;
	h = testhost_free(h);
	forget_pools();
	return berth_rm_tree(AT_FDCWD, state);
}

void restart(const char *config)
{
	h = testhost_kill(h);
	start(config);
}

void do_mount(const struct berth_mounts_result *m)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (berth_mount_apply(m, target, &err) < 0)
		fail_msg("%s", err->msg);
}

void do_umount(void)
{
	assert_int_equal(umount(target), 0);
}

void take(bool view, uint32_t flags, const char *key, const char *parent)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, parent, NULL);
	struct berth_mounts_result m = {.size = sizeof(m)};

	a.flags = flags;
	if (view)
		OK(op, ops()->view(op, testhost_self(h), &a, &m));
	else
		OK(op, ops()->prepare(op, testhost_self(h), &a, &m));
	do_mount(&m);
}

void mount_again(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	struct berth_mounts_result m = {.size = sizeof(m)};

	OK(op, ops()->mounts(op, testhost_self(h), &a, &m));
	do_mount(&m);
}

void commit(const char *key, const char *name)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, name);

	OK(op, ops()->commit(op, testhost_self(h), &a));
}

struct berth_snap_info stat_snap(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	struct berth_snap_info info = {.size = sizeof(info)};

	OK(op, ops()->stat(op, testhost_self(h), &a, &info));
	info.key = info.parent = NULL;
	return info;
}

berth_status prepare_only(const char *key, const char *parent, uint64_t size, char **ret_msg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, parent, NULL);
	struct berth_mounts_result m = {.size = sizeof(m)};

	a.size_limit = size;
	berth_status st = ops()->prepare(op, testhost_self(h), &a, &m);
	*ret_msg = berth_strdup(testop_error(op));
	return st;
}

void put(const char *name, const char *text)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", target, name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

void assert_there(const char *name, const char *want)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", target, name), *got = NULL;
	int r = berth_read_file(AT_FDCWD, p, 4096, &got, NULL);

	if (!want) {
		assert_int_equal(r, -ENOENT);
		return;
	}
	if (r < 0)
		fail_msg("%s: %s", p, strerror(-r));
	assert_string_equal(got, want);
}

/* Writes up to n MiB; what could be written. */
int fill(const char *name, int n)
{
	static char block[1024 * 1024];
	_cleanup_free_ char *p = berth_asprintf("%s/%s", target, name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int i = 0;

	memset(block, 'x', sizeof(block));
	for (; fd >= 0 && i < n; i++)
		if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block))
			break;
	return i;
}

void unlink_there(const char *name)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", target, name);

	assert_int_equal(unlink(p), 0);
}

void layer(const char *name, const char *parent, const char *file, const char *text)
{
	_cleanup_free_ char *key = berth_asprintf("%s.part", name);

	take(false, BERTH_SNAP_F_LAYER, key, parent);
	put(file, text);
	do_umount();
	commit(key, name);
}

void run_watches(int ms)
{
	for (int i = 0; i < ms / 50; i++)
		(void)testhost_dispatch(h, 50);
}
