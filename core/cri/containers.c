/* Containers. */
#include "cri/service.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "monitor/host.h"
#include "spec/resources.h"
#include "spec/validate.h"

static void fail(struct berth_grpc_call *call, struct berth_error *err)
{
	berth_grpc_fail(call, err);
	berth_error_free(err);
}

static void created(const char *id, const struct berth_error *err, void *arg)
{
	if (err) {
		berth_grpc_fail(arg, err);
		return;
	}
	Runtime__V1__CreateContainerResponse r = RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;
	r.container_id = (char *)id;
	berth_grpc_reply(arg, &r.base);
}

HANDLER(berth_cri_create_container)
{
	const Runtime__V1__CreateContainerRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;

	if (!q->config)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "config is missing");
	else if (!q->sandbox_config)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "sandbox_config is missing");
	else if (d->draining)
		berth_error_set(&err, BERTH_UNAVAILABLE, "berthd is shutting down");
	struct berth_pod *p = err ? NULL : berth_pod_find(d, q->pod_sandbox_id, &err);
	if (!p || berth_validate_container(q->config, &err) < 0) {
		fail(call, err);
		return;
	}
	berth_container_create(p, q->config, call, created, call);
}

/* ---- start, stop, remove ---- */

static void started(const struct berth_error *err, void *arg)
{
	Runtime__V1__StartContainerResponse r = RUNTIME__V1__START_CONTAINER_RESPONSE__INIT;
	if (err)
		berth_grpc_fail(arg, err);
	else
		berth_grpc_reply(arg, &r.base);
}

HANDLER(berth_cri_start_container)
{
	const Runtime__V1__StartContainerRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(arg, q->container_id, &err);

	if (c)
		berth_container_start(c, started, call);
	else
		fail(call, err);
}

static void stopped(const struct berth_error *err, void *arg)
{
	Runtime__V1__StopContainerResponse r = RUNTIME__V1__STOP_CONTAINER_RESPONSE__INIT;
	if (err)
		berth_grpc_fail(arg, err);
	else
		berth_grpc_reply(arg, &r.base);
}

HANDLER(berth_cri_stop_container)
{
	const Runtime__V1__StopContainerRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(arg, q->container_id, &err);

	if (c)
		berth_container_stop(
		        c, q->timeout > 0 ? (uint64_t)q->timeout * 1000u : 0, stopped, call);
	else
		stopped(err->code == BERTH_NOT_FOUND ? NULL : err, call);
	berth_error_free(err);
}

static void removed(const struct berth_error *err, void *arg)
{
	Runtime__V1__RemoveContainerResponse r = RUNTIME__V1__REMOVE_CONTAINER_RESPONSE__INIT;
	if (err)
		berth_grpc_fail(arg, err);
	else
		berth_grpc_reply(arg, &r.base);
}

HANDLER(berth_cri_remove_container)
{
	const Runtime__V1__RemoveContainerRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(arg, q->container_id, &err);

	if (c)
		berth_container_remove(c, removed, call);
	else
		removed(err->code == BERTH_NOT_FOUND ? NULL : err, call);
	berth_error_free(err);
}

/* ---- list, status ---- */

static Runtime__V1__ContainerState state_of(const struct berth_container *c)
{
	switch (c->phase) {
	case BERTH_CTR_CREATED:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_CREATED;
	case BERTH_CTR_RUNNING:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	case BERTH_CTR_CREATING:
	case BERTH_CTR_EXITED:
	case BERTH_CTR_REMOVING:
		break;
	}
	return RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
}

static Runtime__V1__ImageSpec *image_spec(struct berth_arena *a, const struct berth_container *c)
{
	Runtime__V1__ImageSpec *s = berth_arena_alloc(a, sizeof(*s));
	runtime__v1__image_spec__init(s);
	s->image = c->config->image->image;
	s->image_ref = c->image_id;
	s->user_specified_image = c->config->image->user_specified_image;
	s->runtime_handler = c->config->image->runtime_handler;
	s->annotations = c->config->image->annotations;
	s->n_annotations = c->config->image->n_annotations;
	return s;
}

