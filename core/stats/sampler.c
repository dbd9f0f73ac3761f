#include "stats/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stats/kept.h"
#include "stats/rate.h"

#define NETWORKS_AT_ONCE 64 /* that are opened together, before any of those is closed again */

struct berth_sampled {
	int refs;
	struct berth_sampler *s;
	char *cgroup, *netns;
	pid_t init;
	bool keep;
	/* The worker's while a sample of it runs. */
	struct berth_kept kept;
	int net_fd;
	struct berth_rate rate;
	struct berth_sample last;
	bool wanted, wanted_detail; /* by the next job */
	bool busy, busy_detail;     /* in the one that runs */
};

/* One of a job: what the worker goes by, and what it found. */
struct item {
	struct berth_sampled *t;
	pid_t init;
	bool keep, detailed;
	uint64_t read_ns; /* CLOCK_MONOTONIC: the CPU time */
	struct berth_sample got;
};

struct job {
	struct berth_sampler *s;
	uint64_t began_ns;
	struct item *items;
	size_t n;
};

struct waiter {
	struct waiter *next;
	uint64_t job; /* the last that it needs */
	void (*done)(const struct berth_error *err, void *arg);
	void *arg;
};

struct berth_sampler {
	int refs; /* one of the daemon's, and one of each berth_sampled's */
	struct berth_sampler_opts opts;
	struct berth_kept_cap cap;
	struct job *running;
	uint64_t jobs; /* that were begun */
	struct berth_sampled **wanted;
	size_t n_wanted, room;
	struct waiter *waiters;
};

/* ---- on the worker ---- */

static void sample_cgroup(struct item *i)
{
	struct berth_sampled *t = i->t;
	struct berth_cg_source files = {.mount = t->s->opts.mount,
	        .path = t->cgroup,
	        .v2 = t->s->opts.v2,
	        .kept = &t->kept};

	t->kept.off = !i->keep;
	if (berth_cgroup_usage(&files, &i->got.usage) < 0) {
		berth_kept_close(&t->kept);
		return;
	}
	i->read_ns = berth_now_ns();
	if (!i->detailed)
		return;
	i->got.detail = berth_new(struct berth_sampled_detail);
	i->got.detail->refs = 1;
	berth_cgroup_read_detail(&files, i->init, &i->got.detail->of);
}

static void read_network(struct item *i, int fd)
{
	struct berth_interface v[BERTH_LIMIT_INTERFACES];

	i->got.n_interfaces = berth_netdev_read(fd, v, BERTH_LIMIT_INTERFACES);
	i->got.interfaces = berth_memdup(v, i->got.n_interfaces * sizeof(*v));
}

static void open_networks(struct item *const *items, size_t n)
{
	struct berth_netdev v[NETWORKS_AT_ONCE];

	for (size_t i = 0; i < n; i++)
		v[i].netns = items[i]->t->netns;
	berth_netdev_open(v, n);
	for (size_t i = 0; i < n; i++) {
		struct berth_sampled *t = items[i]->t;
		if (v[i].fd < 0)
			continue; /* stopped meanwhile */
		read_network(items[i], v[i].fd);
		if (items[i]->keep && berth_kept_cap_take(&t->s->cap, false))
			t->net_fd = v[i].fd;
		else
			berth_close(v[i].fd);
	}
}

static void sample_networks(struct job *j)
{
	struct item *closed[NETWORKS_AT_ONCE];
	size_t n = 0;

	for (size_t i = 0; i < j->n; i++) {
		struct item *it = &j->items[i];
		if (it->t->net_fd >= 0)
			read_network(it, it->t->net_fd);
		else if (it->t->netns)
			closed[n++] = it;
		if (n == NETWORKS_AT_ONCE) {
			open_networks(closed, n);
			n = 0;
		}
	}
	open_networks(closed, n);
}

static void sample(void *arg)
{
	struct job *j = arg;

	for (size_t i = 0; i < j->n; i++)
		if (j->items[i].t->cgroup)
			sample_cgroup(&j->items[i]);
	sample_networks(j);
}

/* ---- what is sampled ---- */

struct berth_sampled_detail *berth_sampled_detail_ref(struct berth_sampled_detail *d)
{
	if (d)
		d->refs++;
	return d;
}

