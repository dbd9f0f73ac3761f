#include "spec/spec.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/build.h"
#include "spec/cdi.h"
#include "spec/podfiles.h"
#include "spec/resources.h"
#include "spec/validate.h"

#define OCI_VERSION "1.0.2" /* what old crun accepts */
#define DEFAULT_PARENT "/berth"
#define DEFAULT_SLICE "system.slice"

char *berth_spec_cgroups_path(enum berth_cgroup_driver driver, const char *parent, const char *id)
{
	if (driver == BERTH_CGROUP_SYSTEMD) {
		const char *slash = parent ? strrchr(parent, '/') : NULL;
		const char *slice = slash ? slash + 1 : parent;
		return berth_asprintf(
		        "%s:berth:%s", spec_is_set(slice) ? slice : DEFAULT_SLICE, id);
	}
	_cleanup_free_ char *clean = spec_clean_path(spec_is_set(parent) ? parent : DEFAULT_PARENT);
	return berth_asprintf("%s/%s", strcmp(clean, "/") == 0 ? "" : clean, id);
}

static int stop_signal(struct spec_build *b, struct berth_error **ret_err)
{
	const char *image = json_string_value(json_object_get(b->in->image_config, "stop_signal"));
	int n = berth_signal_from_cri(b->c->stop_signal);

	if (n < 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "stop_signal: %d is unknown", (int)b->c->stop_signal);
	if (n == 0 && spec_is_set(image)) {
		n = berth_signal_parse(image);
		if (n < 0)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "stop_signal: \"%.32s\" of the image is no signal", image);
	}
	b->out->stop_signal = n ? n : berth_signal_parse("TERM");
	return 0;
}

static int set_annotation(
        json_t *o, const char *key, const char *value, struct berth_error **ret_err)
{
	json_t *k = spec_string("annotations", key, BERTH_LIMIT_SPEC_STRING, ret_err);
	if (!k)
		return -1;
	json_decref(k);
	return spec_set(o, key, "annotations", value, BERTH_LIMIT_SPEC_STRING, ret_err);
}

static int annotations(struct spec_build *b, struct berth_error **ret_err)
{
	const struct berth_spec_in *in = b->in;
	const Runtime__V1__PodSandboxMetadata *pod = in->pod_config->metadata;
	const struct {
		const char *key, *value;
	} own[] = {
	        {"io.kubernetes.cri.container-type", "container"},
	        {"io.kubernetes.cri.container-name", b->c->metadata->name},
	        {"io.kubernetes.cri.sandbox-id", in->pod_id},
	        {"io.kubernetes.cri.sandbox-name", pod ? pod->name : NULL},
	        {"io.kubernetes.cri.sandbox-namespace", pod ? pod->namespace_ : NULL},
	        {"io.kubernetes.cri.sandbox-uid", pod ? pod->uid : NULL},
	        {"io.kubernetes.cri.image-name", in->image_ref},
	};
	json_t *o = json_object();

	json_object_set_new(b->out->config, "annotations", o);
	for (size_t i = 0; i < b->c->n_annotations; i++)
		if (set_annotation(
		            o, b->c->annotations[i]->key, b->c->annotations[i]->value, ret_err) < 0)
			return -1;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(own); i++)
		if (spec_is_set(own[i].value) &&
		        set_annotation(o, own[i].key, own[i].value, ret_err) < 0)
			return -1;
	return 0;
}

static int resources(struct spec_build *b, struct berth_error **ret_err)
{
	const struct berth_spec_in *in = b->in;
	json_t *oci;

	if (berth_resources_merge(in->container_id, NULL,
	            b->c->linux ? b->c->linux->resources : NULL, &b->out->resources, ret_err) < 0)
		return -1;
	berth_resources_settle(b->out->resources, b->host);
	if (berth_resources_oci(in->container_id, b->out->resources, b->host, &oci, ret_err) < 0)
		return -1;
	json_object_set_new(b->oci_linux, "resources", oci);
	/* No quota is what a new cgroup has, and crun 1.8 cannot write that to v1. */
	if (json_integer_value(json_object_get(json_object_get(oci, "cpu"), "quota")) < 0)
		json_object_del(json_object_get(oci, "cpu"), "quota");
	json_object_set_new(b->process, "oomScoreAdj",
	        json_integer(berth_resources_oom_score_adj(b->out->resources, b->host)));
	if (in->pids_limit > 0)
		json_object_set_new(
		        oci, "pids", json_pack("{s:I}", "limit", (json_int_t)in->pids_limit));
	b->out->cgroups_path =
	        berth_spec_cgroups_path(in->cgroup_driver, in->cgroup_parent, in->container_id);
	if (spec_set(b->oci_linux, "cgroupsPath", "cgroup_parent", b->out->cgroups_path,
	            BERTH_LIMIT_SPEC_PATH, ret_err) < 0)
		return -1;
	return spec_devices(b, oci, ret_err);
}

