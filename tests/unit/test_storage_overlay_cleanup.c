/* storage-overlay: what a crash leaves, and how much it takes to remove. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mount/mount.h"
#include "overlay_fixture.h"

static void what_a_crash_leaves_is_cleaned_up(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);

	make_file_layer("sha256:a", NULL, "f", "1");
	make_file_layer("sha256:b", "sha256:a", "g", "2");
	make_file_layer("sha256:c", "sha256:b", "g", "2");
	prepare_and_mount("c1", "sha256:a");
	unmount();
	/* In the middle of prepare; of a remove; a torn meta file of an active one after a power
	 * cut; a commit between its meta file and its rename. */
	_cleanup_free_ char *cmd =
	        berth_asprintf("cd '%s' && mkdir -p new/77/fs trash/1/deep/er active/half/fs && "
	                       "echo x > trash/1/deep/er/f && : > active/half/meta && "
	                       "sed -i s/active/committed/ active/c1/meta",
	                state);
	assert_int_equal(system(cmd), 0);
	restart();
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 1);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 3);
	assert_int_equal(entries("new"), 0);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(entries("trash"), 0);
	remount("c1");
	unmount();

	/* A layer without its meta file is none, nor is what stands on it; both names are free. */
	_cleanup_free_ char *rm = berth_asprintf("rm '%s/layers/sha256%%3Ab/meta'", state);
	assert_int_equal(system(rm), 0);
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
	assert_non_null(strstr(testhost_logged(h), "sha256%3Ab"));
	assert_non_null(strstr(testhost_logged(h), "sha256:c"));
	make_file_layer("sha256:b", "sha256:a", "new", "3");
	make_file_layer("sha256:c", "sha256:b", "g", "2");
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 3);
}

static void a_volatile_upper_is_trusted_within_one_boot(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	make_file_layer("sha256:a", NULL, "f", "1");
	struct berth_snap_args a = args("c", "sha256:a", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	bool is_volatile = false;
	for (size_t i = 0; r.mounts[0]->options[i]; i++)
		is_volatile = is_volatile || strcmp(r.mounts[0]->options[i], "volatile") == 0;
	assert_true(is_volatile);
	mount_result(&r);
	put_in(target, "w", "written");
	umount2(target, MNT_DETACH); /* the mark stays */
	restart();
	remount("c");
	assert_in(target, "w", "written");
	unmount();
	_cleanup_free_ char *cmd =
	        berth_asprintf("sed -i 's/^boot=.*/boot=another/' '%s/active/c/meta'", state);
	assert_int_equal(system(cmd), 0);
	restart();
	FAILS(op, ops()->mounts(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, "restarted");
	remove_snap("c");

	h = testhost_free(h);
	start("{\"volatile\": false, \"mount_options\": \"nodev,metacopy=off\"}");
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	bool nodev = false;
	for (size_t i = 0; r.mounts[0]->options[i]; i++) {
		assert_string_not_equal(r.mounts[0]->options[i], "volatile");
		nodev = nodev || strcmp(r.mounts[0]->options[i], "nodev") == 0;
	}
	assert_true(nodev);
	mount_result(&r);
	unmount();
}

static void killed_at_any_instant_it_comes_up_whole(void **s)
{
	NEED_ROOT();
	kill_at_any_instant(60, 8000, restart, NULL);
}

/* A container may nest directories deeper than any stack. */
static void a_deep_tree_is_removed(void **s)
{
	NEED_ROOT();
	remove_a_deep_tree();
}

static void a_big_tree_does_not_hold_up_its_remove(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("big", NULL, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	int at = open(r.mounts[0]->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 60000; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%d", i);
		assert_int_equal(mknodat(at, name, S_IFREG | 0600, 0), 0);
	}
	close(at);
	uint64_t begin = berth_now_ns();
	remove_snap("big");
	uint64_t took = berth_now_ns() - begin;
	assert_int_equal(entries("active"), 0);
	if (took > 2000000000ull)
		fail_msg("%llu ms", (unsigned long long)took / 1000000);
	/* Stopped in the middle, the next start goes on. */
	h = testhost_free(h);
	start("{}");
	await_empty_trash();
}

static void a_mount_left_inside_is_not_emptied(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("m", NULL, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	_cleanup_free_ char *in = berth_asprintf("%s/vol", r.mounts[0]->source),
	                    *vol = berth_asprintf("%s/volume", dir);
	assert_int_equal(berth_mkdir_p(in, 0755), 0);
	assert_int_equal(berth_mkdir_p(vol, 0755), 0);
	put_in(vol, "precious", "data");
	assert_int_equal(berth_mount_bind(vol, in, false, false, &err), 0);
	remove_snap("m");
	assert_in(vol, "precious", "data");
	assert_non_null(strstr(testhost_logged(h), "'m'"));
	FAILS(op, ops()->cleanup(op, testhost_self(h)), BERTH_E_INTERNAL, "busy");
	_cleanup_free_ char *trash = berth_asprintf("%s/trash", state);
	assert_int_equal(berth_umount_tree(trash, false, &err), 0);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(entries("trash"), 0);
	assert_in(vol, "precious", "data");
}

static void shell(const char *script)
{
	_cleanup_free_ char *cmd = berth_asprintf("cd '%s' && %s", dir, script);
	assert_int_equal(system(cmd), 0);
}

static void fill_layer(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = layer_args(key, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	mount_result(&r);
	shell("dd if=/dev/urandom of=mnt/data bs=1M count=30 status=none");
	unmount();
}

/* A disk that has less than it says. What is lost of two layers is found once by the kernel, when
 * the first one is committed, and is told to the second one, too. */
static void a_loss_that_another_found_is_no_layer(void **s)
{
	NEED_ROOT();
	char *const before = state;

	shell("mkdir small disk && mount -t tmpfs -o size=40m t small && truncate -s 200M "
	      "small/img && "
	      "mkfs.ext4 -q -O ^has_journal small/img && mount -o loop small/img disk && mkdir "
	      "disk/state");
	h = testhost_free(h);
	_cleanup_free_ char *there = berth_asprintf("%s/disk/state", dir);
	state = there;
	start("{}");
	fill_layer("one");
	fill_layer("two");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args one = args("one", NULL, "sha256:1"),
	                       two = args("two", NULL, "sha256:2");
	assert_int_not_equal(ops()->commit(op, testhost_self(h), &two), BERTH_OK);
	shell("mount -o remount,size=400m small");
	assert_int_not_equal(ops()->commit(op, testhost_self(h), &one), BERTH_OK);
	assert_int_not_equal(ops()->commit(op, testhost_self(h), &two), BERTH_OK);
	remove_snap("one");
	fill_layer("one");
	OK(op, ops()->commit(op, testhost_self(h), &one));
	h = testhost_free(h);
	state = before;
	shell("umount disk && umount small");
	start("{}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(what_a_crash_leaves_is_cleaned_up),
	        T(a_volatile_upper_is_trusted_within_one_boot),
	        T(killed_at_any_instant_it_comes_up_whole),
	        T(a_deep_tree_is_removed),
	        T(a_big_tree_does_not_hold_up_its_remove),
	        T(a_mount_left_inside_is_not_emptied),
	        T(a_loss_that_another_found_is_no_layer),
	};
	return cmocka_run_group_tests_name(
	        "storage-overlay-cleanup", tests, group_setup, group_teardown);
}
