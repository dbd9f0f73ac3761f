/* storage-btrfs: killed, without power, without room. */
#include "btrfs_fixture.h"

static void assert_subvolumes(uint32_t n)
{
	assert_int_equal(subvolumes(), n);
}

static void killed_at_any_instant_it_comes_up_whole(void **s)
{
	NEED_BTRFS();
	kill_at_any_instant(25, 30000, restart, assert_subvolumes);
	assert_no_group_is_left();
}

/* The image as it is on the disk the moment commit has answered. */
static void a_committed_layer_survives_a_power_cut(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	_cleanup_free_ char *cut = berth_asprintf("%s/cut", dir);

	assert_int_equal(berth_mkdir_p(cut, 0755), 0);
	for (int round = 0; round < 4; round++) {
		_cleanup_free_ char *name = berth_asprintf("sha256:%d", round);
		struct berth_snap_args a = layer_args("k", NULL);
		OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
		assert_int_equal(run("cp -r /usr/include/linux '%s/'", r.mounts[0]->source), 0);
		a = args("k", NULL, name);
		OK(op, ops()->commit(op, testhost_self(h), &a));
		assert_int_equal(
		        run("cp --sparse=always %s/img %s/img2 && "
		            "btrfstune -f -u %s/img2 >/dev/null && mount -o loop %s/img2 %s",
		                dir, dir, dir, dir, cut),
		        0);
		int same = run("test ! -e '%s'/state/active/k && "
		               "diff -r /usr/include/linux '%s'/state/layers/sha256%%3A%d/fs/linux",
		        cut, cut, round);
		assert_int_equal(umount(cut), 0);
		assert_int_equal(run("rm %s/img2", dir), 0);
		assert_int_equal(same, 0);
	}
}

/* Each op on a file system that has no room left. */
static void a_full_file_system_is_told_and_nothing_is_left(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	uint64_t failed = 0;

	make_file_layer("sha256:a", NULL, "f", "1");
	struct berth_snap_args c = layer_args("k", "sha256:a");
	OK(op, ops()->prepare(op, testhost_self(h), &c, &r));
	assert_int_equal(fill(fs, "ballast", 200 * MIB), ENOSPC);
	/* Metadata, too: small files lie in it. */
	(void)run("i=0; while echo %0400d > %s/small$i; do i=$((i+1)); done 2>/dev/null", 0, fs);
	for (int i = 0; i < 400 && !failed; i++) {
		_cleanup_op_ struct berth_op *one = testop_new(h);
		_cleanup_free_ char *key = berth_asprintf("c%d", i);
		struct berth_snap_args a = args(key, "sha256:a", NULL);
		berth_status st = ops()->prepare(one, testhost_self(h), &a, &r);
		if (st == BERTH_OK)
			continue;
		failed++;
		if (st != BERTH_E_EXHAUSTED || !strstr(testop_error(one), key))
			fail_msg("%d %s", (int)st, testop_error(one));
		a = args(key, NULL, NULL);
		FAILS(one, ops()->mounts(one, testhost_self(h), &a, &r), BERTH_E_NOT_FOUND, key);
	}
	assert_true(failed > 0);
	/* A commit may still have room; where it has none it says so, and can be repeated. */
	c = args("k", "sha256:a", "sha256:b");
	berth_status st = ops()->commit(op, testhost_self(h), &c);
	if (st != BERTH_OK && (st != BERTH_E_EXHAUSTED || !strstr(testop_error(op), "'k'")))
		fail_msg("%d %s", (int)st, testop_error(op));
	/* Removing makes room. */
	uint32_t n = count(BERTH_SNAP_ACTIVE);
	for (uint32_t i = 0; i < 400; i++) {
		_cleanup_free_ char *key = berth_asprintf("c%u", i);
		remove_snap(key);
	}
	print_message("%u were made before the file system was full\n", n);
	assert_int_equal(
	        run("rm -f %s/ballast %s/small*; btrfs filesystem sync %s", fs, fs, fs), 0);
	if (st != BERTH_OK)
		OK(op, ops()->commit(op, testhost_self(h), &c));
	restart();
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 2);
	assert_int_equal(entries("active") + entries("new") + entries("trash"), 0);
	assert_int_equal(subvolumes(), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(killed_at_any_instant_it_comes_up_whole),
	        T(a_committed_layer_survives_a_power_cut),
	        cmocka_unit_test_setup_teardown(
	                a_full_file_system_is_told_and_nothing_is_left, setup_small, teardown),
	};
	return cmocka_run_group_tests_name(
	        "storage-btrfs-disk", tests, group_setup, group_teardown);
}
