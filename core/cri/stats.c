/* ContainerStats, ListContainerStats, PodSandboxStats, ListPodSandboxStats and their streams.
 *
 * A request samples the cgroups of what it asks for in one job on a worker; the loop then builds
 * the answer. The rate of CPU use is that since the sample before. */
#include "cri/service.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "stats/cgroup.h"

#define CGROUP_MOUNT "/sys/fs/cgroup"
#define MAX_INTERFACES 16
#define RATE_MIN_NS 100000000u /* a shorter time says nothing about a rate */

struct container_sample {
	struct berth_container *c;
	struct berth_cgroup_usage usage;
	uint64_t nano_cores, layer_bytes, layer_inodes;
	bool rate_known;
};

struct pod_sample {
	struct berth_pod *pod;
	struct berth_cgroup_usage usage;
	char *cgroup; /* of the pod, NULL = the sum of its containers */
	pid_t pid;    /* one process of it, for its interfaces; 0 = none */
	struct berth_interface interfaces[MAX_INTERFACES];
	unsigned int n_interfaces;
	size_t first, n; /* its containers among the samples */
};

struct sampling {
	struct berth_daemon *d;
	struct berth_grpc_call *call;
	struct container_sample *containers;
	size_t n_containers;
	struct pod_sample *pods;
	size_t n_pods;
	void (*reply)(struct sampling *s);
};

/* ---- on the worker ---- */

/* Drivers answer this cheaply: by quota, or from a cache of their own. */
static void sample_layer(struct container_sample *cs)
{
	struct berth_container *c = cs->c;
	struct berth_snap_args a = {.size = sizeof(a), .key = c->id};
	struct berth_snap_info info = {.size = sizeof(info)};
	struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->d->storage, BERTH_OP_STORAGE_STAT, c->id);

	if (berth_call_run(call, &a, &info, &err) < 0) {
		berth_error_free(err);
		return;
	}
	cs->layer_bytes = info.bytes;
	cs->layer_inodes = info.inodes;
}

static void sample_container(struct sampling *s, struct container_sample *cs)
{
	_cleanup_free_ char *path = berth_cgroup_path_of(cs->c->cgroups_path);

	if (berth_cgroup_usage(CGROUP_MOUNT, s->d->host.cgroup_v2, path, &cs->usage) == 0)
		sample_layer(cs);
}

static void sample_pod(struct sampling *s, struct pod_sample *p)
{
	char path[64];
	_cleanup_free_ char *text = NULL;

	if (p->cgroup)
		(void)!berth_cgroup_usage(CGROUP_MOUNT, s->d->host.cgroup_v2, p->cgroup, &p->usage);
	snprintf(path, sizeof(path), "/proc/%d/net/dev", (int)p->pid);
	if (p->pid > 0 && berth_read_file(AT_FDCWD, path, BERTH_KIB(64), &text, NULL) == 0)
		p->n_interfaces = berth_interfaces(text, p->interfaces, MAX_INTERFACES);
}

static void sample(void *arg)
{
	struct sampling *s = arg;
	for (size_t i = 0; i < s->n_containers; i++)
		sample_container(s, &s->containers[i]);
	for (size_t i = 0; i < s->n_pods; i++)
		sample_pod(s, &s->pods[i]);
}

/* ---- back on the loop ---- */

static void rate(struct container_sample *cs)
{
	struct berth_container *c = cs->c;
	const struct berth_cgroup_usage *u = &cs->usage;

	if (u->when_ns == 0)
		return;
	if (c->cpu_at_ns && u->when_ns > c->cpu_at_ns && u->cpu_ns >= c->cpu_ns) {
		uint64_t ns = u->when_ns - c->cpu_at_ns;
		if (ns < RATE_MIN_NS) {
			cs->rate_known = c->rate_known;
			cs->nano_cores = c->nano_cores;
			return;
		}
		cs->nano_cores = (uint64_t)((double)(u->cpu_ns - c->cpu_ns) / (double)ns * 1e9);
		cs->rate_known = true;
	}
	c->cpu_at_ns = u->when_ns;
	c->cpu_ns = u->cpu_ns;
	c->rate_known = cs->rate_known;
	c->nano_cores = cs->nano_cores;
}

static Runtime__V1__UInt64Value *value(struct berth_arena *a, uint64_t n)
{
	Runtime__V1__UInt64Value *v = berth_arena_alloc(a, sizeof(*v));
	runtime__v1__uint64_value__init(v);
	v->value = n;
	return v;
}

