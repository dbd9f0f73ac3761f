/* What the tests of storage-overlay share: a mount namespace and a tmpfs of their own, and an
 * instance of the driver for each test. Needs root. For one test program each. */
#ifndef BERTH_TEST_OVERLAY_FIXTURE_H
#define BERTH_TEST_OVERLAY_FIXTURE_H

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "storage_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-overlay/storage-overlay.so"

static int no_root;
static char dir[] = "/tmp/berth-overlay-XXXXXX";

static inline int group_setup(void **s)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
		no_root = 1;
		return 0;
	}
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("tmpfs", dir, "tmpfs", 0, "mode=755"), 0);
	/* A colon in the path must not part layers. */
	state = berth_asprintf("%s/st:ate", dir);
	target = berth_asprintf("%s/mnt", dir);
	return berth_mkdir_p(target, 0755);
}

static inline int group_teardown(void **s)
{
	if (no_root)
		return 0;
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

static inline int setup(void **s)
{
	if (no_root)
		return 0;
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	start("{}");
	return 0;
}

static inline int teardown(void **s)
{
	if (no_root)
		return 0;
	h = testhost_free(h);
	return berth_rm_tree(AT_FDCWD, state);
}

static inline void restart(void)
{
	h = testhost_kill(h);
	start("{}");
}

#define NEED_ROOT()             \
	do {                    \
		if (no_root)    \
			skip(); \
	} while (0)

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
