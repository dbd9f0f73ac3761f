/* What storage-overlay's keys do to the mounts. Needs root; runs in a mount namespace and on a
 * tmpfs of its own. */
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
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "testhost.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-overlay/storage-overlay.so"

static bool no_root;
static char dir[] = "/tmp/berth-options-XXXXXX";
static char *state, *target;
static struct testhost *h;

static int setup(void **s)
{
	no_root = unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0;
	if (no_root)
		return 0;
	memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("tmpfs", dir, "tmpfs", 0, "mode=755"), 0);
	state = berth_asprintf("%s/state", dir);
	target = berth_asprintf("%s/mnt", dir);
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	return berth_mkdir_p(target, 0755);
}

static int teardown(void **s)
{
	if (no_root)
		return 0;
	h = testhost_free(h);
	free(state);
	free(target);
	umount2(dir, MNT_DETACH);
	return rmdir(dir);
}

#define NEED_ROOT()             \
	do {                    \
		if (no_root)    \
			skip(); \
	} while (0)

static void start(const char *config)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_free(h);
	h = testhost_new(PLUGIN, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

static void refused(const char *config, berth_status status, const char *part)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_free(h);
	struct testhost *bad = testhost_new(PLUGIN, state, NULL, config);
	berth_status st = testhost_start(bad, &msg);
	if (st != status || !strstr(msg, part))
		fail_msg("%s: %d %s", config, (int)st, msg);
	testhost_kill(bad);
}

static const struct berth_storage_ops *ops(void)
{
	return testhost_plugin(h)->storage;
}

#define OK(op, call)                                                              \
	do {                                                                      \
		berth_status st_ = (call);                                        \
		if (st_ != BERTH_OK)                                              \
			fail_msg("%s: %d %s", #call, (int)st_, testop_error(op)); \
	} while (0)

/* A committed layer made by a line of shell in its directory. */
static void layer(const char *name, const char *parent, const char *script)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = {.size = sizeof(a), .key = "pull", .flags = BERTH_SNAP_F_LAYER};

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	_cleanup_free_ char *cmd = berth_asprintf("cd '%s' && %s", r.mounts[0]->source, script);
	assert_int_equal(system(cmd), 0);
	a.flags = 0;
	a.parent = parent;
	a.name = name;
	OK(op, ops()->commit(op, testhost_self(h), &a));
}

/* Mounts a new snapshot and says whether the option is among the mount's. */
static bool container(const char *parent, const char *option)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = {.size = sizeof(a), .key = "c", .parent = parent};
	bool found = false;

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	for (size_t i = 0; r.mounts[0]->options[i]; i++)
		found = found || strcmp(r.mounts[0]->options[i], option) == 0;
	if (berth_mount_apply(&r, target, &err) < 0)
		fail_msg("%s", err->msg);
	return found;
}

static int in_target(const char *script)
{
	_cleanup_free_ char *cmd = berth_asprintf("cd '%s' && %s", target, script);
	return system(cmd);
}

static void end_container(void)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = {.size = sizeof(a), .key = "c"};

	assert_int_equal(umount(target), 0);
	OK(op, ops()->remove(op, testhost_self(h), &a));
}

static off_t blocks_of_big(void)
{
	_cleanup_free_ char *path = berth_asprintf("%s/active/c/fs/big", state);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_blocks;
}

#define BASE "head -c 1000000 /dev/zero >big && mkdir d && echo x >d/f"

static void metacopy_copies_no_content(void **s)
{
	NEED_ROOT();
	start("{\"metacopy\": true}");
	layer("sha256:a", NULL, BASE);
	assert_true(container("sha256:a", "metacopy=on"));
	assert_int_equal(in_target("chmod 600 big"), 0);
	assert_int_equal(blocks_of_big(), 0);
	/* It shows all the same, and is copied when it is written. */
	assert_int_equal(in_target("test $(wc -c <big) = 1000000 && echo y >>big && test $(wc -c "
	                           "<big) = 1000002"),
	        0);
	assert_true(blocks_of_big() * 512 >= 1000000);
	end_container();

	start("{\"metacopy\": false}");
	assert_true(container("sha256:a", "metacopy=off"));
	assert_int_equal(in_target("chmod 600 big"), 0);
	assert_true(blocks_of_big() * 512 >= 1000000);
	end_container();
}