static int cmp_gid(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

/* Last: a device may replace what the request has. */
static int cdi_devices(struct spec_build *b, struct berth_error **ret_err)
{
	json_t *edits, *gid;
	size_t i;

	if (berth_cdi_resolve(b->in->cdi_dirs, b->c, &edits, ret_err) < 0)
		return -1;
	int r = edits ? berth_cdi_apply(b->out->config, edits, ret_err) : 0;
	json_decref(edits);
	if (r < 0 || !edits)
		return r;
	json_t *gids = json_object_get(json_object_get(b->process, "user"), "additionalGids");
	b->out->groups = berth_reallocarray(
	        b->out->groups, json_array_size(gids) + 1, sizeof(*b->out->groups));
	b->out->n_groups = 0;
	json_array_foreach (gids, i, gid) {
		b->out->groups[b->out->n_groups++] = (uint32_t)json_integer_value(gid);
	}
	qsort(b->out->groups, b->out->n_groups, sizeof(*b->out->groups), cmp_gid);
	return 0;
}

static int build(struct spec_build *b, struct berth_error **ret_err)
{
	json_t *config = b->out->config, *root = json_object();

	json_object_set_new(config, "ociVersion", json_string(OCI_VERSION));
	b->process = json_object();
	json_object_set_new(config, "process", b->process);
	json_object_set_new(config, "root", root);
	b->oci_linux = json_object();
	json_object_set_new(config, "linux", b->oci_linux);
	json_object_set_new(root, "readonly", json_boolean(b->sec->readonly_rootfs));

	/* The pod's creator decides what the pod may hold. */
	if (b->privileged && !berth_pod_privileged(b->in->pod_config))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "security_context.privileged: the pod is not privileged");
	if (berth_validate_container(b->c, ret_err) < 0 ||
	        spec_set(root, "path", "rootfs", b->in->rootfs, BERTH_LIMIT_SPEC_PATH, ret_err) <
	                0 ||
	        stop_signal(b, ret_err) < 0 || spec_namespaces(b, ret_err) < 0 ||
	        spec_user(b, ret_err) < 0 || spec_security(b, ret_err) < 0 ||
	        annotations(b, ret_err) < 0 || resources(b, ret_err) < 0 ||
	        spec_process(b, ret_err) < 0 || spec_mounts(b, ret_err) < 0)
		return -1;
	if (cdi_devices(b, ret_err) < 0)
		return -1;
	if (b->propagation)
		json_object_set_new(b->oci_linux, "rootfsPropagation", json_string(b->propagation));
	return 0;
}

int berth_spec_container(
        const struct berth_spec_in *in, struct berth_spec_out *out, struct berth_error **ret_err)
{
	static const Runtime__V1__LinuxContainerSecurityContext no_sec =
	        RUNTIME__V1__LINUX_CONTAINER_SECURITY_CONTEXT__INIT;
	static const Runtime__V1__NamespaceOption no_ns = RUNTIME__V1__NAMESPACE_OPTION__INIT;
	struct berth_spec_out o = {.config = json_object()};
	struct berth_spec_host host;
	struct spec_build b = {.in = in, .c = in->config, .sec = &no_sec, .ns = &no_ns, .out = &o};

	*out = (struct berth_spec_out){0};
	if (in->config->linux && in->config->linux->security_context)
		b.sec = in->config->linux->security_context;
	if (b.sec->namespace_options)
		b.ns = b.sec->namespace_options;
	b.privileged = o.privileged = b.sec->privileged;
	if (!in->host)
		berth_spec_host_probe(&host);
	b.host = in->host ? in->host : &host;

	int r = build(&b, ret_err);
	free(b.home);
	if (r == 0) {
		*out = o;
		return 0;
	}
	berth_spec_out_finish(&o);
	/* A word at the beginning of these messages is part of CRI. */
	if (strncmp((*ret_err)->msg, "RROUnsupported", 14) != 0 &&
	        strncmp((*ret_err)->msg, "ImageVolumeMountFailed", 22) != 0)
		(void)berth_error_wrap(ret_err, "container %.64s", in->container_id);
	return -1;
}

void berth_spec_out_finish(struct berth_spec_out *out)
{
	for (size_t i = 0; i < out->n_mounts; i++) {
		free(out->mounts[i].container_path);
		free(out->mounts[i].host_path);
	}
	free(out->mounts);
	free(out->groups);
	free(out->cgroups_path);
	json_decref(out->config);
	json_decref(out->resources);
	*out = (struct berth_spec_out){0};
}

int berth_spec_exec_process(const json_t *config, const char *id, size_t argc, char *const *argv,
        bool tty, json_t **ret, struct berth_error **ret_err)
{
	json_t *list = json_array();

	for (size_t i = 0; i < argc; i++) {
		json_t *s = argc > BERTH_LIMIT_SPEC_STRINGS
		                    ? NULL
		                    : spec_string("cmd", argv[i], BERTH_LIMIT_SPEC_STRING, ret_err);
		if (!s) {
			json_decref(list);
			if (!*ret_err)
				return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
				        "exec in container %.64s: cmd: more than %d strings", id,
				        BERTH_LIMIT_SPEC_STRINGS);
			return berth_error_wrap(ret_err, "exec in container %.64s", id);
		}
		json_array_append_new(list, s);
	}
	if (!argc || !argv[0][0]) {
		json_decref(list);
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "exec in container %.64s: cmd: nothing to run", id);
	}
	json_t *p = json_deep_copy(json_object_get(config, "process"));
	if (!p) {
		json_decref(list);
		return berth_error_set(ret_err, BERTH_INTERNAL,
		        "exec in container %.64s: no process in its config", id);
	}
	json_object_set_new(p, "args", list);
	json_object_set_new(p, "terminal", json_boolean(tty));
	*ret = p;
	return 0;
}
