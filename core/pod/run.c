/* RunPodSandbox, StopPodSandbox, RemovePodSandbox as the loop sees them. */
#include "container/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "cri/same.h"
#include "grpc/server.h"
#include "monitor/host.h"
#include "pod/pod.h"
#include "stats/sampler.h"

struct berth_pod_waiter {
	struct berth_pod_waiter *next;
	struct berth_grpc_call *call;
	berth_pod_run_fn done;
	void *arg;
};

struct run {
	struct berth_pod *pod;
	struct berth_error *err;
};

static void wait_for(
        struct berth_pod *p, struct berth_grpc_call *call, berth_pod_run_fn done, void *arg)
{
	struct berth_pod_waiter *w = berth_new(struct berth_pod_waiter);
	w->call = call;
	w->done = done;
	w->arg = arg;
	w->next = p->waiters;
	p->waiters = w;
}

static void run_end(struct run *r)
{
	struct berth_pod *p = r->pod;
	bool heard = false;

	if (r->err && p->undo_failed)
		p->phase = BERTH_POD_STOPPED;
	else if (r->err)
		berth_pods_drop(p);
	else
		p->phase = BERTH_POD_READY;
	while (p->waiters) {
		struct berth_pod_waiter *w = p->waiters;
		p->waiters = w->next;
		heard = heard || !w->call || !berth_grpc_cancelled(w->call);
		w->done(p->id, r->err, w->arg);
		free(w);
	}
	p->unclaimed = !heard;
	if (!r->err) {
		berth_pod_watch(p);
		berth_changed(p->d, BERTH_CHANGE_CREATED, p->id, p);
		berth_changed(p->d, BERTH_CHANGE_STARTED, p->id, p);
	}
	if (!r->err)
		berth_log_info("pod sandbox ready", "pod", p->id, "name", p->name, "ip",
		        p->ips ? p->ips[0] : NULL);
	berth_pod_unref(p);
	berth_error_free(r->err);
	free(r);
}

static void run_work(void *arg)
{
	struct run *r = arg;
	if (berth_pod_build(r->pod, &r->err) < 0)
		return;
}

static void run_done(void *arg)
{
	run_end(arg);
}

static void run_begin(struct run *r)
{
	struct berth_daemon *d = r->pod->d;
	if (berth_work(d->flows, d->loop, run_work, run_done, r) == 0)
		return;
	berth_error_set(&r->err, BERTH_RESOURCE_EXHAUSTED,
	        "pod sandbox %s: too many requests are under way", r->pod->name);
	run_end(r);
}

static void network_known(bool ready, void *arg)
{
	struct run *r = arg;
	struct berth_daemon *d = r->pod->d;

	if (ready) {
		run_begin(r);
		return;
	}
	berth_error_set(&r->err, BERTH_UNAVAILABLE, "pod sandbox %s: the network is not ready: %s",
	        r->pod->name, d->network_why ? d->network_why : "unknown");
	run_end(r);
}

/* A pod of this name exists or is being made. */
static void meet(struct berth_pod *have, struct berth_pod *fresh, struct berth_grpc_call *call,
        berth_pod_run_fn done, void *arg)
{
	struct berth_error *err = NULL;

	if (have->phase == BERTH_POD_CREATING &&
	        berth_cri_same(&have->config->base, &fresh->config->base)) {
		wait_for(have, call, done, arg);
		return;
	}
	if (have->phase == BERTH_POD_READY && have->unclaimed &&
	        berth_cri_same(&have->config->base, &fresh->config->base)) {
		have->unclaimed = false;
		done(have->id, NULL, arg);
		return;
	}
	berth_error_set(&err, BERTH_ALREADY_EXISTS, "pod sandbox name \"%s\" is used by %s",
	        have->name, have->id);
	done(NULL, err, arg);
	berth_error_free(err);
}

void berth_pod_run(struct berth_daemon *d, const Runtime__V1__PodSandboxConfig *config,
        const char *handler, uint64_t deadline_ns, struct berth_grpc_call *call,
        berth_pod_run_fn done, void *arg)
{
	char id[BERTH_ID_LEN + 1];
	struct berth_pod *have;
	struct berth_error *err = NULL;

	berth_random_hex(id, BERTH_ID_LEN / 2);
	struct berth_pod *p = berth_pod_new(d, id, config, handler);
	HASH_FIND(hh_name, d->pods->by_name, p->name, strlen(p->name), have);
	if (have) {
		meet(have, p, call, done, arg);
		berth_pod_unref(p);
		return;
	}
	if (berth_pod_label(p, &err) < 0) {
		done(NULL, err, arg);
		berth_error_free(err);
		berth_pod_unref(p);
		return;
	}
	p->phase = BERTH_POD_CREATING;
	berth_pods_add(p);
	wait_for(p, call, done, arg);
	struct run *r = berth_new(struct run);
	r->pod = p; /* the caller's reference of berth_pod_new() */
	if (p->host_network || !d->network)
		run_begin(r);
	else
		berth_network_wait(d, deadline_ns, network_known, r);
}

/* ---- stop and remove ---- */

struct ending {
	struct berth_pod *pod;
	bool remove;
	size_t waiting; /* containers that are not done yet, and one for the loop over them */
	struct berth_error *err;
	berth_done_fn done;
	void *arg;
};

static void ending_over(struct ending *e)
{
	struct berth_pod *p = e->pod;
	e->done(e->err, e->arg);
	berth_gate_leave(&p->gate);
	berth_pod_unref(p);
	berth_error_free(e->err);
	free(e);
}

