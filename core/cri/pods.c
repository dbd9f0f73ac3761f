/* Pod sandboxes. */
#include "cri/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "spec/podfiles.h"
#include "spec/validate.h"

static void ran(const char *id, const struct berth_error *err, void *arg)
{
	struct berth_grpc_call *call = arg;
	if (err) {
		berth_grpc_fail(call, err);
		return;
	}
	Runtime__V1__RunPodSandboxResponse r = RUNTIME__V1__RUN_POD_SANDBOX_RESPONSE__INIT;
	r.pod_sandbox_id = (char *)id;
	berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_run_pod_sandbox)
{
	const Runtime__V1__RunPodSandboxRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;

	if (!q->config)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "config is missing");
	else if (!berth_daemon_handler(d, q->runtime_handler))
		berth_error_set(&err, BERTH_INVALID_ARGUMENT,
		        "runtime_handler \"%.100s\" is not configured (runtimes.handlers)",
		        q->runtime_handler);
	else if (d->draining)
		berth_error_set(&err, BERTH_UNAVAILABLE, "berthd is shutting down");
	if (err || berth_validate_pod(q->config,
	                   (enum berth_cgroup_driver)d->config->cri.cgroup_driver, &err) < 0) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	berth_pod_run(
	        d, q->config, q->runtime_handler, berth_grpc_deadline_ns(call), call, ran, call);
}

/* ---- stop, remove ---- */

static void stopped(const struct berth_error *err, void *arg)
{
	Runtime__V1__StopPodSandboxResponse r = RUNTIME__V1__STOP_POD_SANDBOX_RESPONSE__INIT;
	if (err)
		berth_grpc_fail(arg, err);
	else
		berth_grpc_reply(arg, &r.base);
}

static void removed(const struct berth_error *err, void *arg)
{
	Runtime__V1__RemovePodSandboxResponse r = RUNTIME__V1__REMOVE_POD_SANDBOX_RESPONSE__INIT;
	if (err)
		berth_grpc_fail(arg, err);
	else
		berth_grpc_reply(arg, &r.base);
}

/* Both are idempotent: what is unknown is done. */
static void end_pod(struct berth_grpc_call *call, struct berth_daemon *d, const char *id,
        void (*op)(struct berth_pod *, berth_done_fn, void *), berth_done_fn done)
{
	struct berth_error *err = NULL;
	struct berth_pod *p = berth_pod_find(d, id, &err);

	if (p)
		op(p, done, call);
	else
		done(err->code == BERTH_NOT_FOUND ? NULL : err, call);
	berth_error_free(err);
}

HANDLER(berth_cri_stop_pod_sandbox)
{
	const Runtime__V1__StopPodSandboxRequest *q = (const void *)request;
	end_pod(call, arg, q->pod_sandbox_id, berth_pod_stop, stopped);
}

HANDLER(berth_cri_remove_pod_sandbox)
{
	const Runtime__V1__RemovePodSandboxRequest *q = (const void *)request;
	end_pod(call, arg, q->pod_sandbox_id, berth_pod_remove, removed);
}

/* ---- status, list ---- */

static Runtime__V1__PodSandboxState state_of(const struct berth_pod *p)
{
	return berth_pod_ready(p) ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
	                          : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY;
}

static void fill_network(
        struct berth_arena *a, const struct berth_pod *p, Runtime__V1__PodSandboxStatus *s)
{
	Runtime__V1__PodSandboxNetworkStatus *n = berth_arena_alloc(a, sizeof(*n));
	size_t count = berth_strv_len(p->ips);

	runtime__v1__pod_sandbox_network_status__init(n);
	s->network = n;
	if (count == 0 || p->phase != BERTH_POD_READY)
		return;
	n->ip = p->ips[0];
	n->additional_ips = berth_arena_alloc(a, count * sizeof(*n->additional_ips));
	for (size_t i = 1; i < count; i++) {
		Runtime__V1__PodIP *ip = berth_arena_alloc(a, sizeof(*ip));
		runtime__v1__pod_ip__init(ip);
		ip->ip = p->ips[i];
		n->additional_ips[n->n_additional_ips++] = ip;
	}
}

static void fill_linux(
        struct berth_arena *a, const struct berth_pod *p, Runtime__V1__PodSandboxStatus *s)
{
	Runtime__V1__LinuxPodSandboxStatus *l = berth_arena_alloc(a, sizeof(*l));
	Runtime__V1__Namespace *ns = berth_arena_alloc(a, sizeof(*ns));
	runtime__v1__linux_pod_sandbox_status__init(l);
	runtime__v1__namespace__init(ns);
	l->namespaces = ns;
	s->linux = l;
	if (p->config->linux && p->config->linux->security_context)
		ns->options = p->config->linux->security_context->namespace_options;
	if (ns->options)
		return;
	ns->options = berth_arena_alloc(a, sizeof(*ns->options));
	runtime__v1__namespace_option__init(ns->options);
}

