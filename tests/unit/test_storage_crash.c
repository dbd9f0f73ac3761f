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

static void *remove_it(void *arg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("l1", NULL, NULL);

	*(berth_status *)arg = ops()->remove(op, testhost_self(h), &a);
	return NULL;
}

/* Who empties the trash meanwhile must not begin with it. */
static void nothing_is_deleted_before_its_name_is_gone(void **s)
{
	berth_status removed;
	pthread_t t;

	make_layer("l1", NULL);
	put_in(state, "hold-fsync", "");
	assert_int_equal(pthread_create(&t, NULL, remove_it, &removed), 0);
	while (!there("hold-fsync.there"))
		usleep(1000);
	assert_false(there("layers/l1"));
	cleanup();
	assert_int_equal(entries("devices"), 1);
	put_in(state, "fail-fsync", "");
	shell("rm hold-fsync");
	pthread_join(t, NULL);
	assert_int_equal(removed, BERTH_E_INTERNAL);
	prepare("c", "l1");
	assert_int_equal(entries("devices"), 2);
	remove_snap("c");
	remove_snap("l1");
	assert_int_equal(entries("devices") + entries("layers") + entries("new"), 0);
}

static void a_removal_that_fails_is_none(void **s)
{
	static const char *const how[] = {"0 5", "0 28"};
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("l1", NULL, NULL);

	make_layer("l1", NULL);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(how); i++) {
		put_in(state, "fail-rename", how[i]);
		FAILS(op, ops()->remove(op, testhost_self(h), &a),
		        i ? BERTH_E_EXHAUSTED : BERTH_E_INTERNAL, "'l1': remove it in");
		restart();
		assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
		assert_int_equal(entries("devices"), 1);
	}
}

/* Its name is gone, and may come back with the power cut: until a start can tell, nothing of it is
 * deleted. */
static void what_is_neither_there_nor_surely_gone_is_kept_whole(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("l1", NULL, NULL);

	make_layer("l1", NULL);
	put_in(state, "fail-fsync", "");
	put_in(state, "fail-rename-to-l1", "");
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_INTERNAL, "remove it for good");
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 0);
	remove_snap("l1");
	cleanup();
	assert_int_equal(entries("devices"), 1);
	make_layer("l1", NULL);
	restart();
	cleanup();
	assert_int_equal(entries("devices"), 1);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
}

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

/* The meta file that a commit replaces is all that knows of the device: another is on the disk
 * first. */
static void a_commit_replaces_no_meta_file_by_one_that_is_not_synced(void **s)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("k", NULL, "l1");

	prepare("k", NULL);
	put_in(state, "fail-fsync", "");
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_INTERNAL, "'k': commit it");
	shell("grep -qx kind=active active/k/meta");
	OK(op, ops()->commit(op, testhost_self(h), &a));
	shell("grep -qx kind=committed layers/l1/meta");
}

/* ---- where nothing can be renamed ---- */

static void removing_works_where_renaming_does_not(void **s)
{
	make_layer("l1", NULL);
	put_in(state, "fail-rename", "0 28");
	remove_snap("l1");
	assert_int_equal(entries("layers") + entries("trash") + entries("new"), 0);
	/* In the middle: it is gone, and another can be made. The first deletion is the meta's. */
	make_layer("l1", NULL);
	put_in(state, "fail-rename", "0 28");
	put_in(state, "fail-unlink", "2 5");
	remove_snap("l1");
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 0);
	assert_false(there("layers/l1"));
	make_layer("l1", NULL);
	cleanup();
	assert_int_equal(entries("layers"), 1);
	assert_int_equal(entries("trash"), 0);
	/* It cannot even begin. */
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args("l1", NULL, NULL);
	put_in(state, "fail-rename", "0 28");
	put_in(state, "fail-unlink", "0 28");
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_EXHAUSTED, "'l1': remove it in");
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
}

/* ---- a step that is the last ---- */

static void mark(const char *name)
{
	put_in(state, name, "");
}

static void unmark(const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", state, name);
	assert_int_equal(unlink(path), 0);
}

/* On layer "a", which is there. What was answered is marked. */
static void all_ops(void)
{
	make_layer("b", "a");
	mark("b-there");
	prepare("c", "b");
	remove_snap("c");
	unmark("b-there");
	remove_snap("b");
	mark("b-gone");
}

