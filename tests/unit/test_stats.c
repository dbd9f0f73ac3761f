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

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "stats/cgroup.h"
#include "stats/detail.h"
#include "stats/netdev.h"
#include "stats_fixture.h"

static char dir[] = "/tmp/berth-stats-XXXXXX";

static void put(const char *name, const char *text)
{
	put_at(dir, name, text);
}

static int usage(bool v2, const char *path, struct berth_cgroup_usage *ret)
{
	struct berth_cg_source s = {.mount = dir, .path = path, .v2 = v2};
	return berth_cgroup_usage(&s, ret);
}

static void read_detail(bool v2, const char *path, pid_t init, struct berth_cgroup_detail *ret)
{
	struct berth_cg_source s = {.mount = dir, .path = path, .v2 = v2};
	berth_cgroup_read_detail(&s, init, ret);
}

static void version_2(void **state)
{
	struct berth_cgroup_usage u;
	(void)state;
	assert_int_equal(usage(true, "/pod/ctr", &u), -ENOENT);
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
	assert_int_equal(usage(true, "/pod/ctr", &u), 0);
	assert_int_equal(u.mem_usage, 1000000);
	assert_int_equal(u.mem_working_set, 700000);
	assert_int_equal(u.mem_rss, 400000);
	assert_int_equal(u.mem_limit, 0);
	assert_int_equal(u.page_faults, 12);
	assert_int_equal(u.major_page_faults, 3);
	assert_true(u.swap_known);
	assert_int_equal(u.swap_usage, 7);
	assert_true(u.swap_limited);
	assert_int_equal(u.swap_limit, 50);
	assert_int_equal(u.cpu_ns, 5000000);
	assert_int_equal(u.pids, 4);
	assert_true(u.cpu_psi.known);
	assert_int_equal(u.cpu_psi.some.total_us, 42);
	assert_true(u.cpu_psi.some.avg10 > 1.4 && u.cpu_psi.full.avg300 > 0.2);
	assert_false(u.io_psi.known);
	assert_true(u.when_ns > 0);
	put("pod/ctr/memory.swap.max", "0\n");
	assert_int_equal(usage(true, "/pod/ctr", &u), 0);
	assert_true(u.swap_limited);
	assert_int_equal(u.swap_limit, 0);
	put("pod/ctr/memory.swap.max", "max\n");
	assert_int_equal(usage(true, "/pod/ctr", &u), 0);
	assert_true(u.swap_known);
	assert_false(u.swap_limited);
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
	assert_int_equal(usage(false, "/c", &u), 0);
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
	assert_int_equal(usage(false, "/c", &u), 0);
	assert_int_equal(u.mem_limit, 8000);
	assert_int_equal(u.swap_usage, 500);
	assert_true(u.swap_limited);
	assert_int_equal(u.swap_limit, 2000);
	put("memory/c/memory.memsw.limit_in_bytes", "8000\n");
	assert_int_equal(usage(false, "/c", &u), 0);
	assert_true(u.swap_limited);
	assert_int_equal(u.swap_limit, 0);
	put("memory/c/memory.memsw.limit_in_bytes", "9223372036854771712\n");
	assert_int_equal(usage(false, "/c", &u), 0);
	assert_true(u.swap_known);
	assert_false(u.swap_limited);
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
	_cleanup_free_ char *d = berth_cgroup_parent_path(BERTH_CGROUP_SYSTEMD, "a-b.slice");
	assert_string_equal(d, "/a.slice/a-b.slice");
	_cleanup_free_ char *e =
	        berth_cgroup_parent_path(BERTH_CGROUP_SYSTEMD, "/a.slice/a-b.slice");
	assert_string_equal(e, "/a.slice/a-b.slice");
	_cleanup_free_ char *f = berth_cgroup_parent_path(BERTH_CGROUPFS, "/a-b.slice");
	assert_string_equal(f, "/a-b.slice");
	assert_null(berth_cgroup_parent_path(BERTH_CGROUP_SYSTEMD, ""));
	assert_null(berth_cgroup_parent_path(BERTH_CGROUPFS, NULL));
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
	        "5    6    0     0       0          0\n"
	        "a-name-that-is-too-long: 1 2 3 4 5 6 7 8 9 10 11\nbroken: 1 2\n";
	(void)state;
	assert_int_equal(berth_interfaces(text, i, 4), 1);
	assert_string_equal(i[0].name, "eth0");
	assert_int_equal(i[0].rx_bytes, 2000);
	assert_int_equal(i[0].rx_errors, 3);
	assert_int_equal(i[0].tx_bytes, 4000);
	assert_int_equal(i[0].tx_errors, 5);
	assert_int_equal(i[0].tx_packets, 40);
	assert_int_equal(i[0].tx_dropped, 6);
	assert_int_equal(berth_interfaces("", i, 4), 0);
}

