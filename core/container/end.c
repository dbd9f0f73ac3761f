/* How containers end: exits, stops, removal. [loop]
 *
 * An event is a hint, the runtime's state is the truth: each hint, and each second of a stop that
 * does not come to an end, re-reads it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/checkpoint.h"
#include "container/container.h"
#include "monitor/host.h"
#include "stats/sampler.h"

#define KILL_RETRY_MS 1000
#define ASK_RETRY_MS 1000
#define ASK_RETRY_DOUBLINGS 5
#define MAX_GRACE_MS (7ull * 24 * 3600 * 1000)

struct berth_ctr_exit_wait {
	struct berth_ctr_exit_wait *next;
	berth_done_fn done;
	void *arg;
};

/* ---- state ---- */

struct question {
	struct berth_container *c;
	struct berth_ctr_args args;
	struct berth_ctr_state state;
	char *bundle;
};

static void tell_waiters(struct berth_container *c, const struct berth_error *err)
{
	while (c->exit_waits) {
		struct berth_ctr_exit_wait *w = c->exit_waits;
		c->exit_waits = w->next;
		w->done(err, w->arg);
		free(w);
	}
}

static void wake_waiters(struct berth_container *c)
{
	tell_waiters(c, NULL);
}

static struct berth_error *shutting_down(const struct berth_container *c)
{
	struct berth_error *err = NULL;
	berth_error_set(&err, BERTH_UNAVAILABLE, "container %s: berthd is shutting down", c->id);
	return err;
}

void berth_container_forsake(struct berth_container *c)
{
	struct berth_error *err = shutting_down(c);
	c->kill_timer = berth_timer_free(c->kill_timer);
	c->ask_timer = berth_timer_free(c->ask_timer);
	tell_waiters(c, err);
	berth_error_free(err);
}

struct killing {
	struct berth_daemon *d;
	char *path;
};

/* What it left behind in a PID namespace that is not its own. */
static void kill_cgroup_work(void *arg)
{
	struct killing *k = arg;
	berth_cgroup_kill(k->path);
}

static void kill_cgroup_done(void *arg)
{
	struct killing *k = arg;
	free(k->path);
	free(k);
}

static void kill_rest(struct berth_container *c)
{
	if (c->own_pid_ns || !c->cgroups_path)
		return;
	struct killing *k = berth_new(struct killing);
	k->d = c->d;
	k->path = berth_cgroup_path_of(c->cgroups_path);
	if (berth_work(c->d->flows, c->d->loop, kill_cgroup_work, kill_cgroup_done, k) < 0)
		kill_cgroup_done(k);
}

void berth_container_apply_state(struct berth_container *c, const struct berth_ctr_state *st)
{
	/* A start that did not come into the record. */
	if (c->started_ns == 0)
		c->started_ns = st->started_ns;
	if (st->status == BERTH_ST_STOPPED || st->status == BERTH_ST_UNKNOWN) {
		if (c->phase == BERTH_CTR_EXITED)
			return;
		c->exit = st->exit;
		c->d->counts.unknown_exits += !(c->exit.flags & BERTH_EXIT_KNOWN);
		c->oom = c->oom || (st->exit.flags & BERTH_EXIT_OOM);
		c->finished_ns = st->finished_ns ? st->finished_ns : berth_realtime_ns();
		c->pid = 0;
		/* Created and never started, or its end is what it is remembered for. */
		c->phase = BERTH_CTR_EXITED;
		berth_sampled_keep(c->sampled, false);
		return;
	}
	/* Its start may have been the last thing that a berthd did: the runtime knows. */
	if (c->phase == BERTH_CTR_CREATED && !c->starting && st->status == BERTH_ST_RUNNING &&
	        st->started_ns) {
		c->phase = BERTH_CTR_RUNNING;
		c->started_ns = c->started_ns ? c->started_ns : st->started_ns;
	}
	c->pid = st->pid;
}

static void ask_timer_fired(void *arg)
{
	struct berth_container *c = arg;
	c->ask_timer = berth_timer_free(c->ask_timer);
	berth_container_check(c);
}

void berth_container_check_later(struct berth_container *c)
{
	uint64_t ms = ASK_RETRY_MS << c->unanswered;

	if (c->ask_timer || !c->in_table || c->d->draining)
		return;
	if (c->unanswered < ASK_RETRY_DOUBLINGS)
		c->unanswered++;
	c->ask_timer = berth_timer_start(c->d->loop, ms, ask_timer_fired, c);
}

