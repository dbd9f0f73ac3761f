/* storage-common where ops on one name, or on what stands on another, run at once: what is answered
 * is what is there, now and after a start. Needs no root. */
#include "store_fixture.h"

/* An op on a thread of its own. */
struct job {
	berth_status (*fn)(struct berth_op *op, void *self, const struct berth_snap_args *a);
	struct berth_snap_args a;
	berth_status got;
	char said[256];
	pthread_t thread;
};

static void *run_job(void *arg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct job *j = arg;

	j->got = j->fn(op, testhost_self(h), &j->a);
	snprintf(j->said, sizeof(j->said), "%s", testop_error(op));
	return NULL;
}

static berth_status do_prepare(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct berth_mounts_result r = {.size = sizeof(r)};
	return ops()->prepare(op, self, a, &r);
}

static berth_status do_mounts(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct berth_mounts_result r = {.size = sizeof(r)};
	return ops()->mounts(op, self, a, &r);
}

static struct job commit_of(const char *key, const char *parent, const char *name)
{
	return (struct job){.fn = ops()->commit, .a = args(key, parent, name)};
}

static struct job removal_of(const char *key)
{
	return (struct job){.fn = ops()->remove, .a = args(key, NULL, NULL)};
}

static void begin(struct job *j)
{
	assert_int_equal(pthread_create(&j->thread, NULL, run_job, j), 0);
}

static void both(struct job *a, struct job *b)
{
	begin(a);
	begin(b);
	pthread_join(a->thread, NULL);
	pthread_join(b->thread, NULL);
}

/* The second begins while the first is in the middle of its commit. */
static void in_the_middle(struct job *a, struct job *b)
{
	put_in(state, "slow-seal", "");
	begin(a);
	while (there("slow-seal"))
		usleep(1000);
	begin(b);
	pthread_join(a->thread, NULL);
	pthread_join(b->thread, NULL);
}

static void prepare_layer(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = layer_args(key, NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
}

static void parent_is(const char *key, const char *want)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	struct berth_snap_info i = {.size = sizeof(i)};

	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	assert_string_equal(i.parent ? i.parent : "", want);
}

/* As it is now, so it is after a start. */
static void assert_kept(uint32_t layers, uint32_t actives)
{
	for (int i = 0; i < 2; i++) {
		assert_string_equal(testhost_logged(h), "");
		assert_int_equal(count(BERTH_SNAP_COMMITTED), layers);
		assert_int_equal(count(BERTH_SNAP_ACTIVE), actives);
		assert_int_equal(entries("layers"), layers);
		assert_int_equal(entries("active"), actives);
		if (i == 0)
			restart();
	}
}

static void one_snapshot_is_committed_once(void **s)
{
	static const char *const names[][2] = {{"x", "x"}, {"x", "y"}};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		make_layer("p", NULL);
		make_layer("q", NULL);
		prepare_layer("k");
		struct job a = commit_of("k", "p", names[i][0]),
		           b = commit_of("k", "q", names[i][1]);
		in_the_middle(&a, &b);
		assert_int_equal(a.got, BERTH_OK);
		assert_int_equal(b.got, BERTH_E_NOT_FOUND);
		assert_non_null(strstr(b.said, "'k' does not exist"));
		parent_is("x", "p");
		assert_kept(3, 0);
		parent_is("x", "p");
		remove_snap("x");
		remove_snap("p");
		remove_snap("q");
	}
}

/* Where the first fails the second does it. */
static void the_second_commit_takes_up_what_failed(void **s)
{
	prepare_layer("k");
	struct job a = commit_of("k", NULL, "x"), b = commit_of("k", NULL, "y");
	put_in(state, "fail-rename-to-x", "");
	in_the_middle(&a, &b);
	assert_int_equal(a.got, BERTH_E_INTERNAL);
	assert_int_equal(b.got, BERTH_OK);
	parent_is("y", "");
	assert_kept(1, 0);
}

static void one_name_is_given_once(void **s)
{
	prepare_layer("k1");
	prepare_layer("k2");
	struct job a = commit_of("k1", NULL, "x"), b = commit_of("k2", NULL, "x");
	in_the_middle(&a, &b);
	assert_int_equal(a.got, BERTH_OK);
	assert_int_equal(b.got, BERTH_E_EXISTS);
	assert_kept(1, 1);
	remove_snap("k2");
	assert_kept(1, 0);
}

static void others_do_not_wait(void **s)
{
	prepare_layer("k1");
	prepare_layer("k2");
	struct job a = commit_of("k1", NULL, "x"), b = commit_of("k2", NULL, "y");
	in_the_middle(&a, &b);
	assert_int_equal(a.got, BERTH_OK);
	assert_int_equal(b.got, BERTH_OK);
	assert_kept(2, 0);
}

