#include "pod/record.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "pod/pod.h"

static char boot_id[40];
static pthread_once_t boot_once = PTHREAD_ONCE_INIT;

static void read_boot_id(void)
{
	_cleanup_free_ char *text = NULL;
	if (berth_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, NULL) == 0)
		snprintf(boot_id, sizeof(boot_id), "%.36s", text);
}

const char *berth_boot_id(void)
{
	pthread_once(&boot_once, read_boot_id);
	return boot_id;
}

static int save_config(
        const char *dir, const ProtobufCMessage *config, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_path(dir, "config.pb", NULL);
	if (!config || access(path, F_OK) == 0)
		return 0;
	size_t n = protobuf_c_message_get_packed_size(config);
	_cleanup_free_ uint8_t *bytes = berth_zalloc(n + 1);
	protobuf_c_message_pack(config, bytes);
	int r = berth_write_file_atomic(AT_FDCWD, path, bytes, n, 0600, false);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", path) : 0;
}

int berth_record_save(const char *dir, const char *name, json_t *record,
        const ProtobufCMessage *config, struct berth_error **ret_err)
{
	json_object_set_new(record, "v", json_integer(BERTH_RECORD_VERSION));
	json_object_set_new(record, "boot", json_string(berth_boot_id()));
	_cleanup_free_ char *text = json_dumps(record, JSON_COMPACT);
	json_decref(record);
	if (!text)
		return berth_error_set(
		        ret_err, BERTH_INTERNAL, "%s/%s: the record is not UTF-8", dir, name);
	int r = berth_mkdir_p(dir, 0711);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", dir);
	if (save_config(dir, config, ret_err) < 0)
		return -1;
	_cleanup_free_ char *path = berth_path(dir, name, NULL);
	r = berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0600, false);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", path) : 0;
}

int berth_record_load(const char *dir, const char *name, const ProtobufCMessageDescriptor *type,
        json_t **ret_record, ProtobufCMessage **ret_config, bool *ret_old_boot,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_path(dir, name, NULL);
	_cleanup_free_ char *config_path = berth_path(dir, "config.pb", NULL);
	_cleanup_free_ char *text = NULL, *bytes = NULL;
	size_t n = 0;
	json_error_t je;

	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", path);
	r = berth_read_file(AT_FDCWD, config_path, BERTH_LIMIT_STATE_FILE, &bytes, &n);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", config_path);
	json_t *j = json_loads(text, 0, &je);
	if (!json_is_object(j) ||
	        json_integer_value(json_object_get(j, "v")) != BERTH_RECORD_VERSION) {
		json_decref(j);
		return berth_error_set(ret_err, BERTH_DATA_LOSS, "%s: not a record of version %d",
		        path, BERTH_RECORD_VERSION);
	}
	ProtobufCMessage *m = protobuf_c_message_unpack(type, NULL, n, (const uint8_t *)bytes);
	if (!m) {
		json_decref(j);
		return berth_error_set(ret_err, BERTH_DATA_LOSS, "%s: damaged", config_path);
	}
	const char *boot = json_string_value(json_object_get(j, "boot"));
	*ret_old_boot = !boot || strcmp(boot, berth_boot_id()) != 0;
	*ret_record = j;
	*ret_config = m;
	return 0;
}

char *berth_record_str(const json_t *record, const char *key)
{
	return berth_strdup(json_string_value(json_object_get(record, key)));
}

/* ---- pods ---- */

static const char *const phases[] = {
        [BERTH_POD_CREATING] = "creating",
        [BERTH_POD_READY] = "ready",
        [BERTH_POD_STOPPED] = "stopped",
        [BERTH_POD_REMOVING] = "removing",
        [BERTH_POD_ENDING] = "ready",
};

int berth_pod_save(struct berth_pod *p, enum berth_pod_phase phase, struct berth_error **ret_err)
{
	return berth_pod_save_as(p, phase, p->overhead, p->resources, ret_err);
}

int berth_pod_save_as(struct berth_pod *p, enum berth_pod_phase phase, json_t *overhead,
        json_t *resources, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_pod_dir(p);
	json_t *ips = json_array();
	for (char **ip = p->ips; ip && *ip; ip++)
		json_array_append_new(ips, json_string(*ip));
	json_t *j = json_pack(
	        "{s:s, s:b, s:s, s:I, s:s, s:o, s:b, s:b, s:s?, s:O*, s:O*, s:s?, s:s?}", "phase",
	        phases[phase], "ending", phase == BERTH_POD_ENDING, "id", p->id, "created_ns",
	        (json_int_t)p->created_ns, "handler", p->handler_name, "ips", ips, "network",
	        p->has_network, "shared_pid", p->shared_pid, "sandbox_state", p->sandbox_state,
	        "overhead", overhead, "resources", resources, "process_label", p->process_label,
	        "mount_label", p->mount_label);
	return berth_record_save(dir, "pod.json", j, &p->config->base, ret_err);
}

/* A record of before they were kept has none: they are what the configuration says. */
static void load_resources(const json_t *j, const char *key, json_t **to)
{
	json_t *v = json_object_get(j, key);
	if (!json_is_object(v))
		return;
	json_decref(*to);
	*to = json_incref(v);
}

struct berth_pod *berth_pod_load(
        struct berth_daemon *d, const char *id, bool *ret_old_boot, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_path(d->config->run, "pods", id, NULL);
	json_t *j = NULL;
	ProtobufCMessage *m = NULL;

	if (berth_record_load(dir, "pod.json", &runtime__v1__pod_sandbox_config__descriptor, &j, &m,
	            ret_old_boot, ret_err) < 0)
		return NULL;
	Runtime__V1__PodSandboxConfig *config = (Runtime__V1__PodSandboxConfig *)(void *)m;
	_cleanup_free_ char *handler = berth_record_str(j, "handler");
	struct berth_pod *p = NULL;
	if (config->metadata) {
		p = berth_pod_new(d, id, config, handler);
		p->created_ns = (uint64_t)json_integer_value(json_object_get(j, "created_ns"));
		p->has_network = json_is_true(json_object_get(j, "network"));
		p->shared_pid = json_is_true(json_object_get(j, "shared_pid"));
		p->sandbox_state = berth_record_str(j, "sandbox_state");
		load_resources(j, "overhead", &p->overhead);
		load_resources(j, "resources", &p->resources);
		p->process_label = berth_record_str(j, "process_label");
		p->mount_label = berth_record_str(j, "mount_label");
		size_t i;
		json_t *ip;
		json_array_foreach (json_object_get(j, "ips"), i, ip)
			p->ips = berth_strv_append(p->ips, json_string_value(ip));
		const char *phase = json_string_value(json_object_get(j, "phase"));
		p->phase = BERTH_POD_CREATING;
		for (size_t n = 0; n < BERTH_POD_ENDING; n++) {
			if (phase && strcmp(phase, phases[n]) == 0)
				p->phase = (enum berth_pod_phase)n;
		}
		p->ending = json_is_true(json_object_get(j, "ending"));
	} else {
		berth_error_set(ret_err, BERTH_DATA_LOSS, "%s: a pod without metadata", dir);
	}
	protobuf_c_message_free_unpacked(m, NULL);
	json_decref(j);
	return p;
}
