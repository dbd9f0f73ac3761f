/* The record of a container on disk. [worker] */
#include "pod/record.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "container/container.h"

static const char *const phases[] = {
        [BERTH_CTR_CREATING] = "creating",
        [BERTH_CTR_CREATED] = "created",
        [BERTH_CTR_RUNNING] = "started",
        [BERTH_CTR_EXITED] = "failed",
        [BERTH_CTR_REMOVING] = "removing",
};

static json_t *mounts_json(const struct berth_container *c)
{
	json_t *a = json_array();
	for (size_t i = 0; i < c->n_mounts; i++) {
		const struct berth_spec_mount *m = &c->mounts[i];
		json_array_append_new(
		        a, json_pack("{s:s, s:s, s:i, s:b, s:b, s:b}", "container_path",
		                   m->container_path, "host_path", m->host_path, "propagation",
		                   (int)m->propagation, "readonly", m->readonly, "rro",
		                   m->recursive_read_only, "relabel", m->selinux_relabel));
	}
	return a;
}

static void mounts_load(struct berth_container *c, const json_t *a)
{
	size_t i;
	json_t *m;

	c->mounts = berth_new_array(struct berth_spec_mount, json_array_size(a) + 1);
	json_array_foreach (a, i, m) {
		c->mounts[c->n_mounts++] = (struct berth_spec_mount){
		        .container_path = berth_record_str(m, "container_path"),
		        .host_path = berth_record_str(m, "host_path"),
		        .propagation = (Runtime__V1__MountPropagation)json_integer_value(
		                json_object_get(m, "propagation")),
		        .readonly = json_is_true(json_object_get(m, "readonly")),
		        .recursive_read_only = json_is_true(json_object_get(m, "rro")),
		        .selinux_relabel = json_is_true(json_object_get(m, "relabel")),
		};
	}
}

static json_t *volumes_json(const struct berth_container *c)
{
	json_t *a = json_array();
	for (size_t i = 0; i < c->n_volumes; i++) {
		const struct berth_ctr_volume *v = &c->volumes[i];
		json_array_append_new(
		        a, json_pack("{s:I, s:s, s:s?, s:s?}", "mount", (json_int_t)v->mount,
		                   "image_id", v->image_id, "parent", v->parent, "storage",
		                   v->storage ? berth_instance_name(v->storage) : NULL));
	}
	return a;
}

/* A record of before there were several drivers names none. */
static struct berth_instance *storage_of(const struct berth_daemon *d, const json_t *j)
{
	const char *name = json_string_value(json_object_get(j, "storage"));
	return name ? berth_daemon_storage(d, name) : d->storage;
}

static void volumes_load(struct berth_container *c, const json_t *a)
{
	size_t i;
	json_t *v;

	c->volumes = berth_new_array(struct berth_ctr_volume, json_array_size(a) + 1);
	json_array_foreach (a, i, v) {
		c->volumes[c->n_volumes++] = (struct berth_ctr_volume){
		        .mount = (size_t)json_integer_value(json_object_get(v, "mount")),
		        .image_id = berth_record_str(v, "image_id"),
		        .parent = berth_record_str(v, "parent"),
		        .storage = storage_of(c->d, v),
		};
	}
}

int berth_container_save(
        struct berth_container *c, enum berth_ctr_phase phase, struct berth_error **ret_err)
{
	return berth_container_save_as(c, phase, c->resources, NULL, ret_err);
}

int berth_container_save_as(struct berth_container *c, enum berth_ctr_phase phase,
        json_t *resources, json_t *update, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_container_dir(c);
	json_t *groups = json_array();
	for (size_t i = 0; i < c->n_groups; i++)
		json_array_append_new(groups, json_integer(c->groups[i]));
	json_t *j = json_pack(
	        "{s:s, s:s, s:s, s:s?, s:s?, s:s?, s:I, s:I, s:I, s:s?, s:O?, s:I, s:I, s:o, "
	        "s:i, s:o, s:o, s:b, s:b, s:s?, s:s?, s:O*, s:s*, s:s?, s:s?}",
	        "phase", phases[phase], "id", c->id, "pod", c->pod->id, "image_id", c->image_id,
	        "image_ref", c->image_ref, "parent", c->parent, "created_ns",
	        (json_int_t)c->created_ns, "started_ns", (json_int_t)c->started_ns, "finished_ns",
	        (json_int_t)c->finished_ns, "failure", c->failure, "resources", resources, "uid",
	        (json_int_t)c->uid, "gid", (json_int_t)c->gid, "groups", groups, "stop_signal",
	        c->stop_signal, "mounts", mounts_json(c), "volumes", volumes_json(c), "privileged",
	        c->privileged, "own_pid_ns", c->own_pid_ns, "cgroups_path", c->cgroups_path,
	        "storage", c->storage ? berth_instance_name(c->storage) : NULL, "update", update,
	        "limits_cgroup", c->limits_cgroup, "process_label", c->process_label, "mount_label",
	        c->mount_label);
	if (!j)
		return berth_error_set(ret_err, BERTH_INTERNAL, "container %s: its record", c->id);
	return berth_record_save(dir, "ctr.json", j, &c->config->base, ret_err);
}