static void what_is_being_committed_is_not_removed(void **s)
{
	prepare_layer("k");
	struct job a = commit_of("k", NULL, "x"), b = removal_of("k");
	in_the_middle(&a, &b);
	assert_int_equal(a.got, BERTH_OK);
	assert_int_equal(b.got, BERTH_OK); /* it is not there by then */
	assert_kept(1, 0);
}

static void a_look_at_what_is_being_committed_sees_it_whole(void **s)
{
	prepare("k", NULL);
	struct job a = commit_of("k", NULL, "x"), b = {.fn = do_mounts, .a = args("k", NULL, NULL)};
	in_the_middle(&a, &b);
	assert_int_equal(a.got, BERTH_OK);
	assert_true(b.got == BERTH_OK || b.got == BERTH_E_NOT_FOUND);
	assert_kept(1, 0);
}

static void a_parent_is_not_removed_from_under_a_commit(void **s)
{
	make_layer("p", NULL);
	prepare_layer("k");
	struct job a = commit_of("k", "p", "x"), b = removal_of("p");
	in_the_middle(&a, &b);
	assert_int_equal(a.got, BERTH_OK);
	assert_int_equal(b.got, BERTH_E_PRECONDITION);
	assert_non_null(strstr(b.said, "'x' stands on it"));
	assert_kept(2, 0);
	parent_is("x", "p");
	remove_snap("x");
	remove_snap("p");
}

static void nothing_is_committed_on_what_is_being_removed(void **s)
{
	make_layer("p", NULL);
	prepare_layer("k");
	struct job a = commit_of("k", "p", "x"), b = removal_of("p");
	put_in(state, "hold-fsync", "");
	begin(&b);
	while (!there("hold-fsync.there"))
		usleep(1000);
	begin(&a);
	shell("rm hold-fsync");
	pthread_join(a.thread, NULL);
	pthread_join(b.thread, NULL);
	assert_int_equal(b.got, BERTH_OK);
	assert_int_equal(a.got, BERTH_E_NOT_FOUND);
	assert_non_null(strstr(a.said, "its parent 'p' does not exist"));
	assert_kept(0, 1);
}

/* In whatever order: what was answered fits. */
static void in_any_order(void **s)
{
	for (int i = 0; i < 60; i++) {
		make_layer("p", NULL);
		prepare_layer("k");
		struct job a = commit_of("k", "p", "x"), b = removal_of("p");
		both(&a, &b);
		if (a.got == BERTH_OK)
			assert_int_equal(b.got, BERTH_E_PRECONDITION);
		else
			assert_true(a.got == BERTH_E_NOT_FOUND && b.got == BERTH_OK);
		assert_int_equal(entries("layers"), a.got == BERTH_OK ? 2 : 0);
		remove_snap("x");
		remove_snap("p");
		remove_snap("k");
		prepare_layer("k");
		a = commit_of("k", NULL, "x");
		b = commit_of("k", NULL, "y");
		both(&a, &b);
		assert_true((a.got == BERTH_OK) != (b.got == BERTH_OK));
		assert_int_equal(a.got + b.got, BERTH_E_NOT_FOUND);
		assert_int_equal(entries("layers"), 1);
		remove_snap(a.got == BERTH_OK ? "x" : "y");
		/* A removal of what is not there, while it comes. */
		a = (struct job){.fn = do_prepare, .a = args("c", NULL, NULL)};
		b = removal_of("c");
		both(&a, &b);
		assert_int_equal(b.got, BERTH_OK);
		assert_int_equal(entries("active"), count(BERTH_SNAP_ACTIVE));
		remove_snap("c");
		assert_int_equal(entries("active") + entries("layers"), 0);
	}
	assert_kept(0, 0);
}

int main(int argc, char **argv) /* [FILTER] */
{
	const struct CMUnitTest tests[] = {
	        INSIDE(one_snapshot_is_committed_once),
	        INSIDE(the_second_commit_takes_up_what_failed),
	        INSIDE(one_name_is_given_once),
	        INSIDE(others_do_not_wait),
	        INSIDE(what_is_being_committed_is_not_removed),
	        T(a_look_at_what_is_being_committed_sees_it_whole),
	        INSIDE(a_parent_is_not_removed_from_under_a_commit),
	        INSIDE(nothing_is_committed_on_what_is_being_removed),
	        INSIDE(in_any_order),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-commits", tests, NULL, NULL);
}
