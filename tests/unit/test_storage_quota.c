/* Limits of storage-overlay by project quota, on file systems on loop devices. Needs root and a
 * kernel with quota (tests/vm/run has one). Without that the driver must say so, and does the same
 * without limits. */
#include <errno.h>
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
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "storage_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-overlay/storage-overlay.so"
#define LIMIT (8u << 20)

static bool no_root;
static char dir[] = "/tmp/berth-quota-XXXXXX";

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static int group_setup(void **s)
{
	no_root = unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0;
	if (no_root)
		return 0;
	assert_non_null(mkdtemp(dir));
	state = berth_asprintf("%s/fs/state", dir);
	target = berth_asprintf("%s/mnt", dir);
	return berth_mkdir_p(target, 0755);
}

static int group_teardown(void **s)
{
	if (no_root)
		return 0;
	free(state);
	free(target);
	return berth_rm_tree(AT_FDCWD, dir);
}

/* Makes and mounts a file system; false where this machine cannot. */
static bool make_fs(const char *mkfs, const char *options)
{
	return run("mkdir -p %s/fs && rm -f %s/img && truncate -s 600M %s/img && %s %s/img "
	           ">/dev/null 2>&1 "
	           "&& mount -o loop,%s %s/img %s/fs 2>/dev/null",
	               dir, dir, dir, mkfs, dir, options, dir, dir) == 0;
}

static bool start(const char *config)
{
	_cleanup_free_ char *msg = NULL;

	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	h = testhost_new(PLUGIN, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
	const struct berth_features *f =
	        testhost_plugin(h)->extension(testhost_self(h), BERTH_FEATURES_EXT);
	assert_non_null(f);
	if (f->features & BERTH_F_QUOTA) {
		assert_null(f->no_quota);
		return true;
	}
	assert_non_null(f->no_quota);
	return false;
}

static int end(void **s)
{
	if (no_root)
		return 0;
	h = testhost_free(h);
	(void)run("umount %s/mnt 2>/dev/null; umount %s/fs 2>/dev/null", dir, dir);
	return 0;
}

static void make_layer(const char *name)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("pull", NULL, NULL);

	a.flags = BERTH_SNAP_F_LAYER;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(run("mkdir '%s/sub' && echo below >'%s/sub/f'", r.mounts[0]->source,
	                         r.mounts[0]->source),
	        0);
	a = args("pull", NULL, name);
	OK(op, ops()->commit(op, testhost_self(h), &a));
}

static void prepare(const char *key, uint64_t bytes, uint64_t inodes)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args(key, "sha256:a", NULL);

	a.size_limit = bytes;
	a.inode_limit = inodes;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	if (berth_mount_apply(&r, target, &err) < 0)
		fail_msg("%s", err->msg);
}

/* How many bytes go into `name` until it is full; -1 where nothing stops it at `most`. */
static int64_t fill(const char *name, size_t most, int *ret_errno)
{
	static char block[65536];
	_cleanup_free_ char *path = berth_asprintf("%s/%s", target, name);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	size_t n = 0;

	*ret_errno = fd < 0 ? errno : 0;
	while (fd >= 0 && n < most) {
		ssize_t w = write(fd, block, sizeof(block));
		if (w < 0) {
			*ret_errno = errno;
			return (int64_t)n;
		}
		n += (size_t)w;
	}
	return fd < 0 ? 0 : -1;
}

static struct berth_snap_info usage(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	struct berth_snap_info i = {.size = sizeof(i)};

	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	i.key = i.parent = NULL;
	return i;
}

/* What "repquota" would show of ids from the driver's first on. */
static size_t limits_left(void)
{
	_cleanup_free_ char *cmd =
	        berth_asprintf("cat %s/active/*/meta 2>/dev/null | grep -c ^own=project=", state);
	FILE *p = popen(cmd, "re");
	size_t n = 0;
	assert_non_null(p);
	assert_int_equal(fscanf(p, "%zu", &n), 1);
	pclose(p);
	return n;
}

