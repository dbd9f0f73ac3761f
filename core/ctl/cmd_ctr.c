/* ps, start, stop, rm, inspect, exec, logs */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl/ctl.h"

#define STOP_SECONDS 10

static const char *state_name(int state)
{
	static const char *const names[] = {"created", "running", "exited", "unknown"};
	return state >= 0 && (size_t)state < BERTH_ARRAY_LEN(names) ? names[state] : "unknown";
}

/* The pod's name, from its list. */
static const char *pod_name(const Runtime__V1__ListPodSandboxResponse *pods, const char *id)
{
	for (size_t i = 0; i < pods->n_items; i++)
		if (strcmp(pods->items[i]->id, id) == 0 && pods->items[i]->metadata)
			return pods->items[i]->metadata->name;
	return "unknown";
}

static void print_containers(struct ctl *c, const Runtime__V1__ListContainersResponse *res,
        const Runtime__V1__ListPodSandboxResponse *pods)
{
	static const char *const heads[] = {
	        "CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "POD ID", "POD"};
	bool whole = ctl_flag(c, "no-trunc");
	int64_t now = (int64_t)berth_realtime_ns();
	struct ctl_table t;

	ctl_table_init(&t, 7, heads);
	for (size_t i = 0; i < res->n_containers; i++) {
		const Runtime__V1__Container *k = res->containers[i];
		const char *image = k->image && *k->image->image ? k->image->image : k->image_ref;
		if (strncmp(image, "sha256:", 7) == 0 && !whole)
			image = ctl_short_id(c->arena, image);
		const char *cells[] = {whole ? k->id : ctl_short_id(c->arena, k->id), image,
		        ctl_age(c->arena, k->created_at, now), state_name(k->state),
		        k->metadata ? k->metadata->name : "",
		        whole ? k->pod_sandbox_id : ctl_short_id(c->arena, k->pod_sandbox_id),
		        pod_name(pods, k->pod_sandbox_id)};
		ctl_table_add(&t, cells);
	}
	ctl_table_print(&t, stdout);
}

static int by_creation(const void *a, const void *b)
{
	const Runtime__V1__Container *x = *(Runtime__V1__Container *const *)a;
	const Runtime__V1__Container *y = *(Runtime__V1__Container *const *)b;
	return x->created_at < y->created_at ? 1 : x->created_at > y->created_at ? -1 : 0;
}

int ctl_cmd_ps(struct ctl *c, struct berth_error **err)
{
	Runtime__V1__ListContainersRequest req = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ListPodSandboxRequest pod_req = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
	Runtime__V1__ContainerStateValue running = RUNTIME__V1__CONTAINER_STATE_VALUE__INIT;

	running.state = RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	if (!ctl_flag(c, "all"))
		filter.state = &running;
	if (ctl_text(c, "pod")) {
		filter.pod_sandbox_id = (char *)(uintptr_t)ctl_find_pod(c, ctl_text(c, "pod"), err);
		if (!filter.pod_sandbox_id)
			return -1;
	}
	req.filter = &filter;
	Runtime__V1__ListContainersResponse *res = ctl_call(c, "RuntimeService/ListContainers",
	        &req.base, &runtime__v1__list_containers_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	if (res->n_containers)
		qsort(res->containers, res->n_containers, sizeof(*res->containers), by_creation);
	if (c->json) {
		ctl_print_message(res);
	} else if (ctl_flag(c, "quiet")) {
		for (size_t i = 0; i < res->n_containers; i++)
			puts(res->containers[i]->id);
	} else {
		Runtime__V1__ListPodSandboxResponse *pods = ctl_call(c,
		        "RuntimeService/ListPodSandbox", &pod_req.base,
		        &runtime__v1__list_pod_sandbox_response__descriptor, CTL_SHORT_MS, err);
		if (!pods) {
			ctl_free_message(res);
			return -1;
		}
		print_containers(c, res, pods);
		ctl_free_message(pods);
	}
	ctl_free_message(res);
	return CTL_OK;
}

static int stop_container(struct ctl *c, const char *id, uint64_t seconds, struct berth_error **err)
{
	Runtime__V1__StopContainerRequest req = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
	req.container_id = (char *)(uintptr_t)id;
	req.timeout = (int64_t)seconds;
	void *res = ctl_call(c, "RuntimeService/StopContainer", &req.base,
	        &runtime__v1__stop_container_response__descriptor, seconds * 1000 + CTL_LONG_MS,
	        err);
	ctl_free_message(res);
	return res ? 0 : -1;
}

int ctl_cmd_start(struct ctl *c, struct berth_error **err)
{
	for (int i = 0; i < c->n_args; i++) {
		Runtime__V1__StartContainerRequest req = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
		req.container_id = (char *)(uintptr_t)ctl_find_container(c, c->args[i], err);
		if (!req.container_id)
			return -1;
		void *res = ctl_call(c, "RuntimeService/StartContainer", &req.base,
		        &runtime__v1__start_container_response__descriptor, CTL_LONG_MS, err);
		if (!res)
			return -1;
		ctl_free_message(res);
		puts(c->args[i]);
	}
	return CTL_OK;
}

int ctl_cmd_stop(struct ctl *c, struct berth_error **err)
{
	for (int i = 0; i < c->n_args; i++) {
		const char *id = ctl_find_container(c, c->args[i], err);
		if (!id || stop_container(c, id, ctl_number(c, "time", STOP_SECONDS), err))
			return -1;
		puts(c->args[i]);
	}
	return CTL_OK;
}

int ctl_cmd_rm(struct ctl *c, struct berth_error **err)
{
	for (int i = 0; i < c->n_args; i++) {
		Runtime__V1__RemoveContainerRequest req =
		        RUNTIME__V1__REMOVE_CONTAINER_REQUEST__INIT;
		const char *id = ctl_find_container(c, c->args[i], err);
		if (!id || (ctl_flag(c, "force") && stop_container(c, id, 0, err)))
			return -1;
		req.container_id = (char *)(uintptr_t)id;
		void *res = ctl_call(c, "RuntimeService/RemoveContainer", &req.base,
		        &runtime__v1__remove_container_response__descriptor, CTL_LONG_MS, err);
		if (!res)
			return -1;
		ctl_free_message(res);
		puts(c->args[i]);
	}
	return CTL_OK;
}

static Runtime__V1__ContainerStatusResponse *container_status(
        struct ctl *c, const char *id, bool verbose, struct berth_error **err)
{
	Runtime__V1__ContainerStatusRequest req = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	req.container_id = (char *)(uintptr_t)id;
	req.verbose = verbose;
	Runtime__V1__ContainerStatusResponse *res = ctl_call(c, "RuntimeService/ContainerStatus",
	        &req.base, &runtime__v1__container_status_response__descriptor, CTL_SHORT_MS, err);
	if (res && !res->status) {
		ctl_free_message(res);
		res = NULL;
		berth_error_set(
		        err, BERTH_INTERNAL, "container '%s': the server tells no status", id);
	}
	return res;
}

int ctl_cmd_inspect(struct ctl *c, struct berth_error **err)
{
	const char *id = ctl_find_container(c, c->args[0], err);
	void *res = id ? container_status(c, id, true, err) : NULL;
	if (!res)
		return -1;
	ctl_print_message(res);
	ctl_free_message(res);
	return CTL_OK;
}

static int exec_sync(struct ctl *c, const char *id, struct berth_error **err)
{
	Runtime__V1__ExecSyncRequest req = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	req.container_id = (char *)(uintptr_t)id;
	req.cmd = c->args + 1;
	req.n_cmd = (size_t)c->n_args - 1;
	/* The server ends the command; its answer is waited for a little longer. */
	if (c->have_timeout && c->timeout_ms) {
		req.timeout = (int64_t)((c->timeout_ms + 999) / 1000);
		c->timeout_ms += 5000;
	}
	Runtime__V1__ExecSyncResponse *res = ctl_call(c, "RuntimeService/ExecSync", &req.base,
	        &runtime__v1__exec_sync_response__descriptor, 0, err);
	if (!res)
		return -1;
	fwrite(res->stdout.data, 1, res->stdout.len, stdout);
	fflush(stdout);
	fwrite(res->stderr.data, 1, res->stderr.len, stderr);
	int code = res->exit_code;
	ctl_free_message(res);
	return code;
}

int ctl_cmd_exec(struct ctl *c, struct berth_error **err)
{
	bool streamed = ctl_flag(c, "stdin") || ctl_flag(c, "tty");
	const char *id = ctl_find_container(c, c->args[0], err);
	int r = !id ? -1 : streamed ? ctl_stream_exec(c, id, err) : exec_sync(c, id, err);
	if (*err)
		return CTL_EXEC_FAILED;
	return r & 255;
}

struct follow {
	struct ctl *c;
	const char *id;
	struct berth_error *err;
};

static bool still_runs(void *arg)
{
	struct follow *f = arg;
	Runtime__V1__ContainerStatusResponse *res = container_status(f->c, f->id, false, &f->err);
	if (!res)
		return false;
	bool runs = res->status->state != RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
	ctl_free_message(res);
	return runs;
}

int ctl_follow_container(
        struct ctl *c, const char *id, const struct ctl_log_opts *opts, struct berth_error **err)
{
	struct follow f = {c, id, NULL};
	struct ctl_log_opts o = *opts;
	Runtime__V1__ContainerStatusResponse *res = container_status(c, id, false, err);
	if (!res)
		return -1;
	const char *path = berth_arena_strdup(c->arena, res->status->log_path);
	ctl_free_message(res);
	if (!path || !*path)
		return berth_error_set(err, BERTH_NOT_FOUND, "container '%s' has no log", id);
	o.is_running = still_runs;
	o.arg = &f;
	int r = ctl_print_log(path, &o, err);
	/* A container that was removed while it was followed has no more to say. */
	if (r == 0 && f.err && f.err->code != BERTH_NOT_FOUND)
		return berth_error_move(err, &f.err);
	berth_error_free(f.err);
	return r;
}

int ctl_cmd_logs(struct ctl *c, struct berth_error **err)
{
	struct ctl_log_opts o = {ctl_flag(c, "follow"), ctl_flag(c, "timestamps"),
	        ctl_number(c, "tail", UINT64_MAX), NULL, NULL};
	const char *id = ctl_find_container(c, c->args[0], err);
	return id ? ctl_follow_container(c, id, &o, err) : -1;
}
