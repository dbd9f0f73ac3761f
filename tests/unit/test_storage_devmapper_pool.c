/* storage-devmapper: pools that others use, that are full or damaged, whose devices fail, that LVM
 * makes. Needs what test_storage_devmapper.c does. */
#include "dm_fixture.h"

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
	        T(a_number_of_another_is_left_alone),
	        T(a_full_pool_is_told),
	        T(little_metadata_is_told),
	        T(damaged_metadata_is_refused),
	        cmocka_unit_test_setup_teardown(a_device_that_fails_is_told, setup, given_teardown),
	        T(lvm_makes_a_pool),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name(
	        "storage-devmapper-pool", tests, group_setup, group_teardown);
}