static Runtime__V1__PsiData *psi_data(struct berth_arena *a, const struct berth_pressure *p)
{
	Runtime__V1__PsiData *d = berth_arena_alloc(a, sizeof(*d));
	runtime__v1__psi_data__init(d);
	d->total = p->total_us;
	d->avg10 = p->avg10;
	d->avg60 = p->avg60;
	d->avg300 = p->avg300;
	return d;
}

static Runtime__V1__PsiStats *psi(struct berth_arena *a, const struct berth_psi *p)
{
	if (!p->known)
		return NULL;
	Runtime__V1__PsiStats *s = berth_arena_alloc(a, sizeof(*s));
	runtime__v1__psi_stats__init(s);
	s->some = psi_data(a, &p->some);
	s->full = psi_data(a, &p->full);
	return s;
}

static Runtime__V1__CpuUsage *cpu(struct berth_arena *a, const struct berth_cgroup_usage *u,
        bool rate_known, uint64_t nano_cores)
{
	Runtime__V1__CpuUsage *c = berth_arena_alloc(a, sizeof(*c));
	runtime__v1__cpu_usage__init(c);
	c->timestamp = (int64_t)u->when_ns;
	c->usage_core_nano_seconds = value(a, u->cpu_ns);
	if (rate_known)
		c->usage_nano_cores = value(a, nano_cores);
	c->psi = psi(a, &u->cpu_psi);
	return c;
}

static Runtime__V1__MemoryUsage *memory(struct berth_arena *a, const struct berth_cgroup_usage *u)
{
	Runtime__V1__MemoryUsage *m = berth_arena_alloc(a, sizeof(*m));
	runtime__v1__memory_usage__init(m);
	m->timestamp = (int64_t)u->when_ns;
	m->working_set_bytes = value(a, u->mem_working_set);
	m->usage_bytes = value(a, u->mem_usage);
	m->rss_bytes = value(a, u->mem_rss);
	m->page_faults = value(a, u->page_faults);
	m->major_page_faults = value(a, u->major_page_faults);
	m->available_bytes =
	        value(a, u->mem_limit > u->mem_working_set ? u->mem_limit - u->mem_working_set : 0);
	m->psi = psi(a, &u->mem_psi);
	return m;
}

static Runtime__V1__IoUsage *io(struct berth_arena *a, const struct berth_cgroup_usage *u)
{
	if (!u->io_psi.known)
		return NULL;
	Runtime__V1__IoUsage *i = berth_arena_alloc(a, sizeof(*i));
	runtime__v1__io_usage__init(i);
	i->timestamp = (int64_t)u->when_ns;
	i->psi = psi(a, &u->io_psi);
	return i;
}

static Runtime__V1__SwapUsage *swap(struct berth_arena *a, const struct berth_cgroup_usage *u)
{
	if (!u->swap_known)
		return NULL;
	Runtime__V1__SwapUsage *s = berth_arena_alloc(a, sizeof(*s));
	runtime__v1__swap_usage__init(s);
	s->timestamp = (int64_t)u->when_ns;
	s->swap_usage_bytes = value(a, u->swap_usage);
	s->swap_available_bytes =
	        value(a, u->swap_limit > u->swap_usage ? u->swap_limit - u->swap_usage : 0);
	return s;
}

static Runtime__V1__FilesystemUsage *layer(struct berth_arena *a, const struct container_sample *cs)
{
	Runtime__V1__FilesystemUsage *f = berth_arena_alloc(a, sizeof(*f));
	runtime__v1__filesystem_usage__init(f);
	f->timestamp = (int64_t)berth_realtime_ns();
	f->fs_id = berth_arena_alloc(a, sizeof(*f->fs_id));
	runtime__v1__filesystem_identifier__init(f->fs_id);
	f->fs_id->mountpoint = cs->c->d->config->root;
	f->used_bytes = value(a, cs->layer_bytes);
	f->inodes_used = value(a, cs->layer_inodes);
	return f;
}

static Runtime__V1__ContainerStats *container_stats(
        struct berth_arena *a, struct container_sample *cs)
{
	struct berth_container *c = cs->c;
	Runtime__V1__ContainerStats *s = berth_arena_alloc(a, sizeof(*s));
	Runtime__V1__ContainerAttributes *at = berth_arena_alloc(a, sizeof(*at));

