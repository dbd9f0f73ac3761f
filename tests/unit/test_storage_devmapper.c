/* storage-devmapper through the ABI, mounted as the host mounts it. Needs root and a device mapper
 * with thin provisioning; runs in a mount namespace of its own. Pools lie on loop files, so that
 * they can be filled, broken and forgotten. */
#include "dm_fixture.h"

static void without_a_device_mapper_the_reason_is_told(void **s)
{
	char tmp[] = "/tmp/berth-dm-XXXXXX";
	_cleanup_free_ char *msg = NULL;

	if (access("/dev/mapper/control", F_OK) == 0)
		skip();
	assert_non_null(mkdtemp(tmp));
	struct testhost *t = testhost_new(PLUGIN, tmp, NULL, "{\"pool\": \"any\"}");
	assert_int_equal(testhost_start(t, &msg), BERTH_E_PRECONDITION);
	assert_non_null(strstr(msg, "this machine has no device mapper: /dev/mapper/control"));
	testhost_kill(t);
	assert_int_equal(berth_rm_tree(AT_FDCWD, tmp), 0);
}

static void bad_configuration_is_named(void **s)
{
	char tmp[] = "/tmp/berth-dm-XXXXXX";
	static const struct {
		const char *config, *part;
	} bad[] = {
	        {"{}", "one of pool"},
	        {"{\"pool\": \"x\", \"loop_size\": \"1G\"}", "only one of pool"},
	        {"{\"loop_size\": \"1X\"}", "loop_size '1X' is no size"},
	        {"{\"loop_size\": \"99999999999999999999G\"}", "is no size"},
	        {"{\"loop_size\": \"1K\"}", "too small"},
	        {"{\"pool\": \"x\", \"filesystem\": \"vfat\"}", "neither ext4 nor xfs"},
	        {"{\"pool\": \"x\", \"base_size\": \"1G \"}", "base_size"},
	        {"{\"pool\": \"x\", \"data_limit\": 101}", "data_limit '101' is out of range"},
	        {"{\"pool\": \"x\", \"metadata_limit\": 0}", "metadata_limit '0'"},
	};

	assert_non_null(mkdtemp(tmp));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		_cleanup_free_ char *msg = NULL;
		struct testhost *t = testhost_new(PLUGIN, tmp, NULL, bad[i].config);
		assert_int_equal(testhost_start(t, &msg), BERTH_E_INVALID);
		if (!strstr(msg, bad[i].part))
			fail_msg("'%s', expected '%s'", msg, bad[i].part);
		testhost_kill(t);
	}
	assert_int_equal(berth_rm_tree(AT_FDCWD, tmp), 0);
}

static void layers_begin_as_their_parent(const char *config)
{
	start(config);
	assert_non_null(strstr(testhost_logged(h), "loop files"));
	layer("one", NULL, "a", "of one");
	take(false, BERTH_SNAP_F_LAYER, "two.part", "one");
	assert_there("a", "of one");
	_cleanup_free_ char *extra = berth_asprintf("%s/lost+found", target);
	assert_int_equal(access(extra, F_OK), -1); /* mkfs.ext4 makes it */
	put("b", "of two");
	unlink_there("a");
	do_umount();
	commit("two.part", "two");
	assert_int_equal(active(), 0);

	take(true, 0, "look", "one");
	assert_there("a", "of one");
	assert_there("b", NULL);
	do_umount();
	remove_snap("look");
	take(false, 0, "ctr", "two");
	assert_there("a", NULL);
	assert_there("b", "of two");
	put("c", "own");
	assert_int_equal(active(), 1);
	do_umount();
	mount_again("ctr");
	assert_there("c", "own");
	do_umount();
	take(true, 0, "look", "two");
	assert_there("c", NULL);
	_cleanup_free_ char *p = berth_asprintf("%s/new", target);
	assert_int_equal(open(p, O_WRONLY | O_CREAT | O_CLOEXEC, 0644), -1);
	assert_int_equal(errno, EROFS);
	do_umount();

	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("one", NULL, NULL);
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_PRECONDITION,
	        "'two' stands on it");
	remove_snap("look");
	remove_snap("ctr");
	remove_snap("two");
	remove_snap("one");
	assert_int_equal(active(), 0);
	assert_int_equal(devices(), 1); /* the base */
}

