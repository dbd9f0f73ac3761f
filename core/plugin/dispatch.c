/* The dispatcher: lanes, one queue per object, deadlines, the watchdog, thread hygiene. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "plugin/internal.h"

static _Thread_local const struct berth_call *current;
berth_status (*berth_dispatch_around)(
        struct berth_call *c, berth_status (*invoke)(struct berth_call *c));

const struct berth_call *berth_call_current(void)
{
	return current;
}

static struct berth_call *call_new(struct berth_instance *i, const char *object)
{
	struct berth_call *c = berth_new(struct berth_call);
	c->instance = i;
	c->object = berth_strdup(object);
	c->cancel_fd = c->timer_fd = -1;
	c->arena = berth_arena_new();
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->wait_lock, NULL);
	pthread_cond_init(&c->wait_cond, NULL);
	return c;
}

struct berth_call *berth_call_new(
        struct berth_instance *i, enum berth_opcode op, const char *object)
{
	struct berth_call *c = call_new(i, object);
	c->opcode = op;
	c->name = berth_op_table[op].name;
	c->lane = berth_op_table[op].lane;
	return c;
}

struct berth_call *berth_call_custom(struct berth_instance *i, const char *name,
        berth_status (*fn)(struct berth_op *op, struct berth_instance *i, void *arg), void *arg)
{
	struct berth_call *c = call_new(i, NULL);
	c->opcode = -1;
	c->name = name;
	c->lane = LANE_ID_GENERAL;
	c->custom = fn;
	c->custom_arg = arg;
	return c;
}

struct berth_call *berth_call_free(struct berth_call *c)
{
	if (!c)
		return NULL;
	if (c->cancel_fd >= 0)
		close(c->cancel_fd);
	if (c->timer_fd >= 0)
		close(c->timer_fd);
	berth_cancel_unref(c->cancel);
	berth_arena_free(c->arena);
	berth_error_free(c->error);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->wait_lock);
	pthread_cond_destroy(&c->wait_cond);
	free(c->object);
	free(c);
	return NULL;
}

void berth_call_freep(struct berth_call **c)
{
	*c = berth_call_free(*c);
}

void berth_call_set_deadline(struct berth_call *c, uint64_t deadline_ns)
{
	c->deadline_ns = deadline_ns;
}

void berth_call_set_cancel(struct berth_call *c, struct berth_cancel *cancel)
{
	berth_cancel_unref(c->cancel);
	c->cancel = berth_cancel_ref(cancel);
}

void berth_call_set_mark(struct berth_call *c, uint64_t mark)
{
	c->mark = mark;
}

const struct berth_error *berth_call_error(const struct berth_call *c)
{
	return c->error;
}

berth_status berth_call_check(struct berth_call *c)
{
	const char *object = c->object ? c->object : c->instance->name;
	if (berth_cancel_is_set(c->cancel))
		return berth_service_failf(
		        op_of(c), BERTH_E_CANCELLED, 0, "%s of %s was cancelled", c->name, object);
	if (c->deadline_ns && berth_now_ns() >= c->deadline_ns)
		return berth_service_failf(op_of(c), BERTH_E_DEADLINE, 0,
		        "%s of %s did not end within its deadline", c->name, object);
	return BERTH_OK;
}

/* ---- thread hygiene ---- */

struct thread_state {
	sigset_t mask;
	ino_t mnt, net;
};

static ino_t ns_inode(const char *name)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/thread-self/ns/%s", name);
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void thread_state_get(struct thread_state *s)
{
	memset(s, 0, sizeof(*s));
	pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
#ifndef NDEBUG
	s->mnt = ns_inode("mnt");
	s->net = ns_inode("net");
#else
	(void)ns_inode;
#endif
}

/* A worker that came back changed would do harm to the next op, maybe another plugin's. */
static void thread_state_check(const struct thread_state *before, const struct berth_call *c)
{
	struct thread_state now;
	thread_state_get(&now);
	const char *what = memcmp(&before->mask, &now.mask, sizeof(now.mask)) ? "signal mask"
	                   : before->mnt != now.mnt                           ? "mount namespace"
	                   : before->net != now.net                           ? "network namespace"
	                                                                      : NULL;
	if (!what)
		return;
	berth_log_error("a plugin changed its worker thread", "plugin", c->instance->file->name,
	        "op", c->name, "object", c->object, "what", what);
	pthread_sigmask(SIG_SETMASK, &before->mask, NULL);
#ifndef NDEBUG
	abort();
#endif
}