	runtime__v1__container_stats__init(s);
	runtime__v1__container_attributes__init(at);
	s->attributes = at;
	at->id = c->id;
	at->metadata = c->config->metadata;
	at->labels = (void *)c->config->labels;
	at->n_labels = c->config->n_labels;
	at->annotations = (void *)c->config->annotations;
	at->n_annotations = c->config->n_annotations;
	s->writable_layer = layer(a, cs);
	if (cs->usage.when_ns == 0)
		return s; /* it has ended: what it used is not known any more */
	s->cpu = cpu(a, &cs->usage, cs->rate_known, cs->nano_cores);
	s->memory = memory(a, &cs->usage);
	s->swap = swap(a, &cs->usage);
	s->io = io(a, &cs->usage);
	return s;
}

static Runtime__V1__NetworkInterfaceUsage *interface(
        struct berth_arena *a, const struct berth_interface *i)
{
	Runtime__V1__NetworkInterfaceUsage *n = berth_arena_alloc(a, sizeof(*n));
	runtime__v1__network_interface_usage__init(n);
	n->name = berth_arena_strdup(a, i->name);
	n->rx_bytes = value(a, i->rx_bytes);
	n->rx_errors = value(a, i->rx_errors);
	n->tx_bytes = value(a, i->tx_bytes);
	n->tx_errors = value(a, i->tx_errors);
	return n;
}

static Runtime__V1__NetworkUsage *network(struct berth_arena *a, const struct pod_sample *p)
{
	Runtime__V1__NetworkUsage *n = berth_arena_alloc(a, sizeof(*n));
	runtime__v1__network_usage__init(n);
	n->timestamp = (int64_t)berth_realtime_ns();
	n->interfaces = berth_arena_alloc(a, (p->n_interfaces + 1) * sizeof(*n->interfaces));
	for (unsigned int i = 0; i < p->n_interfaces; i++) {
		Runtime__V1__NetworkInterfaceUsage *u = interface(a, &p->interfaces[i]);
		if (strcmp(u->name, "eth0") == 0)
			n->default_interface = u;
		n->interfaces[n->n_interfaces++] = u;
	}
	return n;
}

static void add_usage(struct berth_cgroup_usage *to, const struct berth_cgroup_usage *u)
{
	to->cpu_ns += u->cpu_ns;
	to->mem_usage += u->mem_usage;
	to->mem_working_set += u->mem_working_set;
	to->mem_rss += u->mem_rss;
	to->page_faults += u->page_faults;
	to->major_page_faults += u->major_page_faults;
	to->pids += u->pids;
	if (u->when_ns > to->when_ns)
		to->when_ns = u->when_ns;
}

static Runtime__V1__PodSandboxStats *pod_stats(
        struct berth_arena *a, struct sampling *s, struct pod_sample *p)
{
	struct berth_pod *pod = p->pod;
	Runtime__V1__PodSandboxStats *r = berth_arena_alloc(a, sizeof(*r));
	Runtime__V1__PodSandboxAttributes *at = berth_arena_alloc(a, sizeof(*at));
	Runtime__V1__LinuxPodSandboxStats *l = berth_arena_alloc(a, sizeof(*l));
	struct berth_cgroup_usage u = p->usage;
	uint64_t nano_cores = 0;
	bool rate_known = false;

	runtime__v1__pod_sandbox_stats__init(r);
	runtime__v1__pod_sandbox_attributes__init(at);
	runtime__v1__linux_pod_sandbox_stats__init(l);
	r->attributes = at;
	r->linux = l;
	at->id = pod->id;
	at->metadata = pod->config->metadata;
	at->labels = (void *)pod->config->labels;
	at->n_labels = pod->config->n_labels;
	at->annotations = (void *)pod->config->annotations;
	at->n_annotations = pod->config->n_annotations;
	l->containers = berth_arena_alloc(a, (p->n + 1) * sizeof(*l->containers));
	for (size_t i = p->first; i < p->first + p->n; i++) {
		struct container_sample *cs = &s->containers[i];
		l->containers[l->n_containers++] = container_stats(a, cs);
		nano_cores += cs->nano_cores;
		rate_known = rate_known || cs->rate_known;
		if (p->usage.when_ns == 0)
			add_usage(&u, &cs->usage);
	}
	if (u.when_ns == 0)
		u.when_ns = berth_realtime_ns();
	l->cpu = cpu(a, &u, rate_known, nano_cores);
	l->memory = memory(a, &u);
	l->io = io(a, &u);
	l->network = network(a, p);
	l->process = berth_arena_alloc(a, sizeof(*l->process));
	runtime__v1__process_usage__init(l->process);
	l->process->timestamp = (int64_t)u.when_ns;
	l->process->process_count = value(a, u.pids);
	return r;
}

/* ---- the requests ---- */

