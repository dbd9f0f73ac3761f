#include "loop/pool.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"

struct job {
	struct job *next;
	berth_fn fn;
	void *arg;
};

struct berth_pool {
	struct berth_pool_opts opts;
	char name[16];
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job came, or the pool closes */
	pthread_cond_t gone; /* a thread left */
	struct job *first, **last;
	size_t queued;
	unsigned int threads, idle, stuck;
	bool closing;
};

struct berth_pool *berth_pool_new(const struct berth_pool_opts *opts)
{
	struct berth_pool *p = berth_new(struct berth_pool);
	p->opts = *opts;
	if (!p->opts.stack_bytes)
		p->opts.stack_bytes = (size_t)1 << 20;
	if (!p->opts.idle_ms)
		p->opts.idle_ms = 30000;
	snprintf(p->name, sizeof(p->name), "%s", opts->name);
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->work, &attr);
	pthread_cond_init(&p->gone, NULL);
	pthread_condattr_destroy(&attr);
	p->last = &p->first;
	return p;
}

/* Waits for a job with the lock held. NULL: this thread is not needed any more. */
static struct job *next_job(struct berth_pool *p)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += p->opts.idle_ms / 1000;
	until.tv_nsec += (long)(p->opts.idle_ms % 1000) * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	while (!p->first) {
		if (p->closing)
			return NULL;
		p->idle++;
		int r = pthread_cond_timedwait(&p->work, &p->lock, &until);
		p->idle--;
		if (r == ETIMEDOUT && !p->first)
			return NULL;
	}
	struct job *j = p->first;
	p->first = j->next;
	if (!p->first)
		p->last = &p->first;
	p->queued--;
	return j;
}

static void *worker(void *arg)
{
	struct berth_pool *p = arg;
	pthread_setname_np(pthread_self(), p->name);
	pthread_mutex_lock(&p->lock);
	for (struct job *j; (j = next_job(p));) {
		pthread_mutex_unlock(&p->lock);
		j->fn(j->arg);
		free(j);
		pthread_mutex_lock(&p->lock);
	}
	bool closing = p->closing;
	p->threads--;
	pthread_cond_broadcast(&p->gone);
	pthread_mutex_unlock(&p->lock); /* the pool may be gone now */
	/* There is less to do than there was: what that took goes back to the kernel, and glibc
	 * alone gives back nothing that lies below something still in use. Never on the loop. */
	if (!closing)
		malloc_trim(0);
	return NULL;
}

/* With the lock held. Workers block every signal: those are the loop's. */
static int add_thread(struct berth_pool *p)
{
	pthread_attr_t attr;
	pthread_t t;
	sigset_t all, old;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, p->opts.stack_bytes);
	sigfillset(&all);
	/* A fault must reach its handler on the thread that made it. */
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(&t, &attr, worker, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (r == 0)
		p->threads++;
	return -r;
}

int berth_pool_run(struct berth_pool *p, berth_fn fn, void *arg)
{
	int r = 0;
	pthread_mutex_lock(&p->lock);
	if (p->closing || p->queued >= p->opts.max_queued) {
		r = -EAGAIN;
	} else {
		/* idle counts waiters that were not woken yet, so compare it with all that is
		 * queued. */
		if (p->queued >= p->idle && p->threads < p->opts.max_threads + p->stuck)
			r = add_thread(p);
		if (r < 0 && p->threads > 0)
			r = 0; /* a thread that exists will come to it */
	}
	if (r == 0) {
		struct job *j = berth_new(struct job);
		j->fn = fn;
		j->arg = arg;
		*p->last = j;
		p->last = &j->next;
		p->queued++;
		pthread_cond_signal(&p->work);
	}
	pthread_mutex_unlock(&p->lock);
	return r;
}

bool berth_pool_replace_stuck(struct berth_pool *p, unsigned int cap)
{
	pthread_mutex_lock(&p->lock);
	bool ok = p->stuck < cap;
	if (ok) {
		p->stuck++;
		if (p->queued > p->idle)
			(void)add_thread(p); /* without it the queue waits for the others */
	}
	pthread_mutex_unlock(&p->lock);
	return ok;
}

void berth_pool_unstuck(struct berth_pool *p)
{
	pthread_mutex_lock(&p->lock);
	if (p->stuck > 0)
		p->stuck--;
	pthread_mutex_unlock(&p->lock);
}

void berth_pool_counts(
        struct berth_pool *p, size_t *queued, unsigned int *busy, unsigned int *stuck)
{
	pthread_mutex_lock(&p->lock);
	*queued = p->queued;
	*busy = p->threads - p->idle;
	*stuck = p->stuck;
	pthread_mutex_unlock(&p->lock);
}

struct berth_pool *berth_pool_free(struct berth_pool *p)
{
	if (!p)
		return NULL;
	pthread_mutex_lock(&p->lock);
	p->closing = true;
	pthread_cond_broadcast(&p->work);
	while (p->threads > 0)
		pthread_cond_wait(&p->gone, &p->lock);
	pthread_mutex_unlock(&p->lock);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->gone);
	pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}

struct work {
	struct berth_loop *loop;
	berth_fn work, done;
	void *arg;
};

static void work_done(void *arg)
{
	struct work *w = arg;
	w->done(w->arg);
	free(w);
}

static void work_run(void *arg)
{
	struct work *w = arg;
	w->work(w->arg);
	berth_loop_post(w->loop, work_done, w);
}

int berth_work(struct berth_pool *p, struct berth_loop *l, berth_fn work, berth_fn done, void *arg)
{
	if (!p)
		return -EAGAIN;
	struct work *w = berth_new(struct work);
	*w = (struct work){.loop = l, .work = work, .done = done, .arg = arg};
	int r = berth_pool_run(p, work_run, w);
	if (r < 0)
		free(w);
	return r;
}
