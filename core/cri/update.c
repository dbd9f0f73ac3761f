/* UpdateContainerResources. */
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
