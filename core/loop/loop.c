#include "loop/loop.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

#define FLAG_RESET_ON_FORK 1u
#define PREFERRED_NICE (-10)
/* It is done sooner, and so runs sooner: since 6.12 the kernel goes by that. */
#define PREFERRED_SLICE_NS 500000u

struct post {
	struct post *next;
	berth_fn fn;
	void *arg;
};

struct berth_loop {
	uv_loop_t uv;
	uv_async_t async;
	pthread_mutex_t lock; /* guards the list of posts alone */
	struct post *first, **last;
};

static _Thread_local bool this_is_the_loop;

bool berth_on_loop(void)
{
	return this_is_the_loop;
}

static void check(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "berth: %s: %s\n", what, uv_strerror(r));
		abort();
	}
}

static void run_posts(uv_async_t *async)
{
	struct berth_loop *l = async->data;

	pthread_mutex_lock(&l->lock);
	struct post *p = l->first;
	l->first = NULL;
	l->last = &l->first;
	pthread_mutex_unlock(&l->lock);
	while (p) {
		struct post *next = p->next;
		p->fn(p->arg);
		free(p);
		p = next;
	}
}

struct berth_loop *berth_loop_new(void)
{
	struct berth_loop *l = berth_new(struct berth_loop);
	check(uv_loop_init(&l->uv), "uv_loop_init");
	check(uv_async_init(&l->uv, &l->async, run_posts), "uv_async_init");
	l->async.data = l;
	pthread_mutex_init(&l->lock, NULL);
	l->last = &l->first;
	this_is_the_loop = true;
	return l;
}

static void close_any(uv_handle_t *h, void *arg)
{
	(void)arg;
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

struct berth_loop *berth_loop_free(struct berth_loop *l)
{
	if (!l)
		return NULL;
	run_posts(&l->async);
	uv_close((uv_handle_t *)&l->async, NULL);
	uv_run(&l->uv, UV_RUN_DEFAULT);
	if (uv_loop_close(&l->uv) == UV_EBUSY) {
		/* A module left a handle open; close it so that the loop's memory can go. */
		uv_walk(&l->uv, close_any, NULL);
		uv_run(&l->uv, UV_RUN_DEFAULT);
		(void)uv_loop_close(&l->uv);
	}
	pthread_mutex_destroy(&l->lock);
	this_is_the_loop = false;
	free(l);
	return NULL;
}

uv_loop_t *berth_loop_uv(struct berth_loop *l)
{
	return &l->uv;
}

void berth_loop_prefer(void)
{
	/* struct sched_attr of the kernel; not all C libraries have it, and some clash with it. */
	const struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {.size = sizeof(attr),
	        .policy = SCHED_OTHER,
	        .flags = FLAG_RESET_ON_FORK,
	        .nice = PREFERRED_NICE,
	        .runtime = PREFERRED_SLICE_NS};
	(void)!syscall(SYS_sched_setattr, 0, &attr, 0);
}

void berth_loop_run(struct berth_loop *l)
{
	uv_run(&l->uv, UV_RUN_DEFAULT);
}

void berth_loop_stop(struct berth_loop *l)
{
	berth_assert_loop();
	uv_stop(&l->uv);
}

void berth_loop_post(struct berth_loop *l, berth_fn fn, void *arg)
{
	struct post *p = berth_new(struct post);
	p->fn = fn;
	p->arg = arg;
	pthread_mutex_lock(&l->lock);
	*l->last = p;
	l->last = &p->next;
	/* Under the lock: the loop cannot be freed between the append and the wake-up by what the
	 * post itself does. */
	uv_async_send(&l->async);
	pthread_mutex_unlock(&l->lock);
}

struct berth_timer {
	uv_timer_t uv;
	berth_fn fn;
	void *arg;
};

static void timer_fired(uv_timer_t *uv)
{
	struct berth_timer *t = uv->data;
	t->fn(t->arg);
}

static void timer_closed(uv_handle_t *h)
{
	free(h->data);
}

struct berth_timer *berth_timer_start(struct berth_loop *l, uint64_t ms, berth_fn fn, void *arg)
{
	berth_assert_loop();
	struct berth_timer *t = berth_new(struct berth_timer);
	uv_timer_init(&l->uv, &t->uv);
	t->uv.data = t;
	t->fn = fn;
	t->arg = arg;
	/* The loop's own clock is as old as this iteration. */
	uv_update_time(&l->uv);
	uv_timer_start(&t->uv, timer_fired, ms, 0);
	return t;
}

struct berth_timer *berth_timer_free(struct berth_timer *t)
{
	if (t) {
		uv_timer_stop(&t->uv);
		uv_close((uv_handle_t *)&t->uv, timer_closed);
	}
	return NULL;
}

struct berth_fdwatch {
	uv_poll_t uv;
	int fd, events;
	berth_fdwatch_fn fn;
	void *arg;
};

static void fd_ready(uv_poll_t *uv, int status, int events)
{
	struct berth_fdwatch *w = uv->data;
	/* An error on the fd is for the owner to find by reading it. Before the error there may be
	 * data, but libuv has stopped watching. */
	if (status < 0)
		check(uv_poll_start(&w->uv, w->events, fd_ready), "uv_poll_start");
	w->fn(w->fd, status < 0 ? UV_READABLE | UV_DISCONNECT : events, w->arg);
}

static void fdwatch_closed(uv_handle_t *h)
{
	free(h->data);
}

struct berth_fdwatch *berth_fdwatch_start(
        struct berth_loop *l, int fd, int events, berth_fdwatch_fn fn, void *arg)
{
	berth_assert_loop();
	struct berth_fdwatch *w = berth_new(struct berth_fdwatch);
	check(uv_poll_init(&l->uv, &w->uv, fd), "uv_poll_init");
	w->uv.data = w;
	w->fd = fd;
	w->fn = fn;
	w->arg = arg;
	berth_fdwatch_change(w, events);
	return w;
}

void berth_fdwatch_change(struct berth_fdwatch *w, int events)
{
	w->events = events;
	if (events)
		check(uv_poll_start(&w->uv, events, fd_ready), "uv_poll_start");
	else
		uv_poll_stop(&w->uv);
}

struct berth_fdwatch *berth_fdwatch_free(struct berth_fdwatch *w)
{
	if (w) {
		uv_poll_stop(&w->uv);
		uv_close((uv_handle_t *)&w->uv, fdwatch_closed);
	}
	return NULL;
}
