/* storage-common under a driver whose content lies outside of the store: what is made is undone,
 * also by the next daemon, and nothing is destroyed that is another's. Needs no root. */
#include "store_fixture.h"

static void what_the_driver_notes_is_kept(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_info i = {.size = sizeof(i)};

	make_layer("a", NULL);
	make_layer("b", "a");
	prepare("c", "b");
	h = testhost_kill(h);
	start();
	prepare("d", "b");
	struct berth_snap_args a = args("c", NULL, NULL);
	OK(op, ops()->mounts(op, testhost_self(h), &a, &r));
	assert_string_equal(r.mounts[0]->source, "dev=3 state=new");
	a = args("d", NULL, NULL);
	OK(op, ops()->mounts(op, testhost_self(h), &a, &r));
	assert_string_equal(r.mounts[0]->source, "dev=4 state=new");
	shell("grep -qx 'own=dev=2 state=sealed' layers/b/meta");
	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	assert_int_equal(i.bytes, 4711);
	assert_int_equal(i.inodes, 42);
	assert_string_equal(i.parent, "b");
	assert_int_equal(entries("devices"), 4);
	remove_snap("c");
	assert_int_equal(entries("devices"), 3);
	remove_snap("d");
	remove_snap("b");
	remove_snap("a");
	assert_int_equal(entries("devices") + entries("trash"), 0);
}

static void a_parent_is_what_it_was_made_on(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	const struct berth_idmap map = {0, 1000, 10};

	make_layer("a", NULL);
	make_layer("b", "a");
	prepare("x", "a");
	struct berth_snap_args a = args("x", "b", "y");
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_INVALID, "'a', not on 'b'");
	a = args("m", "a", NULL);
	a.uid_maps = a.gid_maps = &map;
	a.n_uid_maps = a.n_gid_maps = 1;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_UNIMPLEMENTED, "maps no");
	a = args("m", "a", NULL);
	a.size_limit = 1;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_UNIMPLEMENTED, "no quota");
	make_layer("c", "b");
	make_layer("d", "c");
	a = args("m", "d", NULL);
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXHAUSTED, "more than 4");
}

static void what_fails_half_way_is_destroyed(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("x", NULL, NULL);

	shell("touch fail");
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXHAUSTED,
	        "fill its device");
	FAILS(op, ops()->mounts(op, testhost_self(h), &a, &r), BERTH_E_NOT_FOUND, "x");
	for (int i = 0; i < 100 && entries("trash") > 0; i++) /* without being asked */
		testhost_dispatch(h, 20);
	assert_int_equal(entries("devices") + entries("trash") + entries("new"), 0);
	shell("rm fail");
	prepare("x", NULL);
}

static void what_is_busy_is_tried_again(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);

	prepare("x", NULL);
	shell("touch busy");
	remove_snap("x");
	assert_non_null(strstr(testhost_logged(h), "'x' is removed, but"));
	assert_int_equal(entries("devices"), 1);
	prepare("x", NULL); /* the name is free */
	FAILS(op, ops()->cleanup(op, testhost_self(h)), BERTH_E_INTERNAL, "busy");
	h = testhost_kill(h);
	start();
	shell("rm busy");
	for (int i = 0; i < 300 && entries("trash") > 0; i++)
		testhost_dispatch(h, 20);
	assert_int_equal(entries("devices"), 1);
	remove_snap("x");
	assert_int_equal(entries("devices"), 0);
}

/* Its sync is told an error once; what was written stays lost. */
static void a_layer_that_was_lost_is_never_committed(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = layer_args("pull l1", NULL), c = args("pull l1", NULL, "l1");

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	shell("touch fail-syncfs");
	FAILS(op, ops()->commit(op, testhost_self(h), &c), BERTH_E_INTERNAL, "pull l1");
	FAILS(op, ops()->commit(op, testhost_self(h), &c), BERTH_E_INTERNAL, "pull l1");
	remove_snap("pull l1");
	make_layer("l1", NULL);
}

