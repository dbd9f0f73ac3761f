/* What the tests of storage-btrfs share: a btrfs of their own for each test, and the ops in short.
 * Needs root, btrfs-progs, loop devices and a kernel with btrfs; runs in a mount namespace, and its
 * images lie on a tmpfs. For one test program each. */
#ifndef BERTH_TEST_BTRFS_FIXTURE_H
#define BERTH_TEST_BTRFS_FIXTURE_H

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
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "storage_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-btrfs/storage-btrfs.so"
#define LAYERS 100
#define MIB (1024 * 1024)

static const char *missing; /* what this machine has not */
static char dir[] = "/tmp/berth-btrfs-XXXXXX";
static char *fs;

static inline int run(const char *fmt, ...)
{
	_cleanup_free_ char *cmd = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&cmd, fmt, ap);
	va_end(ap);
	return n < 0 ? -1 : system(cmd);
}

/* Each test has a file system of its own; commit=1 has deletions done soon. */
static inline int make_fs(int mib)
{
	return run("truncate -s %dM %s/img && mkfs.btrfs -q %s/img >/dev/null && "
	           "mount -o loop,commit=1,nodev,nosuid %s/img %s",
	        mib, dir, dir, dir, fs);
}

static inline void drop_fs(void)
{
	umount2(fs, MNT_DETACH);
	(void)run("rm -f %s/img", dir);
}

static inline int group_setup(void **s)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
		missing = "root's rights";
		return 0;
	}
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("tmpfs", dir, "tmpfs", 0, "mode=755"), 0);
	fs = berth_asprintf("%s/fs", dir);
	state = berth_asprintf("%s/state", fs);
	target = berth_asprintf("%s/mnt", dir);
	assert_int_equal(berth_mkdir_p(target, 0755), 0);
	assert_int_equal(berth_mkdir_p(fs, 0755), 0);
	if (run("command -v mkfs.btrfs >/dev/null && command -v btrfs >/dev/null") != 0)
		missing = "btrfs-progs";
	else if (make_fs(256) != 0)
		missing = "a kernel that mounts btrfs from a loop device";
	if (missing)
		print_message("skipped: this machine has not %s\n", missing);
	drop_fs();
	return 0;
}

static inline int group_teardown(void **s)
{
	if (!fs)
		return 0;
	free(fs);
	free(state);
	free(target);
	umount2(dir, MNT_DETACH);
	return rmdir(dir);
}

static inline void start(const char *config)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_new(PLUGIN, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

static inline int setup_sized(int mib)
{
	if (missing)
		return 0;
	assert_int_equal(make_fs(mib), 0);
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	start("{\"quota\": \"full\"}"); /* later the file system has them */
	return 0;
}

static inline int setup(void **s)
{
	return setup_sized(512);
}

static inline int setup_small(void **s)
{
	return setup_sized(128);
}

static inline int teardown(void **s)
{
	if (missing)
		return 0;
	h = testhost_free(h);
	drop_fs();
	return 0;
}

static inline void restart_with(const char *config)
{
	h = testhost_kill(h);
	start(config);
}

static inline void restart(void)
{
	restart_with("{}");
}

#define NEED_BTRFS()            \
	do {                    \
		if (missing)    \
			skip(); \
	} while (0)

/* What the command prints, a number. */
static inline uint64_t number(const char *fmt, ...)
{
	_cleanup_free_ char *cmd = NULL;
	unsigned long long n = 0;
	va_list ap;

	va_start(ap, fmt);
	assert_true(vasprintf(&cmd, fmt, ap) > 0);
	va_end(ap);
	FILE *p = popen(cmd, "re");
	assert_non_null(p);
	assert_int_equal(fscanf(p, "%llu", &n), 1);
	pclose(p);
	return n;
}

static inline uint64_t subvolumes(void)
{
	return number("btrfs subvolume list %s | wc -l", fs);
}

/* Groups of subvolumes that are there no more, once the kernel has deleted these. */
static inline void assert_no_group_is_left(void)
{
	for (int i = 0; i < 100; i++) {
		if (number("btrfs subvolume list -d %s | wc -l", fs) == 0)
			break;
		usleep(100000);
	}
	(void)run("btrfs filesystem sync %s", fs);
	assert_int_equal(number("btrfs qgroup show %s | grep -c '^[0-9]*/'", fs), subvolumes() + 1);
}

static inline uint64_t usage(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	struct berth_snap_info i = {.size = sizeof(i)};

	assert_int_equal(run("btrfs filesystem sync %s", fs), 0);
	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	return i.bytes;
}

static inline void assert_about(uint64_t got, uint64_t want)
{
	if (got + 256 * 1024 < want || got > want + 256 * 1024)
		fail_msg("%llu bytes, not about %llu", (unsigned long long)got,
		        (unsigned long long)want);
}

/* Writes that many bytes that nothing compresses; 0, or the errno of the first that failed. */
static inline int fill(const char *d, const char *name, size_t bytes)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", d, name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	static char block[65536];

	if (fd < 0)
		return errno;
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)rand();
	for (size_t done = 0; done < bytes; done += sizeof(block))
		if (write(fd, block, sizeof(block)) < 0)
			return errno;
	return fsync(fd) < 0 ? errno : 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
