/* Worker threads on demand: a bounded queue served by up to `max_threads` threads that leave after
 * some idle time. Lanes of plugins and the core's own blocking flows run on pools. */
#ifndef BERTH_LOOP_POOL_H
#define BERTH_LOOP_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"
#include "loop/loop.h"

struct berth_pool;
struct berth_pool_opts {
	const char *name; /* at most 15 bytes: the threads' name */
	unsigned int max_threads;
	size_t max_queued;    /* jobs waiting; more are refused */
	size_t stack_bytes;   /* 0 = 1 MiB */
	unsigned int idle_ms; /* a thread without work leaves after it; 0 = 30 s */
};

struct berth_pool *berth_pool_new(const struct berth_pool_opts *opts);
/* [any] Runs fn(arg) on a worker. -EAGAIN where the queue is full; then fn never runs. */
int berth_pool_run(struct berth_pool *p, berth_fn fn, void *arg) BERTH_MUST_CHECK;
/* [any] One more thread may run, for a worker that is stuck; false when `cap` threads are stuck
 * already. */
bool berth_pool_replace_stuck(struct berth_pool *p, unsigned int cap);
void berth_pool_unstuck(struct berth_pool *p); /* the stuck one came back */
/* [any] Jobs that wait, threads at work, and those of them that were given up as stuck. */
void berth_pool_counts(
        struct berth_pool *p, size_t *queued, unsigned int *busy, unsigned int *stuck);
/* Waits for queued and running jobs, joins the threads. NULL-safe, returns NULL. */
struct berth_pool *berth_pool_free(struct berth_pool *p);

/* [loop] The common pattern: work(arg) on a worker of `p`, then done(arg) on the loop. Where the
 * queue is full, or the pool is gone (NULL), -EAGAIN is returned and neither is called. */
int berth_work(struct berth_pool *p, struct berth_loop *l, berth_fn work, berth_fn done,
        void *arg) BERTH_MUST_CHECK;

#endif
