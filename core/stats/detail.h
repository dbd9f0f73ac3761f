/* What cadvisor tells of a container beside the plain statistics: times, limits, failures, devices,
 * pages, processes. [worker] */
#ifndef BERTH_STATS_DETAIL_H
#define BERTH_STATS_DETAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stats/files.h"

#define BERTH_LIMIT_BLOCK_DEVICES 32 /* of one cgroup; what comes behind them is left out */
#define BERTH_LIMIT_PAGE_SIZES 4

struct berth_block_io {
	unsigned int major, minor;
	char device[64]; /* "/dev/vda"; "" where it has no name */
	uint64_t read_bytes, write_bytes, reads, writes;
};

struct berth_huge_pages {
	char size[32]; /* "2MB", as the cgroup's files are named */
	uint64_t usage, max;
};

struct berth_cgroup_detail {
	uint64_t cpu_user_ns, cpu_system_ns;
	uint64_t periods, throttled_periods, throttled_ns;
	uint64_t cpu_shares, cpu_period_us;
	int64_t cpu_quota_us; /* -1 = none */
	uint64_t mem_cache, mem_mapped, mem_swap, mem_kernel, mem_max_usage, mem_failcnt, oom_kills;
	/* of the cgroup alone, and with those beneath it */
	uint64_t faults, major_faults, total_faults, total_major_faults;
	uint64_t mem_reservation, swap_limit; /* 0 = none */
	uint64_t threads, threads_max;        /* max: 0 = none */
	struct berth_block_io io[BERTH_LIMIT_BLOCK_DEVICES];
	unsigned int n_io;
	struct berth_huge_pages huge[BERTH_LIMIT_PAGE_SIZES];
	unsigned int n_huge;
	/* from /proc, of the first 256 */
	uint64_t processes, fds, sockets, nofile_soft;
};

/* After its usage: it is there. init: the container's first process, 0 = none. What cannot be read
 * is 0. */
void berth_cgroup_read_detail(
        const struct berth_cg_source *s, pid_t init, struct berth_cgroup_detail *ret);

/* "/dev/vda"; "" where it has no name. */
void berth_block_device_name(unsigned int major, unsigned int minor, char *ret, size_t n);

#endif
