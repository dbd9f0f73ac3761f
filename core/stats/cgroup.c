#include "stats/cgroup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"

static void parse_pressure(const char *line, struct berth_pressure *p)
{
	unsigned long long total = 0;
	if (line && sscanf(line, "%*s avg10=%lf avg60=%lf avg300=%lf total=%llu", &p->avg10,
	                    &p->avg60, &p->avg300, &total) == 4)
		p->total_us = total;
}

static void read_psi(const struct berth_cg_source *s, const char *file, struct berth_psi *psi)
{
	_cleanup_free_ char *text = berth_cg_text(s, "", file);
	if (!text)
		return;
	psi->known = true;
	parse_pressure(strstr(text, "some "), &psi->some);
	parse_pressure(strstr(text, "full "), &psi->full);
}

static void read_v1(const struct berth_cg_source *s, struct berth_cgroup_usage *u)
{
	uint64_t with_swap = 0;
	_cleanup_free_ char *stat = berth_cg_text(s, "memory", "memory.stat");

	berth_cg_number(s, "memory", "memory.limit_in_bytes", &u->mem_limit);
	u->mem_rss = berth_cg_field(stat, "total_rss");
	u->page_faults = berth_cg_field(stat, "total_pgfault");
	u->major_page_faults = berth_cg_field(stat, "total_pgmajfault");
	uint64_t inactive = berth_cg_field(stat, "total_inactive_file");
	u->mem_working_set = u->mem_usage > inactive ? u->mem_usage - inactive : 0;
	if (berth_cg_number(s, "memory", "memory.memsw.usage_in_bytes", &with_swap)) {
		u->swap_known = true;
		u->swap_usage = with_swap > u->mem_usage ? with_swap - u->mem_usage : 0;
		berth_cg_number(s, "memory", "memory.memsw.limit_in_bytes", &u->swap_limit);
		u->swap_limit = berth_cg_limit(u->swap_limit);
		u->swap_limited = u->swap_limit > 0;
		/* of both together: where they are the same there is no swap */
		u->swap_limit -= u->swap_limit > u->mem_limit ? u->mem_limit : u->swap_limit;
	}
	if (!berth_cg_number(s, "cpuacct", "cpuacct.usage", &u->cpu_ns))
		berth_cg_number(s, "cpu,cpuacct", "cpuacct.usage", &u->cpu_ns);
	berth_cg_number(s, "pids", "pids.current", &u->pids);
}

static void read_v2(const struct berth_cg_source *s, struct berth_cgroup_usage *u)
{
	_cleanup_free_ char *stat = berth_cg_text(s, "", "memory.stat"),
	                    *cpu = berth_cg_text(s, "", "cpu.stat"),
	                    *swap_max = berth_cg_text(s, "", "memory.swap.max");

	berth_cg_number(s, "", "memory.max", &u->mem_limit);
	u->mem_rss = berth_cg_field(stat, "anon");
	u->page_faults = berth_cg_field(stat, "pgfault");
	u->major_page_faults = berth_cg_field(stat, "pgmajfault");
	uint64_t inactive = berth_cg_field(stat, "inactive_file");
	u->mem_working_set = u->mem_usage > inactive ? u->mem_usage - inactive : 0;
	u->swap_known = berth_cg_number(s, "", "memory.swap.current", &u->swap_usage);
	u->swap_limited = swap_max && strncmp(swap_max, "max", 3) != 0;
	u->swap_limit = u->swap_limited ? strtoull(swap_max, NULL, 10) : 0;
	u->cpu_ns = berth_cg_field(cpu, "usage_usec") * 1000u;
	berth_cg_number(s, "", "pids.current", &u->pids);
	read_psi(s, "cpu.pressure", &u->cpu_psi);
	read_psi(s, "memory.pressure", &u->mem_psi);
	read_psi(s, "io.pressure", &u->io_psi);
}

int berth_cgroup_usage(const struct berth_cg_source *s, struct berth_cgroup_usage *ret)
{
	struct berth_cg_source rest = *s;

	memset(ret, 0, sizeof(*ret));
	if (!berth_cg_number(s, "memory", s->v2 ? "memory.current" : "memory.usage_in_bytes",
	            &ret->mem_usage))
		return -ENOENT;
	rest.present = true;
	if (s->v2)
		read_v2(&rest, ret);
	else
		read_v1(&rest, ret);
	ret->mem_limit = berth_cg_limit(ret->mem_limit);
	ret->when_ns = berth_realtime_ns();
	return 0;
}