static void layers_begin_as_their_parent_on_ext4(void **s)
{
	NEED();
	layers_begin_as_their_parent(LOOP);
}

static void layers_begin_as_their_parent_on_xfs(void **s)
{
	NEED();
	if (sh("command -v mkfs.xfs >/dev/null && modprobe -q xfs") != 0)
		skip();
	layers_begin_as_their_parent(
	        "{\"loop_size\": \"1G\", \"base_size\": \"320M\", \"filesystem\": \"xfs\"}");
	/* Another of the same file system, beside it; and a larger one. */
	layer("l", NULL, "f", "text");
	take(false, 0, "c", "l");
	_cleanup_free_ char *msg = NULL;
	assert_int_equal(prepare_only("big", "l", 500 * MIB, &msg), BERTH_OK);
	do_umount();
	mount_again("big");
	struct statfs fs;
	assert_int_equal(statfs(target, &fs), 0);
	assert_true((uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize > 400 * MIB);
	assert_there("f", "text");
}

static void a_killed_daemon_finds_all_again(void **s)
{
	NEED();
	start(LOOP);
	layer("l", NULL, "f", "text");
	take(false, 0, "c", "l");
	put("mine", "here");
	restart(LOOP);
	assert_there("mine", "here"); /* the mount goes on */
	do_umount();
	mount_again("c");
	assert_there("mine", "here");
	do_umount();
	/* As after a reboot: nothing is active. */
	h = testhost_kill(h);
	forget_pools();
	assert_int_equal(active(), 0);
	start(LOOP);
	mount_again("c");
	assert_there("mine", "here");
	assert_there("f", "text");
	do_umount();
	/* Killed while it made one: the pool has the device, nobody has the snapshot. */
	take(false, 0, "half", "l");
	do_umount();
	assert_int_equal(devices(), 4);
	h = testhost_kill(h);
	assert_int_equal(sh("mv %s/active/half %s/new/77", state, state), 0);
	start(LOOP);
	run_watches(2500);
	assert_int_equal(devices(), 3);
	/* Killed in the middle of the base's replacement. */
	h = testhost_kill(h);
	assert_int_equal(
	        sh("sed 's/dev=[0-9]*/dev=65535/' %s/base >%s/base.next", state, state), 0);
	start(LOOP);
	assert_int_equal(sh("test ! -e %s/base.next", state), 0);
	assert_int_equal(devices(), 3);
	take(false, 0, "new", "l");
	assert_there("f", "text");
}

static void another_base_size_is_for_new_images(void **s)
{
	NEED();
	start(LOOP);
	layer("small", NULL, "f", "text");
	restart("{\"loop_size\": \"256M\", \"base_size\": \"96M\"}");
	assert_int_equal(devices(), 2); /* the old base went */
	layer("large", NULL, "g", "text");
	struct statfs a, b;
	take(false, 0, "a", "small");
	assert_int_equal(statfs(target, &a), 0);
	do_umount();
	take(false, 0, "b", "large");
	assert_int_equal(statfs(target, &b), 0);
	assert_true(b.f_blocks > a.f_blocks + a.f_blocks / 4);
	do_umount();
	mount_again("a");
	assert_there("f", "text");
}

static void a_limit_is_the_size_of_the_device(void **s)
{
	NEED();
	_cleanup_free_ char *small = NULL, *large = NULL;
	struct statfs fs;

	start(LOOP);
	layer("l", NULL, "f", "text");
	take(false, 0, "base", "l");
	int wrote = fill("big", 100);
	assert_in_range(wrote, 30, 63);
	do_umount();
	remove_snap("base");
	assert_int_equal(prepare_only("less", "l", 32 * MIB, &small), BERTH_E_INVALID);
	assert_non_null(strstr(small, "base_size"));
	assert_int_equal(prepare_only("more", "l", 128 * MIB, &large), BERTH_OK);
	mount_again("more");
	assert_int_equal(statfs(target, &fs), 0);
	assert_in_range((uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize, 100 * MIB, 128 * MIB);
	assert_there("f", "text");
	assert_in_range(fill("big", 200), 80, 127);
	do_umount();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("inodes", "l", NULL);
	struct berth_mounts_result m = {.size = sizeof(m)};
	a.inode_limit = 10;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &m), BERTH_E_UNIMPLEMENTED, "inodes");
}

