/* ListMetricDescriptors, ListPodSandboxMetrics and its stream: cadvisor's metrics under cadvisor's
 * names, as the kubelet serves them on /metrics/cadvisor. Their values are whole numbers (CRI
 * Metric.value): seconds are cut. */
#include "cri/sampling.h"

#include <stdio.h>
#include <string.h>

#include "base/fd.h"

#define NS_PER_S 1000000000u
#define US_PER_S 1000000u
#define MAX_OWN_LABELS 4

/* What every metric has; the names are cadvisor's as the kubelet gives them to Prometheus. */
static const char *const base_labels[] = {"id", "name", "image", "container", "pod", "namespace"};
#define N_BASE BERTH_ARRAY_LEN(base_labels)

#define COUNTER RUNTIME__V1__METRIC_TYPE__COUNTER
#define GAUGE RUNTIME__V1__METRIC_TYPE__GAUGE

enum metric {
	BLKIO_USAGE,
	CFS_PERIODS,
	CFS_THROTTLED_PERIODS,
	CFS_THROTTLED_SECONDS,
	CPU_SYSTEM,
	CPU_USAGE,
	CPU_USER,
	FILE_DESCRIPTORS,
	FS_INODES_FREE,
	FS_INODES_TOTAL,
	FS_LIMIT,
	FS_READ_BYTES,
	FS_READS,
	FS_USAGE,
	FS_WRITE_BYTES,
	FS_WRITES,
	HUGETLB_MAX,
	HUGETLB_USAGE,
	LAST_SEEN,
	MEM_CACHE,
	MEM_FAILCNT,
	MEM_FAILURES,
	MEM_KERNEL,
	MEM_MAPPED,
	MEM_MAX_USAGE,
	MEM_RSS,
	MEM_SWAP,
	MEM_USAGE,
	MEM_WORKING_SET,
	NET_RX_BYTES,
	NET_RX_ERRORS,
	NET_RX_DROPPED,
	NET_RX_PACKETS,
	NET_TX_BYTES,
	NET_TX_ERRORS,
	NET_TX_DROPPED,
	NET_TX_PACKETS,
	OOM_EVENTS,
	PSI_CPU_STALLED,
	PSI_CPU_WAITING,
	PSI_IO_STALLED,
	PSI_IO_WAITING,
	PSI_MEM_STALLED,
	PSI_MEM_WAITING,
	PROCESSES,
	SOCKETS,
	SPEC_CPU_PERIOD,
	SPEC_CPU_QUOTA,
	SPEC_CPU_SHARES,
	SPEC_MEM_LIMIT,
	SPEC_MEM_RESERVATION,
	SPEC_SWAP_LIMIT,
	START_TIME,
	THREADS,
	THREADS_MAX,
	ULIMITS_SOFT,
	N_METRICS
};

