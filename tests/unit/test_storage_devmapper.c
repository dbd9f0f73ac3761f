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

static void a_number_of_another_is_left_alone(void **s)
{
	NEED();
	char pool[64];
	_cleanup_free_ char *msg = NULL;

	start(LOOP);
	layer("l", NULL, "f", "text");
	pool_name(pool);
	long long first = number("sed 's/.*first=//' %s/pool", state);
	/* base 0, l 1: the next is 2 */
	assert_int_equal(sh("dmsetup message %s 0 'create_thin %lld'", pool, first + 2), 0);
	assert_int_equal(prepare_only("c", "l", 0, &msg), BERTH_E_UNAVAILABLE);
	assert_non_null(strstr(msg, "somebody else's"));
	take(false, 0, "c", "l");
	do_umount();
	remove_snap("c");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	restart(LOOP);
	assert_int_equal(devices(), 3);
}

static void a_full_pool_is_told(void **s)
{
	NEED();
	static const char config[] = "{\"loop_size\": \"96M\", \"base_size\": \"128M\", "
	                             "\"check_interval_seconds\": 1}";
	_cleanup_free_ char *msg = NULL, *again = NULL;

	start(config);
	layer("l", NULL, "f", "text");
	take(false, BERTH_SNAP_F_LAYER, "m.part", "l");
	(void)fill("data", 120);
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("m.part", NULL, "m");
	do_umount();
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_EXHAUSTED, "thin pool 'berth-");
	_cleanup_op_ struct berth_op *twice = testop_new(h);
	FAILS(twice, ops()->commit(twice, testhost_self(h), &a), BERTH_E_PRECONDITION,
	        "cannot be committed");
	assert_int_equal(prepare_only("c", "l", 0, &msg), BERTH_E_EXHAUSTED);
	assert_non_null(strstr(msg, "full"));
	assert_int_equal(testhost_n_events(h), 0);
	run_watches(1500);
	assert_true(testhost_n_events(h) > 0);
	const struct testevent *ev = testhost_event(h, testhost_n_events(h) - 1);
	assert_int_equal(ev->type, BERTH_EV_HEALTH);
	assert_non_null(strstr(ev->message, "full"));
	/* What is there can be looked at and removed. */
	assert_int_equal(stat_snap("l").kind, BERTH_SNAP_COMMITTED);
	remove_snap("m.part");
	run_watches(1500);
	ev = testhost_event(h, testhost_n_events(h) - 1);
	assert_null(ev->message);
	assert_int_equal(prepare_only("c", "l", 0, &again), BERTH_OK);
	mount_again("c");
	assert_there("f", "text");
	assert_int_equal(fill("data", 20), 20);
}

static void little_metadata_is_told(void **s)
{
	NEED();
	_cleanup_free_ char *msg = NULL;

	start(LOOP);
	layer("l", NULL, "f", "text");
	restart("{\"loop_size\": \"256M\", \"base_size\": \"64M\", \"metadata_limit\": 1}");
	assert_int_equal(testhost_n_events(h), 1); /* at the start already */
	assert_int_equal(prepare_only("c", "l", 0, &msg), BERTH_E_EXHAUSTED);
	assert_non_null(strstr(msg, "nearly out of metadata"));
}

static void damaged_metadata_is_refused(void **s)
{
	NEED();
	start(LOOP);
	layer("l", NULL, "f", "text");
	h = testhost_free(h);
	forget_pools();
	assert_int_equal(sh("dd if=/dev/urandom of=%s/metadata bs=4k seek=2 count=200 conv=notrunc "
	                    "status=none",
	                         state),
	        0);
	refused(LOOP, BERTH_E_PRECONDITION, "thin_repair");
	assert_int_equal(active(), 0);
	/* Another pool is not taken for the one that the snapshots are in. */
	assert_int_equal(sh("rm %s/metadata", state), 0);
	refused(LOOP, BERTH_E_PRECONDITION, "is not the one that the snapshots in");
	char pool[64];
	pool_name(pool);
	assert_int_not_equal(sh("dmsetup info %s >/dev/null 2>&1", pool), 0);
}

/* ---- a pool that is given, on devices that fail ---- */

#define GIVEN \
	"{\"pool\": \"berth-test-pool\", \"base_size\": \"64M\", \"check_interval_seconds\": 1}"

static void given_up(void)
{
	forget_pools();
	(void)sh("for d in berth-test-pool berth-test-data berth-test-meta; do "
	         "dmsetup remove --retry $d; done 2>/dev/null; "
	         "for f in %s/d %s/m; do l=$(losetup -n -O NAME -j $f); "
	         "[ -z \"$l\" ] || losetup -d $l; done",
	        dir, dir);
}