static void usage_is_what_was_added(void **s)
{
	NEED();
	start(LOOP);
	layer("l", NULL, "f", "text");
	take(false, BERTH_SNAP_F_LAYER, "m.part", "l");
	assert_int_equal(fill("data", 8), 8);
	do_umount();
	commit("m.part", "m");
	struct berth_snap_info i = stat_snap("m");
	assert_in_range(i.bytes, 8 * MIB, 9 * MIB);
	assert_int_equal(i.inodes, 1);
	restart(LOOP);
	i = stat_snap("m");
	assert_in_range(i.bytes, 8 * MIB, 9 * MIB);
	assert_in_range(stat_snap("l").bytes, 1, MIB);
	take(false, 0, "c", "m");
	assert_in_range(stat_snap("c").bytes, 0, MIB / 4);
	assert_int_equal(fill("mine", 4), 4);
	usleep(2100000); /* it is not asked more often */
	i = stat_snap("c");
	assert_in_range(i.bytes, 4 * MIB, 5 * MIB);
	assert_int_equal(i.inodes, 1);
	/* Also while nobody has it mounted. */
	do_umount();
	restart(LOOP);
	i = stat_snap("c");
	assert_in_range(i.bytes, 4 * MIB, 5 * MIB);
	assert_int_equal(i.inodes, 1);
}

static void what_is_in_use_goes_when_it_is_let_go(void **s)
{
	NEED();
	start(LOOP);
	layer("l", NULL, "f", "text");
	take(false, 0, "c", "l");
	put("mine", "here");
	remove_snap("c");
	assert_there("mine", "here");
	assert_int_equal(active(), 1);
	assert_int_equal(devices(), 3);
	remove_snap("l"); /* nothing holds a parent's device */
	assert_int_equal(devices(), 2);
	do_umount();
	assert_int_equal(active(), 0); /* without anybody's doing */
	_cleanup_op_ struct berth_op *op = testop_new(h);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(devices(), 1);
	/* A layer that someone still has mounted is committed as it is then. */
	take(false, BERTH_SNAP_F_LAYER, "m.part", NULL);
	put("f", "before");
	commit("m.part", "m");
	take(false, 0, "d", "m");
	assert_there("f", "before");
	do_umount();
	do_umount();
}

/* Each number once, and some more: none is kept by what was planned and not made. */
static void what_is_not_made_keeps_no_number(void **s)
{
	NEED();
	start(LOOP);
	assert_int_equal(sh("chattr +i %s/new", state), 0);
	for (int i = 0; i < 65536 + 10; i++) {
		_cleanup_free_ char *msg = NULL;
		berth_status st = prepare_only("x", NULL, 0, &msg);
		if (st != BERTH_E_INTERNAL || !strstr(msg, "'x': make it in"))
			fail_msg("prepare %d: %d '%s'", i, (int)st, msg);
	}
	assert_int_equal(sh("chattr -i %s/new", state), 0);
	take(false, 0, "x", NULL);
	assert_int_equal(devices(), 2);
	do_umount();
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv) /* [FILTER] */
{
	const struct CMUnitTest tests[] = {
	        T(without_a_device_mapper_the_reason_is_told),
	        T(bad_configuration_is_named),
	        T(layers_begin_as_their_parent_on_ext4),
	        T(layers_begin_as_their_parent_on_xfs),
	        T(a_killed_daemon_finds_all_again),
	        T(another_base_size_is_for_new_images),
	        T(a_limit_is_the_size_of_the_device),
	        T(usage_is_what_was_added),
	        T(what_is_in_use_goes_when_it_is_let_go),
	        T(what_is_not_made_keeps_no_number),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-devmapper", tests, group_setup, group_teardown);
}
