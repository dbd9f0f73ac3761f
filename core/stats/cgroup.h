/* What a cgroup has used, read from its files, version 1 or 2. [worker] */
#ifndef BERTH_STATS_CGROUP_H
#define BERTH_STATS_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "stats/files.h"

struct berth_pressure { /* one line of a pressure file: percent, and microseconds in all */
	double avg10, avg60, avg300;
	uint64_t total_us;
};
struct berth_psi {
	bool known;
	struct berth_pressure some, full;
};

struct berth_cgroup_usage {
	uint64_t when_ns; /* CLOCK_REALTIME; 0 = the cgroup is gone */
	uint64_t cpu_ns;
	uint64_t mem_usage, mem_working_set, mem_rss, page_faults, major_page_faults;
	uint64_t mem_limit;              /* 0 = none */
	uint64_t swap_usage, swap_limit; /* swap_limit 0 = it may not swap, where it is limited */
	bool swap_known, swap_limited;
	uint64_t pids;
	struct berth_psi cpu_psi, mem_psi, io_psi; /* v2 alone */
};

/* Returns 0, or -ENOENT where the cgroup is gone. */
int berth_cgroup_usage(const struct berth_cg_source *s, struct berth_cgroup_usage *ret);

#endif