static void limits(const char *mkfs, const char *options)
{
	int e;

	if (no_root || !make_fs(mkfs, options))
		skip();
	if (!start("{}"))
		skip();
	make_layer("sha256:a");
	prepare("small", LIMIT, 0);
	int64_t n = fill("big", 4 * LIMIT, &e), first = n;
	assert_true(e == EDQUOT || e == ENOSPC);
	assert_in_range(n, LIMIT / 2, LIMIT);
	/* A copy-up counts, too; and the rest of the file system is free. */
	assert_int_not_equal(fill("sub/f", 65536, &e), -1);
	struct berth_snap_info i = usage("small");
	assert_in_range(i.bytes, LIMIT / 2, LIMIT);
	/* A full one is mounted read-only, for overlay begins with a directory of its own. */
	assert_int_equal(run("truncate -s 6M '%s/big'", target), 0);
	unmount();
	prepare("other", 0, 0);
	assert_int_equal(fill("big", 2 * LIMIT, &e), -1);
	unmount();
	/* Counted by the quota, without a walk: what lies elsewhere with this id is seen. */
	i = usage("other");
	assert_in_range(i.bytes, 2 * LIMIT, 2 * LIMIT + 65536);
	prepare("few", 0, 20);
	for (int k = 0; k < 40; k++) {
		char name[16];
		snprintf(name, sizeof(name), "f%d", k);
		(void)fill(name, 1, &e);
	}
	assert_true(e == EDQUOT || e == ENOSPC);
	unmount();
	i = usage("few");
	assert_in_range(i.inodes, 15, 20);
	assert_int_equal(limits_left(), 3);

	/* It holds after a kill, ids are not used twice, and a removed one's space is free again.
	 */
	h = testhost_kill(h);
	assert_true(start("{}"));
	{
		_cleanup_op_ struct berth_op *op = testop_new(h);
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		struct berth_mounts_result r = {.size = sizeof(r)};
		struct berth_snap_args a = args("small", NULL, NULL);
		OK(op, ops()->mounts(op, testhost_self(h), &a, &r));
		assert_int_equal(berth_mount_apply(&r, target, &err), 0);
	}
	n = fill("more", LIMIT, &e);
	if (e != EDQUOT && e != ENOSPC)
		fail_msg("%lld bytes more after %lld: %s", (long long)n, (long long)first,
		        strerror(e));
	assert_int_equal(run("rm '%s/big'", target), 0);
	assert_true(fill("more", LIMIT, &e) > (int64_t)LIMIT / 2 - 65536);
	unmount();
	prepare("again", LIMIT, 0);
	i = usage("again");
	assert_in_range(i.bytes, 0, 65536);
	unmount();
	remove_snap("again");
	remove_snap("small");
	remove_snap("other");
	remove_snap("few");
	{
		_cleanup_op_ struct berth_op *op = testop_new(h);
		OK(op, ops()->cleanup(op, testhost_self(h)));
	}
	/* Nothing is left of the limits: the same ids are taken again by one that begins there. XFS
	 * ends inodes in the background. */
	bool again = false;
	for (int k = 0; k < 600 && !again; k++) {
		h = testhost_free(h);
		assert_true(start("{}"));
		prepare("fresh", 0, 0);
		again = run("grep -qx 'own=project=1644167168' '%s/active/fresh/meta'", state) == 0;
		if (again)
			assert_int_equal(fill("big", 2 * LIMIT, &e), -1);
		unmount();
		remove_snap("fresh");
		usleep(100000);
	}
	assert_true(again);
}

static void ext4_limits_what_a_container_writes(void **s)
{
	limits("mkfs.ext4 -q -O quota,project", "prjquota");
}

static void xfs_limits_what_a_container_writes(void **s)
{
	limits("mkfs.xfs -q", "prjquota");
}

static void no_quota(const char *mkfs, const char *options, const char *why)
{
	if (no_root || !make_fs(mkfs, options))
		skip();
	if (start("{}"))
		fail_msg("%s -o %s has project quota", mkfs, options);
	make_layer("sha256:a");
	{
		_cleanup_op_ struct berth_op *op = testop_new(h);
		struct berth_mounts_result r = {.size = sizeof(r)};
		struct berth_snap_args a = args("c", "sha256:a", NULL);
		a.size_limit = LIMIT;
		assert_int_equal(
		        ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION);
		if (!strstr(testop_error(op), why))
			fail_msg("%s", testop_error(op));
	}
	prepare("c", 0, 0);
	unmount();
}

static void ext4_without_quota_is_told(void **s)
{
	no_quota("mkfs.ext4 -q", "defaults", "no quota");
}

static void quota_that_is_not_enforced_is_told(void **s)
{
	no_quota("mkfs.xfs -q", "pqnoenforce", "quota");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_teardown(ext4_without_quota_is_told, end),
	        cmocka_unit_test_teardown(quota_that_is_not_enforced_is_told, end),
	        cmocka_unit_test_teardown(ext4_limits_what_a_container_writes, end),
	        cmocka_unit_test_teardown(xfs_limits_what_a_container_writes, end),
	};
	return cmocka_run_group_tests_name("storage-quota", tests, group_setup, group_teardown);
}