static void given_pool(void)
{
	assert_int_equal(sh("set -e; cd %s; rm -f d m; truncate -s 256M d; truncate -s 8M m; "
	                    "d=$(losetup -f --show d); m=$(losetup -f --show m); "
	                    "dmsetup create berth-test-data --table \"0 524288 linear $d 0\"; "
	                    "dmsetup create berth-test-meta --table \"0 16384 linear $m 0\"; "
	                    "dmsetup create berth-test-pool --table \"0 524288 thin-pool "
	                    "/dev/mapper/berth-test-meta /dev/mapper/berth-test-data 128 0 1 "
	                    "error_if_no_space\"",
	                         dir),
	        0);
}

static void swap_table(const char *name, const char *table)
{
	assert_int_equal(sh("dmsetup suspend --noflush --nolockfs %s && "
	                    "dmsetup load %s --table \"%s\" && dmsetup resume %s",
	                         name, name, table, name),
	        0);
}

static void a_device_that_fails_is_told(void **s)
{
	NEED();
	_cleanup_free_ char *msg = NULL, *later = NULL, *table = NULL;

	refused("{\"pool\": \"berth-test-none\"}", BERTH_E_PRECONDITION,
	        "thin pool 'berth-test-none' is not active");
	given_pool();
	start(GIVEN);
	layer("l", NULL, "f", "text");
	char text[128] = "";
	FILE *f = popen("dmsetup table berth-test-data", "r");
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	table = berth_strndup(text, strcspn(text, "\n"));

	/* Written, and never there. */
	take(false, BERTH_SNAP_F_LAYER, "m.part", "l");
	swap_table("berth-test-data", "0 524288 error");
	(void)fill("data", 4);
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("m.part", NULL, "m");
	do_umount();
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_INTERNAL, "write all of it");
	swap_table("berth-test-data", table);
	remove_snap("m.part");
	take(false, 0, "c", "l");
	assert_there("f", "text");
	do_umount();
	remove_snap("c");
	/* The metadata's device: the kernel gives the pool up. */
	swap_table("berth-test-meta", "0 16384 error");
	assert_int_not_equal(prepare_only("d", "l", 0, &msg), BERTH_OK);
	run_watches(1500);
	const struct testevent *ev = testhost_event(h, testhost_n_events(h) - 1);
	assert_non_null(strstr(ev->message, "thin pool 'berth-test-pool'"));
	assert_int_equal(prepare_only("e", "l", 0, &later), BERTH_E_UNAVAILABLE);
	assert_non_null(strstr(later, "thin pool 'berth-test-pool'"));
	h = testhost_kill(h);
	refused(GIVEN, BERTH_E_PRECONDITION, "thin pool 'berth-test-pool'");
	given_up();
}

static int given_teardown(void **s)
{
	int r = teardown(s);

	if (!lacking)
		given_up();
	return r;
}

static void lvm_makes_a_pool(void **s)
{
	NEED();
	if (sh("command -v lvcreate >/dev/null") != 0)
		skip();
	long long n = number("cd %s; rm -f pv; truncate -s 400M pv; losetup -f --show pv | "
	                     "tr -dc '0-9'",
	        dir);
	_cleanup_free_ char *config = berth_asprintf("{\"devices\": \"/dev/loop%lld\", "
	                                             "\"volume_group\": \"berth-test-vg\", "
	                                             "\"base_size\": \"64M\"}",
	        n);
	/* What holds something is not taken. */
	assert_int_equal(sh("mkfs.ext4 -q -F /dev/loop%lld", n), 0);
	refused(config, BERTH_E_PRECONDITION, "make volume group 'berth-test-vg'");
	assert_int_equal(sh("wipefs -qa /dev/loop%lld", n), 0);
	start(config);
	layer("l", NULL, "f", "text");
	restart(config);
	take(false, 0, "c", "l");
	assert_there("f", "text");
	do_umount();
	h = testhost_kill(h);
	start("{\"pool\": \"berth-test-vg/thinpool\", \"base_size\": \"64M\"}");
	mount_again("c");
	assert_there("f", "text");
	do_umount();
	remove_snap("c");
	remove_snap("l");
	h = testhost_free(h);
	assert_int_equal(sh("vgremove -qq -f berth-test-vg && losetup -d /dev/loop%lld", n), 0);
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
	        T(a_number_of_another_is_left_alone),
	        T(a_full_pool_is_told),
	        T(little_metadata_is_told),
	        T(damaged_metadata_is_refused),
	        cmocka_unit_test_setup_teardown(a_device_that_fails_is_told, setup, given_teardown),
	        T(lvm_makes_a_pool),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-devmapper", tests, group_setup, group_teardown);
}
