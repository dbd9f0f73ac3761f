/* UpdateContainerResources, UpdatePodSandboxResources. */
#include "cri/service.h"

#include <stdlib.h>

#include "spec/resources.h"

struct update {
	struct berth_container *c;
	struct berth_grpc_call *call;
	const Runtime__V1__LinuxContainerResources *change; /* of the request */
	json_t *after;
	enum berth_ctr_phase phase;
	struct berth_error *err;
};

static void update_work(void *arg)
{
	struct update *u = arg;

	if (berth_container_update(u->c, u->phase, u->change, u->after, &u->err) < 0)
		berth_error_wrap(&u->err, "container %s: update", u->c->id);
}

static void update_over(void *arg)
{
	struct update *u = arg;
	Runtime__V1__UpdateContainerResourcesResponse r =
	        RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_RESPONSE__INIT;

	if (u->err)
		berth_grpc_fail(u->call, u->err);
	else
		berth_grpc_reply(u->call, &r.base);
	berth_gate_leave(&u->c->gate);
	berth_container_unref(u->c);
	berth_error_free(u->err);
	json_decref(u->after);
	free(u);
}

static void updated(void *arg)
{
	struct update *u = arg;

	/* What is in force now is what the status tells. */
	if (!u->err) {
		json_decref(u->c->resources);
		u->c->resources = json_incref(u->after);
	}
	update_over(u);
}

static int begin(struct update *u, struct berth_error **ret_err)
{
	struct berth_container *c = u->c;

	if (!c->in_table || (c->phase != BERTH_CTR_CREATED && c->phase != BERTH_CTR_RUNNING))
		return berth_error_set(ret_err,
		        c->in_table ? BERTH_FAILED_PRECONDITION : BERTH_NOT_FOUND,
		        "container %s is neither created nor running: it has no resources to "
		        "update",
		        c->id);
	if (berth_resources_merge(c->id, c->resources, u->change, &u->after, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s: update", c->id);
	berth_resources_settle(u->after, &c->d->host);
	u->phase = c->phase;
	if (berth_work(c->d->flows, c->d->loop, update_work, updated, u) < 0)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", c->id);
	return 0;
}

static void update_turn(void *arg)
{
	struct update *u = arg;
	struct berth_error *err = NULL; /* u->err is the worker's from its start on */

	if (begin(u, &err) < 0) {
		u->err = err;
		update_over(u);
	}
}

HANDLER(berth_cri_update_container_resources)
{
	const Runtime__V1__UpdateContainerResourcesRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(arg, q->container_id, &err);

	if (c && !q->linux)
		berth_error_set(
		        &err, BERTH_INVALID_ARGUMENT, "container %s: linux is missing", c->id);
	if (err) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	struct update *u = berth_new(struct update);
	u->c = berth_container_ref(c);
	u->call = call;
	u->change = q->linux;
	berth_gate_enter(&c->gate, update_turn, u);
}

/* ---- pods ---- */

struct pod_update {
	struct berth_pod *p;
	struct berth_grpc_call *call;
	json_t *overhead, *resources;
	enum berth_pod_phase phase;
	struct berth_error *err;
};

static void pod_over(void *arg)
{
	struct pod_update *u = arg;
	Runtime__V1__UpdatePodSandboxResourcesResponse r =
	        RUNTIME__V1__UPDATE_POD_SANDBOX_RESOURCES_RESPONSE__INIT;

	if (u->err)
		berth_grpc_fail(u->call, u->err);
	else
		berth_grpc_reply(u->call, &r.base);
	berth_gate_leave(&u->p->gate);
	berth_pod_unref(u->p);
	berth_error_free(u->err);
	json_decref(u->overhead);
	json_decref(u->resources);
	free(u);
}

static void pod_work(void *arg)
{
	struct pod_update *u = arg;

	if (berth_pod_save_as(u->p, u->phase, u->overhead, u->resources, &u->err) < 0)
		berth_error_wrap(&u->err, "pod sandbox %s: update", u->p->id);
}

static void replace(json_t **what, json_t *by)
{
	json_decref(*what);
	*what = json_incref(by);
}

static void pod_updated(void *arg)
{
	struct pod_update *u = arg;

	if (!u->err) {
		replace(&u->p->overhead, u->overhead);
		replace(&u->p->resources, u->resources);
	}
	pod_over(u);
}

static void pod_turn(void *arg)
{
	struct pod_update *u = arg;
	struct berth_pod *p = u->p;
	struct berth_error *err = NULL; /* u->err is the worker's from its start on */

	if (!p->in_table)
		berth_error_set(&err, BERTH_NOT_FOUND, "pod sandbox %s is gone", p->id);
	else if (berth_pod_check_ready(p, &err) == 0) {
		/* Who says nothing of one of them does not take it away. */
		if (!u->overhead)
			u->overhead = json_incref(p->overhead);
		if (!u->resources)
			u->resources = json_incref(p->resources);
		u->phase = p->phase;
		if (berth_work(p->d->flows, p->d->loop, pod_work, pod_updated, u) < 0)
			berth_error_set(&err, BERTH_RESOURCE_EXHAUSTED,
			        "pod sandbox %s: too many requests are under way", p->id);
	}
	if (err) {
		u->err = err;
		pod_over(u);
	}
}

static int pod_model(const char *id, const Runtime__V1__LinuxContainerResources *r, json_t **ret,
        struct berth_error **ret_err)
{
	if (r && berth_resources_merge(id, NULL, r, ret, ret_err) < 0)
		return berth_error_wrap(ret_err, "pod sandbox %s", id);
	return 0;
}

/* The kubelet has changed the pod's cgroup itself before: it tells those who keep a sandbox of
 * their own. A pod sandbox of ours has no limits that could be changed; what was said is kept with
 * it, and told. */
HANDLER(berth_cri_update_pod_sandbox_resources)
{
	const Runtime__V1__UpdatePodSandboxResourcesRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_pod *p = berth_pod_find(arg, q->pod_sandbox_id, &err);
	json_t *overhead = NULL, *resources = NULL;

	if (!p || pod_model(p->id, q->overhead, &overhead, &err) < 0 ||
	        pod_model(p->id, q->resources, &resources, &err) < 0) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		json_decref(overhead);
		json_decref(resources);
		return;
	}
	struct pod_update *u = berth_new(struct pod_update);
	u->p = berth_pod_ref(p);
	u->call = call;
	u->overhead = overhead;
	u->resources = resources;
	berth_gate_enter(&p->gate, pod_turn, u);
}
