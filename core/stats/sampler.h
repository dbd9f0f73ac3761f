/* Samples what containers and pods use. One per daemon; one sample at a time runs on a worker and
 * takes all that was asked for since the one before began, so however many ask at once, nothing is
 * read more than twice. Files stay open in between (kept.h). [loop] */
#ifndef BERTH_STATS_SAMPLER_H
#define BERTH_STATS_SAMPLER_H

#include "base/error.h"
#include "loop/pool.h"
#include "stats/cgroup.h"
#include "stats/detail.h"
#include "stats/netdev.h"

/* What is told was read at most this long before it was asked for: the questions of one round of a
 * kubelet share a sample, and who has changed something and asks then sees it. */
#define BERTH_SAMPLE_FRESH_NS 100000000u
#define BERTH_LIMIT_INTERFACES 16 /* of one pod */

struct berth_sampler_opts {
	struct berth_loop *loop;
	struct berth_pool *workers;
	const char *mount; /* static: where cgroups are mounted */
	bool v2;
};

struct berth_sampler;
struct berth_sampler *berth_sampler_new(const struct berth_sampler_opts *opts);
/* Before the workers go: from now on no sample is begun. NULL-safe. */
void berth_sampler_stop(struct berth_sampler *s);
/* What is sampled may outlive it. NULL-safe, returns NULL. */
struct berth_sampler *berth_sampler_free(struct berth_sampler *s);

/* The details of one sample, shared by those who asked for them. */
struct berth_sampled_detail {
	int refs;
	struct berth_cgroup_detail of;
};
struct berth_sampled_detail *berth_sampled_detail_ref(struct berth_sampled_detail *d);
struct berth_sampled_detail *berth_sampled_detail_unref(struct berth_sampled_detail *d);

struct berth_sample {
	uint64_t began_ns; /* CLOCK_MONOTONIC: nothing in it was read before that. 0 = none yet */
	uint64_t when_ns;  /* CLOCK_REALTIME */
	struct berth_cgroup_usage usage;
	uint64_t nano_cores;
	bool rate_known;
	struct berth_interface *interfaces;
	unsigned int n_interfaces;
	/* Only until the answers to those who asked for it, and NULL where the cgroup has gone. */
	struct berth_sampled_detail *detail;
};

/* A container, or a pod: its cgroup and its network namespace; NULL = it has none. They need not
 * be there yet, or any more. */
struct berth_sampled;
struct berth_sampled *berth_sampled_new(
        struct berth_sampler *s, const char *cgroup, const char *netns);
struct berth_sampled *berth_sampled_free(struct berth_sampled *t); /* NULL-safe, returns NULL */
/* Whether its files stay open after a sample: from its start to its end. false closes them: at
 * once, or at the end of the sample that is under way. */
void berth_sampled_keep(struct berth_sampled *t, bool keep);
/* NULL-safe: what was sampled last. */
const struct berth_sample *berth_sampled_last(const struct berth_sampled *t);

struct berth_sampled_ask {
	struct berth_sampled *t;
	pid_t init; /* for details: the first process, 0 = none */
};
/* done(NULL, arg) once the last sample of each of them is fresh, maybe before the return; they must
 * live until then, `v` need not. RESOURCE_EXHAUSTED where there is no worker. */
void berth_sampler_ask(struct berth_sampler *s, const struct berth_sampled_ask *v, size_t n,
        bool detailed, void (*done)(const struct berth_error *err, void *arg), void *arg);

/* How many files are open between samples. */
unsigned int berth_sampler_kept(const struct berth_sampler *s);

#endif
