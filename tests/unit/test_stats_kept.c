/* core/stats: files that stay open between samples. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stats/cgroup.h"
#include "stats/kept.h"
#include "stats_fixture.h"

static char dir[] = "/tmp/berth-kept-XXXXXX";

static void put(const char *name, const char *text)
{
	put_at(dir, name, text);
}

/* Into the same file, as a kernel does. */
static void change(const char *name, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

static struct berth_cg_source source(const char *path, struct berth_kept *k)
{
	return (struct berth_cg_source){.mount = dir, .path = path, .v2 = true, .kept = k};
}

static void fds_are_kept(void **state)
{
	struct berth_kept_cap cap = {.max = 100};
	struct berth_kept k = {.cap = &cap};
	struct berth_cg_source s = source("/a", &k);
	struct berth_cgroup_usage u;
	unsigned int before = open_fds();
	(void)state;

	assert_int_equal(berth_cgroup_usage(&s, &u), -ENOENT);
	assert_int_equal(open_fds(), before);
	put("a/memory.current", "1000\n");
	put("a/memory.stat", "inactive_file 300\n");
	put("a/cpu.stat", "usage_usec 5\n");
	assert_int_equal(berth_cgroup_usage(&s, &u), 0); /* it was not there, and is looked for */
	assert_int_equal(open_fds(), before + 3);
	assert_int_equal(cap.n, 3);
	change("a/memory.current", "70000\n");
	change("a/memory.stat", "inactive_file 1\n");
	put("a/cpu.stat", "usage_usec 6\n"); /* it would see it, did it look by path */
	put("a/pids.current", "9\n");        /* what the cgroup lacked is not looked for at once */
	assert_int_equal(berth_cgroup_usage(&s, &u), 0);
	assert_int_equal(u.mem_usage, 70000);
	assert_int_equal(u.mem_working_set, 69999);
	assert_int_equal(u.cpu_ns, 5000);
	assert_int_equal(u.pids, 0);
	assert_int_equal(open_fds(), before + 3);
	berth_kept_close(&k);
	assert_int_equal(open_fds(), before);
	assert_int_equal(cap.n, 0);
	assert_int_equal(berth_cgroup_usage(&s, &u), 0);
	assert_int_equal(u.cpu_ns, 6000);
	assert_int_equal(u.pids, 9);
	assert_int_equal(cap.n, 4);
	berth_kept_close(&k);
	k.off = true;
	put("a/pids.current", "10\n");
	assert_int_equal(berth_cgroup_usage(&s, &u), 0);
	assert_int_equal(u.pids, 10);
	assert_int_equal(open_fds(), before);
	assert_null(k.files);
}

static void a_text_may_be_longer_than_a_page(void **state)
{
	struct berth_kept_cap cap = {.max = 100};
	struct berth_kept k = {.cap = &cap};
	struct berth_cg_source s = source("/long", &k);
	struct berth_buf b = {0};
	(void)state;

	for (int i = 0; i < 2000; i++)
		berth_buf_addf(&b, "line%d 1\n", i);
	put("long/memory.stat", b.data);
	for (int i = 0; i < 2; i++) {
		_cleanup_free_ char *text = berth_cg_text(&s, "", "memory.stat");
		assert_string_equal(text, b.data);
	}
	while (b.len <= 64 * 1024)
		berth_buf_adds(&b, "and so on\n");
	change("long/memory.stat", b.data);
	assert_null(berth_cg_text(&s, "", "memory.stat"));
	berth_kept_close(&k);
	berth_buf_finish(&b);
}

static void beyond_the_cap_files_are_opened_for_each_read(void **state)
{
	struct berth_kept_cap cap = {.max = 4};
	struct berth_kept k[3] = {{.cap = &cap}, {.cap = &cap}, {.cap = &cap}};
	struct berth_cgroup_usage u;
	unsigned int before = open_fds();
	(void)state;

	for (int round = 1; round < 4; round++) {
		for (int i = 0; i < 3; i++) {
			char path[16], file[32], text[16];
			snprintf(path, sizeof(path), "/c%d", i);
			struct berth_cg_source s = source(path, &k[i]);
			snprintf(text, sizeof(text), "%d\n", round * 1000 + i);
			for (int n = 0; n < 2; n++) {
				snprintf(file, sizeof(file), "c%d/%s", i,
				        n ? "pids.current" : "memory.current");
				(round > 1 && i < 2 ? change : put)(file, text);
			}
			assert_int_equal(berth_cgroup_usage(&s, &u), 0);
			assert_int_equal(u.mem_usage, round * 1000 + i);
			assert_int_equal(u.pids, round * 1000 + i);
		}
		assert_int_equal(cap.n, 4);
		assert_int_equal(open_fds(), before + 4);
	}
	/* Room that others leave is taken. */
	berth_kept_close(&k[0]);
	struct berth_cg_source s = source("/c2", &k[2]);
	assert_int_equal(berth_cgroup_usage(&s, &u), 0);
	assert_int_equal(cap.n, 4);
	berth_kept_close(&k[1]);
	berth_kept_close(&k[2]);
	assert_int_equal(open_fds(), before);
	/* What is read seldom leaves half of it to the rest. */
	assert_true(berth_kept_cap_take(&cap, true));
	assert_true(berth_kept_cap_take(&cap, true));
	assert_false(berth_kept_cap_take(&cap, true));
	assert_true(berth_kept_cap_take(&cap, false));
	berth_kept_cap_give(&cap, 3);
	assert_int_equal(cap.n, 0);
}

static void the_cap_leaves_descriptors_for_the_rest(void **state)
{
	struct berth_kept_cap cap;
	struct rlimit was, r;
	(void)state;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	r = was;
	r.rlim_cur = 400;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
	berth_kept_cap_init(&cap);
	assert_int_equal(cap.max, 100);
	assert_int_equal(cap.n, 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

/* Of a kernel: an open file does not keep its cgroup, and fails once that is gone. */
static void a_cgroup_that_was_removed(void **state)
{
	bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
	struct berth_kept_cap cap = {.max = 100};
	struct berth_kept k = {.cap = &cap};
	_cleanup_free_ char *name = berth_asprintf("/berth-kept-%d", (int)getpid());
	_cleanup_free_ char *path = berth_asprintf("/sys/fs/cgroup%s%s", v2 ? "" : "/memory", name);
	struct berth_cg_source s = {.mount = "/sys/fs/cgroup", .path = name, .v2 = v2, .kept = &k};
	struct berth_cgroup_usage u;
	unsigned int before = open_fds();
	(void)state;

	if (mkdir(path, 0755) < 0)
		skip(); /* not root, or no cgroups here */
	int r = berth_cgroup_usage(&s, &u);
	unsigned int kept = open_fds() - before;
	assert_int_equal(rmdir(path), 0);
	if (r < 0)
		skip(); /* v2 without its memory controller */
	assert_true(kept >= 2);
	assert_int_equal(berth_cgroup_usage(&s, &u), -ENOENT);
	assert_int_equal(u.when_ns, 0);
	assert_int_equal(mkdir(path, 0755), 0);
	r = berth_cgroup_usage(&s, &u);
	kept = open_fds() - before;
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(r, 0);
	assert_true(u.when_ns > 0);
	assert_int_equal(kept, cap.n);
	berth_kept_close(&k);
	assert_int_equal(open_fds(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(fds_are_kept),
	        cmocka_unit_test(a_text_may_be_longer_than_a_page),
	        cmocka_unit_test(beyond_the_cap_files_are_opened_for_each_read),
	        cmocka_unit_test(the_cap_leaves_descriptors_for_the_rest),
	        cmocka_unit_test(a_cgroup_that_was_removed),
	};
	assert_non_null(mkdtemp(dir));
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	return berth_rm_tree(AT_FDCWD, dir) < 0 || failed;
}
