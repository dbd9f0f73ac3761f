/* The host table: what a plugin may ask of the host. Every function is [any] thread. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "plugin/internal.h"

#define MESSAGE_MAX 16384

static void service_log(
        const struct berth_host *h, struct berth_op *op, int32_t level, const char *msg)
{
	struct berth_instance *i = h->impl;
	enum berth_log_level l = level <= BERTH_LOG_ERROR  ? BERTH_LOG_LVL_ERROR
	                         : level == BERTH_LOG_WARN ? BERTH_LOG_LVL_WARN
	                         : level == BERTH_LOG_INFO ? BERTH_LOG_LVL_INFO
	                                                   : BERTH_LOG_LVL_DEBUG;
	struct berth_call *c = op ? call_of(op) : NULL;
	berth_log(l, msg ? msg : "", "plugin", i->name, "op", c ? c->name : NULL, "object",
	        c ? c->object : NULL, (char *)0);
}

berth_status berth_service_fail(
        struct berth_op *op, berth_status st, int32_t errnum, const char *msg)
{
	struct berth_call *c = call_of(op);
	enum berth_code code =
	        st < 0 && st >= -BERTH_UNAUTHENTICATED ? (enum berth_code) - st : BERTH_INTERNAL;
	pthread_mutex_lock(&c->lock);
	/* The first cause wins: what fails while undoing does not hide it. A program's words yield
	 * to what they mean. */
	if (!c->error || (c->error->code == BERTH_UNKNOWN && code != BERTH_UNKNOWN)) {
		c->error = berth_error_free(c->error);
		berth_error_set(&c->error, code, "%.*s", MESSAGE_MAX, msg ? msg : "");
		c->error->errnum = errnum;
	}
	pthread_mutex_unlock(&c->lock);
	return st < 0 ? st : BERTH_E_INTERNAL;
}

berth_status berth_service_failf(
        struct berth_op *op, berth_status st, int32_t errnum, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	_cleanup_free_ char *text = berth_vasprintf(fmt, ap);
	va_end(ap);
	return berth_service_fail(op, st, errnum, text);
}

static int32_t service_cancelled(struct berth_op *op)
{
	struct berth_call *c = call_of(op);
	return berth_cancel_is_set(c->cancel) ||
	       (c->deadline_ns && berth_now_ns() >= c->deadline_ns);
}

static void cancel_fd_add(int ep, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN};
	if (fd >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		berth_log_warn("op_cancel_fd is incomplete", "error", strerror(errno));
}

static void make_cancel_fd(struct berth_call *c)
{
	c->cancel_fd = epoll_create1(EPOLL_CLOEXEC);
	if (c->cancel_fd < 0)
		return;
	if (c->cancel)
		cancel_fd_add(c->cancel_fd, berth_cancel_fd(c->cancel));
	if (c->deadline_ns) {
		struct itimerspec when = {
		        .it_value = {.tv_sec = (time_t)(c->deadline_ns / 1000000000u),
		                .tv_nsec = (long)(c->deadline_ns % 1000000000u)}};
		c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (c->timer_fd >= 0)
			timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
		cancel_fd_add(c->cancel_fd, c->timer_fd);
	}
}

int32_t berth_service_cancel_fd(struct berth_op *op)
{
	struct berth_call *c = call_of(op);

	pthread_mutex_lock(&c->lock);
	if (c->cancel_fd < 0)
		make_cancel_fd(c);
	pthread_mutex_unlock(&c->lock);
	return c->cancel_fd;
}

static uint64_t service_deadline(struct berth_op *op)
{
	return call_of(op)->deadline_ns;
}

void *berth_call_alloc(struct berth_call *c, uint64_t n)
{
	pthread_mutex_lock(&c->lock);
	void *p = berth_arena_alloc(c->arena, n);
	pthread_mutex_unlock(&c->lock);
	return p;
}

static void *service_alloc(struct berth_op *op, uint64_t n)
{
	return berth_call_alloc(call_of(op), n);
}

/* Nobody shows how far an op is; but one that goes on is not stuck. */
static void service_progress(struct berth_op *op, uint64_t done, uint64_t total)
{
	call_of(op)->progress_ns = berth_now_ns();
	(void)done;
	(void)total;
}

/* ---- events ---- */

struct posted_event {
	struct berth_instance *instance;
	struct berth_event ev;
	char *object_id, *exec_id, *message;
};

static void deliver(void *arg)
{
	struct posted_event *p = arg;
	struct berth_plugin_host *h = p->instance->owner;
	if (h->on_event)
		h->on_event(p->instance, &p->ev, h->event_arg);
	free(p->object_id);
	free(p->exec_id);
	free(p->message);
	free(p);
}

void berth_instance_emit(struct berth_instance *i, const struct berth_event *ev)
{
	struct posted_event *p = berth_new(struct posted_event);
	p->instance = i;
	memcpy(&p->ev, ev, ev->size < sizeof(p->ev) ? ev->size : sizeof(p->ev));
	p->ev.size = sizeof(p->ev);
	p->ev.object_id = p->object_id = berth_strdup(p->ev.object_id);
	p->ev.exec_id = p->exec_id = berth_strdup(p->ev.exec_id);
	p->ev.message = p->message = berth_strdup(p->ev.message);
	berth_loop_post(i->owner->loop, deliver, p);
}

static void service_emit(const struct berth_host *h, const struct berth_event *ev)
{
	berth_instance_emit(h->impl, ev);
}

/* ---- the rest ---- */

static const void *service_extension(const struct berth_host *h, const char *id)
{
	struct berth_instance *i = h->impl;
	for (size_t n = 0; n < i->owner->n_extensions; n++) {
		if (strcmp(i->owner->extensions[n].id, id) == 0)
			return i->owner->extensions[n].table;
	}
	return NULL;
}

void berth_plugin_host_extension(struct berth_plugin_host *h, const char *id, const void *table)
{
	assert(h->n_extensions < MAX_EXTENSIONS);
	h->extensions[h->n_extensions].id = id;
	h->extensions[h->n_extensions++].table = table;
}

struct berth_instance *berth_instance_of(const struct berth_host *h)
{
	return h->impl;
}

struct berth_instance *berth_op_instance(struct berth_op *op)
{
	return call_of(op)->instance;
}

struct berth_loop *berth_instance_loop(const struct berth_instance *i)
{
	return i->owner->loop;
}

void berth_services_fill(struct berth_instance *i)
{
	i->table = (struct berth_host){
	        .size = sizeof(i->table),
	        .abi_minor = BERTH_ABI_MINOR,
	        .impl = i,
	        .host_version = i->owner->host_version,
	        .plugin_name = i->file->name,
	        .instance_name = i->name,
	        .state_dir = i->state_dir,
	        .run_dir = i->run_dir,
	        .log = service_log,
	        .fail = berth_service_fail,
	        .op_cancelled = service_cancelled,
	        .op_cancel_fd = berth_service_cancel_fd,
	        .op_deadline_ns = service_deadline,
	        .op_alloc = service_alloc,
	        .op_progress = service_progress,
	        .run = berth_service_run,
	        .spawn = berth_service_spawn,
	        .watch_fd = berth_service_watch_fd,
	        .watch_after = berth_service_watch_after,
	        .rearm = berth_service_rearm,
	        .unwatch = berth_service_unwatch,
	        .emit = service_emit,
	        .conf_str = berth_conf_str,
	        .conf_i64 = berth_conf_i64,
	        .conf_bool = berth_conf_bool,
	        .conf_json = berth_conf_json,
	        .extension = service_extension,
	};
}
