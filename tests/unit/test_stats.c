/* core/stats: cgroup files of both versions, made up in a directory. */
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
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stats/cgroup.h"

static char dir[] = "/tmp/berth-stats-XXXXXX";

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	_cleanup_free_ char *parent = berth_strdup(path);
	*strrchr(parent, '/') = '\0';
	assert_int_equal(berth_mkdir_p(parent, 0755), 0);
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0644, false), 0);
}

static void version_2(void **state)
{
	struct berth_cgroup_usage u;
	(void)state;
	assert_int_equal(berth_cgroup_usage(dir, true, "/pod/ctr", &u), -ENOENT);
	put("pod/ctr/memory.current", "1000000\n");
	put("pod/ctr/memory.max", "max\n");
	put("pod/ctr/memory.stat",
	        "anon 400000\nfile 9\ninactive_file 300000\npgfault 12\npgmajfault 3\n");
	put("pod/ctr/memory.swap.current", "7\n");
	put("pod/ctr/memory.swap.max", "50\n");
	put("pod/ctr/cpu.stat", "usage_usec 5000\nuser_usec 1\n");
	put("pod/ctr/pids.current", "4\n");
	put("pod/ctr/cpu.pressure",
	        "some avg10=1.50 avg60=2.00 avg300=3.00 total=42\nfull avg10=0.00 avg60=0.00 "
	        "avg300=0.25 total=7\n");
	assert_int_equal(berth_cgroup_usage(dir, true, "/pod/ctr", &u), 0);
	assert_int_equal(u.mem_usage, 1000000);
	assert_int_equal(u.mem_working_set, 700000);
	assert_int_equal(u.mem_rss, 400000);
	assert_int_equal(u.mem_limit, 0);
	assert_int_equal(u.page_faults, 12);
	assert_int_equal(u.major_page_faults, 3);
	assert_true(u.swap_known);
	assert_int_equal(u.swap_usage, 7);
	assert_int_equal(u.swap_limit, 50);
	assert_int_equal(u.cpu_ns, 5000000);
	assert_int_equal(u.pids, 4);
	assert_true(u.cpu_psi.known);
	assert_int_equal(u.cpu_psi.some.total_us, 42);
	assert_true(u.cpu_psi.some.avg10 > 1.4 && u.cpu_psi.full.avg300 > 0.2);
	assert_false(u.io_psi.known);
	assert_true(u.when_ns > 0);
}

static void version_1(void **state)
{
	struct berth_cgroup_usage u;
	(void)state;
	put("memory/c/memory.usage_in_bytes", "5000\n");
	put("memory/c/memory.limit_in_bytes", "9223372036854771712\n");
	put("memory/c/memory.stat",
	        "rss 1\ntotal_rss 2000\ntotal_inactive_file 6000\ntotal_pgfault 5\n");
	put("cpuacct/c/cpuacct.usage", "123\n");
	put("pids/c/pids.current", "2\n");
	assert_int_equal(berth_cgroup_usage(dir, false, "/c", &u), 0);
	assert_int_equal(u.mem_usage, 5000);
	assert_int_equal(u.mem_working_set, 0); /* never below nothing */
	assert_int_equal(u.mem_rss, 2000);
	assert_int_equal(u.mem_limit, 0);
	assert_int_equal(u.cpu_ns, 123);
	assert_int_equal(u.pids, 2);
	assert_false(u.swap_known);
	put("memory/c/memory.limit_in_bytes", "8000\n");
	put("memory/c/memory.memsw.usage_in_bytes", "5500\n");
	put("memory/c/memory.memsw.limit_in_bytes", "10000\n");
	assert_int_equal(berth_cgroup_usage(dir, false, "/c", &u), 0);
	assert_int_equal(u.mem_limit, 8000);
	assert_int_equal(u.swap_usage, 500);
	assert_int_equal(u.swap_limit, 2000);
}

static void paths(void **state)
{
	(void)state;
	_cleanup_free_ char *a = berth_cgroup_path_of("/kubepods/x/id");
	assert_string_equal(a, "/kubepods/x/id");
	_cleanup_free_ char *b = berth_cgroup_path_of("kubepods-burstable-pod1.slice:berth:abc");
	assert_string_equal(b, "/kubepods.slice/kubepods-burstable.slice/"
	                       "kubepods-burstable-pod1.slice/berth-abc.scope");
	_cleanup_free_ char *c = berth_cgroup_path_of("system.slice:berth:abc");
	assert_string_equal(c, "/system.slice/berth-abc.scope");
}

static void interfaces(void **state)
{
	struct berth_interface i[4];
	static const char text[] =
	        "Inter-|   Receive                                                |  Transmit\n"
	        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    "
	        "packets "
	        "errs drop fifo colls carrier compressed\n"
	        "    lo:     100       1    0    0    0     0          0         0      100       "
	        "1    "
	        "0    0    0     0       0          0\n"
	        "  eth0:    2000      20    3    0    0     0          0         0     4000      "
	        "40    "
	        "5    0    0     0       0          0\n"
	        "a-name-that-is-too-long: 1 2 3 4 5 6 7 8 9 10 11\nbroken: 1 2\n";
	(void)state;
	assert_int_equal(berth_interfaces(text, i, 4), 1);
	assert_string_equal(i[0].name, "eth0");
	assert_int_equal(i[0].rx_bytes, 2000);
	assert_int_equal(i[0].rx_errors, 3);
	assert_int_equal(i[0].tx_bytes, 4000);
	assert_int_equal(i[0].tx_errors, 5);
	assert_int_equal(berth_interfaces("", i, 4), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(version_2),
	        cmocka_unit_test(version_1),
	        cmocka_unit_test(paths),
	        cmocka_unit_test(interfaces),
	};
	assert_non_null(mkdtemp(dir));
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	return berth_rm_tree(AT_FDCWD, dir) < 0 || failed;
}