static bool wanted(const struct berth_container *c, const Runtime__V1__ContainerFilter *f)
{
	if (c->phase == BERTH_CTR_CREATING || c->phase == BERTH_CTR_REMOVING)
		return false;
	if (!f)
		return true;
	if (f->id && *f->id && strncmp(c->id, f->id, strlen(f->id)) != 0)
		return false;
	if (f->pod_sandbox_id && *f->pod_sandbox_id &&
	        strncmp(c->pod->id, f->pod_sandbox_id, strlen(f->pod_sandbox_id)) != 0)
		return false;
	if (f->state && f->state->state != state_of(c))
		return false;
	return berth_labels_match((void *const *)c->config->labels, c->config->n_labels,
	        (void *const *)f->label_selector, f->n_label_selector);
}

static size_t collect(struct berth_arena *a, struct berth_daemon *d,
        const Runtime__V1__ContainerFilter *filter, Runtime__V1__Container ***ret)
{
	struct berth_container *c, *tmp;
	size_t n = 0;

	*ret = berth_arena_alloc(a, (HASH_COUNT(d->containers->by_id) + 1) * sizeof(**ret));
	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		if (!wanted(c, filter))
			continue;
		Runtime__V1__Container *s = berth_arena_alloc(a, sizeof(*s));
		runtime__v1__container__init(s);
		s->id = c->id;
		s->pod_sandbox_id = c->pod->id;
		s->metadata = c->config->metadata;
		s->image = image_spec(a, c);
		s->image_ref = c->image_id;
		s->image_id = c->image_id;
		s->state = state_of(c);
		s->created_at = (int64_t)c->created_ns;
		s->labels = (void *)c->config->labels;
		s->n_labels = c->config->n_labels;
		s->annotations = (void *)c->config->annotations;
		s->n_annotations = c->config->n_annotations;
		(*ret)[n++] = s;
	}
	return n;
}

HANDLER(berth_cri_list_containers)
{
	const Runtime__V1__ListContainersRequest *q = (const void *)request;
	Runtime__V1__ListContainersResponse r = RUNTIME__V1__LIST_CONTAINERS_RESPONSE__INIT;

	r.n_containers = collect(berth_grpc_arena(call), arg, q->filter, &r.containers);
	berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_stream_containers)
{
	const Runtime__V1__StreamContainersRequest *q = (const void *)request;
	Runtime__V1__StreamContainersResponse r = RUNTIME__V1__STREAM_CONTAINERS_RESPONSE__INIT;
	Runtime__V1__Container **all;
	size_t n = collect(berth_grpc_arena(call), arg, q->filter, &all);

	for (size_t i = 0; i < n; i += r.n_containers) {
		r.containers = all + i;
		r.n_containers = n - i < BERTH_STREAM_ITEMS ? n - i : BERTH_STREAM_ITEMS;
		if (berth_grpc_send(call, &r.base) < 0)
			break;
	}
	berth_grpc_finish(call);
}

/* The image of a mount, with what it was when the container was made. */
static Runtime__V1__ImageSpec *volume_spec(
        struct berth_arena *a, const struct berth_container *c, const struct berth_ctr_volume *v)
{
	const Runtime__V1__ImageSpec *from = c->config->mounts[v->mount]->image;
	Runtime__V1__ImageSpec *s = berth_arena_alloc(a, sizeof(*s));

	*s = *from;
	s->image_ref = v->image_id;
	return s;
}

static void fill_mounts(
        struct berth_arena *a, const struct berth_container *c, Runtime__V1__ContainerStatus *s)
{
	s->mounts = berth_arena_alloc(a, (c->n_mounts + 1) * sizeof(*s->mounts));
	for (size_t i = 0; i < c->n_mounts; i++) {
		const struct berth_spec_mount *from = &c->mounts[i];
		Runtime__V1__Mount *m = berth_arena_alloc(a, sizeof(*m));
		runtime__v1__mount__init(m);
		m->container_path = from->container_path;
		m->host_path = from->host_path;
		m->readonly = from->readonly;
		m->selinux_relabel = from->selinux_relabel;
		m->propagation = from->propagation;
		m->recursive_read_only = from->recursive_read_only;
		const struct berth_ctr_volume *v = berth_container_volume(c, i);
		if (v && v->mount < c->config->n_mounts && c->config->mounts[v->mount]->image) {
			m->image = volume_spec(a, c, v);
			m->image_sub_path = c->config->mounts[v->mount]->image_sub_path;
		}
		if (i < c->config->n_mounts) {
			m->uidmappings = c->config->mounts[i]->uidmappings;
			m->n_uidmappings = c->config->mounts[i]->n_uidmappings;
			m->gidmappings = c->config->mounts[i]->gidmappings;
			m->n_gidmappings = c->config->mounts[i]->n_gidmappings;
		}
		s->mounts[s->n_mounts++] = m;
	}
}

