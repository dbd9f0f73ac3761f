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

int main(int argc, char **argv) /* [FILTER] */
{
	const struct CMUnitTest tests[] = {
	        T(a_plan_that_is_not_carried_out_takes_no_number),
	        T(a_meta_file_that_stays_keeps_its_number),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-crash", tests, NULL, NULL);
}