static const struct {
	const char *name, *help;
	Runtime__V1__MetricType type;
	const char *labels[MAX_OWN_LABELS];
} metrics[N_METRICS] = {
        [BLKIO_USAGE] = {"container_blkio_device_usage_total",
                "Bytes moved to and from block devices", COUNTER,
                {"device", "major", "minor", "operation"}},
        [CFS_PERIODS] = {"container_cpu_cfs_periods_total", "Periods that have been enforced",
                COUNTER, {0}},
        [CFS_THROTTLED_PERIODS] = {"container_cpu_cfs_throttled_periods_total",
                "Periods in which it was held back", COUNTER, {0}},
        [CFS_THROTTLED_SECONDS] = {"container_cpu_cfs_throttled_seconds_total",
                "Seconds for which it was held back", COUNTER, {0}},
        [CPU_SYSTEM] = {"container_cpu_system_seconds_total", "CPU time in the kernel, in seconds",
                COUNTER, {0}},
        [CPU_USAGE] = {"container_cpu_usage_seconds_total", "CPU time, in seconds", COUNTER,
                {"cpu"}},
        [CPU_USER] = {"container_cpu_user_seconds_total",
                "CPU time outside of the kernel, in seconds", COUNTER, {0}},
        [FILE_DESCRIPTORS] = {"container_file_descriptors", "Open file descriptors", GAUGE, {0}},
        [FS_INODES_FREE] = {"container_fs_inodes_free", "Free inodes of its file system", GAUGE,
                {"device"}},
        [FS_INODES_TOTAL] = {"container_fs_inodes_total", "All inodes of its file system", GAUGE,
                {"device"}},
        [FS_LIMIT] = {"container_fs_limit_bytes", "Size of the file system that it lies on", GAUGE,
                {"device"}},
        [FS_READ_BYTES] = {"container_fs_reads_bytes_total", "Bytes read", COUNTER, {"device"}},
        [FS_READS] = {"container_fs_reads_total", "Reads completed", COUNTER, {"device"}},
        [FS_USAGE] = {"container_fs_usage_bytes", "Bytes of its writable layer", GAUGE, {"device"}},
        [FS_WRITE_BYTES] = {"container_fs_writes_bytes_total", "Bytes written", COUNTER,
                {"device"}},
        [FS_WRITES] = {"container_fs_writes_total", "Writes completed", COUNTER, {"device"}},
        [HUGETLB_MAX] = {"container_hugetlb_max_usage_bytes",
                "The most of huge pages, or their limit", GAUGE, {"pagesize"}},
        [HUGETLB_USAGE] = {"container_hugetlb_usage_bytes", "Bytes in huge pages", GAUGE,
                {"pagesize"}},
        [LAST_SEEN] = {"container_last_seen", "When it was sampled, in seconds since 1970", GAUGE,
                {0}},
        [MEM_CACHE] = {"container_memory_cache", "Bytes of page cache", GAUGE, {0}},
        [MEM_FAILCNT] = {"container_memory_failcnt", "How often the memory limit was hit", COUNTER,
                {0}},
        [MEM_FAILURES] = {"container_memory_failures_total", "Page faults", COUNTER,
                {"failure_type", "scope"}},
        [MEM_KERNEL] = {"container_memory_kernel_usage", "Bytes of kernel memory", GAUGE, {0}},
        [MEM_MAPPED] = {"container_memory_mapped_file", "Bytes of mapped files", GAUGE, {0}},
        [MEM_MAX_USAGE] = {"container_memory_max_usage_bytes", "The most memory that was in use",
                GAUGE, {0}},
        [MEM_RSS] = {"container_memory_rss", "Bytes of anonymous memory", GAUGE, {0}},
        [MEM_SWAP] = {"container_memory_swap", "Bytes in swap", GAUGE, {0}},
        [MEM_USAGE] = {"container_memory_usage_bytes", "Bytes in use, with what could be dropped",
                GAUGE, {0}},
        [MEM_WORKING_SET] = {"container_memory_working_set_bytes",
                "Bytes in use that are not easily dropped", GAUGE, {0}},
        [NET_RX_BYTES] = {"container_network_receive_bytes_total", "Bytes received", COUNTER,
                {"interface"}},
        [NET_RX_ERRORS] = {"container_network_receive_errors_total", "Errors in receiving", COUNTER,
                {"interface"}},
        [NET_RX_DROPPED] = {"container_network_receive_packets_dropped_total",
                "Packets dropped in receiving", COUNTER, {"interface"}},
        [NET_RX_PACKETS] = {"container_network_receive_packets_total", "Packets received", COUNTER,
                {"interface"}},
        [NET_TX_BYTES] = {"container_network_transmit_bytes_total", "Bytes sent", COUNTER,
                {"interface"}},
        [NET_TX_ERRORS] = {"container_network_transmit_errors_total", "Errors in sending", COUNTER,
                {"interface"}},
        [NET_TX_DROPPED] = {"container_network_transmit_packets_dropped_total",
                "Packets dropped in sending", COUNTER, {"interface"}},
        [NET_TX_PACKETS] = {"container_network_transmit_packets_total", "Packets sent", COUNTER,
                {"interface"}},
        [OOM_EVENTS] = {"container_oom_events_total", "Processes killed for lack of memory",
                COUNTER, {0}},
        [PSI_CPU_STALLED] = {"container_pressure_cpu_stalled_seconds_total",
                "Seconds in which no process could run for lack of CPU", COUNTER, {0}},
        [PSI_CPU_WAITING] = {"container_pressure_cpu_waiting_seconds_total",
                "Seconds in which some process waited for CPU", COUNTER, {0}},
        [PSI_IO_STALLED] = {"container_pressure_io_stalled_seconds_total",
                "Seconds in which no process could run for I/O", COUNTER, {0}},
        [PSI_IO_WAITING] = {"container_pressure_io_waiting_seconds_total",
                "Seconds in which some process waited for I/O", COUNTER, {0}},
        [PSI_MEM_STALLED] = {"container_pressure_memory_stalled_seconds_total",
                "Seconds in which no process could run for lack of memory", COUNTER, {0}},
        [PSI_MEM_WAITING] = {"container_pressure_memory_waiting_seconds_total",
                "Seconds in which some process waited for memory", COUNTER, {0}},
        [PROCESSES] = {"container_processes", "Processes", GAUGE, {0}},
        [SOCKETS] = {"container_sockets", "Open sockets", GAUGE, {0}},
        [SPEC_CPU_PERIOD] = {"container_spec_cpu_period", "CPU period, in microseconds", GAUGE,
                {0}},
        [SPEC_CPU_QUOTA] = {"container_spec_cpu_quota", "CPU quota, in microseconds; absent: none",
                GAUGE, {0}},
        [SPEC_CPU_SHARES] = {"container_spec_cpu_shares", "CPU shares", GAUGE, {0}},
        [SPEC_MEM_LIMIT] = {"container_spec_memory_limit_bytes", "Memory limit; 0: none", GAUGE,
                {0}},
        [SPEC_MEM_RESERVATION] = {"container_spec_memory_reservation_limit_bytes",
                "Memory that is kept for it; 0: none", GAUGE, {0}},
        [SPEC_SWAP_LIMIT] = {"container_spec_memory_swap_limit_bytes", "Swap limit; 0: none", GAUGE,
                {0}},
        [START_TIME] = {"container_start_time_seconds", "Its start, in seconds since 1970", GAUGE,
                {0}},
        [THREADS] = {"container_threads", "Threads", GAUGE, {0}},
        [THREADS_MAX] = {"container_threads_max", "The most threads that it may have; 0: no limit",
                GAUGE, {0}},
        [ULIMITS_SOFT] = {"container_ulimits_soft", "Soft limits of its first process", GAUGE,
                {"ulimit"}},
};