struct berth_sampled_detail *berth_sampled_detail_unref(struct berth_sampled_detail *d)
{
	if (d && --d->refs == 0)
		free(d);
	return NULL;
}

static void close_files(struct berth_sampled *t)
{
	berth_kept_close(&t->kept);
	if (t->net_fd < 0)
		return;
	t->net_fd = berth_close(t->net_fd);
	berth_kept_cap_give(&t->s->cap, 1);
}

struct berth_sampled *berth_sampled_new(
        struct berth_sampler *s, const char *cgroup, const char *netns)
{
	struct berth_sampled *t = berth_new(struct berth_sampled);
	t->refs = 1;
	t->s = s;
	t->cgroup = berth_strdup(cgroup);
	t->netns = berth_strdup(netns);
	t->kept.cap = &s->cap;
	t->net_fd = -1;
	s->refs++;
	return t;
}

static void sampler_unref(struct berth_sampler *s)
{
	if (--s->refs > 0)
		return;
	free(s->wanted);
	free(s);
}

static void drop_details(struct berth_sampled *t)
{
	t->last.detail = berth_sampled_detail_unref(t->last.detail);
}

static void sampled_unref(struct berth_sampled *t)
{
	if (--t->refs > 0)
		return;
	close_files(t);
	drop_details(t);
	free(t->last.interfaces);
	free(t->cgroup);
	free(t->netns);
	sampler_unref(t->s);
	free(t);
}

struct berth_sampled *berth_sampled_free(struct berth_sampled *t)
{
	if (!t)
		return NULL;
	berth_sampled_keep(t, false);
	sampled_unref(t);
	return NULL;
}

void berth_sampled_keep(struct berth_sampled *t, bool keep)
{
	if (!t)
		return;
	t->keep = keep;
	if (!keep && !t->busy)
		close_files(t);
}

const struct berth_sample *berth_sampled_last(const struct berth_sampled *t)
{
	return t ? &t->last : NULL;
}

/* ---- jobs ---- */

static void begin(struct berth_sampler *s);

/* Those whose last job is over. */
static void tell(struct berth_sampler *s, uint64_t job, const struct berth_error *err)
{
	struct waiter *over = NULL, **end = &over;

	for (struct waiter **w = &s->waiters; *w;) {
		struct waiter *one = *w;
		if (one->job > job) {
			w = &one->next;
			continue;
		}
		*w = one->next;
		one->next = NULL;
		*end = one;
		end = &one->next;
	}
	while (over) {
		struct waiter *next = over->next;
		over->done(err, over->arg);
		free(over);
		over = next;
	}
}

static void publish(struct item *i, uint64_t began_ns)
{
	struct berth_sampled *t = i->t;

	t->busy = t->busy_detail = false;
	if (!t->keep)
		close_files(t);
	free(t->last.interfaces);
	drop_details(t);
	t->last = i->got;
	t->last.began_ns = began_ns;
	if (i->read_ns)
		t->last.rate_known = berth_rate_add(
		        &t->rate, i->read_ns, i->got.usage.cpu_ns, &t->last.nano_cores);
}

static void job_free(struct job *j)
{
	for (size_t i = 0; i < j->n; i++)
		sampled_unref(j->items[i].t);
	free(j->items);
	free(j);
}

static void sampled(void *arg)
{
	struct job *j = arg;
	struct berth_sampler *s = j->s;

	s->running = NULL;
	for (size_t i = 0; i < j->n; i++)
		publish(&j->items[i], j->began_ns);
	s->refs++; /* who is told may let go of all that is sampled */
	tell(s, s->jobs, NULL);
	/* They are large, and nobody else is told of them. */
	for (size_t i = 0; i < j->n; i++)
		drop_details(j->items[i].t);
	job_free(j);
	begin(s);
	sampler_unref(s);
}

static struct job *job_new(struct berth_sampler *s)
{
	struct job *j = berth_new(struct job);