static void fill(struct berth_container *c, const json_t *j)
{
	c->image_id = berth_record_str(j, "image_id");
	c->image_ref = berth_record_str(j, "image_ref");
	c->parent = berth_record_str(j, "parent");
	c->storage = storage_of(c->d, j);
	c->failure = berth_record_str(j, "failure");
	c->cgroups_path = berth_record_str(j, "cgroups_path");
	c->limits_cgroup = berth_record_str(j, "limits_cgroup");
	c->process_label = berth_record_str(j, "process_label");
	c->mount_label = berth_record_str(j, "mount_label");
	c->created_ns = (uint64_t)json_integer_value(json_object_get(j, "created_ns"));
	c->started_ns = (uint64_t)json_integer_value(json_object_get(j, "started_ns"));
	c->finished_ns = (uint64_t)json_integer_value(json_object_get(j, "finished_ns"));
	c->uid = (uint32_t)json_integer_value(json_object_get(j, "uid"));
	c->gid = (uint32_t)json_integer_value(json_object_get(j, "gid"));
	c->stop_signal = (int)json_integer_value(json_object_get(j, "stop_signal"));
	c->privileged = json_is_true(json_object_get(j, "privileged"));
	c->own_pid_ns = json_is_true(json_object_get(j, "own_pid_ns"));
	json_t *resources = json_object_get(j, "resources");
	c->resources = json_is_object(resources) ? json_incref(resources) : NULL;
	json_t *update = json_object_get(j, "update");
	c->update = json_is_object(update) ? json_incref(update) : NULL;
	json_t *groups = json_object_get(j, "groups");
	c->groups = berth_new_array(uint32_t, json_array_size(groups) + 1);
	for (size_t i = 0; i < json_array_size(groups); i++)
		c->groups[c->n_groups++] = (uint32_t)json_integer_value(json_array_get(groups, i));
	mounts_load(c, json_object_get(j, "mounts"));
	volumes_load(c, json_object_get(j, "volumes"));
	const char *phase = json_string_value(json_object_get(j, "phase"));
	c->phase = BERTH_CTR_CREATING;
	for (size_t n = 0; n < BERTH_ARRAY_LEN(phases); n++) {
		if (phase && strcmp(phase, phases[n]) == 0)
			c->phase = (enum berth_ctr_phase)n;
	}
}

struct berth_container *berth_container_load(
        struct berth_daemon *d, const char *id, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_path(d->config->run, "containers", id, NULL);
	json_t *j = NULL;
	ProtobufCMessage *m = NULL;
	bool old_boot;

	if (berth_record_load(dir, "ctr.json", &runtime__v1__container_config__descriptor, &j, &m,
	            &old_boot, ret_err) < 0)
		return NULL;
	Runtime__V1__ContainerConfig *config = (Runtime__V1__ContainerConfig *)(void *)m;
	const char *pod_id = json_string_value(json_object_get(j, "pod"));
	struct berth_container *c = NULL;
	struct berth_pod *pod = NULL;
	if (pod_id && strlen(pod_id) == BERTH_ID_LEN)
		HASH_FIND(hh_id, d->pods->by_id, pod_id, BERTH_ID_LEN, pod);
	if (!pod || old_boot || !config->metadata) {
		berth_error_set(ret_err, BERTH_DATA_LOSS, "%s: %s", dir,
		        old_boot ? "it is of an earlier boot" : "its pod sandbox is gone");
	} else {
		c = berth_container_new(pod, id, config);
		fill(c, j);
	}
	protobuf_c_message_free_unpacked(m, NULL);
	json_decref(j);
	return c;
}
