#include "container/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "stats/sampler.h"

struct berth_container *berth_container_ref(struct berth_container *c)
{
	c->refs++;
	return c;
}

struct berth_container *berth_container_unref(struct berth_container *c)
{
	if (!c || --c->refs > 0)
		return NULL;
	runtime__v1__container_config__free_unpacked(c->config, NULL);
	free(c->name);
	free(c->image_id);
	free(c->image_ref);
	free(c->parent);
	free(c->log_path);
	free(c->failure);
	free(c->cgroups_path);
	free(c->limits_cgroup);
	free(c->process_label);
	free(c->mount_label);
	json_decref(c->resources);
	json_decref(c->update);
	free(c->groups);
	for (size_t i = 0; i < c->n_mounts; i++) {
		free(c->mounts[i].container_path);
		free(c->mounts[i].host_path);
	}
	free(c->mounts);
	for (size_t i = 0; i < c->n_volumes; i++) {
		free(c->volumes[i].image_id);
		free(c->volumes[i].parent);
	}
	free(c->volumes);
	berth_timer_free(c->kill_timer);
	berth_timer_free(c->ask_timer);
	berth_sampled_free(c->sampled);
	berth_pod_unref(c->pod);
	free(c);
	return NULL;
}

static Runtime__V1__ContainerConfig *copy_config(const Runtime__V1__ContainerConfig *config)
{
	size_t n = runtime__v1__container_config__get_packed_size(config);
	_cleanup_free_ uint8_t *bytes = berth_zalloc(n + 1);
	runtime__v1__container_config__pack(config, bytes);
	return runtime__v1__container_config__unpack(NULL, n, bytes);
}

struct berth_container *berth_container_new(
        struct berth_pod *pod, const char *id, const Runtime__V1__ContainerConfig *config)
{
	struct berth_container *c = berth_new(struct berth_container);
	c->refs = 1;
	c->d = pod->d;
	c->pod = berth_pod_ref(pod);
	memcpy(c->id, id, BERTH_ID_LEN);
	c->config = copy_config(config);
	const Runtime__V1__ContainerMetadata *m = c->config->metadata;
	c->name = berth_asprintf("%s_%u", m->name, (unsigned int)m->attempt);
	const char *dir = pod->config->log_directory, *file = c->config->log_path;
	if (dir && *dir && file && *file)
		c->log_path = berth_asprintf("%s/%s", dir, file);
	return c;
}

void berth_containers_add(struct berth_container *c)
{
	struct berth_containers *t = c->d->containers;
	berth_container_ref(c);
	c->in_table = true;
	HASH_ADD(hh, t->by_id, id, BERTH_ID_LEN, c);
	c->next = c->pod->containers;
	c->pod->containers = c;
}

void berth_containers_drop(struct berth_container *c)
{
	struct berth_containers *t = c->d->containers;
	if (!c->in_table)
		return;
	c->in_table = false;
	HASH_DEL(t->by_id, c);
	for (struct berth_container **p = &c->pod->containers; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	berth_container_unref(c);
}

static bool visible(const struct berth_container *c)
{
	return c->phase != BERTH_CTR_CREATING && c->phase != BERTH_CTR_REMOVING;
}

struct berth_container *berth_container_find(
        struct berth_daemon *d, const char *id, struct berth_error **ret_err)
{
	struct berth_container *found = NULL, *c, *tmp;
	size_t n = id ? strlen(id) : 0;

	if (n == 0) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "container id is empty");
		return NULL;
	}
	if (n == BERTH_ID_LEN) {
		HASH_FIND(hh, d->containers->by_id, id, BERTH_ID_LEN, found);
	} else if (n < BERTH_ID_LEN) {
		HASH_ITER (hh, d->containers->by_id, c, tmp) {
			if (!visible(c) || strncmp(c->id, id, n) != 0)
				continue;
			if (found) {
				berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
				        "container id prefix \"%s\" is ambiguous", id);
				return NULL;
			}
			found = c;
		}
	}
	if (found && visible(found))
		return found;
	berth_error_set(ret_err, BERTH_NOT_FOUND, "container \"%.128s\" not found", id);
	return NULL;
}

char *berth_container_dir(const struct berth_container *c)
{
	return berth_path(c->d->config->run, "containers", c->id, NULL);
}

char *berth_container_bundle(const struct berth_container *c)
{
	return berth_path(c->d->config->run, "containers", c->id, "bundle", NULL);
}

int berth_container_exit_code(const struct berth_container *c)
{
	if (c->phase != BERTH_CTR_EXITED)
		return 0;
	if (c->failure)
		return 128;
	if (!(c->exit.flags & BERTH_EXIT_KNOWN))
		return 255;
	return (c->exit.flags & BERTH_EXIT_SIGNALLED) ? 128 + c->exit.code : c->exit.code;
}

const char *berth_container_reason(const struct berth_container *c)
{
	if (c->phase != BERTH_CTR_EXITED)
		return "";
	if (c->undo_failed)
		return "CreateError";
	if (c->failure)
		return "StartError";
	if (c->oom || (c->exit.flags & BERTH_EXIT_OOM))
		return "OOMKilled";
	if (!(c->exit.flags & BERTH_EXIT_KNOWN))
		return "Unknown";
	return berth_container_exit_code(c) == 0 ? "Completed" : "Error";
}
