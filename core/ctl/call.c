#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

int ctl_connect(struct ctl *c, struct berth_error **err)
{
	if (!c->client)
		c->client = berth_grpc_client_connect(c->endpoint, err);
	return c->client ? 0 : -1;
}

void ctl_free_message(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

static void *call(struct ctl *c, const char *path, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, uint64_t timeout_ms, struct berth_error **err)
{
	if (ctl_connect(c, err))
		return NULL;
	return berth_grpc_client_call(c->client, path, request, response,
	        c->have_timeout ? c->timeout_ms : timeout_ms, err);
}

void *ctl_call(struct ctl *c, const char *method, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, uint64_t timeout_ms, struct berth_error **err)
{
	_cleanup_free_ char *path = berth_asprintf("/runtime.v1.%s", method);
	return call(c, path, request, response, timeout_ms, err);
}

void *ctl_admin_call(struct ctl *c, const char *method, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, uint64_t timeout_ms, struct berth_error **err)
{
	_cleanup_free_ char *path = berth_asprintf("/berth.admin.v1.Admin/%s", method);
	void *m = call(c, path, request, response, timeout_ms, err);
	if (!m && (*err)->code == BERTH_UNIMPLEMENTED) {
		*err = berth_error_free(*err);
		berth_error_set(err, BERTH_UNIMPLEMENTED,
		        "'%s' needs berthd, and the runtime at %s is another one", c->command->name,
		        c->endpoint);
	}
	return m;
}

/* What objects are called. */
struct match {
	struct ctl *c;
	const char *kind, *name;
	const char *found;
	size_t n;
};

static void consider(struct match *m, const char *id, const char *name)
{
	bool whole = strcmp(id, m->name) == 0;
	if (!whole && strcmp(name, m->name) != 0 && strncmp(id, m->name, strlen(m->name)) != 0)
		return;
	if (whole)
		m->n = 0;
	m->n++;
	m->found = berth_arena_strdup(m->c->arena, id);
}

static const char *result(const struct match *m, struct berth_error **err)
{
	if (m->n == 1)
		return m->found;
	if (m->n == 0)
		berth_error_set(err, BERTH_NOT_FOUND, "no %s '%s'", m->kind, m->name);
	else
		berth_error_set(err, BERTH_INVALID_ARGUMENT,
		        "'%s' may be any of %zu %ss; use more of the id", m->name, m->n, m->kind);
	return NULL;
}

const char *ctl_find_container(struct ctl *c, const char *name, struct berth_error **err)
{
	Runtime__V1__ListContainersRequest req = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ListContainersResponse *res = ctl_call(c, "RuntimeService/ListContainers",
	        &req.base, &runtime__v1__list_containers_response__descriptor, CTL_SHORT_MS, err);
	struct match m = {c, "container", name, NULL, 0};
	if (!res)
		return NULL;
	for (size_t i = 0; i < res->n_containers && *name; i++)
		consider(&m, res->containers[i]->id,
		        res->containers[i]->metadata ? res->containers[i]->metadata->name : "");
	ctl_free_message(res);
	return result(&m, err);
}

const char *ctl_find_pod(struct ctl *c, const char *name, struct berth_error **err)
{
	Runtime__V1__ListPodSandboxRequest req = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__ListPodSandboxResponse *res = ctl_call(c, "RuntimeService/ListPodSandbox",
	        &req.base, &runtime__v1__list_pod_sandbox_response__descriptor, CTL_SHORT_MS, err);
	struct match m = {c, "pod", name, NULL, 0};
	if (!res)
		return NULL;
	for (size_t i = 0; i < res->n_items && *name; i++)
		consider(&m, res->items[i]->id,
		        res->items[i]->metadata ? res->items[i]->metadata->name : "");
	ctl_free_message(res);
	return result(&m, err);
}