static void sampling_free(struct sampling *s)
{
	for (size_t i = 0; i < s->n_containers; i++)
		berth_container_unref(s->containers[i].c);
	for (size_t i = 0; i < s->n_pods; i++) {
		berth_pod_unref(s->pods[i].pod);
		free(s->pods[i].cgroup);
	}
	free(s->containers);
	free(s->pods);
	free(s);
}

static void sampled(void *arg)
{
	struct sampling *s = arg;

	for (size_t i = 0; i < s->n_containers; i++)
		rate(&s->containers[i]);
	s->reply(s);
	sampling_free(s);
}

static struct sampling *begin(
        struct berth_daemon *d, struct berth_grpc_call *call, void (*reply)(struct sampling *s))
{
	struct sampling *s = berth_new(struct sampling);
	s->d = d;
	s->call = call;
	s->reply = reply;
	s->containers =
	        berth_new_array(struct container_sample, HASH_COUNT(d->containers->by_id) + 1);
	s->pods = berth_new_array(struct pod_sample, HASH_CNT(hh_id, d->pods->by_id) + 1);
	return s;
}

static void go(struct sampling *s)
{
	if (berth_work(s->d->flows, s->d->loop, sample, sampled, s) == 0)
		return;
	berth_grpc_failf(s->call, BERTH_RESOURCE_EXHAUSTED, "too many requests are under way");
	sampling_free(s);
}

static void add_container(struct sampling *s, struct berth_container *c)
{
	s->containers[s->n_containers++].c = berth_container_ref(c);
}

static bool sampled_state(const struct berth_container *c)
{
	return (c->phase == BERTH_CTR_RUNNING || c->phase == BERTH_CTR_CREATED) && c->cgroups_path;
}

static void add_pod(struct sampling *s, struct berth_pod *p)
{
	struct pod_sample *ps = &s->pods[s->n_pods++];
	const char *parent = p->config->linux ? p->config->linux->cgroup_parent : "";

	ps->pod = berth_pod_ref(p);
	ps->first = s->n_containers;
	for (struct berth_container *c = p->containers; c; c = c->next) {
		if (!sampled_state(c))
			continue;
		add_container(s, c);
		ps->n++;
		if (!p->host_network)
			ps->pid = c->pid > 0 ? c->pid : ps->pid;
	}
	if (parent && parent[0] == '/')
		ps->cgroup = berth_strdup(parent);
}

static void reply_container(struct sampling *s)
{
	Runtime__V1__ContainerStatsResponse r = RUNTIME__V1__CONTAINER_STATS_RESPONSE__INIT;
	r.stats = container_stats(berth_grpc_arena(s->call), &s->containers[0]);
	berth_grpc_reply(s->call, &r.base);
}

HANDLER(berth_cri_container_stats)
{
	const Runtime__V1__ContainerStatsRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(arg, q->container_id, &err);

	if (!c) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	if (!c->cgroups_path) {
		berth_grpc_failf(
		        call, BERTH_FAILED_PRECONDITION, "container %s has no cgroup", c->id);
		return;
	}
	struct sampling *s = begin(arg, call, reply_container);
	add_container(s, c);
	go(s);
}

static void stream_containers(struct sampling *s)
{
	Runtime__V1__StreamContainerStatsResponse r =
	        RUNTIME__V1__STREAM_CONTAINER_STATS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(s->call);
	Runtime__V1__ContainerStats *slice[BERTH_STREAM_ITEMS];

	r.container_stats = slice;
	for (size_t i = 0; i < s->n_containers; i++) {
		slice[r.n_container_stats++] = container_stats(a, &s->containers[i]);
		if (r.n_container_stats < BERTH_STREAM_ITEMS && i + 1 < s->n_containers)
			continue;
		if (berth_grpc_send(s->call, &r.base) < 0)
			break;
		r.n_container_stats = 0;
	}
	berth_grpc_finish(s->call);
}

static bool container_wanted(
        const struct berth_container *c, const Runtime__V1__ContainerStatsFilter *f)
{
	if (!sampled_state(c))
		return false;
	if (!f)
		return true;
	if (*f->id && strncmp(c->id, f->id, strlen(f->id)) != 0)
		return false;
	if (*f->pod_sandbox_id &&
	        strncmp(c->pod->id, f->pod_sandbox_id, strlen(f->pod_sandbox_id)) != 0)
		return false;
	return berth_labels_match((void *const *)c->config->labels, c->config->n_labels,
	        (void *const *)f->label_selector, f->n_label_selector);
}