static void fill_user(
        struct berth_arena *a, const struct berth_container *c, Runtime__V1__ContainerStatus *s)
{
	Runtime__V1__ContainerUser *u = berth_arena_alloc(a, sizeof(*u));
	Runtime__V1__LinuxContainerUser *l = berth_arena_alloc(a, sizeof(*l));
	runtime__v1__container_user__init(u);
	runtime__v1__linux_container_user__init(l);
	u->linux = l;
	l->uid = c->uid;
	l->gid = c->gid;
	l->supplemental_groups = berth_arena_alloc(a, (c->n_groups + 1) * sizeof(int64_t));
	for (size_t i = 0; i < c->n_groups; i++)
		l->supplemental_groups[l->n_supplemental_groups++] = c->groups[i];
	s->user = u;
}

Runtime__V1__ContainerStatus *berth_cri_container_status_of(
        struct berth_arena *a, struct berth_container *c)
{
	Runtime__V1__ContainerStatus *s = berth_arena_alloc(a, sizeof(*s));

	runtime__v1__container_status__init(s);
	s->id = c->id;
	s->metadata = c->config->metadata;
	s->state = state_of(c);
	s->created_at = (int64_t)c->created_ns;
	if (c->phase == BERTH_CTR_RUNNING || c->phase == BERTH_CTR_EXITED)
		s->started_at = (int64_t)c->started_ns;
	if (c->phase == BERTH_CTR_EXITED)
		s->finished_at = (int64_t)c->finished_ns;
	s->exit_code = berth_container_exit_code(c);
	s->image = image_spec(a, c);
	s->image_ref = c->image_id;
	s->image_id = c->image_id;
	s->reason = (char *)berth_container_reason(c);
	s->message = c->phase == BERTH_CTR_EXITED && c->failure ? c->failure : (char *)"";
	s->labels = (void *)c->config->labels;
	s->n_labels = c->config->n_labels;
	s->annotations = (void *)c->config->annotations;
	s->n_annotations = c->config->n_annotations;
	s->log_path = c->log_path ? c->log_path : (char *)"";
	s->stop_signal = berth_signal_to_cri(c->stop_signal);
	fill_mounts(a, c, s);
	fill_user(a, c, s);
	s->resources = berth_arena_alloc(a, sizeof(*s->resources));
	runtime__v1__container_resources__init(s->resources);
	s->resources->linux = berth_arena_alloc(a, sizeof(*s->resources->linux));
	runtime__v1__linux_container_resources__init(s->resources->linux);
	if (c->resources)
		berth_resources_to_cri(a, c->resources, s->resources->linux);
	return s;
}

size_t berth_cri_container_statuses_of(
        struct berth_arena *a, struct berth_pod *p, Runtime__V1__ContainerStatus ***ret)
{
	size_t n = 0;

	for (struct berth_container *c = p->containers; c; c = c->next)
		n++;
	*ret = berth_arena_alloc(a, (n + 1) * sizeof(**ret));
	n = 0;
	for (struct berth_container *c = p->containers; c; c = c->next) {
		if (c->phase != BERTH_CTR_CREATING && c->phase != BERTH_CTR_REMOVING)
			(*ret)[n++] = berth_cri_container_status_of(a, c);
	}
	return n;
}

/* A verbose status carries the OCI configuration, which lies on the disk. */
struct verbose {
	struct berth_container *c;
	struct berth_grpc_call *call;
	char *path, *spec;
};