static size_t own_labels(enum metric m)
{
	size_t n = 0;
	while (n < MAX_OWN_LABELS && metrics[m].labels[n])
		n++;
	return n;
}

/* The metrics of one pod or container, while they are put together. */
struct list {
	struct berth_arena *a;
	const char *base[N_BASE];
	int64_t now;
	Runtime__V1__Metric **v;
	size_t n, room;
};

static void add(struct list *l, enum metric m, uint64_t value, const char *const *own)
{
	size_t n_own = own_labels(m);
	Runtime__V1__Metric *r = berth_arena_alloc(l->a, sizeof(*r));

	runtime__v1__metric__init(r);
	r->name = (char *)metrics[m].name;
	r->timestamp = l->now;
	r->metric_type = metrics[m].type;
	r->n_label_values = N_BASE + n_own;
	r->label_values = berth_arena_alloc(l->a, r->n_label_values * sizeof(char *));
	for (size_t i = 0; i < r->n_label_values; i++) {
		const char *text = i < N_BASE ? l->base[i] : own[i - N_BASE];
		r->label_values[i] = (char *)(text ? text : "");
	}
	r->value = berth_arena_alloc(l->a, sizeof(*r->value));
	runtime__v1__uint64_value__init(r->value);
	r->value->value = value;
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : N_METRICS + 16;
		Runtime__V1__Metric **v = berth_arena_alloc(l->a, room * sizeof(*v));
		if (l->n)
			memcpy(v, l->v, l->n * sizeof(*v));
		l->v = v;
		l->room = room;
	}
	l->v[l->n++] = r;
}

