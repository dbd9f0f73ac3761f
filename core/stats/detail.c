#include "stats/detail.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

/* Beyond them a container's files and sockets are counted no further. */
#define MAX_COUNTED_PROCESSES 256
#define MAX_COUNTED_FDS 65536

/* ---- processes ---- */

static void count_fds(pid_t pid, struct berth_cgroup_detail *d)
{
	char path[40], to[64];
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	const struct dirent *e;

	while (dir && d->fds < MAX_COUNTED_FDS && (e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		d->fds++;
		ssize_t n = readlinkat(dirfd(dir), e->d_name, to, sizeof(to));
		d->sockets += n > 7 && memcmp(to, "socket:", 7) == 0;
	}
	if (dir)
		closedir(dir);
}

static void read_processes(const struct berth_cg_source *s, struct berth_cgroup_detail *d)
{
	_cleanup_free_ char *text = berth_cg_text(s, "pids", "cgroup.procs");
	char *end;

	for (const char *p = text; p && *p; p = *end ? end + 1 : end) {
		long pid = strtol(p, &end, 10);
		if (end == p)
			break;
		if (pid > 0 && d->processes++ < MAX_COUNTED_PROCESSES)
			count_fds((pid_t)pid, d);
	}
}

static uint64_t soft_nofile(pid_t pid)
{
	static const char name[] = "Max open files";
	char path[40];
	_cleanup_free_ char *text = NULL;

	snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
	if (pid <= 0 || berth_read_file(AT_FDCWD, path, BERTH_KIB(16), &text, NULL) < 0)
		return 0;
	const char *line = strstr(text, name);
	return line ? strtoull(line + sizeof(name) - 1, NULL, 10) : 0;
}

/* ---- block devices ---- */

void berth_block_device_name(unsigned int major, unsigned int minor, char *ret, size_t n)
{
	char path[64], to[256];

	*ret = '\0';
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major, minor);
	ssize_t len = readlink(path, to, sizeof(to) - 1);
	if (len <= 0)
		return;
	to[len] = '\0';
	const char *base = strrchr(to, '/');
	snprintf(ret, n, "/dev/%.50s", base ? base + 1 : to);
}

static struct berth_block_io *device(
        struct berth_cgroup_detail *d, unsigned int major, unsigned int minor)
{
	for (unsigned int i = 0; i < d->n_io; i++)
		if (d->io[i].major == major && d->io[i].minor == minor)
			return &d->io[i];
	if (d->n_io >= BERTH_LIMIT_BLOCK_DEVICES)
		return NULL;
	struct berth_block_io *io = &d->io[d->n_io++];
	io->major = major;
	io->minor = minor;
	berth_block_device_name(major, minor, io->device, sizeof(io->device));
	return io;
}

/* "8:0 Read 4096" and "Total" lines. */
static void read_io_v1(const struct berth_cg_source *s, const char *file, bool bytes,
        struct berth_cgroup_detail *d)
{
	_cleanup_free_ char *text = berth_cg_text(s, "blkio", file);
	unsigned int major, minor;
	unsigned long long n;
	char op[16];