/* ---- running ---- */

static void call_work(void *arg);

static void finish(struct berth_call *c);

static void to_lane(struct berth_call *c)
{
	if (berth_pool_run(c->instance->lanes[c->lane], call_work, c) == 0)
		return;
	berth_service_failf(op_of(c), BERTH_E_EXHAUSTED, 0,
	        "plugin %s: too many calls wait for its lane", c->instance->name);
	finish(c);
}

/* Frees the object's turn and starts the next one's. */
static void next_of_object(struct berth_call *c)
{
	struct berth_instance *i = c->instance;
	struct berth_call *next = NULL;

	pthread_mutex_lock(&i->lock);
	struct object *o;
	HASH_FIND_STR(i->objects, c->object, o);
	if (o && o->first) {
		next = o->first;
		o->first = next->next;
		if (!o->first)
			o->last = &o->first;
	} else if (o) {
		HASH_DEL(i->objects, o);
		free(o->key);
		free(o);
	}
	pthread_mutex_unlock(&i->lock);
	if (next)
		to_lane(next);
}

static bool is_queued(const struct berth_call *c)
{
	return c->object && c->opcode >= 0 && !berth_op_table[c->opcode].concurrent;
}

static void on_loop_done(void *arg)
{
	struct berth_call *c = arg;
	c->done(c, c->done_arg);
}

static void count_op(const struct berth_call *c, bool begins)
{
	struct berth_instance *i = c->instance;

	if (c->opcode < 0)
		return;
	pthread_mutex_lock(&i->lock);
	if (begins)
		i->ops++;
	else if (--i->ops == 0)
		pthread_cond_broadcast(&i->idle);
	pthread_mutex_unlock(&i->lock);
}

void berth_instance_wait_idle(struct berth_instance *i)
{
	pthread_mutex_lock(&i->lock);
	while (i->ops > 0)
		pthread_cond_wait(&i->idle, &i->lock);
	pthread_mutex_unlock(&i->lock);
}

/* The call may be freed by its owner as soon as it is told: nothing touches it afterwards. */
static void finish(struct berth_call *c)
{
	struct berth_loop *loop = c->instance->owner->loop;

	if (is_queued(c))
		next_of_object(c);
	count_op(c, false);
	if (c->done) {
		berth_loop_post(loop, on_loop_done, c);
		return;
	}
	pthread_mutex_lock(&c->wait_lock);
	c->ended = true;
	pthread_cond_signal(&c->wait_cond);
	pthread_mutex_unlock(&c->wait_lock);
}

static void running_add(struct berth_call *c)
{
	struct berth_instance *i = c->instance;
	pthread_mutex_lock(&i->lock);
	c->tid = (pid_t)syscall(SYS_gettid);
	c->began_ns = berth_now_ns();
	c->run_next = i->running;
	if (i->running)
		i->running->run_prev = c;
	i->running = c;
	pthread_mutex_unlock(&i->lock);
}

static void running_remove(struct berth_call *c)
{
	struct berth_instance *i = c->instance;
	pthread_mutex_lock(&i->lock);
	if (c->opcode >= 0) {
		struct berth_op_usage *u = &i->usage[c->opcode];
		berth_histogram_add(&u->took, &berth_bounds_latency, berth_now_ns() - c->began_ns);
		u->failed += c->error != NULL;
	}
	if (c->run_prev)
		c->run_prev->run_next = c->run_next;
	else
		i->running = c->run_next;
	if (c->run_next)
		c->run_next->run_prev = c->run_prev;
	if (c->replaced) {
		i->stuck[c->lane]--;
		berth_pool_unstuck(i->lanes[c->lane]);
	}
	pthread_mutex_unlock(&i->lock);
	if (c->reported_stuck)
		berth_log_warn("a stuck plugin op came back", "plugin", i->name, "op", c->name,
		        "object", c->object);
}