static void redirect_dir_renames_what_lies_below(void **s)
{
	NEED_ROOT();
	static const char rename_d[] = "/usr/bin/python3 -c 'import os; os.rename(\"d\", \"e\")' "
	                               "2>/dev/null && grep -q x e/f";

	start("{\"redirect_dir\": \"on\"}");
	layer("sha256:a", NULL, BASE);
	assert_true(container("sha256:a", "redirect_dir=on"));
	assert_int_equal(in_target(rename_d), 0);
	end_container();
	start("{\"redirect_dir\": false}");
	assert_true(container("sha256:a", "redirect_dir=off"));
	assert_int_not_equal(in_target(rename_d), 0);
	end_container();
}

static void userxattr_marks_with_user_attributes(void **s)
{
	NEED_ROOT();
	_cleanup_free_ char *probe = berth_asprintf("%s/x", dir);
	assert_int_equal(berth_mkdir_p(probe, 0700), 0);
	if (setxattr(probe, "user.x", "y", 1, 0) < 0) {
		/* tmpfs has them since 6.6 */
		refused("{\"userxattr\": true}", BERTH_E_PRECONDITION, "user.*");
		skip();
	}
	start("{\"userxattr\": true}");
	const struct berth_features *f =
	        testhost_plugin(h)->extension(testhost_self(h), "berth.features/1");
	assert_true(f->features & BERTH_F_XATTR_USER);
	assert_null(testhost_plugin(h)->extension(testhost_self(h), "berth.else/1"));
	layer("sha256:a", NULL, BASE);
	layer("sha256:b", "sha256:a",
	        "mkdir d && setfattr -n user.overlay.opaque -v y d 2>/dev/null || "
	        "/usr/bin/python3 -c 'import os; os.setxattr(\"d\", \"user.overlay.opaque\", "
	        "b\"y\")'");
	assert_true(container("sha256:b", "userxattr"));
	assert_int_equal(in_target("test -d d && test ! -e d/f && rm big && test ! -e big"), 0);
	end_container();
	/* Layers are marked in one way or the other. */
	refused("{}", BERTH_E_PRECONDITION, "userxattr true");
	start("{\"userxattr\": true}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = {.size = sizeof(a), .key = "sha256:b"};
	OK(op, ops()->remove(op, testhost_self(h), &a));
	a.key = "sha256:a";
	OK(op, ops()->remove(op, testhost_self(h), &a));
	start("{}");
	layer("sha256:a", NULL, BASE);
	refused("{\"userxattr\": true}", BERTH_E_PRECONDITION, "userxattr false");
	start("{}");
}

static void what_does_not_go_together_is_refused(void **s)
{
	NEED_ROOT();
	refused("{\"redirect_dir\": \"maybe\"}", BERTH_E_INVALID, "redirect_dir");
	refused("{\"redirect_dir\": \"off\", \"metacopy\": true}", BERTH_E_INVALID,
	        "metacopy needs");
	refused("{\"userxattr\": true, \"metacopy\": true}", BERTH_E_INVALID, "userxattr");
	refused("{\"userxattr\": true, \"redirect_dir\": \"on\"}", BERTH_E_INVALID, "userxattr");
	refused("{\"mount_options\": \"nodev,userxattr\"}", BERTH_E_INVALID, "driver's own");
	refused("{\"quota_first_project\": 0}", BERTH_E_INVALID, "quota_first_project 0");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(metacopy_copies_no_content),
	        T(redirect_dir_renames_what_lies_below),
	        T(userxattr_marks_with_user_attributes),
	        T(what_does_not_go_together_is_refused),
	};
	return cmocka_run_group_tests_name("storage-options", tests, NULL, NULL);
}