static void plain(struct list *l, enum metric m, uint64_t value)
{
	add(l, m, value, NULL);
}

static void one(struct list *l, enum metric m, uint64_t value, const char *label)
{
	add(l, m, value, &label);
}

static void cpu(
        struct list *l, const struct berth_cgroup_usage *u, const struct berth_cgroup_detail *d)
{
	one(l, CPU_USAGE, u->cpu_ns / NS_PER_S, "total");
	plain(l, CPU_USER, d->cpu_user_ns / NS_PER_S);
	plain(l, CPU_SYSTEM, d->cpu_system_ns / NS_PER_S);
	plain(l, CFS_PERIODS, d->periods);
	plain(l, CFS_THROTTLED_PERIODS, d->throttled_periods);
	plain(l, CFS_THROTTLED_SECONDS, d->throttled_ns / NS_PER_S);
	plain(l, SPEC_CPU_PERIOD, d->cpu_period_us);
	plain(l, SPEC_CPU_SHARES, d->cpu_shares);
	if (d->cpu_quota_us > 0)
		plain(l, SPEC_CPU_QUOTA, (uint64_t)d->cpu_quota_us);
}

static void memory(
        struct list *l, const struct berth_cgroup_usage *u, const struct berth_cgroup_detail *d)
{
	static const char *const scopes[][2] = {{"pgfault", "container"},
	        {"pgmajfault", "container"}, {"pgfault", "hierarchy"}, {"pgmajfault", "hierarchy"}};
	const uint64_t faults[] = {
	        d->faults, d->major_faults, d->total_faults, d->total_major_faults};

	plain(l, MEM_CACHE, d->mem_cache);
	plain(l, MEM_RSS, u->mem_rss);
	plain(l, MEM_KERNEL, d->mem_kernel);
	plain(l, MEM_MAPPED, d->mem_mapped);
	plain(l, MEM_SWAP, d->mem_swap);
	plain(l, MEM_USAGE, u->mem_usage);
	plain(l, MEM_MAX_USAGE, d->mem_max_usage);
	plain(l, MEM_WORKING_SET, u->mem_working_set);
	plain(l, MEM_FAILCNT, d->mem_failcnt);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(faults); i++)
		add(l, MEM_FAILURES, faults[i], scopes[i]);
	plain(l, OOM_EVENTS, d->oom_kills);
	plain(l, SPEC_MEM_LIMIT, u->mem_limit);
	plain(l, SPEC_MEM_RESERVATION, d->mem_reservation);
	plain(l, SPEC_SWAP_LIMIT, d->swap_limit);
	for (unsigned int i = 0; i < d->n_huge; i++) {
		one(l, HUGETLB_USAGE, d->huge[i].usage, d->huge[i].size);
		one(l, HUGETLB_MAX, d->huge[i].max, d->huge[i].size);
	}
}

static void pressure(struct list *l, const struct berth_cgroup_usage *u)
{
	const struct {
		const struct berth_psi *psi;
		enum metric stalled, waiting;
	} of[] = {{&u->cpu_psi, PSI_CPU_STALLED, PSI_CPU_WAITING},
	        {&u->io_psi, PSI_IO_STALLED, PSI_IO_WAITING},
	        {&u->mem_psi, PSI_MEM_STALLED, PSI_MEM_WAITING}};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(of); i++) {
		if (!of[i].psi->known)
			continue;
		plain(l, of[i].stalled, of[i].psi->full.total_us / US_PER_S);
		plain(l, of[i].waiting, of[i].psi->some.total_us / US_PER_S);
	}
}

