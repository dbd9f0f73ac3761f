/* host->watch_fd(), watch_after(): waiting without a thread per wait. One thread polls for all
 * plugins; what became ready runs on a worker of its instance, once per arming. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "plugin/internal.h"

struct berth_watch {
	uint64_t id;
	UT_hash_handle hh; /* by id, from add() to unwatch() */
	struct berth_instance *instance;
	berth_watch_fn fn;
	void *arg;
	int fd; /* watched; the timerfd of a timer */
	bool timer;
	uint32_t events; /* that came */
	enum { IDLE, QUEUED, RUNNING } state;
	pthread_t runner;
	bool rearm_wanted, dead;
	bool awaited; /* by its unwatch(), which frees it */
	uint32_t want_events;
	uint64_t want_ns;
};

/* One lock for all watches: they are few, and held only for bookkeeping. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t idle;
	int epoll_fd;
	bool started;
	/* An event that epoll_wait() gave may be that of a watch which is gone before the lock is
	 * had: it names an id, which is never given twice. */
	struct berth_watch *by_id;
	uint64_t last_id;
} poller = {.lock = PTHREAD_MUTEX_INITIALIZER, .idle = PTHREAD_COND_INITIALIZER, .epoll_fd = -1};

static uint32_t to_epoll(uint32_t events)
{
	return EPOLLONESHOT | ((events & BERTH_WATCH_READ) ? EPOLLIN : 0u) |
	       ((events & BERTH_WATCH_WRITE) ? EPOLLOUT : 0u) | EPOLLRDHUP;
}

static uint32_t from_epoll(uint32_t events)
{
	return ((events & EPOLLIN) ? BERTH_WATCH_READ : 0u) |
	       ((events & EPOLLOUT) ? BERTH_WATCH_WRITE : 0u) |
	       ((events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) ? BERTH_WATCH_HUP : 0u);
}