	for (const char *line = text; line && *line;) {
		if (sscanf(line, "%u:%u %15s %llu", &major, &minor, op, &n) == 4) {
			struct berth_block_io *io = device(d, major, minor);
			if (io && strcmp(op, "Read") == 0)
				*(bytes ? &io->read_bytes : &io->reads) = n;
			else if (io && strcmp(op, "Write") == 0)
				*(bytes ? &io->write_bytes : &io->writes) = n;
		}
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
}

/* "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ..." */
static void read_io_v2(const struct berth_cg_source *s, struct berth_cgroup_detail *d)
{
	_cleanup_free_ char *text = berth_cg_text(s, "", "io.stat");
	unsigned int major, minor;
	unsigned long long v[4];

	for (const char *line = text; line && *line;) {
		if (sscanf(line, "%u:%u rbytes=%llu wbytes=%llu rios=%llu wios=%llu", &major,
		            &minor, &v[0], &v[1], &v[2], &v[3]) == 6) {
			struct berth_block_io *io = device(d, major, minor);
			if (io) {
				io->read_bytes = v[0];
				io->write_bytes = v[1];
				io->reads = v[2];
				io->writes = v[3];
			}
		}
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
}

/* ---- huge pages ---- */

/* The kernel's page sizes in the names of the cgroup's files: "hugepages-2048kB" is "2MB". */
static bool size_name(const char *entry, char *ret, size_t n)
{
	unsigned long kib;
	if (sscanf(entry, "hugepages-%lukB", &kib) != 1)
		return false;
	if (kib >= 1024ul * 1024 && kib % (1024ul * 1024) == 0)
		snprintf(ret, n, "%luGB", kib / (1024ul * 1024));
	else if (kib >= 1024 && kib % 1024 == 0)
		snprintf(ret, n, "%luMB", kib / 1024);
	else
		snprintf(ret, n, "%luKB", kib);
	return true;
}

static void read_huge(const struct berth_cg_source *source, struct berth_cgroup_detail *d)
{
	struct berth_cg_source opened = *source, *s = &opened;
	DIR *dir = opendir("/sys/kernel/mm/hugepages");
	const struct dirent *e;
	char name[64];

	opened.kept = NULL; /* it wants literals */
	while (dir && d->n_huge < BERTH_LIMIT_PAGE_SIZES && (e = readdir(dir))) {
		struct berth_huge_pages *h = &d->huge[d->n_huge];
		if (!size_name(e->d_name, h->size, sizeof(h->size)))
			continue;
		snprintf(name, sizeof(name), "hugetlb.%s.%s", h->size,
		        s->v2 ? "current" : "usage_in_bytes");
		if (!berth_cg_number(s, "hugetlb", name, &h->usage))
			continue;
		snprintf(name, sizeof(name), "hugetlb.%s.%s", h->size,
		        s->v2 ? "max" : "max_usage_in_bytes");
		(void)berth_cg_number(s, "hugetlb", name, &h->max);
		d->n_huge++;
	}
	if (dir)
		closedir(dir);
}

/* ---- the rest ---- */

static uint64_t ticks_to_ns(uint64_t ticks)
{
	long hz = sysconf(_SC_CLK_TCK);
	return ticks * (1000000000u / (uint64_t)(hz > 0 ? hz : 100));
}

static void read_v1(const struct berth_cg_source *s, struct berth_cgroup_detail *d)
{
	_cleanup_free_ char *acct = berth_cg_text(s, "cpuacct", "cpuacct.stat"),
	                    *cpu = berth_cg_text(s, "cpu", "cpu.stat"),
	                    *mem = berth_cg_text(s, "memory", "memory.stat"),
	                    *oom = berth_cg_text(s, "memory", "memory.oom_control"),
	                    *quota = berth_cg_text(s, "cpu", "cpu.cfs_quota_us");
	uint64_t with_swap = 0;

	d->cpu_user_ns = ticks_to_ns(berth_cg_field(acct, "user"));
	d->cpu_system_ns = ticks_to_ns(berth_cg_field(acct, "system"));
	d->throttled_ns = berth_cg_field(cpu, "throttled_time");
	d->periods = berth_cg_field(cpu, "nr_periods");
	d->throttled_periods = berth_cg_field(cpu, "nr_throttled");
	d->cpu_quota_us = quota ? strtoll(quota, NULL, 10) : -1;
	(void)berth_cg_number(s, "cpu", "cpu.shares", &d->cpu_shares);
	(void)berth_cg_number(s, "cpu", "cpu.cfs_period_us", &d->cpu_period_us);
	d->mem_cache = berth_cg_field(mem, "total_cache");
	d->mem_mapped = berth_cg_field(mem, "total_mapped_file");
	d->mem_swap = berth_cg_field(mem, "total_swap");
	d->faults = berth_cg_field(mem, "pgfault");
	d->major_faults = berth_cg_field(mem, "pgmajfault");
	d->total_faults = berth_cg_field(mem, "total_pgfault");
	d->total_major_faults = berth_cg_field(mem, "total_pgmajfault");
	d->oom_kills = berth_cg_field(oom, "oom_kill");
	(void)berth_cg_number(s, "memory", "memory.kmem.usage_in_bytes", &d->mem_kernel);
	(void)berth_cg_number(s, "memory", "memory.max_usage_in_bytes", &d->mem_max_usage);
	(void)berth_cg_number(s, "memory", "memory.failcnt", &d->mem_failcnt);
	(void)berth_cg_number(s, "memory", "memory.soft_limit_in_bytes", &d->mem_reservation);
	(void)berth_cg_number(s, "memory", "memory.memsw.limit_in_bytes", &with_swap);
	d->swap_limit = berth_cg_limit(with_swap);
	read_io_v1(s, "blkio.throttle.io_service_bytes", true, d);
	read_io_v1(s, "blkio.throttle.io_serviced", false, d);
}

static void read_v2(const struct berth_cg_source *s, struct berth_cgroup_detail *d)
{
	_cleanup_free_ char *cpu = berth_cg_text(s, "", "cpu.stat"),
	                    *mem = berth_cg_text(s, "", "memory.stat"),
	                    *events = berth_cg_text(s, "", "memory.events"),
	                    *max = berth_cg_text(s, "", "cpu.max");
	uint64_t weight = 0;
	char *end = NULL;

	d->cpu_user_ns = berth_cg_field(cpu, "user_usec") * 1000;
	d->cpu_system_ns = berth_cg_field(cpu, "system_usec") * 1000;
	d->throttled_ns = berth_cg_field(cpu, "throttled_usec") * 1000;
	d->periods = berth_cg_field(cpu, "nr_periods");
	d->throttled_periods = berth_cg_field(cpu, "nr_throttled");
	d->cpu_quota_us = max ? strtoll(max, &end, 10) : -1;
	if (max && end == max) { /* "max 100000" */
		d->cpu_quota_us = -1;
		end = max + strcspn(max, " ");
	}
	d->cpu_period_us = end && *end ? strtoull(end, NULL, 10) : 0;
	/* Back from what the OCI runtimes make of shares: 2..262144 onto 1..10000. */
	if (berth_cg_number(s, "", "cpu.weight", &weight) && weight > 0)
		d->cpu_shares = 2 + (weight - 1) * 262142 / 9999;
	d->mem_cache = berth_cg_field(mem, "file");
	d->mem_mapped = berth_cg_field(mem, "file_mapped");
	d->mem_kernel = berth_cg_field(mem, "kernel");
	d->faults = d->total_faults = berth_cg_field(mem, "pgfault");
	d->major_faults = d->total_major_faults = berth_cg_field(mem, "pgmajfault");
	d->mem_failcnt = berth_cg_field(events, "max");
	d->oom_kills = berth_cg_field(events, "oom_kill");
	(void)berth_cg_number(s, "", "memory.swap.current", &d->mem_swap);
	(void)berth_cg_number(s, "", "memory.peak", &d->mem_max_usage);
	(void)berth_cg_number(s, "", "memory.low", &d->mem_reservation);
	(void)berth_cg_number(s, "", "memory.swap.max", &d->swap_limit);
	read_io_v2(s, d);
}

void berth_cgroup_read_detail(
        const struct berth_cg_source *source, pid_t init, struct berth_cgroup_detail *ret)
{
	struct berth_cg_source s = *source;

	s.present = s.seldom = true;
	memset(ret, 0, sizeof(*ret));
	if (s.v2)
		read_v2(&s, ret);
	else
		read_v1(&s, ret);
	ret->mem_reservation = berth_cg_limit(ret->mem_reservation);
	(void)berth_cg_number(&s, "pids", "pids.current", &ret->threads);
	(void)berth_cg_number(&s, "pids", "pids.max", &ret->threads_max);
	read_huge(&s, ret);
	read_processes(&s, ret);
	ret->nofile_soft = soft_nofile(init);
}