static void fill_info(struct berth_grpc_call *call, const struct berth_pod *p,
        Runtime__V1__PodSandboxStatusResponse *r)
{
	_cleanup_free_ char *net = berth_pod_ns_path(p, "net");
	json_t *ips = json_array();
	for (char **ip = p->ips; ip && *ip; ip++)
		json_array_append_new(ips, json_string(*ip));
	json_t *j = json_pack("{s:s, s:i, s:s, s:s, s:s?, s:o, s:s, s:O*, s:O*, s:s?, s:s?}",
	        "sandboxID", p->id, "pid", 0, "image", "", "runtimeHandler", p->handler_name,
	        "netns", p->host_network ? NULL : net, "ips", ips, "hostname", p->hostname,
	        "overhead", p->overhead, "resources", p->resources, "selinuxProcessLabel",
	        p->process_label, "selinuxMountLabel", p->mount_label);
	_cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	r->info = berth_arena_alloc(berth_grpc_arena(call), sizeof(*r->info));
	r->info[r->n_info++] = (void *)berth_map_entry(call,
	        &runtime__v1__pod_sandbox_status_response__info_entry__descriptor, "info", text);
}

Runtime__V1__PodSandboxStatus *berth_cri_pod_status_of(struct berth_arena *a, struct berth_pod *p)
{
	Runtime__V1__PodSandboxStatus *s = berth_arena_alloc(a, sizeof(*s));

	runtime__v1__pod_sandbox_status__init(s);
	s->id = p->id;
	s->metadata = p->config->metadata;
	s->state = state_of(p);
	s->created_at = (int64_t)p->created_ns;
	s->labels = (void *)p->config->labels;
	s->n_labels = p->config->n_labels;
	s->annotations = (void *)p->config->annotations;
	s->n_annotations = p->config->n_annotations;
	s->runtime_handler = p->handler_name;
	fill_network(a, p, s);
	fill_linux(a, p, s);
	return s;
}

HANDLER(berth_cri_pod_sandbox_status)
{
	const Runtime__V1__PodSandboxStatusRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;
	struct berth_arena *a = berth_grpc_arena(call);
	struct berth_pod *p = berth_pod_find(d, q->pod_sandbox_id, &err);

	if (!p) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	Runtime__V1__PodSandboxStatusResponse r = RUNTIME__V1__POD_SANDBOX_STATUS_RESPONSE__INIT;
	r.status = berth_cri_pod_status_of(a, p);
	r.timestamp = (int64_t)berth_realtime_ns();
	r.n_containers_statuses = berth_cri_container_statuses_of(a, p, &r.containers_statuses);
	if (q->verbose)
		fill_info(call, p, &r);
	berth_grpc_reply(call, &r.base);
}

static bool wanted(const struct berth_pod *p, const Runtime__V1__PodSandboxFilter *f)
{
	if (p->phase != BERTH_POD_READY && p->phase != BERTH_POD_STOPPED)
		return false;
	if (!f)
		return true;
	if (f->id && *f->id && strncmp(p->id, f->id, strlen(f->id)) != 0)
		return false;
	if (f->state && f->state->state != state_of(p))
		return false;
	return berth_labels_match((void *const *)p->config->labels, p->config->n_labels,
	        (void *const *)f->label_selector, f->n_label_selector);
}

static size_t collect(struct berth_arena *a, struct berth_daemon *d,
        const Runtime__V1__PodSandboxFilter *filter, Runtime__V1__PodSandbox ***ret)
{
	struct berth_pod *p, *tmp;
	size_t n = 0;

	*ret = berth_arena_alloc(a, (HASH_CNT(hh_id, d->pods->by_id) + 1) * sizeof(**ret));
	HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
		if (!wanted(p, filter))
			continue;
		Runtime__V1__PodSandbox *s = berth_arena_alloc(a, sizeof(*s));
		runtime__v1__pod_sandbox__init(s);
		s->id = p->id;
		s->metadata = p->config->metadata;
		s->state = state_of(p);
		s->created_at = (int64_t)p->created_ns;
		s->labels = (void *)p->config->labels;
		s->n_labels = p->config->n_labels;
		s->annotations = (void *)p->config->annotations;
		s->n_annotations = p->config->n_annotations;
		s->runtime_handler = p->handler_name;
		(*ret)[n++] = s;
	}
	return n;
}

HANDLER(berth_cri_list_pod_sandbox)
{
	const Runtime__V1__ListPodSandboxRequest *q = (const void *)request;
	Runtime__V1__ListPodSandboxResponse r = RUNTIME__V1__LIST_POD_SANDBOX_RESPONSE__INIT;

	r.n_items = collect(berth_grpc_arena(call), arg, q->filter, &r.items);
	berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_stream_pod_sandboxes)
{
	const Runtime__V1__StreamPodSandboxesRequest *q = (const void *)request;
	Runtime__V1__StreamPodSandboxesResponse r =
	        RUNTIME__V1__STREAM_POD_SANDBOXES_RESPONSE__INIT;
	Runtime__V1__PodSandbox **all;
	size_t n = collect(berth_grpc_arena(call), arg, q->filter, &all);

	for (size_t i = 0; i < n; i += r.n_pod_sandboxes) {
		r.pod_sandboxes = all + i;
		r.n_pod_sandboxes = n - i < BERTH_STREAM_ITEMS ? n - i : BERTH_STREAM_ITEMS;
		if (berth_grpc_send(call, &r.base) < 0)
			break;
	}
	berth_grpc_finish(call);
}