static void remove_layers(void)
{
	unmark("b-there");
	put_in(state, "fail-rename", "0 28");
	remove_snap("b");
	mark("b-gone");
	remove_snap("a");
}

static bool is_there(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	struct berth_snap_info i = {.size = sizeof(i)};
	berth_status st = ops()->stat(op, testhost_self(h), &a, &i);

	assert_true(st == BERTH_OK || st == BERTH_E_NOT_FOUND);
	return st == BERTH_OK;
}

/* Returns whether `fn` came to its end first. */
static bool dies_at(int step, const char *how, void (*fn)(void))
{
	_cleanup_free_ char *text = berth_asprintf("%d%s", step, how);
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		put_in(state, "die", text);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("step %d: ended with %x", step, (unsigned int)status);
	return false;
}

static void assert_whole(bool outside)
{
	restart();
	assert_string_equal(testhost_logged(h), "");
	cleanup();
	assert_int_equal(entries("new") + entries("trash"), 0);
	assert_int_equal(entries("active") + entries("layers"),
	        count(BERTH_SNAP_ACTIVE) + count(BERTH_SNAP_COMMITTED));
	if (outside) {
		shell("for m in active/*/meta layers/*/meta; do test ! -e $m || "
		      "test -e devices/$(sed -n 's/^own=dev=\\([0-9]*\\) .*/\\1/p' $m) || exit 1; "
		      "done");
		assert_int_equal(entries("devices"), entries("active") + entries("layers"));
	} else {
		shell("for l in active/* layers/*; do test ! -e $l || "
		      "test $(ls $l/fs | wc -l) = 3 || exit 1; done");
	}
	if (there("b-there"))
		assert_true(is_there("b"));
	if (there("b-gone"))
		assert_false(is_there("b"));
}

static void begin_again(void)
{
	static const char *const all[] = {"c", "pull b", "b", "pull a", "a"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(all); i++)
		remove_snap(all[i]);
	cleanup();
	assert_int_equal(entries("devices"), 0);
	shell("rm -f b-there b-gone");
}

static void at_each_step(const char *how, bool outside)
{
	bool over = false;

	for (int step = 1; !over; step++) {
		make_layer("a", NULL);
		over = dies_at(step, how, all_ops);
		assert_whole(outside);
		begin_again();
		assert_true(step < 200);
	}
}

static void killed_at_each_step_all_is_whole_or_gone(void **s)
{
	at_each_step("", true);
}

static void cut_off_its_power_at_each_step_all_is_whole_or_gone(void **s)
{
	at_each_step(" cut", true);
}

static void killed_at_each_step_files_are_whole_or_gone(void **s)
{
	at_each_step("", false);
}

static void cut_off_its_power_at_each_step_files_are_whole_or_gone(void **s)
{
	at_each_step(" cut", false);
}

static void killed_where_nothing_can_be_renamed_files_are_whole_or_gone(void **s)
{
	bool over = false;

	for (int step = 1; !over; step++) {
		make_layer("a", NULL);
		make_layer("b", "a");
		mark("b-there");
		over = dies_at(step, "", remove_layers);
		h = testhost_kill(h);
		shell("rm -f fail-rename");
		start(); /* of what has lost its meta file the log tells */
		restart();
		assert_whole(false);
		begin_again();
		assert_true(step < 200);
	}
}

int main(int argc, char **argv) /* [FILTER] */
{
	const struct CMUnitTest tests[] = {
	        T(a_plan_that_is_not_carried_out_takes_no_number),
	        T(a_meta_file_that_stays_keeps_its_number),
	        T(nothing_is_deleted_before_its_name_is_gone),
	        T(a_removal_that_fails_is_none),
	        T(what_is_neither_there_nor_surely_gone_is_kept_whole),
	        T(what_cannot_be_read_is_not_deleted),
	        T(a_commit_replaces_no_meta_file_by_one_that_is_not_synced),
	        INSIDE(removing_works_where_renaming_does_not),
	        T(killed_at_each_step_all_is_whole_or_gone),
	        T(cut_off_its_power_at_each_step_all_is_whole_or_gone),
	        INSIDE(killed_at_each_step_files_are_whole_or_gone),
	        INSIDE(cut_off_its_power_at_each_step_files_are_whole_or_gone),
	        INSIDE(killed_where_nothing_can_be_renamed_files_are_whole_or_gone),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-crash", tests, NULL, NULL);
}
