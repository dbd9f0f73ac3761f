/* pods, inspectp, stopp, rmp */
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "ctl/ctl.h"

static Runtime__V1__PodSandboxStatusResponse *pod_status(
        struct ctl *c, const char *id, bool verbose, struct berth_error **err)
{
	Runtime__V1__PodSandboxStatusRequest req = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	req.pod_sandbox_id = (char *)(uintptr_t)id;
	req.verbose = verbose;
	return ctl_call(c, "RuntimeService/PodSandboxStatus", &req.base,
	        &runtime__v1__pod_sandbox_status_response__descriptor, CTL_SHORT_MS, err);
}

/* "" for a pod of the host's network, and for one that has gone in between. */
static const char *pod_ip(struct ctl *c, const char *id)
{
	struct berth_error *err = NULL;
	const char *ip = "";
	Runtime__V1__PodSandboxStatusResponse *res = pod_status(c, id, false, &err);
	if (res && res->status && res->status->network)
		ip = berth_arena_strdup(c->arena, res->status->network->ip);
	ctl_free_message(res);
	berth_error_free(err);
	return ip;
}

static int by_creation(const void *a, const void *b)
{
	const Runtime__V1__PodSandbox *x = *(Runtime__V1__PodSandbox *const *)a;
	const Runtime__V1__PodSandbox *y = *(Runtime__V1__PodSandbox *const *)b;
	return x->created_at < y->created_at ? 1 : x->created_at > y->created_at ? -1 : 0;
}

static void print_pods(struct ctl *c, const Runtime__V1__ListPodSandboxResponse *res)
{
	static const char *const heads[] = {
	        "POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "IP", "RUNTIME"};
	int64_t now = (int64_t)berth_realtime_ns();
	struct ctl_table t;

	ctl_table_init(&t, 7, heads);
	for (size_t i = 0; i < res->n_items; i++) {
		const Runtime__V1__PodSandbox *p = res->items[i];
		bool ready = p->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY;
		const char *cells[] = {
		        ctl_flag(c, "no-trunc") ? p->id : ctl_short_id(c->arena, p->id),
		        ctl_age(c->arena, p->created_at, now), ready ? "ready" : "not ready",
		        p->metadata ? p->metadata->name : "",
		        p->metadata ? p->metadata->namespace_ : "", ready ? pod_ip(c, p->id) : "",
		        *p->runtime_handler ? p->runtime_handler : "(default)"};
		ctl_table_add(&t, cells);
	}
	ctl_table_print(&t, stdout);
}

int ctl_cmd_pods(struct ctl *c, struct berth_error **err)
{
	Runtime__V1__ListPodSandboxRequest req = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__ListPodSandboxResponse *res = ctl_call(c, "RuntimeService/ListPodSandbox",
	        &req.base, &runtime__v1__list_pod_sandbox_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	if (res->n_items)
		qsort(res->items, res->n_items, sizeof(*res->items), by_creation);
	if (c->json)
		ctl_print_message(res);
	else if (ctl_flag(c, "quiet"))
		for (size_t i = 0; i < res->n_items; i++)
			puts(res->items[i]->id);
	else
		print_pods(c, res);
	ctl_free_message(res);
	return CTL_OK;
}

int ctl_cmd_inspectp(struct ctl *c, struct berth_error **err)
{
	const char *id = ctl_find_pod(c, c->args[0], err);
	void *res = id ? pod_status(c, id, true, err) : NULL;
	if (!res)
		return -1;
	ctl_print_message(res);
	ctl_free_message(res);
	return CTL_OK;
}

int ctl_stop_pod(struct ctl *c, const char *id, struct berth_error **err)
{
	Runtime__V1__StopPodSandboxRequest req = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
	req.pod_sandbox_id = (char *)(uintptr_t)id;
	void *res = ctl_call(c, "RuntimeService/StopPodSandbox", &req.base,
	        &runtime__v1__stop_pod_sandbox_response__descriptor, CTL_LONG_MS, err);
	ctl_free_message(res);
	return res ? 0 : -1;
}

int ctl_remove_pod(struct ctl *c, const char *id, struct berth_error **err)
{
	Runtime__V1__RemovePodSandboxRequest req = RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
	req.pod_sandbox_id = (char *)(uintptr_t)id;
	void *res = ctl_call(c, "RuntimeService/RemovePodSandbox", &req.base,
	        &runtime__v1__remove_pod_sandbox_response__descriptor, CTL_LONG_MS, err);
	ctl_free_message(res);
	return res ? 0 : -1;
}

int ctl_cmd_stopp(struct ctl *c, struct berth_error **err)
{
	for (int i = 0; i < c->n_args; i++) {
		const char *id = ctl_find_pod(c, c->args[i], err);
		if (!id || ctl_stop_pod(c, id, err))
			return -1;
		puts(c->args[i]);
	}
	return CTL_OK;
}

int ctl_cmd_rmp(struct ctl *c, struct berth_error **err)
{
	for (int i = 0; i < c->n_args; i++) {
		const char *id = ctl_find_pod(c, c->args[i], err);
		if (!id || (ctl_flag(c, "force") && ctl_stop_pod(c, id, err)) ||
		        ctl_remove_pod(c, id, err))
			return -1;
		puts(c->args[i]);
	}
	return CTL_OK;
}
