/* See sampling.h. An answer waits for two things: the sampler (stats/sampler.h) and what storage
 * drivers say of the writable layers (container/layer.c). */
#include "cri/sampling.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "base/limits.h"

void berth_sampling_add_usage(struct berth_cgroup_usage *to, const struct berth_cgroup_usage *u)
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

static void sampling_free(struct berth_sampling *s)
{
	for (size_t i = 0; i < s->n_containers; i++) {
		berth_container_unref(s->containers[i].c);
		berth_sampled_detail_unref(s->containers[i].detail);
	}
	for (size_t i = 0; i < s->n_pods; i++) {
		berth_pod_unref(s->pods[i].pod);
		free(s->pods[i].interfaces);
		free(s->pods[i].cgroup);
	}
	berth_timer_free(s->timer);
	berth_error_free(s->err);
	free(s->containers);
	free(s->pods);
	free(s);
}

/* One that was waited for is there; with the last of them the answer goes. */
static void part_over(void *arg)
{
	struct berth_sampling *s = arg;

	if (--s->waiting > 0)
		return;
	if (s->err)
		berth_grpc_fail(s->call, s->err);
	else
		s->reply(s);
	sampling_free(s);
}

static void failed(struct berth_sampling *s, const struct berth_error *err)
{
	if (err && !s->err)
		s->err = berth_error_copy(err);
}

/* Copied: the next sample may come before the answer is made. */
static void sampled(const struct berth_error *err, void *arg)
{
	struct berth_sampling *s = arg;

	failed(s, err);
	for (size_t i = 0; i < s->n_containers; i++) {
		struct berth_container_sample *cs = &s->containers[i];
		const struct berth_sample *last = berth_sampled_last(cs->c->sampled);
		if (!last)
			continue;
		cs->usage = last->usage;
		cs->rate_known = last->rate_known;
		cs->nano_cores = last->nano_cores;
		cs->detail = s->detailed ? berth_sampled_detail_ref(last->detail) : NULL;
	}
	for (size_t i = 0; i < s->n_pods; i++) {
		struct berth_pod_sample *p = &s->pods[i];
		const struct berth_sample *last = berth_sampled_last(p->pod->sampled);
		if (!last)
			continue;
		p->usage = last->usage;
		p->rate_known = last->rate_known;
		p->nano_cores = last->nano_cores;
		p->when_ns = last->when_ns;
		p->n_interfaces = last->n_interfaces;
		p->interfaces = berth_memdup(
		        last->interfaces, last->n_interfaces * sizeof(*last->interfaces));
	}
	part_over(s);
}

/* What is known of the layers has to do. */
static void waited_enough(void *arg)
{
	struct berth_sampling *s = arg;

	s->timer = berth_timer_free(s->timer);
	s->waiting++;
	for (size_t i = 0; i < s->n_containers; i++) {
		if (!s->containers[i].layer.prev)
			continue;
		berth_layer_wait_end(&s->containers[i].layer);
		s->waiting--;
	}
	part_over(s);
}

static void ask_layers(struct berth_sampling *s)
{
	size_t before = s->waiting;

	for (size_t i = 0; i < s->n_containers; i++) {
		struct berth_container_sample *cs = &s->containers[i];
		cs->layer.fn = part_over;
		cs->layer.arg = s;
		s->waiting += berth_layer_ask(cs->c, &cs->layer);
	}
	if (s->waiting > before)
		s->timer = berth_timer_start(s->d->loop, BERTH_LAYER_WAIT_MS, waited_enough, s);
}

struct berth_sampling *berth_sampling_new(struct berth_daemon *d, struct berth_grpc_call *call,
        void (*reply)(struct berth_sampling *s))
{
	struct berth_sampling *s = berth_new(struct berth_sampling);
	s->d = d;
	s->call = call;
	s->reply = reply;
	s->containers = berth_new_array(
	        struct berth_container_sample, HASH_COUNT(d->containers->by_id) + 1);
	s->pods = berth_new_array(struct berth_pod_sample, HASH_CNT(hh_id, d->pods->by_id) + 1);
	return s;
}

static void ask_sampler(struct berth_sampling *s)
{
	_cleanup_free_ struct berth_sampled_ask *v =
	        berth_new_array(struct berth_sampled_ask, s->n_containers + s->n_pods + 1);
	size_t n = 0;

	for (size_t i = 0; i < s->n_containers; i++) {
		struct berth_container *c = s->containers[i].c;
		if (c->sampled)
			v[n++] = (struct berth_sampled_ask){.t = c->sampled, .init = c->pid};
	}
	for (size_t i = 0; i < s->n_pods; i++)
		if (s->pods[i].pod->sampled)
			v[n++].t = s->pods[i].pod->sampled;
	s->waiting++;
	berth_sampler_ask(s->d->sampler, v, n, s->detailed, sampled, s);
}

static void sample_fs(void *arg)
{
	struct berth_sampling *s = arg;
	const char *root = s->d->config->root;
	struct statvfs fs;
	struct stat st;

	if (statvfs(root, &fs) < 0 || stat(root, &st) < 0)
		return;
	s->fs.bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	s->fs.inodes = fs.f_files;
	s->fs.inodes_free = fs.f_ffree;
	berth_block_device_name(
	        major(st.st_dev), minor(st.st_dev), s->fs.device, sizeof(s->fs.device));
}

static void ask_fs(struct berth_sampling *s)
{
	struct berth_error *err = NULL;

	if (berth_work(s->d->flows, s->d->loop, sample_fs, part_over, s) == 0) {
		s->waiting++;
		return;
	}
	berth_error_set(
	        &err, BERTH_RESOURCE_EXHAUSTED, "statistics: too many requests are under way");
	failed(s, err);
	berth_error_free(err);
}

void berth_sampling_start(struct berth_sampling *s)
{
	s->waiting = 1; /* until all is asked */
	ask_layers(s);
	ask_sampler(s);
	if (s->detailed)
		ask_fs(s);
	part_over(s);
}

void berth_sampling_add_container(struct berth_sampling *s, struct berth_container *c)
{
	s->containers[s->n_containers++].c = berth_container_ref(c);
	if (!c->sampled && c->cgroups_path) {
		_cleanup_free_ char *path = berth_cgroup_path_of(c->cgroups_path);
		c->sampled = berth_sampled_new(s->d->sampler, path, NULL);
	}
	berth_sampled_keep(c->sampled, c->phase == BERTH_CTR_RUNNING);
}

bool berth_sampling_possible(const struct berth_container *c)
{
	return c->phase == BERTH_CTR_RUNNING && c->cgroups_path;
}

void berth_sampling_add_pod(struct berth_sampling *s, struct berth_pod *p)
{
	struct berth_pod_sample *ps = &s->pods[s->n_pods++];
	const char *parent = p->config->linux ? p->config->linux->cgroup_parent : "";

	ps->pod = berth_pod_ref(p);
	ps->first = s->n_containers;
	for (struct berth_container *c = p->containers; c; c = c->next) {
		if (!berth_sampling_possible(c))
			continue;
		berth_sampling_add_container(s, c);
		ps->n++;
	}
	ps->cgroup = berth_cgroup_parent_path(
	        (enum berth_cgroup_driver)s->d->config->cri.cgroup_driver, parent);
	if (!p->sampled && (ps->cgroup || !p->host_network)) {
		_cleanup_free_ char *netns = p->host_network ? NULL : berth_pod_ns_path(p, "net");
		p->sampled = berth_sampled_new(s->d->sampler, ps->cgroup, netns);
	}
	berth_sampled_keep(p->sampled, berth_pod_ready(p));
}