static void reply_containers(struct sampling *s)
{
	Runtime__V1__ListContainerStatsResponse r =
	        RUNTIME__V1__LIST_CONTAINER_STATS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(s->call);

	r.stats = berth_arena_alloc(a, (s->n_containers + 1) * sizeof(*r.stats));
	for (size_t i = 0; i < s->n_containers; i++)
		r.stats[r.n_stats++] = container_stats(a, &s->containers[i]);
	berth_grpc_reply(s->call, &r.base);
}

static void list_containers(struct berth_grpc_call *call, struct berth_daemon *d,
        const Runtime__V1__ContainerStatsFilter *filter, void (*reply)(struct sampling *s))
{
	struct sampling *s = begin(d, call, reply);
	struct berth_container *c, *tmp;

	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		if (container_wanted(c, filter))
			add_container(s, c);
	}
	go(s);
}

HANDLER(berth_cri_list_container_stats)
{
	const Runtime__V1__ListContainerStatsRequest *q = (const void *)request;
	list_containers(call, arg, q->filter, reply_containers);
}

HANDLER(berth_cri_stream_container_stats)
{
	const Runtime__V1__StreamContainerStatsRequest *q = (const void *)request;
	list_containers(call, arg, q->filter, stream_containers);
}

static void reply_pod(struct sampling *s)
{
	Runtime__V1__PodSandboxStatsResponse r = RUNTIME__V1__POD_SANDBOX_STATS_RESPONSE__INIT;
	r.stats = pod_stats(berth_grpc_arena(s->call), s, &s->pods[0]);
	berth_grpc_reply(s->call, &r.base);
}

HANDLER(berth_cri_pod_sandbox_stats)
{
	const Runtime__V1__PodSandboxStatsRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_pod *p = berth_pod_find(arg, q->pod_sandbox_id, &err);

	if (!p) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	struct sampling *s = begin(arg, call, reply_pod);
	add_pod(s, p);
	go(s);
}

static bool pod_wanted(const struct berth_pod *p, const Runtime__V1__PodSandboxStatsFilter *f)
{
	if (p->phase != BERTH_POD_READY)
		return false;
	if (!f)
		return true;
	if (*f->id && strncmp(p->id, f->id, strlen(f->id)) != 0)
		return false;
	return berth_labels_match((void *const *)p->config->labels, p->config->n_labels,
	        (void *const *)f->label_selector, f->n_label_selector);
}

static void reply_pods(struct sampling *s)
{
	Runtime__V1__ListPodSandboxStatsResponse r =
	        RUNTIME__V1__LIST_POD_SANDBOX_STATS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(s->call);

	r.stats = berth_arena_alloc(a, (s->n_pods + 1) * sizeof(*r.stats));
	for (size_t i = 0; i < s->n_pods; i++)
		r.stats[r.n_stats++] = pod_stats(a, s, &s->pods[i]);
	berth_grpc_reply(s->call, &r.base);
}

static void list_pods(struct berth_grpc_call *call, struct berth_daemon *d,
        const Runtime__V1__PodSandboxStatsFilter *filter, void (*reply)(struct sampling *s))
{
	struct sampling *s = begin(d, call, reply);
	struct berth_pod *p, *tmp;

	HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
		if (pod_wanted(p, filter))
			add_pod(s, p);
	}
	go(s);
}

HANDLER(berth_cri_list_pod_sandbox_stats)
{
	const Runtime__V1__ListPodSandboxStatsRequest *q = (const void *)request;
	list_pods(call, arg, q->filter, reply_pods);
}

static void stream_pods(struct sampling *s)
{
	Runtime__V1__StreamPodSandboxStatsResponse r =
	        RUNTIME__V1__STREAM_POD_SANDBOX_STATS_RESPONSE__INIT;
	struct berth_arena *a = berth_grpc_arena(s->call);
	Runtime__V1__PodSandboxStats *slice[BERTH_STREAM_ITEMS];

	r.pod_sandbox_stats = slice;
	for (size_t i = 0; i < s->n_pods; i++) {
		slice[r.n_pod_sandbox_stats++] = pod_stats(a, s, &s->pods[i]);
		if (r.n_pod_sandbox_stats < BERTH_STREAM_ITEMS && i + 1 < s->n_pods)
			continue;
		if (berth_grpc_send(s->call, &r.base) < 0)
			break;
		r.n_pod_sandbox_stats = 0;
	}
	berth_grpc_finish(s->call);
}

HANDLER(berth_cri_stream_pod_sandbox_stats)
{
	const Runtime__V1__StreamPodSandboxStatsRequest *q = (const void *)request;
	list_pods(call, arg, q->filter, stream_pods);
}