static void details_of_version_2(void **state)
{
	struct berth_cgroup_detail d;
	char self[32];
	(void)state;
	snprintf(self, sizeof(self), "%d\n", (int)getpid());
	put("d/x/cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 7\n"
	                    "nr_throttled 2\nthrottled_usec 11\n");
	put("d/x/cpu.max", "25000 100000\n");
	put("d/x/cpu.weight", "100\n");
	put("d/x/memory.stat", "file 10\nfile_mapped 20\nkernel 30\npgfault 40\npgmajfault 1\n");
	put("d/x/memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 3\n");
	put("d/x/memory.peak", "999\n");
	put("d/x/pids.current", "2\n");
	put("d/x/pids.max", "max\n");
	put("d/x/io.stat", "rubbish\n7:99 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
	put("d/x/cgroup.procs", self);
	read_detail(true, "/d/x", getpid(), &d);
	assert_int_equal(d.cpu_user_ns, 5000);
	assert_int_equal(d.cpu_system_ns, 4000);
	assert_int_equal(d.periods, 7);
	assert_int_equal(d.throttled_periods, 2);
	assert_int_equal(d.throttled_ns, 11000);
	assert_int_equal(d.cpu_quota_us, 25000);
	assert_int_equal(d.cpu_period_us, 100000);
	assert_in_range(d.cpu_shares, 2500, 2700); /* of 2597 */
	assert_int_equal(d.mem_cache, 10);
	assert_int_equal(d.mem_mapped, 20);
	assert_int_equal(d.mem_kernel, 30);
	assert_int_equal(d.total_faults, 40);
	assert_int_equal(d.mem_failcnt, 6);
	assert_int_equal(d.oom_kills, 3);
	assert_int_equal(d.mem_max_usage, 999);
	assert_int_equal(d.threads, 2);
	assert_int_equal(d.threads_max, 0);
	assert_int_equal(d.n_io, 1);
	assert_int_equal(d.io[0].major, 7);
	assert_int_equal(d.io[0].minor, 99);
	assert_int_equal(d.io[0].write_bytes, 2);
	assert_int_equal(d.io[0].reads, 3);
	assert_string_equal(d.io[0].device, ""); /* there is none */
	assert_int_equal(d.processes, 1);
	assert_true(d.fds >= 3 && d.nofile_soft > 0);
	put("d/x/cpu.max", "max 100000\n");
	read_detail(true, "/d/x", 0, &d);
	assert_int_equal(d.cpu_quota_us, -1);
	assert_int_equal(d.cpu_period_us, 100000);
	assert_int_equal(d.nofile_soft, 0);
	/* Nothing there at all. */
	read_detail(true, "/d/none", 0, &d);
	assert_int_equal(d.processes + d.threads + d.n_io, 0);
}

static void details_of_version_1(void **state)
{
	struct berth_cgroup_detail d;
	(void)state;
	put("cpuacct/y/cpuacct.stat", "user 50\nsystem 20\n");
	put("cpu/y/cpu.stat", "nr_periods 3\nnr_throttled 1\nthrottled_time 17\n");
	put("cpu/y/cpu.cfs_quota_us", "-1\n");
	put("cpu/y/cpu.cfs_period_us", "100000\n");
	put("cpu/y/cpu.shares", "512\n");
	put("memory/y/memory.stat",
	        "pgfault 4\ntotal_cache 8\ntotal_mapped_file 9\ntotal_pgfault 5\n");
	put("memory/y/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
	put("memory/y/memory.failcnt", "13\n");
	put("memory/y/memory.soft_limit_in_bytes", "9223372036854771712\n");
	put("blkio/y/blkio.throttle.io_service_bytes",
	        "7:99 Read 4096\n7:99 Write 512\n7:99 Sync 1\n7:99 Total 4608\nTotal 4608\n");
	put("blkio/y/blkio.throttle.io_serviced", "7:99 Read 2\n7:99 Write 1\nTotal 3\n");
	read_detail(false, "/y", 0, &d);
	assert_int_equal(d.cpu_user_ns, 50 * (1000000000 / sysconf(_SC_CLK_TCK)));
	assert_int_equal(d.throttled_ns, 17);
	assert_int_equal(d.cpu_quota_us, -1);
	assert_int_equal(d.cpu_shares, 512);
	assert_int_equal(d.mem_cache, 8);
	assert_int_equal(d.faults, 4);
	assert_int_equal(d.total_faults, 5);
	assert_int_equal(d.oom_kills, 2);
	assert_int_equal(d.mem_failcnt, 13);
	assert_int_equal(d.mem_reservation, 0);
	assert_int_equal(d.n_io, 1);
	assert_int_equal(d.io[0].read_bytes, 4096);
	assert_int_equal(d.io[0].write_bytes, 512);
	assert_int_equal(d.io[0].reads, 2);
	assert_int_equal(d.io[0].writes, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(version_2),
	        cmocka_unit_test(version_1),
	        cmocka_unit_test(paths),
	        cmocka_unit_test(interfaces),
	        cmocka_unit_test(details_of_version_2),
	        cmocka_unit_test(details_of_version_1),
	};
	assert_non_null(mkdtemp(dir));
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	return berth_rm_tree(AT_FDCWD, dir) < 0 || failed;
}