static void call_work(void *arg)
{
	struct berth_call *c = arg;
	struct thread_state before;

	running_add(c);
	berth_status st = berth_call_check(c);
	if (st == BERTH_OK) {
		thread_state_get(&before);
		current = c;
		st = berth_dispatch_around ? berth_dispatch_around(c, berth_op_invoke)
		                           : berth_op_invoke(c);
		current = NULL;
		thread_state_check(&before, c);
	}
	if (st == BERTH_OK) {
		c->error = berth_error_free(c->error);
	} else if (!c->error) {
		berth_service_failf(op_of(c), st, 0, "plugin %s: %s failed and did not say why",
		        c->instance->file->name, c->name);
	}
	running_remove(c);
	finish(c);
}

static void submit(struct berth_call *c, const void *in, void *out)
{
	struct berth_instance *i = c->instance;

	c->in = in;
	c->out = out;
	if (c->deadline_ns == 0 && c->opcode >= 0)
		c->deadline_ns = berth_now_ns() + berth_op_table[c->opcode].deadline_ns;
	count_op(c, true);
	if (!is_queued(c)) {
		to_lane(c);
		return;
	}
	pthread_mutex_lock(&i->lock);
	struct object *o;
	HASH_FIND_STR(i->objects, c->object, o);
	if (o) {
		*o->last = c;
		o->last = &c->next;
		c = NULL;
	} else {
		o = berth_new(struct object);
		o->key = berth_strdup(c->object);
		o->last = &o->first;
		HASH_ADD_KEYPTR(hh, i->objects, o->key, strlen(o->key), o);
	}
	pthread_mutex_unlock(&i->lock);
	if (c)
		to_lane(c);
}

int berth_call_run(struct berth_call *c, const void *in, void *out, struct berth_error **ret_err)
{
	submit(c, in, out);
	pthread_mutex_lock(&c->wait_lock);
	while (!c->ended)
		pthread_cond_wait(&c->wait_cond, &c->wait_lock);
	pthread_mutex_unlock(&c->wait_lock);
	if (!c->error)
		return 0;
	*ret_err = berth_error_copy(c->error);
	return -1;
}

void berth_call_start(struct berth_call *c, const void *in, void *out,
        void (*done)(struct berth_call *c, void *arg), void *arg)
{
	berth_assert_loop();
	c->done = done;
	c->done_arg = arg;
	submit(c, in, out);
}

/* ---- the watchdog ---- */

static void report_stuck(struct berth_call *c)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/task/%d/stack", (int)c->tid);
	_cleanup_free_ char *stack = NULL, *wchan = NULL;
	if (berth_read_file(AT_FDCWD, path, 4096, &stack, NULL) < 0)
		stack = NULL;
	snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", (int)c->tid);
	if (berth_read_file(AT_FDCWD, path, 256, &wchan, NULL) < 0)
		wchan = NULL;
	berth_log_error("a plugin op is stuck past its deadline", "plugin", c->instance->name, "op",
	        c->name, "object", c->object, "wchan", wchan, "stack", stack);
}

static bool is_stuck(const struct berth_call *c, uint64_t now)
{
	uint64_t sign = c->progress_ns > c->deadline_ns ? c->progress_ns : c->deadline_ns;

	return c->deadline_ns && now >= sign + STUCK_AFTER_NS;
}

void berth_dispatch_watchdog(struct berth_instance *i)
{
	uint64_t now = berth_now_ns();

	pthread_mutex_lock(&i->lock);
	for (struct berth_call *c = i->running; c; c = c->run_next) {
		if (c->reported_stuck || !is_stuck(c, now))
			continue;
		c->reported_stuck = true;
		report_stuck(c);
		c->replaced = berth_pool_replace_stuck(i->lanes[c->lane], STUCK_CAP);
		if (c->replaced) {
			i->stuck[c->lane]++;
		} else if (!i->unhealthy) {
			i->why_unhealthy = berth_asprintf(
			        "plugin %s: more than %d calls hang, the last is %s of %s", i->name,
			        STUCK_CAP, c->name, c->object ? c->object : "-");
			i->unhealthy = true;
		}
	}
	pthread_mutex_unlock(&i->lock);
}
