/* What storage-overlay's keys do to the mounts. Needs root; runs in a mount namespace and on a
 * tmpfs of its own. */
#include <dirent.h>
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
#include "storage_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-overlay/storage-overlay.so"

static bool no_root;
static char dir[] = "/tmp/berth-options-XXXXXX";

static int setup(void **s)
{
	no_root = unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0;
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
	        testhost_plugin(h)->extension(testhost_self(h), BERTH_FEATURES_EXT);
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

#define FUSE "/usr/bin/fuse-overlayfs"

/* Servers of mounts of this test. */
static int servers(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int n = 0;

	assert_non_null(proc);
	while ((e = readdir(proc))) {
		char path[300], text[4096] = "";
		snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
		_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t len = fd < 0 ? 0 : read(fd, text, sizeof(text));
		n += len > 0 && strcmp(text, FUSE) == 0 &&
		     memmem(text, (size_t)len, dir, strlen(dir)) != NULL;
	}
	closedir(proc);
	return n;
}

static bool servers_end(void)
{
	for (int i = 0; i < 100 && servers() > 0; i++)
		usleep(50000);
	return servers() == 0;
}

static void a_program_serves_the_mount(void **s)
{
	NEED_ROOT();
	if (access(FUSE, X_OK) < 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		skip();
	start("{\"mount_program\": \"" FUSE "\"}");
	const struct berth_features *f =
	        testhost_plugin(h)->extension(testhost_self(h), BERTH_FEATURES_EXT);
	assert_false(f->features & (BERTH_F_IDMAP | BERTH_F_QUOTA));
	layer("sha256:a", NULL, BASE);
	layer("sha256:b", "sha256:a",
	        "echo top >top && mknod big c 0 0 && mkdir d && "
	        "/usr/bin/python3 -c 'import os; os.setxattr(\"d\", \"trusted.overlay.opaque\", "
	        "b\"y\")'");
	assert_true(container("sha256:b", "mount_program=" FUSE));
	assert_int_equal(
	        in_target("grep -q top top && test ! -e big && test -d d && test ! -e d/f"), 0);
	assert_int_equal(in_target("echo new >new && rm top && mkdir -p e/f && chown 12:34 e"), 0);
	_cleanup_free_ char *upper = berth_asprintf("%s/active/c/fs/new", state);
	assert_int_equal(access(upper, F_OK), 0);
	assert_int_equal(servers(), 1);
	end_container();
	assert_true(servers_end());

	/* Attached nowhere and read-only: it ends with its fd. */
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = {.size = sizeof(a), .key = "v", .parent = "sha256:b"};
	OK(op, ops()->view(op, testhost_self(h), &a, &r));
	int fd = berth_mount_clone(&r, true, &err);
	if (fd < 0)
		fail_msg("%s", err->msg);
	assert_int_equal(faccessat(fd, "top", F_OK, 0), 0);
	assert_int_equal(mkdirat(fd, "more", 0700), -1);
	assert_int_equal(errno, EROFS);
	close(fd);
	assert_true(servers_end());

	/* What the program says is told, and nothing stays. */
	_cleanup_free_ char *cmd = berth_asprintf("rm -r '%s/layers/sha256%%3Aa'", state);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(berth_mount_clone(&r, true, &err), -1);
	if (!strstr(err->msg, FUSE) || !strstr(err->msg, "cannot read lower dirs"))
		fail_msg("%s", err->msg);
	assert_true(servers_end());
}

static int in_layer(const char *name, const char *script)
{
	_cleanup_free_ char *cmd =
	        berth_asprintf("cd '%s/layers/%s/fs' && %s", state, name, script);
	return system(cmd);
}

static void one_mode_on_the_disk_and_the_true_one_shown(void **s)
{
	NEED_ROOT();
	if (access(FUSE, X_OK) < 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		skip();
	start("{\"mount_program\": \"" FUSE "\", \"force_mask\": \"shared\"}");
	layer("sha256:a", NULL,
	        "chown 5:6 . && chmod 700 . && echo f >f && chown 7:8 f && chmod 4711 f && ln f g "
	        "&& "
	        "mkdir -p d/e && chmod 1777 d && ln -s f link && mkfifo -m 600 fifo && mkdir h && "
	        "chmod 000 h");
	assert_int_equal(in_layer("sha256%3Aa",
	                         "test \"$(stat -c '%a %u:%g' . f g d d/e h | tr '\\n' ,)\" = "
	                         "'755 5:6,755 7:8,755 7:8,755 0:0,755 0:0,755 0:0,' && "
	                         "test $(stat -c %a fifo) = 600"),
	        0);
	layer("sha256:b", "sha256:a",
	        "chmod 711 . && mkdir d && echo new >d/new && chmod 640 d/new");
	assert_true(container("sha256:b", "mount_program=" FUSE));
	static const char shown[] =
	        "test \"$(stat -c '%a %u:%g' . f g d d/e d/new h | tr '\\n' ,)\" = "
	        "'711 0:0,4711 7:8,4711 7:8,755 0:0,755 0:0,640 0:0,0 0:0,' && test $(cat f) = f";
	assert_int_equal(in_target(shown), 0);
	/* What a container writes is its own affair. */
	assert_int_equal(
	        in_target("echo x >own && chmod 600 own && chown 9:9 own f && chmod 600 f"), 0);
	assert_int_equal(in_target("test \"$(stat -c '%a %u:%g' own f | tr '\\n' ,)\" = "
	                           "'600 9:9,600 9:9,'"),
	        0);
	end_container();
	assert_true(servers_end());

	/* A view of one layer is no bind mount of it. */
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = {.size = sizeof(a), .key = "v", .parent = "sha256:a"};
	struct stat st;
	OK(op, ops()->view(op, testhost_self(h), &a, &r));
	int fd = berth_mount_clone(&r, true, &err);
	if (fd < 0)
		fail_msg("%s", err->msg);
	assert_int_equal(fstatat(fd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 04711);
	assert_int_equal(fstatat(fd, ".", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	close(fd);
	assert_true(servers_end());
	OK(op, ops()->remove(op, testhost_self(h), &a));

	/* Without the key layers are shown as before, without the program they are refused. */
	start("{\"mount_program\": \"" FUSE "\"}");
	assert_true(container("sha256:b", "mount_program=" FUSE));
	assert_int_equal(in_target(shown), 0);
	end_container();
	assert_true(servers_end());
	start("{}");
	a.key = "c";
	a.parent = "sha256:b";
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION,
	        "was made with force_mask: it needs a mount_program");
}

static void masks_are_words_or_octal(void **s)
{
	NEED_ROOT();
	static const char *const bad[] = {"", "rwx", "0855", "01777", "-1", "0x1ff", "sharedx"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		_cleanup_free_ char *config = berth_asprintf(
		        "{\"mount_program\": \"/bin/true\", \"force_mask\": \"%s\"}", bad[i]);
		refused(config, BERTH_E_INVALID, "force_mask");
	}
	refused("{\"force_mask\": \"shared\"}", BERTH_E_INVALID, "needs a mount_program");
	static const struct {
		const char *text, *mode;
	} good[] = {{"private", "700"}, {"0711", "711"}, {"750", "750"}};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		_cleanup_free_ char *config = berth_asprintf(
		        "{\"mount_program\": \"/bin/true\", \"force_mask\": \"%s\"}", good[i].text);
		_cleanup_free_ char *name = berth_asprintf("l%zu", i);
		_cleanup_free_ char *look =
		        berth_asprintf("test $(stat -c %%a f) = %s", good[i].mode);
		start(config);
		layer(name, NULL, "echo f >f");
		assert_int_equal(in_layer(name, look), 0);
	}
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
	refused("{\"mount_program\": \"/no/such\"}", BERTH_E_PRECONDITION, "/no/such");
	refused("{\"mount_program\": \"true\"}", BERTH_E_PRECONDITION, "absolute");
	refused("{\"mount_program\": \"/bin/true\", \"metacopy\": true}", BERTH_E_INVALID,
	        "mount_program");
	refused("{\"quota_first_project\": 0}", BERTH_E_INVALID, "quota_first_project 0");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(metacopy_copies_no_content),
	        T(redirect_dir_renames_what_lies_below),
	        T(userxattr_marks_with_user_attributes),
	        T(a_program_serves_the_mount),
	        T(one_mode_on_the_disk_and_the_true_one_shown),
	        T(masks_are_words_or_octal),
	        T(what_does_not_go_together_is_refused),
	};
	return cmocka_run_group_tests_name("storage-options", tests, NULL, NULL);
}