static void disks(struct list *l, const struct berth_cgroup_detail *d)
{
	for (unsigned int i = 0; i < d->n_io; i++) {
		const struct berth_block_io *io = &d->io[i];
		char number[16];
		snprintf(number, sizeof(number), "%u", io->major);
		const char *own[MAX_OWN_LABELS] = {
		        io->device, berth_arena_strdup(l->a, number), NULL, "Read"};
		snprintf(number, sizeof(number), "%u", io->minor);
		own[2] = berth_arena_strdup(l->a, number);
		add(l, BLKIO_USAGE, io->read_bytes, own);
		own[3] = "Write";
		add(l, BLKIO_USAGE, io->write_bytes, own);
		one(l, FS_READ_BYTES, io->read_bytes, io->device);
		one(l, FS_READS, io->reads, io->device);
		one(l, FS_WRITE_BYTES, io->write_bytes, io->device);
		one(l, FS_WRITES, io->writes, io->device);
	}
}

static void file_system(
        struct list *l, const struct berth_sampling *s, const struct berth_container_sample *cs)
{
	const char *device = berth_arena_strdup(l->a, s->fs.device);
	if (cs->c->layer.at_ns)
		one(l, FS_USAGE, cs->c->layer.bytes, device);
	one(l, FS_LIMIT, s->fs.bytes, device);
	one(l, FS_INODES_TOTAL, s->fs.inodes, device);
	one(l, FS_INODES_FREE, s->fs.inodes_free, device);
}

static void processes(struct list *l, const struct berth_cgroup_detail *d)
{
	plain(l, PROCESSES, d->processes);
	plain(l, THREADS, d->threads);
	plain(l, THREADS_MAX, d->threads_max);
	plain(l, FILE_DESCRIPTORS, d->fds);
	plain(l, SOCKETS, d->sockets);
	one(l, ULIMITS_SOFT, d->nofile_soft, "max_open_files");
}

static struct list list_of(struct berth_arena *a, const struct berth_pod *pod, const char *cgroup,
        const char *name, const char *image, const char *container)
{
	const Runtime__V1__PodSandboxMetadata *m = pod->config->metadata;
	return (struct list){.a = a,
	        .base = {cgroup, name, image, container, m ? m->name : "", m ? m->namespace_ : ""},
	        .now = (int64_t)berth_realtime_ns()};
}

static Runtime__V1__ContainerMetrics *container_metrics(struct berth_arena *a,
        const struct berth_sampling *s, const struct berth_container_sample *cs)
{
	const struct berth_container *c = cs->c;
	const struct berth_cgroup_detail *d = cs->detail ? &cs->detail->of : NULL;
	Runtime__V1__ContainerMetrics *r = berth_arena_alloc(a, sizeof(*r));
	_cleanup_free_ char *path = berth_cgroup_path_of(c->cgroups_path);
	struct list l = list_of(a, c->pod, berth_arena_strdup(a, path), c->id, c->image_ref,
	        c->config->metadata->name);

	runtime__v1__container_metrics__init(r);
	r->container_id = cs->c->id;
	if (d) {
		cpu(&l, &cs->usage, d);
		memory(&l, &cs->usage, d);
		pressure(&l, &cs->usage);
		disks(&l, d);
		file_system(&l, s, cs);
		processes(&l, d);
		plain(&l, LAST_SEEN, cs->usage.when_ns / NS_PER_S);
		plain(&l, START_TIME, c->started_ns / NS_PER_S);
	}
	r->metrics = l.v;
	r->n_metrics = l.n;
	return r;
}

static void network(struct list *l, const struct berth_interface *i)
{
	const char *name = berth_arena_strdup(l->a, i->name);
	one(l, NET_RX_BYTES, i->rx_bytes, name);
	one(l, NET_RX_ERRORS, i->rx_errors, name);
	one(l, NET_RX_DROPPED, i->rx_dropped, name);
	one(l, NET_RX_PACKETS, i->rx_packets, name);
	one(l, NET_TX_BYTES, i->tx_bytes, name);
	one(l, NET_TX_ERRORS, i->tx_errors, name);
	one(l, NET_TX_DROPPED, i->tx_dropped, name);
	one(l, NET_TX_PACKETS, i->tx_packets, name);
}

static Runtime__V1__PodSandboxMetrics *pod_metrics(
        struct berth_arena *a, const struct berth_sampling *s, const struct berth_pod_sample *p)
{
	Runtime__V1__PodSandboxMetrics *r = berth_arena_alloc(a, sizeof(*r));
	struct list l = list_of(
	        a, p->pod, p->cgroup ? berth_arena_strdup(a, p->cgroup) : "", p->pod->id, "", "");

