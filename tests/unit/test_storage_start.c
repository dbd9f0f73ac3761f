/* storage-common at a start: what a crash left goes, what is another version's stays, and what
 * cannot be read now is not taken for missing. Needs no root. */
#include "store_fixture.h"

#include <dirent.h>
#include <sys/resource.h>

/* ---- meta files ---- */

static void cut_to(const char *meta, off_t size)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", state, meta);
	assert_int_equal(truncate(path, size), 0);
}

static off_t size_of(const char *meta)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", state, meta);
	struct stat info;

	assert_int_equal(stat(path, &info), 0);
	return info.st_size;
}

/* Wherever it was cut: what is left must not pass for a snapshot with no parent, say. */
static void a_meta_file_that_was_cut_is_a_remnant(void **s)
{
	off_t size = 1;

	for (off_t n = 0; n < size; n++) {
		make_layer("a", NULL);
		make_layer("b", "a");
		prepare("c", "a");
		size = size_of("layers/b/meta");
		cut_to("layers/b/meta", n);
		if (n < size_of("active/c/meta"))
			cut_to("active/c/meta", n);
		else
			remove_snap("c");
		restart();
		assert_non_null(strstr(testhost_logged(h), "layers/b': no complete snapshot"));
		assert_int_equal(entries("layers"), 1);
		assert_int_equal(entries("active"), 0);
		cleanup();
		assert_int_equal(entries("trash"), 0);
		make_layer("b", "a");
		remove_snap("b");
		remove_snap("a");
		shell("rm -f devices/*"); /* what a lost meta file named */
	}
	assert_true(size > 50);
}

static void a_layer_without_a_meta_file_is_a_remnant(void **s)
{
	make_layer("a", NULL);
	h = testhost_kill(h);
	shell("rm layers/a/meta devices/* && dd if=/dev/zero bs=100 count=1 of=layers/a/meta.tmp "
	      "2>&1");
	start();
	assert_non_null(strstr(testhost_logged(h), "layers/a': no complete snapshot"));
	assert_int_equal(entries("layers"), 0);
	make_layer("a", NULL);
	h = testhost_kill(h);
	/* As a file system makes it that has the size on the disk and not the data. */
	shell("rm devices/* && dd if=/dev/zero bs=100 count=1 of=layers/a/meta 2>/dev/null");
	start();
	assert_non_null(strstr(testhost_logged(h), "layers/a': no complete snapshot"));
	assert_int_equal(entries("layers"), 0);
}

static void refuse_all(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_info i = {.size = sizeof(i)};
	const char *why = "in a form that this version does not understand";
	struct berth_snap_args a = args(key, NULL, NULL);

	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_PRECONDITION, why);
	FAILS(op, ops()->stat(op, testhost_self(h), &a, &i), BERTH_E_PRECONDITION, why);
	FAILS(op, ops()->mounts(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, why);
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, why);
	a = args("on it", key, NULL);
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, why);
	prepare("k", NULL);
	a = args("k", NULL, key);
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_PRECONDITION, why);
	remove_snap("k");
}

static void what_is_another_versions_is_kept_with_its_name(void **s)
{
	static const char *const strange[][2] = {
	        {"sed -i s/^v=1/v=2/", "a snapshot of another version"},
	        {"sed -i s/kind=.*/kind=frozen/", "a snapshot of another version"},
	        {"sed -i 1s/.*/junk/", "no snapshot of this driver"},
	        {"sed -i 2s/=//", "no snapshot of this driver"},
	        {"truncate -s 9000", "a snapshot of another version"},
	};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(strange); i++) {
		_cleanup_free_ char *spoil =
		        berth_asprintf("cp -a layers/a/meta a && cp -a active/c/meta c && "
		                       "%s layers/a/meta active/c/meta",
		                strange[i][0]);
		make_layer("a", NULL);
		make_layer("b", "a");
		prepare("c", NULL);
		h = testhost_kill(h);
		shell(spoil);
		for (int again = 0; again < 2; again++) {
			start();
			_cleanup_free_ char *layer =
			        berth_asprintf("layers/a': %s: it is kept", strange[i][1]);
			_cleanup_free_ char *active =
			        berth_asprintf("active/c': %s: it is kept", strange[i][1]);
			assert_non_null(strstr(testhost_logged(h), layer));
			assert_non_null(strstr(testhost_logged(h), active));
			assert_non_null(strstr(testhost_logged(h), "layers/b': a layer below"));
			assert_int_equal(count(BERTH_SNAP_COMMITTED) + count(BERTH_SNAP_ACTIVE), 0);
			refuse_all("a");
			refuse_all("c");
			cleanup();
			h = testhost_kill(h);
		}
		shell("mv a layers/a/meta && mv c active/c/meta");
		start();
		assert_string_equal(testhost_logged(h), "");
		assert_int_equal(count(BERTH_SNAP_COMMITTED), 2);
		assert_int_equal(entries("devices"), 3);
		remove_snap("b");
		remove_snap("a");
		remove_snap("c");
	}
}