static void state_known(struct berth_call *call, void *arg)
{
	struct question *q = arg;
	struct berth_container *c = q->c;
	const struct berth_error *err = berth_call_error(call);
	enum berth_ctr_phase was = c->phase;

	c->asking = false;
	if (c->phase == BERTH_CTR_REMOVING) {
		/* Its end is under way: whatever was read is of the past. */
	} else if (err && err->code == BERTH_NOT_FOUND) {
		/* No record of it at all: nobody will ever know more. */
		berth_container_apply_state(c, &(struct berth_ctr_state){.size = sizeof(q->state),
		                                       .status = BERTH_ST_UNKNOWN});
	} else if (err) {
		berth_log_warn("the state of a container is not known", "container", c->id, "error",
		        err->msg);
		berth_container_check_later(c);
	} else {
		c->unanswered = 0;
		berth_container_apply_state(c, &q->state);
	}
	if (c->phase == BERTH_CTR_RUNNING && was == BERTH_CTR_CREATED && c->in_table)
		berth_changed(c->d, BERTH_CHANGE_STARTED, c->id, c->pod);
	if (c->phase == BERTH_CTR_EXITED && was != BERTH_CTR_EXITED && c->in_table) {
		char code[16];
		snprintf(code, sizeof(code), "%d", berth_container_exit_code(c));
		berth_changed(c->d, BERTH_CHANGE_STOPPED, c->id, c->pod);
		berth_log_info("container exited", "container", c->id, "code", code, "reason",
		        berth_container_reason(c));
		kill_rest(c);
	}
	if (c->phase == BERTH_CTR_EXITED) {
		c->kill_timer = berth_timer_free(c->kill_timer);
		wake_waiters(c);
	} else if (c->ask_again) {
		berth_container_check(c);
	}
	berth_call_free(call);
	berth_container_unref(c);
	free(q->bundle);
	free(q);
}

void berth_container_check(struct berth_container *c)
{
	if (c->phase == BERTH_CTR_EXITED)
		wake_waiters(c);
	if ((c->phase != BERTH_CTR_CREATED && c->phase != BERTH_CTR_RUNNING) || c->starting)
		return;
	if (c->asking) {
		c->ask_again = true;
		return;
	}
	c->asking = true;
	c->ask_again = false;
	struct question *q = berth_new(struct question);
	q->c = berth_container_ref(c);
	q->bundle = berth_container_bundle(c);
	q->args =
	        (struct berth_ctr_args){.size = sizeof(q->args), .id = c->id, .bundle = q->bundle};
	q->state.size = sizeof(q->state);
	struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_STATE, c->id);
	berth_call_start(call, &q->args, &q->state, state_known, q);
}

/* ---- stop ---- */

struct signalling {
	struct berth_container *c;
	struct berth_ctr_args args;
	char *bundle;
};

static void signalled(struct berth_call *call, void *arg)
{
	struct signalling *s = arg;
	const struct berth_error *err = berth_call_error(call);

	berth_fault("ctr-killed");
	if (err && err->code != BERTH_NOT_FOUND)
		berth_log_warn("a signal did not reach its container", "container", s->c->id,
		        "error", err->msg);
	if (err)
		berth_container_check(s->c);
	berth_call_free(call);
	berth_container_unref(s->c);
	free(s->bundle);
	free(s);
}

static void send_signal(struct berth_container *c, int signum)
{
	struct signalling *s = berth_new(struct signalling);
	s->c = berth_container_ref(c);
	s->bundle = berth_container_bundle(c);
	s->args = (struct berth_ctr_args){
	        .size = sizeof(s->args), .id = c->id, .bundle = s->bundle, .signal = signum};
	struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_KILL, c->id);
	berth_call_start(call, &s->args, NULL, signalled, s);
}

static void kill_now(void *arg)
{
	struct berth_container *c = arg;

	c->kill_timer = berth_timer_free(c->kill_timer);
	if (c->phase == BERTH_CTR_EXITED) {
		wake_waiters(c);
		return;
	}
	c->kills++;
	if (c->kills == 10)
		berth_log_warn("a container does not die of SIGKILL", "container", c->id);
	send_signal(c, SIGKILL);
	if (c->kills > 1)
		berth_container_check(c); /* the event may have been lost */
	unsigned int backoff = c->kills < 30 ? c->kills : 30;
	c->kill_timer = berth_timer_start(c->d->loop, KILL_RETRY_MS * backoff, kill_now, c);
}

static void kill_after(struct berth_container *c, uint64_t grace_ms)
{
	uint64_t at = berth_now_ns() + grace_ms * 1000000u;

	if (c->kills > 0 || (c->kill_timer && c->kill_at_ns <= at))
		return; /* it is killed already, or will be sooner */
	berth_timer_free(c->kill_timer);
	c->kill_timer = NULL;
	c->kill_at_ns = at;
	if (grace_ms == 0)
		kill_now(c);
	else
		c->kill_timer = berth_timer_start(c->d->loop, grace_ms, kill_now, c);
}