	runtime__v1__pod_sandbox_metrics__init(r);
	r->pod_sandbox_id = p->pod->id;
	for (unsigned int i = 0; i < p->n_interfaces; i++)
		network(&l, &p->interfaces[i]);
	r->metrics = l.v;
	r->n_metrics = l.n;
	r->container_metrics = berth_arena_alloc(a, (p->n + 1) * sizeof(*r->container_metrics));
	for (size_t i = p->first; i < p->first + p->n; i++)
		r->container_metrics[r->n_container_metrics++] =
		        container_metrics(a, s, &s->containers[i]);
	return r;
}

/* ---- the requests ---- */

HANDLER(berth_cri_list_metric_descriptors)
{
	Runtime__V1__ListMetricDescriptorsResponse r =
	        RUNTIME__V1__LIST_METRIC_DESCRIPTORS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(call);

	(void)request;
	(void)arg;
	r.descriptors = berth_arena_alloc(a, N_METRICS * sizeof(*r.descriptors));
	for (int m = 0; m < N_METRICS; m++) {
		Runtime__V1__MetricDescriptor *d = berth_arena_alloc(a, sizeof(*d));
		runtime__v1__metric_descriptor__init(d);
		d->name = (char *)metrics[m].name;
		d->help = (char *)metrics[m].help;
		d->label_keys =
		        berth_arena_alloc(a, (N_BASE + MAX_OWN_LABELS) * sizeof(*d->label_keys));
		for (size_t i = 0; i < N_BASE; i++)
			d->label_keys[d->n_label_keys++] = (char *)base_labels[i];
		for (size_t i = 0; i < own_labels((enum metric)m); i++)
			d->label_keys[d->n_label_keys++] = (char *)metrics[m].labels[i];
		r.descriptors[r.n_descriptors++] = d;
	}
	berth_grpc_reply(call, &r.base);
}

static void reply(struct berth_sampling *s)
{
	Runtime__V1__ListPodSandboxMetricsResponse r =
	        RUNTIME__V1__LIST_POD_SANDBOX_METRICS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(s->call);

	r.pod_metrics = berth_arena_alloc(a, (s->n_pods + 1) * sizeof(*r.pod_metrics));
	for (size_t i = 0; i < s->n_pods; i++)
		r.pod_metrics[r.n_pod_metrics++] = pod_metrics(a, s, &s->pods[i]);
	berth_grpc_reply(s->call, &r.base);
}

static void stream(struct berth_sampling *s)
{
	Runtime__V1__StreamPodSandboxMetricsResponse r =
	        RUNTIME__V1__STREAM_POD_SANDBOX_METRICS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(s->call);
	Runtime__V1__PodSandboxMetrics *slice[BERTH_STREAM_ITEMS];

	r.pod_sandbox_metrics = slice;
	for (size_t i = 0; i < s->n_pods; i++) {
		slice[r.n_pod_sandbox_metrics++] = pod_metrics(a, s, &s->pods[i]);
		if (r.n_pod_sandbox_metrics < BERTH_STREAM_ITEMS && i + 1 < s->n_pods)
			continue;
		if (berth_grpc_send(s->call, &r.base) < 0)
			break;
		r.n_pod_sandbox_metrics = 0;
	}
	berth_grpc_finish(s->call);
}

static void list(
        struct berth_grpc_call *call, struct berth_daemon *d, void (*fn)(struct berth_sampling *s))
{
	struct berth_sampling *s = berth_sampling_new(d, call, fn);
	struct berth_pod *p, *tmp;

	s->detailed = true;
	HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
		if (p->phase == BERTH_POD_READY)
			berth_sampling_add_pod(s, p);
	}
	berth_sampling_start(s);
}

HANDLER(berth_cri_list_pod_sandbox_metrics)
{
	(void)request;
	list(call, arg, reply);
}

HANDLER(berth_cri_stream_pod_sandbox_metrics)
{
	(void)request;
	list(call, arg, stream);
}