	j->s = s;
	j->began_ns = berth_now_ns();
	j->items = berth_new_array(struct item, s->n_wanted);
	for (size_t i = 0; i < s->n_wanted; i++) {
		struct berth_sampled *t = s->wanted[i]; /* with its reference */
		j->items[j->n++] = (struct item){.t = t,
		        .init = t->init,
		        .keep = t->keep,
		        .detailed = t->wanted_detail,
		        .got.when_ns = berth_realtime_ns()};
		t->busy = true;
		t->busy_detail = t->wanted_detail;
		t->wanted = t->wanted_detail = false;
	}
	s->n_wanted = 0;
	return j;
}

static void begin(struct berth_sampler *s)
{
	if (s->running || s->n_wanted == 0)
		return;
	struct job *j = job_new(s);
	s->jobs++;
	s->running = j;
	if (berth_work(s->opts.workers, s->opts.loop, sample, sampled, j) == 0)
		return;
	s->running = NULL;
	for (size_t i = 0; i < j->n; i++)
		j->items[i].t->busy = j->items[i].t->busy_detail = false;
	job_free(j);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	berth_error_set(
	        &err, BERTH_RESOURCE_EXHAUSTED, "statistics: too many requests are under way");
	tell(s, s->jobs, err);
}

static void want(struct berth_sampler *s, const struct berth_sampled_ask *a, bool detailed)
{
	struct berth_sampled *t = a->t;

	t->init = a->init;
	t->wanted_detail = t->wanted_detail || detailed;
	if (t->wanted)
		return;
	t->wanted = true;
	t->refs++;
	if (s->n_wanted == s->room) {
		s->room = s->room ? s->room * 2 : 64;
		s->wanted = berth_reallocarray(s->wanted, s->room, sizeof(struct berth_sampled *));
	}
	s->wanted[s->n_wanted++] = t;
}

static bool joins(const struct berth_sampler *s, uint64_t now)
{
	return s->running && now - s->running->began_ns <= BERTH_SAMPLE_FRESH_NS;
}

/* The number of the job that tells it; 0: it is known. */
static uint64_t job_of(struct berth_sampler *s, const struct berth_sampled_ask *a, uint64_t now)
{
	const struct berth_sampled *t = a->t;

	if (t->last.began_ns && now - t->last.began_ns <= BERTH_SAMPLE_FRESH_NS)
		return 0;
	if (t->busy && joins(s, now))
		return s->jobs;
	want(s, a, false);
	return s->jobs + 1;
}

/* Details do not outlast their job, so all of them come from one. */
static uint64_t job_of_details(
        struct berth_sampler *s, const struct berth_sampled_ask *v, size_t n, uint64_t now)
{
	bool joined = joins(s, now);

	for (size_t i = 0; i < n; i++)
		joined = joined && v[i].t->busy_detail;
	if (joined || n == 0)
		return n ? s->jobs : 0;
	for (size_t i = 0; i < n; i++)
		want(s, &v[i], true);
	return s->jobs + 1;
}

void berth_sampler_ask(struct berth_sampler *s, const struct berth_sampled_ask *v, size_t n,
        bool detailed, void (*done)(const struct berth_error *err, void *arg), void *arg)
{
	uint64_t now = berth_now_ns(), last = detailed ? job_of_details(s, v, n, now) : 0;

	for (size_t i = 0; i < n && !detailed; i++) {
		uint64_t job = job_of(s, &v[i], now);
		if (job > last)
			last = job;
	}
	if (last == 0) {
		done(NULL, arg);
		return;
	}
	struct waiter *w = berth_new(struct waiter);
	*w = (struct waiter){.next = s->waiters, .job = last, .done = done, .arg = arg};
	s->waiters = w;
	begin(s);
}

unsigned int berth_sampler_kept(const struct berth_sampler *s)
{
	return atomic_load(&s->cap.n);
}

struct berth_sampler *berth_sampler_new(const struct berth_sampler_opts *opts)
{
	struct berth_sampler *s = berth_new(struct berth_sampler);
	s->refs = 1;
	s->opts = *opts;
	berth_kept_cap_init(&s->cap);
	return s;
}

void berth_sampler_stop(struct berth_sampler *s)
{
	if (s)
		s->opts.workers = NULL;
}

struct berth_sampler *berth_sampler_free(struct berth_sampler *s)
{
	if (s)
		sampler_unref(s);
	return NULL;
}