static void reply_status(struct berth_grpc_call *call, struct berth_container *c, const char *spec)
{
	Runtime__V1__ContainerStatusResponse r = RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INIT;
	void *info[1];

	r.status = berth_cri_container_status_of(berth_grpc_arena(call), c);
	if (spec) {
		json_t *runtime_spec = json_loads(spec, 0, NULL);
		json_t *j = json_pack("{s:s, s:i, s:b, s:s, s:s?, s:s?, s:s?, s:o?}", "sandboxID",
		        c->pod->id, "pid", (int)c->pid, "privileged", c->privileged,
		        "runtimeHandler", c->pod->handler_name, "snapshotParent", c->parent,
		        "selinuxProcessLabel", c->process_label, "selinuxMountLabel",
		        c->mount_label, "runtimeSpec", runtime_spec);
		_cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);
		json_decref(j);
		info[0] = berth_map_entry(call,
		        &runtime__v1__container_status_response__info_entry__descriptor, "info",
		        text);
		r.info = (void *)info;
		r.n_info = 1;
	}
	berth_grpc_reply(call, &r.base);
}

static void verbose_work(void *arg)
{
	struct verbose *v = arg;
	if (berth_read_file(AT_FDCWD, v->path, BERTH_LIMIT_STATE_FILE, &v->spec, NULL) < 0)
		v->spec = berth_strdup("{}");
}

static void verbose_done(void *arg)
{
	struct verbose *v = arg;
	reply_status(v->call, v->c, v->spec);
	berth_container_unref(v->c);
	free(v->path);
	free(v->spec);
	free(v);
}

HANDLER(berth_cri_container_status)
{
	const Runtime__V1__ContainerStatusRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(d, q->container_id, &err);

	if (!c) {
		fail(call, err);
		return;
	}
	if (!q->verbose) {
		reply_status(call, c, NULL);
		return;
	}
	struct verbose *v = berth_new(struct verbose);
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	v->c = berth_container_ref(c);
	v->call = call;
	v->path = berth_path(bundle, "config.json", NULL);
	if (berth_work(d->flows, d->loop, verbose_work, verbose_done, v) < 0)
		verbose_done(v);
}

/* ---- log ---- */

struct reopen {
	struct berth_container *c;
	struct berth_grpc_call *call;
	char *dir;
	struct berth_error *err;
};

static void reopen_work(void *arg)
{
	struct reopen *r = arg;
	struct berth_instance *i = r->c->pod->handler->instance;

	/* A runtime that does not use our monitors does it itself. */
	if (!berth_instance_has_op(i, BERTH_OP_RUNTIME_REOPEN_LOG)) {
		if (berth_monitor_reopen_log(r->dir, &r->err) < 0)
			berth_error_wrap(&r->err, "container %s", r->c->id);
		return;
	}
	_cleanup_free_ char *bundle = berth_container_bundle(r->c);
	struct berth_ctr_args a = {
	        .size = sizeof(a), .id = r->c->id, .bundle = bundle, .log_path = r->c->log_path};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(i, BERTH_OP_RUNTIME_REOPEN_LOG, r->c->id);
	if (berth_call_run(call, &a, NULL, &r->err) < 0)
		return;
}

static void reopen_done(void *arg)
{
	struct reopen *r = arg;
	Runtime__V1__ReopenContainerLogResponse resp =
	        RUNTIME__V1__REOPEN_CONTAINER_LOG_RESPONSE__INIT;
	if (r->err)
		berth_grpc_fail(r->call, r->err);
	else
		berth_grpc_reply(r->call, &resp.base);
	berth_error_free(r->err);
	berth_container_unref(r->c);
	free(r->dir);
	free(r);
}

HANDLER(berth_cri_reopen_container_log)
{
	const Runtime__V1__ReopenContainerLogRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(d, q->container_id, &err);

	if (c && c->phase != BERTH_CTR_RUNNING)
		berth_error_set(&err, BERTH_FAILED_PRECONDITION,
		        "container %s is not running: its log cannot be reopened", c->id);
	if (err) {
		fail(call, err);
		return;
	}
	struct reopen *r = berth_new(struct reopen);
	r->c = berth_container_ref(c);
	r->call = call;
	r->dir = berth_container_dir(c);
	if (berth_work(d->flows, d->loop, reopen_work, reopen_done, r) < 0) {
		berth_error_set(&r->err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", c->id);
		reopen_done(r);
	}
}
