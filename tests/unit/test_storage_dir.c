/* The example of sdk/: what it leaves to the disk, and what it makes of what a crash left. argv[1]
 * is the plugin, with notes of its calls. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "testhost.h"

static const char *so;
static char dir[64];
static struct testhost *h;
static const struct berth_storage_ops *ops;
static void *self;
static char *calls; /* of the plugin */
static int *fsync_fails;

static int setup(void **state)
{
	_cleanup_free_ char *st = NULL, *run = NULL, *msg = NULL;

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/berth-dir-XXXXXX");
	assert_non_null(mkdtemp(dir));
	st = berth_asprintf("%s/state", dir);
	run = berth_asprintf("%s/run", dir);
	assert_int_equal(berth_mkdir_p(st, 0755), 0);
	assert_int_equal(berth_mkdir_p(run, 0755), 0);
	h = testhost_new(so, st, run, "{}");
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	ops = testhost_plugin(h)->storage;
	self = testhost_self(h);
	void *dl = dlopen(so, RTLD_NOW | RTLD_NOLOAD);
	calls = dlsym(dl, "noted_calls");
	fsync_fails = dlsym(dl, "noted_fsync_fails");
	assert_true(calls && fsync_fails);
	dlclose(dl);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	h = testhost_free(h);
	assert_int_equal(berth_rm_tree(AT_FDCWD, dir), 0);
	return 0;
}

static void prepare(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result res = {.size = sizeof(res)};
	const struct berth_snap_args a = {.size = sizeof(a), .key = key};

	OK(op, ops->prepare(op, self, &a, &res));
}

static bool there(const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("%s/state/%s", dir, name);

	return access(path, F_OK) == 0;
}

static void a_commit_returns_when_its_name_is_on_the_disk(void **state)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_snap_args a = {.size = sizeof(a), .key = "k", .name = "sha256:1"};

	(void)state;
	prepare("k");
	*calls = '\0';
	OK(op, ops->commit(op, self, &a));
	assert_string_equal(calls, "syncfs a-k\nrename a-k c-sha256:1\nfsync state\n");
}

static void a_commit_that_fails_has_not_happened(void **state)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_snap_args a = {.size = sizeof(a), .key = "k", .name = "sha256:1"};

	(void)state;
	prepare("k");
	*fsync_fails = EIO;
	FAILS(op, ops->commit(op, self, &a), BERTH_E_INTERNAL, "Input/output error");
	*fsync_fails = 0;
	assert_true(there("a-k") && !there("c-sha256:1"));
	OK(op, ops->commit(op, self, &a));
}

static void a_name_is_gone_before_its_content(void **state)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const struct berth_snap_args a = {.size = sizeof(a), .key = "k"};

	(void)state;
	prepare("k");
	*calls = '\0';
	OK(op, ops->remove(op, self, &a));
	assert_string_equal(calls, "rename a-k new-k\nfsync state\n");
	assert_false(there("a-k") || there("new-k"));
}

static void what_a_crash_left_is_in_nobodys_way(void **state)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_free_ char *left = berth_asprintf("%s/state/new-k/fs/etc", dir);
	const struct berth_snap_args a = {.size = sizeof(a), .key = "k"};

	(void)state;
	prepare("k");
	assert_int_equal(berth_mkdir_p(left, 0755), 0);
	OK(op, ops->remove(op, self, &a));
	assert_false(there("a-k") || there("new-k"));
	assert_int_equal(berth_mkdir_p(left, 0755), 0);
	prepare("k");
	assert_true(there("a-k") && !there("new-k"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(
	                a_commit_returns_when_its_name_is_on_the_disk, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                a_commit_that_fails_has_not_happened, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_name_is_gone_before_its_content, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                what_a_crash_left_is_in_nobodys_way, setup, teardown),
	};

	assert_true(argc > 1);
	so = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
