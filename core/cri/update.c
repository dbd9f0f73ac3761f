/* UpdateContainerResources. */
#include "cri/service.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "spec/resources.h"

struct update {
	struct berth_container *c;
	struct berth_grpc_call *call;
	const Runtime__V1__LinuxContainerResources *change; /* of the request */
	json_t *after;
	enum berth_ctr_phase phase;
	struct berth_error *err;
};

static void set_score(pid_t pid, void *value)
{
	_cleanup_free_ char *path = berth_asprintf("/proc/%d/oom_score_adj", (int)pid);
	(void)!berth_write_value(path, value); /* one that has just ended */
}

/* The score belongs to processes, not to the cgroup: all that run now get it. */
static void set_oom_score(struct berth_container *c, int score)
{
	_cleanup_free_ char *cgroup = berth_cgroup_path_of(c->cgroups_path);
	char value[16];

	snprintf(value, sizeof(value), "%d", score);
	berth_cgroup_each(cgroup, set_score, value);
}

static int apply(struct berth_container *c, const json_t *res, struct berth_error **ret_err)
{
	json_t *oci = NULL;

	if (berth_resources_oci(c->id, res, &c->d->host, &oci, ret_err) < 0)
		return -1;
	_cleanup_free_ char *json = json_dumps(oci, JSON_COMPACT);
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	json_decref(oci);
	struct berth_ctr_args a = {.size = sizeof(a), .id = c->id, .bundle = bundle, .json = json};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_UPDATE, c->id);
	return berth_call_run(call, &a, NULL, ret_err);
}

/* A runtime writes one limit after the other: what it wrote before one was refused is taken back.
 */
static void take_back(struct update *u)
{
	struct berth_error *err = NULL;
	json_t *before = berth_resources_before(u->c->resources, u->after, &u->c->d->host);

	if (apply(u->c, before, &err) < 0) {
		berth_log_warn("a part of an update may be in force", "container", u->c->id,
		        "error", err->msg);
		berth_error_free(err);
	}
	json_decref(before);
}

static void update_work(void *arg)
{
	struct update *u = arg;
	struct berth_container *c = u->c;

	if (apply(c, u->after, &u->err) < 0) {
		berth_error_wrap(&u->err, "container %s: update", c->id);
		take_back(u);
		return;
	}
	if (u->change->oom_score_adj != 0)
		set_oom_score(c, berth_resources_oom_score_adj(u->after, &c->d->host));
}

static void save_work(void *arg)
{
	struct update *u = arg;
	struct berth_error *err = NULL;
	if (berth_container_save(u->c, u->phase, &err) < 0) {
		berth_log_warn(
		        "an update was not written down", "container", u->c->id, "error", err->msg);
		berth_error_free(err);
	}
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
	struct berth_container *c = u->c;

	if (u->err || (c->phase != BERTH_CTR_CREATED && c->phase != BERTH_CTR_RUNNING)) {
		update_over(u);
		return;
	}
	/* What is in force now is what the status tells. */
	json_t *old = c->resources;
	c->resources = json_incref(u->after);
	u->phase = c->phase;
	json_decref(old);
	if (berth_work(c->d->flows, c->d->loop, save_work, update_over, u) < 0)
		update_over(u);
}

static void update_turn(void *arg)
{
	struct update *u = arg;
	struct berth_container *c = u->c;
	struct berth_error *err = NULL; /* u->err is the worker's from its start on */

	if (!c->in_table || (c->phase != BERTH_CTR_CREATED && c->phase != BERTH_CTR_RUNNING))
		berth_error_set(&err, c->in_table ? BERTH_FAILED_PRECONDITION : BERTH_NOT_FOUND,
		        "container %s is neither created nor running: it has no resources to "
		        "update",
		        c->id);
	else if (berth_resources_merge(c->id, c->resources, u->change, &u->after, &err) == 0 &&
	         berth_work(c->d->flows, c->d->loop, update_work, updated, u) < 0)
		berth_error_set(&err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", c->id);
	if (err) {
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