static void ending_work(void *arg)
{
	struct ending *e = arg;
	struct berth_pod *p = e->pod;

	if (!e->remove) {
		if (berth_pod_release(p, &e->err) == 0 &&
		        berth_pod_save(p, BERTH_POD_STOPPED, &e->err) < 0)
			return;
		berth_fault("pod-stopped");
		return;
	}
	if (berth_pod_save(p, BERTH_POD_REMOVING, &e->err) < 0)
		return;
	berth_fault("pod-removing");
	if (berth_pod_destroy(p, &e->err) < 0)
		return;
	berth_fault("pod-removed");
}

static void ending_worked(void *arg)
{
	struct ending *e = arg;
	struct berth_pod *p = e->pod;

	if (!e->err && e->remove) {
		berth_pods_drop(p);
		berth_changed(p->d, BERTH_CHANGE_DELETED, p->id, p);
		berth_log_info("pod sandbox removed", "pod", p->id, "name", p->name);
	} else if (!e->err) {
		p->phase = BERTH_POD_STOPPED;
		berth_changed(p->d, BERTH_CHANGE_STOPPED, p->id, p);
		berth_log_info("pod sandbox stopped", "pod", p->id, "name", p->name);
	} else if (e->remove) {
		p->phase = BERTH_POD_STOPPED; /* what is left can be removed by another try */
	}
	ending_over(e);
}

static void unwatch(const struct berth_pod *p)
{
	_cleanup_free_ char *dir = berth_pod_dir(p);
	if (p->shared_pid)
		berth_monitor_unwatch(dir);
}

static void container_over(const struct berth_error *err, void *arg)
{
	struct ending *e = arg;
	struct berth_daemon *d = e->pod->d;

	if (err && !e->err)
		e->err = berth_error_copy(err);
	if (--e->waiting > 0)
		return;
	if (e->err) {
		ending_over(e);
		return;
	}
	unwatch(e->pod);
	/* From now on nobody finds a pod that is being removed. */
	if (e->remove)
		e->pod->phase = BERTH_POD_REMOVING;
	if (berth_work(d->flows, d->loop, ending_work, ending_worked, e) < 0) {
		if (e->remove)
			e->pod->phase = BERTH_POD_STOPPED;
		berth_error_set(&e->err, BERTH_RESOURCE_EXHAUSTED,
		        "pod sandbox %s: too many requests are under way", e->pod->id);
		ending_over(e);
	}
}

static void end_containers(void *arg)
{
	struct ending *e = arg;
	struct berth_pod *p = e->pod;

	e->waiting = 1;
	for (struct berth_container *c = p->containers, *next; c; c = next) {
		next = c->next;
		e->waiting++;
		if (e->remove)
			berth_container_remove(c, container_over, e);
		else
			berth_container_stop(c, 0, container_over, e);
	}
	container_over(NULL, e);
}

/* What comes after may take the network and then fail, or we die: whoever reads the record is not
 * to take the rest for a pod that is ready. Where it cannot be written the end goes on all the
 * same. */
static void begin_work(void *arg)
{
	struct ending *e = arg;
	struct berth_error *err = NULL;

	if (berth_pod_save(e->pod, BERTH_POD_ENDING, &err) < 0) {
		berth_log_warn("the begin of a pod's end was not written down", "pod", e->pod->id,
		        "error", err->msg);
		berth_error_free(err);
	}
	berth_fault("pod-ending");
}

static void ending_turn(void *arg)
{
	struct ending *e = arg;
	struct berth_pod *p = e->pod;
	struct berth_daemon *d = p->d;

	if (!p->in_table || (p->phase == BERTH_POD_STOPPED && !e->remove))
		ending_over(e); /* somebody else has done it */
	else if (p->phase != BERTH_POD_READY ||
	         berth_work(d->flows, d->loop, begin_work, end_containers, e) < 0)
		end_containers(e);
}

static void end_pod(struct berth_pod *p, bool remove, berth_done_fn done, void *arg)
{
	struct ending *e = berth_new(struct ending);
	/* Before the containers are looked at: those that are there by then, also the ones that are
	 * being created, are ended, and no other comes. For good: an end that failed may have
	 * taken the network or the init already, and only another one can follow. */
	p->ending = true;
	berth_sampled_keep(p->sampled, false); /* it would keep the network namespace */
	e->pod = berth_pod_ref(p);
	e->remove = remove;
	e->done = done;
	e->arg = arg;
	berth_gate_enter(&p->gate, ending_turn, e);
}

void berth_pod_stop(struct berth_pod *p, berth_done_fn done, void *arg)
{
	end_pod(p, false, done, arg);
}

void berth_pod_remove(struct berth_pod *p, berth_done_fn done, void *arg)
{
	end_pod(p, true, done, arg);
}

/* ---- the init of a shared PID namespace ---- */

static void stopped_after_init(const struct berth_error *err, void *arg)
{
	(void)arg;
	if (err)
		berth_log_error(
		        "a pod sandbox without its init could not be stopped", "error", err->msg);
}

static void init_ended(const char *id, const struct berth_exit *exit, void *arg)
{
	struct berth_daemon *d = arg;
	struct berth_pod *p;
	(void)exit;

	HASH_FIND(hh_id, d->pods->by_id, id, strlen(id), p);
	if (!p || p->phase != BERTH_POD_READY)
		return;
	berth_log_warn("the init of a pod sandbox has ended; the pod is stopped", "pod", p->id,
	        "name", p->name);
	/* Where it cannot be stopped now, its client sees that it has to be. */
	berth_pod_stop(p, stopped_after_init, NULL);
}

void berth_pod_watch(struct berth_pod *p)
{
	_cleanup_free_ char *dir = berth_pod_dir(p);
	if (p->shared_pid)
		berth_monitor_watch_dir(p->id, dir, init_ended, p->d);
}