struct stop {
	struct berth_container *c;
	uint64_t grace_ms;
	berth_done_fn done;
	void *arg;
};

/* Only the beginning needs its turn: then a start is over, and several stops may wait together. */
static void stop_turn(void *arg)
{
	struct stop *s = arg;
	struct berth_container *c = s->c;

	if (!c->in_table || c->phase == BERTH_CTR_EXITED || c->phase == BERTH_CTR_REMOVING) {
		s->done(NULL, s->arg);
	} else if (!c->d->flows) {
		struct berth_error *err = shutting_down(c);
		s->done(err, s->arg);
		berth_error_free(err);
	} else if (!c->pod->handler) {
		struct berth_error *err = NULL;
		berth_error_set(&err, BERTH_FAILED_PRECONDITION,
		        "container %s: its runtime handler \"%s\" is not configured any more",
		        c->id, c->pod->handler_name);
		s->done(err, s->arg);
		berth_error_free(err);
	} else {
		struct berth_ctr_exit_wait *w = berth_new(struct berth_ctr_exit_wait);
		w->done = s->done;
		w->arg = s->arg;
		w->next = c->exit_waits;
		c->exit_waits = w;
		if (s->grace_ms > 0 && !c->kill_timer)
			send_signal(c, c->stop_signal ? c->stop_signal : SIGTERM);
		kill_after(c, s->grace_ms);
	}
	berth_gate_leave(&c->gate);
	berth_container_unref(c);
	free(s);
}

void berth_container_stop(
        struct berth_container *c, uint64_t grace_ms, berth_done_fn done, void *arg)
{
	struct stop *s = berth_new(struct stop);
	/* They may take minutes, and hold the processes that it is to reach. */
	berth_container_end_checkpoints(c, "the container is being stopped");
	s->c = berth_container_ref(c);
	s->grace_ms = grace_ms < MAX_GRACE_MS ? grace_ms : MAX_GRACE_MS;
	s->done = done;
	s->arg = arg;
	berth_gate_enter(&c->gate, stop_turn, s);
}

/* ---- remove ---- */

struct removal {
	struct berth_container *c;
	enum berth_ctr_phase before;
	struct berth_error *err;
	berth_done_fn done;
	void *arg;
};

static void removal_over(struct removal *r)
{
	struct berth_container *c = r->c;
	r->done(r->err, r->arg);
	berth_gate_leave(&c->gate);
	berth_container_unref(c);
	berth_error_free(r->err);
	free(r);
}

static void removal_work(void *arg)
{
	struct removal *r = arg;
	if (berth_container_save(r->c, BERTH_CTR_REMOVING, &r->err) < 0)
		return;
	berth_fault("ctr-removing");
	if (berth_container_destroy(r->c, &r->err) < 0)
		return;
	berth_fault("ctr-removed");
}

static void removal_worked(void *arg)
{
	struct removal *r = arg;
	struct berth_container *c = r->c;

	if (r->err) {
		c->phase = r->before;
	} else {
		berth_containers_drop(c);
		/* A stop that a failed start had left waiting. */
		wake_waiters(c);
		berth_changed(c->d, BERTH_CHANGE_DELETED, c->id, c->pod);
		berth_log_info("container removed", "container", c->id, "name", c->name);
	}
	removal_over(r);
}

static void removal_turn(void *arg)
{
	struct removal *r = arg;
	struct berth_container *c = r->c;
	_cleanup_free_ char *dir = berth_container_dir(c);

	if (!c->in_table) {
		removal_over(r);
		return;
	}
	r->before = c->phase;
	c->phase = BERTH_CTR_REMOVING;
	berth_monitor_unwatch(dir);
	if (berth_work(c->d->flows, c->d->loop, removal_work, removal_worked, r) == 0)
		return;
	c->phase = r->before;
	berth_error_set(&r->err, BERTH_RESOURCE_EXHAUSTED,
	        "container %s: too many requests are under way", c->id);
	removal_over(r);
}

static void removal_stopped(const struct berth_error *err, void *arg)
{
	struct removal *r = arg;
	if (err)
		r->err = berth_error_copy(err);
	if (!r->err) {
		berth_gate_enter(&r->c->gate, removal_turn, r);
		return;
	}
	r->done(r->err, r->arg);
	berth_container_unref(r->c);
	berth_error_free(r->err);
	free(r);
}

void berth_container_remove(struct berth_container *c, berth_done_fn done, void *arg)
{
	struct removal *r = berth_new(struct removal);
	r->c = berth_container_ref(c);
	r->done = done;
	r->arg = arg;
	berth_container_stop(c, 0, removal_stopped, r);
}
