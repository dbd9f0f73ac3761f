/* ContainerStats, ListContainerStats, PodSandboxStats, ListPodSandboxStats and their streams. */
#include "cri/sampling.h"

#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "image/usage.h"

static Runtime__V1__UInt64Value *value(struct berth_arena *a, uint64_t n)
{
	Runtime__V1__UInt64Value *v = berth_arena_alloc(a, sizeof(*v));
	runtime__v1__uint64_value__init(v);
	v->value = n;
	return v;
}

/* NULL without a limit: 0 would say that nothing is left. */
static Runtime__V1__UInt64Value *available(struct berth_arena *a, uint64_t limit, uint64_t used)
{
	return limit ? value(a, limit > used ? limit - used : 0) : NULL;
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
	m->available_bytes = available(a, u->mem_limit, u->mem_working_set);
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
	if (u->swap_limited) /* 0 may be a limit, too */
		s->swap_available_bytes =
		        value(a, u->swap_limit > u->swap_usage ? u->swap_limit - u->swap_usage : 0);
	return s;
}

/* The place is that of ImageFsInfo: clients match the two. */
static Runtime__V1__FilesystemUsage *layer(
        struct berth_arena *a, const struct berth_container_sample *cs)
{
	const struct berth_layer *known = &cs->c->layer;
	if (!known->at_ns)
		return NULL;
	_cleanup_free_ char *place = berth_disk_place(cs->c->d, cs->c->storage);
	Runtime__V1__FilesystemUsage *f = berth_arena_alloc(a, sizeof(*f));
	runtime__v1__filesystem_usage__init(f);
	f->timestamp = (int64_t)known->at_ns;
	f->fs_id = berth_arena_alloc(a, sizeof(*f->fs_id));
	runtime__v1__filesystem_identifier__init(f->fs_id);
	f->fs_id->mountpoint = berth_arena_strdup(a, place);
	f->used_bytes = value(a, known->bytes);
	f->inodes_used = value(a, known->inodes);
	return f;
}

static Runtime__V1__ContainerStats *container_stats(
        struct berth_arena *a, struct berth_container_sample *cs)
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

/* NULL where the pod has no interface of its own: a kubelet that takes pods' statistics from here
 * crashes by a network without a default interface. */
static Runtime__V1__NetworkUsage *network(struct berth_arena *a, const struct berth_pod_sample *p)
{
	if (p->n_interfaces == 0)
		return NULL;
	Runtime__V1__NetworkUsage *n = berth_arena_alloc(a, sizeof(*n));
	runtime__v1__network_usage__init(n);
	n->timestamp = (int64_t)p->when_ns;
	n->interfaces = berth_arena_alloc(a, (p->n_interfaces + 1) * sizeof(*n->interfaces));
	for (unsigned int i = 0; i < p->n_interfaces; i++) {
		Runtime__V1__NetworkInterfaceUsage *u = interface(a, &p->interfaces[i]);
		if (!n->default_interface || strcmp(u->name, "eth0") == 0)
			n->default_interface = u;
		n->interfaces[n->n_interfaces++] = u;
	}
	return n;
}

static Runtime__V1__PodSandboxStats *pod_stats(
        struct berth_arena *a, struct berth_sampling *s, struct berth_pod_sample *p)
{
	struct berth_pod *pod = p->pod;
	Runtime__V1__PodSandboxStats *r = berth_arena_alloc(a, sizeof(*r));
	Runtime__V1__PodSandboxAttributes *at = berth_arena_alloc(a, sizeof(*at));
	Runtime__V1__LinuxPodSandboxStats *l = berth_arena_alloc(a, sizeof(*l));
	struct berth_cgroup_usage u = p->usage;
	uint64_t nano_cores = p->nano_cores;
	bool rate_known = p->rate_known;

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
		struct berth_container_sample *cs = &s->containers[i];
		l->containers[l->n_containers++] = container_stats(a, cs);
		if (p->usage.when_ns != 0)
			continue;
		nano_cores += cs->nano_cores;
		rate_known = rate_known || cs->rate_known;
		berth_sampling_add_usage(&u, &cs->usage);
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

static void reply_container(struct berth_sampling *s)
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
	struct berth_sampling *s = berth_sampling_new(arg, call, reply_container);
	berth_sampling_add_container(s, c);
	berth_sampling_start(s);
}

static void stream_containers(struct berth_sampling *s)
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
	if (!berth_sampling_possible(c))
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

static void reply_containers(struct berth_sampling *s)
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
        const Runtime__V1__ContainerStatsFilter *filter, void (*reply)(struct berth_sampling *s))
{
	struct berth_sampling *s = berth_sampling_new(d, call, reply);
	struct berth_container *c, *tmp;

	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		if (container_wanted(c, filter))
			berth_sampling_add_container(s, c);
	}
	berth_sampling_start(s);
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

static void reply_pod(struct berth_sampling *s)
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
	struct berth_sampling *s = berth_sampling_new(arg, call, reply_pod);
	berth_sampling_add_pod(s, p);
	berth_sampling_start(s);
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

static void reply_pods(struct berth_sampling *s)
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
        const Runtime__V1__PodSandboxStatsFilter *filter, void (*reply)(struct berth_sampling *s))
{
	struct berth_sampling *s = berth_sampling_new(d, call, reply);
	struct berth_pod *p, *tmp;

	HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
		if (pod_wanted(p, filter))
			berth_sampling_add_pod(s, p);
	}
	berth_sampling_start(s);
}

HANDLER(berth_cri_list_pod_sandbox_stats)
{
	const Runtime__V1__ListPodSandboxStatsRequest *q = (const void *)request;
	list_pods(call, arg, q->filter, reply_pods);
}

static void stream_pods(struct berth_sampling *s)
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
