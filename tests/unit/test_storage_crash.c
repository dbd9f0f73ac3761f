/* storage-common where a step fails, or is the last one before a kill or a power cut: a snapshot is
 * whole or gone, and what was taken for it is given back. Needs no root. */
#include "store_fixture.h"

/* ---- what was planned ---- */

static void fail_to_prepare(const char *fault, const char *how)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("x", NULL, NULL);

	put_in(state, fault, how);
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXHAUSTED, "make it");
	assert_false(there(fault));
}

/* There are 256 numbers, and nothing that is tidied up later gives one back. */
static void a_plan_that_is_not_carried_out_takes_no_number(void **s)
{
	for (int i = 0; i < 260; i++) {
		fail_to_prepare("fail-mkdir", "0 28");
		fail_to_prepare("fail-fsync", "0 28"); /* of its meta file */
		fail_to_prepare("fail-fsync", "1 28"); /* of its directory */
		fail_to_prepare("fail-fsync", "2 28"); /* of that which it is in */
	}
	prepare("x", NULL);
	cleanup();
	assert_int_equal(entries("devices"), 1);
}

/* What stays with its meta file keeps its number until that is destroyed: if it were another's by
 * then, that one's device would go. */
static void a_meta_file_that_stays_keeps_its_number(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("last", NULL, NULL);

	put_in(state, "fail-unlink", "1 30"); /* after meta.tmp */
	fail_to_prepare("fail-fsync", "1 28");
	for (int i = 0; i < 255; i++) {
		_cleanup_free_ char *key = berth_asprintf("y%d", i);
		prepare(key, NULL);
	}
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXHAUSTED, "find a number");
	cleanup();
	assert_int_equal(entries("devices"), 255);
	prepare("last", NULL);
	assert_int_equal(entries("devices"), 256);
}

/* ---- a step that fails ---- */

/* Its meta file alone tells what is to be destroyed. */
static void what_cannot_be_read_is_not_deleted(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);

	prepare("x", NULL);
	put_in(state, "fail-read", "");
	remove_snap("x");
	assert_non_null(strstr(testhost_logged(h), "'x' is removed, but"));
	assert_int_equal(entries("devices") + entries("trash"), 2);
	cleanup();
	assert_int_equal(entries("devices") + entries("trash"), 0);
	/* Nor what another version removed. */
	prepare("y", NULL);
	shell("touch busy");
	remove_snap("y");
	shell("rm busy && sed -i s/^v=1/v=2/ trash/*/meta");
	FAILS(op, ops()->cleanup(op, testhost_self(h)), BERTH_E_INTERNAL, "delete leftovers");
	assert_int_equal(entries("devices") + entries("trash"), 2);
	shell("sed -i s/^v=2/v=1/ trash/*/meta");
	cleanup();
	assert_int_equal(entries("devices") + entries("trash"), 0);
}

int main(int argc, char **argv) /* [FILTER] */
{
	const struct CMUnitTest tests[] = {
	        T(a_plan_that_is_not_carried_out_takes_no_number),
	        T(a_meta_file_that_stays_keeps_its_number),
	        T(what_cannot_be_read_is_not_deleted),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-crash", tests, NULL, NULL);
}
