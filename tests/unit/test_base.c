/* core/base: errors, memory, files. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/cgroup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/size.h"

static void error_names_cause_and_wraps(void **state)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	assert_int_equal(berth_error_errno(&err, ENOSPC, "write '%s'", "x"), -1);
	assert_int_equal(err->code, BERTH_RESOURCE_EXHAUSTED);
	assert_int_equal(err->errnum, ENOSPC);
	berth_error_wrap(&err, "create container '%s'", "c1");
	assert_string_equal(err->msg, "create container 'c1': write 'x': No space left on device");
}

static void arena_is_zeroed_and_aligned(void **state)
{
	struct berth_arena *a = berth_arena_new();
	for (size_t n = 1; n < 10000; n = n * 3 + 1) {
		unsigned char *p = berth_arena_alloc(a, n);
		assert_int_equal((uintptr_t)p % 16, 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(p[i], 0);
		memset(p, 0xff, n);
	}
	assert_string_equal(berth_arena_printf(a, "%d-%s", 7, "x"), "7-x");
	berth_arena_free(a);
}

static void atomic_write_replaces_and_leaves_no_temporary(void **state)
{
	char dir[] = "/tmp/berth-base-XXXXXX";
	assert_non_null(mkdtemp(dir));
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(berth_write_file_atomic(fd, "a.json", "one", 3, 0600, false), 0);
	assert_int_equal(berth_write_file_atomic(fd, "a.json", "three", 5, 0600, true), 0);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	assert_int_equal(berth_read_file(fd, "a.json", 100, &text, &len), 0);
	assert_string_equal(text, "three");
	char *none = NULL;
	assert_int_equal(berth_read_file(fd, "a.json", 4, &none, &len), -EFBIG);
	assert_int_equal(unlinkat(fd, "a.json", 0), 0);
	assert_int_equal(rmdir(dir), 0); /* empty: no temporary was left */
}

static void rm_tree_does_not_follow_links(void **state)
{
	char dir[] = "/tmp/berth-base-XXXXXX";
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *in = berth_asprintf("%s/t/a/b", dir),
	                    *keep = berth_asprintf("%s/keep", dir);
	_cleanup_free_ char *link = berth_asprintf("%s/t/link", dir),
	                    *file = berth_asprintf("%s/keep/f", dir);
	assert_int_equal(berth_mkdir_p(in, 0700), 0);
	assert_int_equal(berth_mkdir_p(keep, 0700), 0);
	assert_int_equal(close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)), 0);
	assert_int_equal(symlink(keep, link), 0);
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(berth_rm_tree(fd, "t"), 0);
	assert_int_equal(berth_rm_tree(fd, "t"), 0);
	assert_int_equal(access(file, F_OK), 0);
	assert_int_equal(berth_rm_tree(AT_FDCWD, dir), 0);
}

static void open_in_root_cannot_escape(void **state)
{
	char dir[] = "/tmp/berth-base-XXXXXX";
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *link = berth_asprintf("%s/etc", dir);
	assert_int_equal(symlink("/../../../etc", link), 0);
	_cleanup_close_ int root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(berth_open_in_root(root, "/etc/passwd", O_RDONLY, 0), -ELOOP);
	assert_int_equal(berth_rm_tree(AT_FDCWD, dir), 0);
}

static void start_time_names_a_process(void **state)
{
	uint64_t a = 0, b = 0;
	assert_int_equal(berth_pid_start_time(getpid(), &a), 0);
	assert_int_equal(berth_pid_start_time(getpid(), &b), 0);
	assert_true(a > 0 && a == b);
	assert_int_equal(berth_pid_start_time(0x3fffffff, &a), -ESRCH);
}

static void cgroups_taken_away_are_made_again(void **state)
{
	char top[] = "/tmp/berth-base-XXXXXX";
	assert_non_null(mkdtemp(top));
	_cleanup_free_ char *parent = berth_asprintf("%s/berth", top);
	_cleanup_free_ char *dir = berth_asprintf("%s/monitors", parent);
	_cleanup_free_ char *procs = berth_asprintf("%s/cgroup.procs", dir);
	const char *const list[] = {procs, NULL};
	(void)state;

	berth_cgroup_restore(NULL);
	berth_cgroup_restore(list);
	assert_int_equal(access(dir, F_OK), 0);
	berth_cgroup_restore(list); /* what is there stays */
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(rmdir(parent), 0);
	assert_int_equal(rmdir(top), 0);
}

static void sizes_are_read_as_kubernetes_writes_them(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"17", 17}, {"4Ki", 4096}, {"10GiB", 10ull << 30}, {"5M", 5000000},
	        {"2k", 2000}, {"1Pi", 1ull << 50}, {"16383Pi", 16383ull << 50}};
	static const char *const bad[] = {"", "Gi", "-1", "1.5Gi", "1e3", "1 Gi", "1g", "1GB",
	        "1Gib", "1GiBs", "16384Pi", "99999999999999999999", "1ki2"};
	uint64_t v;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(good); i++) {
		if (berth_size_parse(good[i].text, &v) < 0 || v != good[i].bytes)
			fail_msg("%s: %llu", good[i].text, (unsigned long long)v);
	}
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		if (berth_size_parse(bad[i], &v) == 0)
			fail_msg("'%s' is taken for %llu", bad[i], (unsigned long long)v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(error_names_cause_and_wraps),
	        cmocka_unit_test(arena_is_zeroed_and_aligned),
	        cmocka_unit_test(atomic_write_replaces_and_leaves_no_temporary),
	        cmocka_unit_test(rm_tree_does_not_follow_links),
	        cmocka_unit_test(open_in_root_cannot_escape),
	        cmocka_unit_test(start_time_names_a_process),
	        cmocka_unit_test(cgroups_taken_away_are_made_again),
	        cmocka_unit_test(sizes_are_read_as_kubernetes_writes_them),
	};
	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
