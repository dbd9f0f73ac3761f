#include "pod/pod.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/podfiles.h"
#include "spec/resources.h"
#include "stats/sampler.h"

char *berth_path(const char *first, ...)
{
	struct berth_buf b = {0};
	va_list ap;

	berth_buf_adds(&b, first);
	va_start(ap, first);
	for (const char *s; (s = va_arg(ap, const char *));) {
		berth_buf_adds(&b, "/");
		berth_buf_adds(&b, s);
	}
	va_end(ap);
	return berth_buf_steal(&b);
}

void berth_changed(
        struct berth_daemon *d, enum berth_change change, const char *id, struct berth_pod *pod)
{
	if (d->on_change)
		d->on_change(d, change, id, pod);
}

struct berth_instance *berth_daemon_storage(const struct berth_daemon *d, const char *name)
{
	for (size_t i = 0; name && i < d->n_storages; i++)
		if (strcmp(berth_instance_name(d->storages[i]), name) == 0)
			return d->storages[i];
	return NULL;
}

const struct berth_handler *berth_daemon_handler(const struct berth_daemon *d, const char *name)
{
	if (!name || !*name)
		name = d->config->runtimes.default_handler;
	for (size_t i = 0; i < d->n_handlers; i++) {
		if (strcmp(d->handlers[i].name, name) == 0)
			return &d->handlers[i];
	}
	return NULL;
}

struct berth_pod *berth_pod_ref(struct berth_pod *p)
{
	p->refs++;
	return p;
}

struct berth_pod *berth_pod_unref(struct berth_pod *p)
{
	if (!p || --p->refs > 0)
		return NULL;
	runtime__v1__pod_sandbox_config__free_unpacked(p->config, NULL);
	free(p->name);
	free(p->handler_name);
	free(p->hostname);
	berth_strv_free(p->ips);
	free(p->sandbox_state);
	json_decref(p->overhead);
	json_decref(p->resources);
	berth_sampled_free(p->sampled);
	free(p->process_label);
	free(p->mount_label);
	free(p);
	return NULL;
}

/* A message that lives on its own: packed and unpacked again. */
static Runtime__V1__PodSandboxConfig *copy_config(const Runtime__V1__PodSandboxConfig *config)
{
	size_t n = runtime__v1__pod_sandbox_config__get_packed_size(config);
	_cleanup_free_ uint8_t *bytes = berth_zalloc(n + 1);
	runtime__v1__pod_sandbox_config__pack(config, bytes);
	return runtime__v1__pod_sandbox_config__unpack(NULL, n, bytes);
}

/* What is wrong in it is told where the pod is made. */
static json_t *model_of(const char *id, const Runtime__V1__LinuxContainerResources *r)
{
	struct berth_error *err = NULL;
	json_t *model = NULL;

	if (r && berth_resources_merge(id, NULL, r, &model, &err) < 0)
		berth_error_free(err);
	return model;
}

struct berth_pod *berth_pod_new(struct berth_daemon *d, const char *id,
        const Runtime__V1__PodSandboxConfig *config, const char *handler_name)
{
	struct berth_pod *p = berth_new(struct berth_pod);
	p->refs = 1;
	p->d = d;
	memcpy(p->id, id, BERTH_ID_LEN);
	p->config = copy_config(config);
	p->handler_name = berth_strdup(handler_name ? handler_name : "");
	p->handler = berth_daemon_handler(d, handler_name);
	const Runtime__V1__PodSandboxMetadata *m = p->config->metadata;
	p->name = berth_asprintf(
	        "%s_%s_%s_%u", m->name, m->namespace_, m->uid, (unsigned int)m->attempt);
	p->host_network = berth_pod_host_network(p->config);
	p->hostname = berth_pod_hostname(p->config, p->id);
	if (p->config->linux) {
		p->overhead = model_of(p->id, p->config->linux->overhead);
		p->resources = model_of(p->id, p->config->linux->resources);
	}
	return p;
}

void berth_pods_add(struct berth_pod *p)
{
	struct berth_pods *t = p->d->pods;
	berth_pod_ref(p);
	p->in_table = true;
	HASH_ADD(hh_id, t->by_id, id, BERTH_ID_LEN, p);
	HASH_ADD_KEYPTR(hh_name, t->by_name, p->name, strlen(p->name), p);
}

void berth_pods_drop(struct berth_pod *p)
{
	struct berth_pods *t = p->d->pods;
	if (!p->in_table)
		return;
	p->in_table = false;
	HASH_DELETE(hh_id, t->by_id, p);
	HASH_DELETE(hh_name, t->by_name, p);
	berth_pod_unref(p);
}

static bool visible(const struct berth_pod *p)
{
	return p->phase == BERTH_POD_READY || p->phase == BERTH_POD_STOPPED;
}

struct berth_pod *berth_pod_find(
        struct berth_daemon *d, const char *id, struct berth_error **ret_err)
{
	struct berth_pod *found = NULL, *p, *tmp;
	size_t n = id ? strlen(id) : 0;

	if (n == 0) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "pod sandbox id is empty");
		return NULL;
	}
	if (n == BERTH_ID_LEN) {
		HASH_FIND(hh_id, d->pods->by_id, id, BERTH_ID_LEN, found);
	} else if (n < BERTH_ID_LEN) {
		HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
			if (!visible(p) || strncmp(p->id, id, n) != 0)
				continue;
			if (found) {
				berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
				        "pod sandbox id prefix \"%s\" is ambiguous", id);
				return NULL;
			}
			found = p;
		}
	}
	if (found && visible(found))
		return found;
	berth_error_set(ret_err, BERTH_NOT_FOUND, "pod sandbox \"%.128s\" not found", id);
	return NULL;
}

bool berth_pod_ready(const struct berth_pod *p)
{
	return p->phase == BERTH_POD_READY && !p->ending;
}

int berth_pod_check_ready(const struct berth_pod *p, struct berth_error **ret_err)
{
	if (berth_pod_ready(p))
		return 0;
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION, "pod sandbox %s is not ready%s",
	        p->id, p->phase == BERTH_POD_READY ? ": its end was begun" : "");
}

char *berth_pod_dir(const struct berth_pod *p)
{
	return berth_path(p->d->config->run, "pods", p->id, NULL);
}

char *berth_pod_ns_path(const struct berth_pod *p, const char *kind)
{
	return berth_path(p->d->config->run, "ns", p->id, kind, NULL);
}