static void arm_locked(struct berth_watch *w, uint32_t events, uint64_t ns)
{
	if (w->timer) {
		struct itimerspec t = {.it_value = {.tv_sec = (time_t)(ns / 1000000000u),
		                               .tv_nsec = (long)(ns % 1000000000u)}};
		if (ns == 0)
			t.it_value.tv_nsec = 1; /* zero would disarm it */
		timerfd_settime(w->fd, 0, &t, NULL);
		events = BERTH_WATCH_READ;
	}
	struct epoll_event ev = {.events = to_epoll(events), .data.u64 = w->id};
	if (epoll_ctl(poller.epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
		berth_log_error("watch cannot be armed", "plugin", w->instance->name, "error",
		        strerror(errno));
}

static void watch_free(struct berth_watch *w)
{
	if (w->timer)
		berth_close(w->fd);
	free(w);
}

static berth_status run_callback(struct berth_op *op, struct berth_instance *i, void *arg)
{
	struct berth_watch *w = arg;
	(void)i;
	pthread_mutex_lock(&poller.lock);
	bool dead = w->dead;
	w->state = RUNNING;
	w->runner = pthread_self();
	uint32_t events = w->events;
	pthread_mutex_unlock(&poller.lock);
	if (!dead)
		w->fn(op, w, events, w->arg);
	return BERTH_OK;
}

static void callback_done(struct berth_call *c, void *arg)
{
	(void)arg;
	berth_call_free(c);
}

static void after_callback(struct berth_watch *w)
{
	pthread_mutex_lock(&poller.lock);
	w->state = IDLE;
	bool dead = w->dead;
	if (!dead && !w->awaited && w->rearm_wanted)
		arm_locked(w, w->want_events, w->want_ns);
	w->rearm_wanted = false;
	pthread_cond_broadcast(&poller.idle);
	pthread_mutex_unlock(&poller.lock);
	if (dead)
		watch_free(w);
}

/* On a worker: the callback is an op of its own, and its bookkeeping follows it on the same thread.
 */
static berth_status callback_op(struct berth_op *op, struct berth_instance *i, void *arg)
{
	run_callback(op, i, arg);
	after_callback(arg);
	return BERTH_OK;
}

static void begin_callback(void *arg)
{
	struct berth_watch *w = arg;
	struct berth_call *c = berth_call_custom(w->instance, "watch", callback_op, w);
	berth_call_start(c, NULL, NULL, callback_done, NULL);
}

static void ready_locked(const struct epoll_event *ev)
{
	struct berth_watch *w;
	uint64_t count;

	HASH_FIND(hh, poller.by_id, &ev->data.u64, sizeof(w->id), w);
	/* Nor may it be the timer of an arming that another has replaced. */
	if (!w || (w->timer && read(w->fd, &count, sizeof(count)) < 0))
		return;
	uint32_t events = w->timer ? 0 : from_epoll(ev->events);
	if (w->state != IDLE) { /* both armings came: one after the other */
		if (!w->rearm_wanted) {
			w->rearm_wanted = true;
			w->want_events = events & (BERTH_WATCH_READ | BERTH_WATCH_WRITE);
			w->want_ns = 0;
		}
		return;
	}
	w->events = events;
	w->state = QUEUED;
	berth_loop_post(w->instance->owner->loop, begin_callback, w);
}

static void *poll_thread(void *arg)
{
	(void)arg;
	for (;;) {
		struct epoll_event ev[16];
		int n = epoll_wait(poller.epoll_fd, ev, 16, -1);
		pthread_mutex_lock(&poller.lock);
		for (int i = 0; i < n; i++)
			ready_locked(&ev[i]);
		pthread_mutex_unlock(&poller.lock);
	}
	return NULL;
}

static int start_poller_locked(void)
{
	if (poller.started)
		return 0;
	pthread_attr_t attr;
	pthread_t thread;
	poller.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (poller.epoll_fd < 0)
		return -errno;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	int r = pthread_create(&thread, &attr, poll_thread, NULL);
	pthread_attr_destroy(&attr);
	if (r) {
		poller.epoll_fd = berth_close(poller.epoll_fd);
		return -r;
	}
	pthread_setname_np(thread, "watch");
	poller.started = true;
	return 0;
}

static berth_status add(const struct berth_host *h, struct berth_watch *w, uint32_t events,
        uint64_t ns, struct berth_watch **out)
{
	w->instance = h->impl;
	pthread_mutex_lock(&poller.lock);
	int r = start_poller_locked();
	/* Added disarmed: out must be written before the callback can run. */
	w->id = ++poller.last_id;
	struct epoll_event ev = {.events = EPOLLONESHOT, .data.u64 = w->id};
	if (r == 0 && epoll_ctl(poller.epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0)
		r = -errno;
	if (r == 0) {
		HASH_ADD(hh, poller.by_id, id, sizeof(w->id), w);
		*out = w;
		arm_locked(w, events, ns);
	}
	pthread_mutex_unlock(&poller.lock);
	if (r < 0) {
		watch_free(w);
		return -(berth_status)berth_code_from_errno(r);
	}
	return BERTH_OK;
}

berth_status berth_service_watch_fd(const struct berth_host *h, int32_t fd, uint32_t events,
        berth_watch_fn fn, void *arg, struct berth_watch **out)
{
	struct berth_watch *w = berth_new(struct berth_watch);
	w->fd = fd;
	w->fn = fn;
	w->arg = arg;
	return add(h, w, events, 0, out);
}

berth_status berth_service_watch_after(const struct berth_host *h, uint64_t ns, berth_watch_fn fn,
        void *arg, struct berth_watch **out)
{
	struct berth_watch *w = berth_new(struct berth_watch);
	w->timer = true;
	w->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	w->fn = fn;
	w->arg = arg;
	if (w->fd < 0) {
		free(w);
		return BERTH_E_EXHAUSTED;
	}
	return add(h, w, 0, ns, out);
}

void berth_service_rearm(struct berth_watch *w, uint32_t events, uint64_t ns)
{
	pthread_mutex_lock(&poller.lock);
	if (w->state == IDLE) {
		arm_locked(w, events, ns);
	} else {
		w->rearm_wanted = true;
		w->want_events = events;
		w->want_ns = ns;
	}
	pthread_mutex_unlock(&poller.lock);
}

void berth_service_unwatch(struct berth_watch *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&poller.lock);
	epoll_ctl(poller.epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	HASH_DEL(poller.by_id, w);
	w->dead = true;
	if (w->state == RUNNING && !pthread_equal(w->runner, pthread_self())) {
		/* The one that runs it sees `dead` only after us: it must not free what we wait on.
		 */
		w->dead = false;
		w->awaited = true;
		while (w->state != IDLE)
			pthread_cond_wait(&poller.idle, &poller.lock);
	}
	bool idle = w->state == IDLE;
	pthread_mutex_unlock(&poller.lock);
	if (idle)
		watch_free(w);
	/* QUEUED, or running on this very thread: freed when the callback's turn is over. */
}
