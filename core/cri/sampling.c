/* See sampling.h. The rate of CPU use is that since the sample before. */
#include "cri/sampling.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "base/limits.h"

#define CGROUP_MOUNT "/sys/fs/cgroup"
#define RATE_MIN_NS 100000000u /* a shorter time says nothing about a rate */
#define STACK BERTH_KIB(128)

/* ---- on the worker ---- */

static struct berth_cg_source source(const struct berth_sampling *s, const char *path)
{
	return (struct berth_cg_source){
	        .mount = CGROUP_MOUNT, .path = path, .v2 = s->d->host.cgroup_v2};
}

static void sample_container(struct berth_sampling *s, struct berth_container_sample *cs)
{
	_cleanup_free_ char *path = berth_cgroup_path_of(cs->c->cgroups_path);
	struct berth_cg_source files = source(s, path);

	if (berth_cgroup_usage(&files, &cs->usage) < 0 || !s->detailed)
		return;
	cs->detail = berth_new(struct berth_cgroup_detail);
	berth_cgroup_read_detail(&files, cs->c->pid, cs->detail);
}

static void sample_pod(struct berth_sampling *s, struct berth_pod_sample *p)
{
	struct berth_cg_source files = source(s, p->cgroup);

	if (p->cgroup)
		(void)!berth_cgroup_usage(&files, &p->usage);
}

/* Not through a container's process: a pod has its network while nothing runs in it, too. */
static void *sample_networks(void *arg)
{
	struct berth_sampling *s = arg;

	for (size_t i = 0; i < s->n_pods; i++) {
		struct berth_pod_sample *p = &s->pods[i];
		_cleanup_free_ char *text = NULL;
		_cleanup_close_ int fd = p->netns ? open(p->netns, O_RDONLY | O_CLOEXEC) : -1;
		if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
			continue; /* stopped meanwhile */
		if (berth_read_file(
		            AT_FDCWD, "/proc/thread-self/net/dev", BERTH_KIB(64), &text, NULL) == 0)
			p->n_interfaces =
			        berth_interfaces(text, p->interfaces, BERTH_LIMIT_INTERFACES);
	}
	return NULL;
}

/* A thread of its own enters the pods' namespaces, for this one has to stay where it is. */
static void sample_networks_apart(struct berth_sampling *s)
{
	pthread_attr_t attr;
	pthread_t thread;
	bool any = false;

	for (size_t i = 0; i < s->n_pods; i++)
		any = any || s->pods[i].netns;
	if (!any)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	if (pthread_create(&thread, &attr, sample_networks, s) == 0)
		pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
}

static void sample_fs(struct berth_sampling *s)
{
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

static void sample(void *arg)
{
	struct berth_sampling *s = arg;
	if (s->detailed)
		sample_fs(s);
	for (size_t i = 0; i < s->n_containers; i++)
		sample_container(s, &s->containers[i]);
	for (size_t i = 0; i < s->n_pods; i++)
		sample_pod(s, &s->pods[i]);
	sample_networks_apart(s);
}

/* ---- back on the loop ---- */

static void rate(struct berth_cpu_last *last, const struct berth_cgroup_usage *u,
        uint64_t *ret_nano_cores, bool *ret_known)
{
	if (u->when_ns == 0)
		return;
	if (last->at_ns && u->when_ns > last->at_ns && u->cpu_ns >= last->cpu_ns) {
		uint64_t ns = u->when_ns - last->at_ns;
		if (ns < RATE_MIN_NS) {
			*ret_known = last->rate_known;
			*ret_nano_cores = last->nano_cores;
			return;
		}
		*ret_nano_cores = (uint64_t)((double)(u->cpu_ns - last->cpu_ns) / (double)ns * 1e9);
		*ret_known = true;
	}
	*last = (struct berth_cpu_last){.at_ns = u->when_ns,
	        .cpu_ns = u->cpu_ns,
	        .nano_cores = *ret_nano_cores,
	        .rate_known = *ret_known};
}

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
		free(s->containers[i].detail);
	}
	for (size_t i = 0; i < s->n_pods; i++) {
		berth_pod_unref(s->pods[i].pod);
		free(s->pods[i].cgroup);
		free(s->pods[i].netns);
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

static void sampled(void *arg)
{
	struct berth_sampling *s = arg;

	for (size_t i = 0; i < s->n_containers; i++) {
		struct berth_container_sample *cs = &s->containers[i];
		rate(&cs->c->cpu, &cs->usage, &cs->nano_cores, &cs->rate_known);
	}
	for (size_t i = 0; i < s->n_pods; i++) {
		struct berth_pod_sample *p = &s->pods[i];
		rate(&p->pod->cpu, &p->usage, &p->nano_cores, &p->rate_known);
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

void berth_sampling_start(struct berth_sampling *s)
{
	s->waiting = 1;
	if (berth_work(s->d->flows, s->d->loop, sample, sampled, s) == 0) {
		ask_layers(s);
		return;
	}
	berth_error_set(
	        &s->err, BERTH_RESOURCE_EXHAUSTED, "statistics: too many requests are under way");
	part_over(s);
}

void berth_sampling_add_container(struct berth_sampling *s, struct berth_container *c)
{
	s->containers[s->n_containers++].c = berth_container_ref(c);
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
	ps->netns = p->host_network ? NULL : berth_pod_ns_path(p, "net");
	ps->cgroup = berth_cgroup_parent_path(
	        (enum berth_cgroup_driver)s->d->config->cri.cgroup_driver, parent);
}