static void what_is_no_snapshot_is_left_alone(void **s)
{
	h = testhost_kill(h);
	shell("mkdir layers/lost+found active/%zz && echo x >layers/file && ln -s /etc "
	      "layers/link");
	start();
	assert_non_null(strstr(testhost_logged(h), "layers/lost+found': not named as"));
	assert_non_null(strstr(testhost_logged(h), "active/%zz': not named as"));
	assert_non_null(strstr(testhost_logged(h), "layers/file': no snapshot of this driver"));
	refuse_all("file");
	refuse_all("link");
	assert_int_equal(entries("layers"), 3);
	assert_int_equal(entries("active"), 1);
}

/* ---- what cannot be read now ---- */

static void fill(void)
{
	make_layer("a", NULL);
	make_layer("b", "a");
	prepare("c", "b");
	h = testhost_kill(h);
	shell("mkdir new/7 trash/8 && cp active/c/meta new/7/ && sed -i s/dev=3/dev=9/ new/7/meta "
	      "&& "
	      "cp new/7/meta trash/8/ && touch devices/9");
}

static void assert_nothing_was_lost(void)
{
	assert_int_equal(entries("layers"), 2);
	assert_int_equal(entries("active"), 1);
	assert_int_equal(entries("new") + entries("trash"), 2);
	assert_int_equal(entries("devices"), 4);
}

static void assert_all_is_well(void)
{
	assert_string_equal(testhost_logged(h), "");
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 2);
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 1);
	cleanup();
	assert_int_equal(entries("devices"), 3);
}

static void limit_files(rlim_t most)
{
	struct rlimit l;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &l), 0);
	l.rlim_cur = most < l.rlim_max ? most : l.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
}

/* With room for so many files more; false: it was refused. */
static bool start_with(rlim_t most)
{
	_cleanup_free_ char *msg = NULL;
	struct rlimit before;

	h = load();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	limit_files(most);
	berth_status st = testhost_start(h, &msg);
	limit_files(before.rlim_cur);
	if (st == BERTH_OK)
		return true;
	if (!strstr(msg, "Too many open files"))
		fail_msg("%d '%s'", (int)st, msg);
	h = testhost_kill(h);
	return false;
}

static void without_descriptors_the_start_fails(void **s)
{
	int refusals = 0;

	fill();
	for (rlim_t most = 0; !start_with(most); most++) {
		assert_nothing_was_lost();
		refusals++;
	}
	assert_true(refusals > 7);
	assert_all_is_well();
}

/* Each read in turn. */
static void where_a_read_fails_the_start_fails(void **s)
{
	static const int errors[] = {EIO, ENFILE, ENOMEM};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(errors); i++) {
		if (i > 0)
			setup(s);
		fill();
		for (int n = 0;; n++) {
			_cleanup_free_ char *how = berth_asprintf("%d %d", n, errors[i]);
			_cleanup_free_ char *msg = NULL;
			put_in(state, "fail-read", how);
			h = load();
			berth_status st = testhost_start(h, &msg);
			if (there("fail-read"))
				break;
			if (st == BERTH_OK || !strstr(msg, strerror(errors[i])))
				fail_msg("read %d: %d '%s'", n, (int)st, msg);
			h = testhost_kill(h);
			assert_nothing_was_lost();
		}
		shell("rm fail-read");
		assert_all_is_well();
		if (i + 1 < BERTH_ARRAY_LEN(errors))
			teardown(s);
	}
}

/* What a killed process has renamed may come back until it is synced. */
static void where_a_sync_fails_nothing_is_deleted(void **s)
{
	fill();
	for (int n = 0; n < 2; n++) {
		put_in(state, "fail-fsync", n ? "1 5" : "0 5");
		refused(n ? "active': Input/output error" : "layers': Input/output error");
		assert_nothing_was_lost();
		assert_int_equal(entries("new"), 1);
	}
	start();
	assert_all_is_well();
}

int main(int argc, char **argv) /* [FILTER] */
{
	const struct CMUnitTest tests[] = {
	        T(a_meta_file_that_was_cut_is_a_remnant),
	        T(a_layer_without_a_meta_file_is_a_remnant),
	        T(what_is_another_versions_is_kept_with_its_name),
	        T(what_is_no_snapshot_is_left_alone),
	        T(without_descriptors_the_start_fails),
	        T(where_a_read_fails_the_start_fails),
	        T(where_a_sync_fails_nothing_is_deleted),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("storage-start", tests, NULL, NULL);
}