static void a_removal_that_is_not_sure_is_none(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("l1", NULL, NULL);

	make_layer("l1", NULL);
	shell("touch fail-fsync");
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_INTERNAL, "l1");
	prepare("c", "l1");
	assert_int_equal(entries("layers"), 1);
	remove_snap("c");
	remove_snap("l1");
	assert_int_equal(entries("layers"), 0);
}

static void what_cannot_be_read_is_kept(void **s)
{
	prepare("mine", NULL);
	prepare("cut", NULL);
	h = testhost_kill(h);
	shell("sed -i s/^v=1/v=2/ active/mine/meta && : >active/cut/meta");
	start();
	assert_non_null(strstr(
	        testhost_logged(h), "active/mine': a snapshot of another version: it is kept"));
	assert_non_null(strstr(testhost_logged(h), "active/cut': no complete snapshot"));
	assert_int_equal(entries("active"), 1);
	h = testhost_kill(h);
	shell("sed -i s/^v=2/v=1/ active/mine/meta");
	start();
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 1);
	remove_snap("mine");
	assert_int_equal(entries("active"), 0);
}

static void *stat_it(void *arg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("pull l1", NULL, NULL);
	struct berth_snap_info info = {.size = sizeof(info)};

	/* It may be committed by then. */
	*(berth_status *)arg = ops()->stat(op, testhost_self(h), &a, &info);
	return NULL;
}

static void a_commit_waits_no_longer_than_a_look(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = layer_args("pull l1", NULL), c = args("pull l1", NULL, "l1");
	berth_status looked;
	pthread_t t;

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	shell("touch slow");
	assert_int_equal(pthread_create(&t, NULL, stat_it, &looked), 0);
	_cleanup_free_ char *slow = berth_asprintf("%s/slow", state);
	while (access(slow, F_OK) == 0)
		usleep(1000);
	OK(op, ops()->commit(op, testhost_self(h), &c));
	pthread_join(t, NULL);
	assert_true(looked == BERTH_OK || looked == BERTH_E_NOT_FOUND);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
	remove_snap("l1");
}

/* A container may call a file of its own "meta". */
static void a_part_is_no_snapshot(void **s)
{
	prepare("x", NULL);
	shell("mkdir -p trash/7.part && cp active/x/meta trash/7.part/ && mkdir new/half && echo "
	      "junk >new/half/meta");
	h = testhost_kill(h);
	start();
	cleanup();
	assert_int_equal(entries("trash") + entries("new"), 0);
	assert_int_equal(entries("devices"), 1);
}

static void churn(void)
{
	for (;;) {
		make_layer("a", NULL);
		make_layer("b", "a");
		prepare("c", "b");
		remove_snap("c");
		remove_snap("b");
		remove_snap("a");
	}
}

static void killed_at_any_instant_nothing_is_left_outside(void **s)
{
	static const char *const all[] = {"c", "pull b", "b", "pull a", "a"};
	unsigned int seed = 20261126;

	for (int round = 0; round < 60; round++) {
		pid_t pid = fork();
		int status;
		assert_true(pid >= 0);
		if (pid == 0)
			churn();
		usleep(rand_r(&seed) % 20000);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("the churn ended with %x", (unsigned int)status);
		h = testhost_kill(h);
		start();
		cleanup();
		/* Each that is there has its device, and no device is without one. */
		assert_int_equal(entries("new") + entries("trash"), 0);
		assert_int_equal(entries("devices"), entries("active") + entries("layers"));
		for (size_t i = 0; i < BERTH_ARRAY_LEN(all); i++)
			remove_snap(all[i]);
		cleanup();
		assert_int_equal(entries("devices"), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(what_the_driver_notes_is_kept),
	        T(a_parent_is_what_it_was_made_on),
	        T(what_fails_half_way_is_destroyed),
	        T(what_is_busy_is_tried_again),
	        T(a_layer_that_was_lost_is_never_committed),
	        T(a_removal_that_is_not_sure_is_none),
	        T(what_cannot_be_read_is_kept),
	        T(a_commit_waits_no_longer_than_a_look),
	        T(a_part_is_no_snapshot),
	        T(killed_at_any_instant_nothing_is_left_outside),
	};
	return cmocka_run_group_tests_name("storage-common", tests, NULL, NULL);
}
