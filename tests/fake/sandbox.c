/* What the fake runtime has of a pod sandbox: a table of what came with it, and a state that the
 * host has to give back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"
#include "fake.h"

#define TABLE "sandboxes"

static void state_of(const char *id, char out[VALUE_LIMIT])
{
	snprintf(out, VALUE_LIMIT, "{\"fake\":\"%s\"}", id);
}

berth_status sandbox_state(
        struct fake *f, struct berth_op *op, const char *id, const char *state_json)
{
	char state[VALUE_LIMIT], path[4096];

	state_of(id ? id : "", state);
	if (state_json ? strcmp(state_json, state) == 0
	               : !id || row_path(f->run, TABLE, id, path, sizeof(path)) < 0 ||
	                         access(path, F_OK) < 0)
		return BERTH_OK;
	return berth_fail(f->host, op, BERTH_E_INTERNAL,
	        "fake sandbox '%s' has the state %s, and was given %s", id, state,
	        state_json ? state_json : "none");
}

static berth_status create(
        struct fake *f, struct berth_op *op, const struct berth_sandbox_args *a, char **state)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	int e;

	for (uint32_t i = 0; i < a->n_annotations; i++)
		row_set(r, a->annotations[i].key, a->annotations[i].value);
	row_set(r, "cgroup_parent", a->cgroup_parent ? a->cgroup_parent : "");
	row_set(r, "resources", a->oci_resources_json ? a->oci_resources_json : "");
	pthread_mutex_lock(&f->lock);
	e = row_create(f->run, TABLE, a->id, r);
	pthread_mutex_unlock(&f->lock);
	if (e < 0)
		return fake_fail(f, op, e, "keep sandbox", a->id);
	*state = f->host->op_alloc(op, VALUE_LIMIT);
	state_of(a->id, *state);
	return BERTH_OK;
}

berth_status sandbox_create(struct berth_op *op, void *self, const struct berth_sandbox_args *a,
        struct berth_sandbox_result *res)
{
	char *state = NULL;
	berth_status st = inject_before(self, op, "runtime.sandbox_create");

	if (st == BERTH_OK)
		st = create(self, op, a, &state);
	res->state_json = state;
	inject_after(self, "runtime.sandbox_create");
	return st;
}

berth_status sandbox_remove(struct berth_op *op, void *self, const struct berth_sandbox_args *a)
{
	struct fake *f = self;
	berth_status st = inject_before(f, op, "runtime.sandbox_remove");

	/* A host that was killed before it kept the state gives none. */
	if (st == BERTH_OK && a->state_json)
		st = sandbox_state(f, op, a->id, a->state_json);
	if (st == BERTH_OK) {
		int e = row_remove(f->run, TABLE, a->id);
		st = e < 0 ? fake_fail(f, op, e, "remove sandbox", a->id) : BERTH_OK;
	}
	inject_after(f, "runtime.sandbox_remove");
	return st;
}
