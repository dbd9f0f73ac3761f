/* run: a pod with one container. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "ctl/ctl.h"

#define NAME_FROM_IMAGE 40
#define LOG_ROOT "/var/log/pods"

struct run {
	struct ctl *c;
	Runtime__V1__PodSandboxConfig *pod;
	Runtime__V1__ContainerConfig *ctr;
	const char *pod_id, *ctr_id;
};

#define NEW(c, type, Type)                                                            \
	({                                                                            \
		Runtime__V1__##Type *m_ = berth_arena_alloc((c)->arena, sizeof(*m_)); \
		runtime__v1__##type##__init(m_);                                      \
		m_;                                                                   \
	})

static char *text(const char *s)
{
	return (char *)(uintptr_t)s;
}

/* "docker.io/library/busybox:1.36" gives "busybox-3f9a1c". */
static char *default_name(struct ctl *c, const char *image)
{
	char *name, *tag, hex[7];
	ctl_split_image(c->arena, image, &name, &tag);
	const char *slash = strrchr(name, '/');
	char *base =
	        berth_arena_printf(c->arena, "%.*s", NAME_FROM_IMAGE, slash ? slash + 1 : name);
	for (char *p = base; *p; p++)
		if (*p == '_' || *p == '.')
			*p = '-';
	berth_random_hex(hex, 3);
	return berth_arena_printf(c->arena, "%s-%s", base, hex);
}

static int fill_ports(struct run *r, struct berth_error **err)
{
	char *const *ports = ctl_list(r->c, "publish");
	size_t n = berth_strv_len(ports);
	r->pod->port_mappings = berth_arena_alloc(r->c->arena, (n + 1) * sizeof(void *));
	for (size_t i = 0; i < n; i++) {
		Runtime__V1__PortMapping *p = NEW(r->c, port_mapping, PortMapping);
		if (ctl_parse_port(r->c->arena, ports[i], p, err))
			return -1;
		r->pod->port_mappings[r->pod->n_port_mappings++] = p;
	}
	return 0;
}

static Runtime__V1__NamespaceOption *namespaces(struct ctl *c, bool host)
{
	Runtime__V1__NamespaceOption *n = NEW(c, namespace_option, NamespaceOption);
	n->pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	n->network = host ? RUNTIME__V1__NAMESPACE_MODE__NODE : RUNTIME__V1__NAMESPACE_MODE__POD;
	return n;
}

static int make_pod(struct run *r, struct berth_error **err)
{
	struct ctl *c = r->c;
	const char *net = ctl_text(c, "net"), *name = ctl_text(c, "name");
	Runtime__V1__PodSandboxConfig *p = NEW(c, pod_sandbox_config, PodSandboxConfig);
	char uid[33];

	r->pod = p;
	if (net && strcmp(net, "host") != 0 && strcmp(net, "pod") != 0)
		return berth_error_set(
		        err, BERTH_INVALID_ARGUMENT, "--net is host or pod, not '%s'", net);
	bool host = net && strcmp(net, "host") == 0;
	berth_random_hex(uid, 16);
	p->metadata = NEW(c, pod_sandbox_metadata, PodSandboxMetadata);
	p->metadata->name = name ? text(name) : default_name(c, c->args[0]);
	p->metadata->namespace_ =
	        text(ctl_text(c, "namespace") ? ctl_text(c, "namespace") : "default");
	p->metadata->uid = berth_arena_strdup(c->arena, uid);
	p->hostname = host ? p->hostname : p->metadata->name;
	p->log_directory = ctl_text(c, "log-dir")
	                           ? text(ctl_text(c, "log-dir"))
	                           : berth_arena_printf(c->arena, LOG_ROOT "/%s_%s_%s",
	                                     p->metadata->namespace_, p->metadata->name, uid);
	p->linux = NEW(c, linux_pod_sandbox_config, LinuxPodSandboxConfig);
	if (ctl_text(c, "cgroup-parent"))
		p->linux->cgroup_parent = text(ctl_text(c, "cgroup-parent"));
	p->linux->security_context =
	        NEW(c, linux_sandbox_security_context, LinuxSandboxSecurityContext);
	p->linux->security_context->namespace_options = namespaces(c, host);
	p->linux->security_context->privileged = ctl_flag(c, "privileged");
	return fill_ports(r, err);
}

static int fill_environment(struct run *r, struct berth_error **err)
{
	char *const *list = ctl_list(r->c, "env");
	size_t n = berth_strv_len(list);
	r->ctr->envs = berth_arena_alloc(r->c->arena, (n + 1) * sizeof(void *));
	for (size_t i = 0; i < n; i++) {
		Runtime__V1__KeyValue *kv = NEW(r->c, key_value, KeyValue);
		char *key = berth_arena_strdup(r->c->arena, list[i]);
		char *equals = strchr(key, '=');
		if (!equals || equals == key)
			return berth_error_set(err, BERTH_INVALID_ARGUMENT,
			        "--env '%s' is not NAME=VALUE", list[i]);
		*equals = '\0';
		kv->key = key;
		kv->value.data = (uint8_t *)equals + 1;
		kv->value.len = strlen(equals + 1);
		r->ctr->envs[r->ctr->n_envs++] = kv;
	}
	return 0;
}

static int fill_mounts(struct run *r, struct berth_error **err)
{
	char *const *list = ctl_list(r->c, "volume");
	size_t n = berth_strv_len(list);
	r->ctr->mounts = berth_arena_alloc(r->c->arena, (n + 1) * sizeof(void *));
	for (size_t i = 0; i < n; i++) {
		Runtime__V1__Mount *m = NEW(r->c, mount, Mount);
		if (ctl_parse_mount(r->c->arena, list[i], m, err))
			return -1;
		r->ctr->mounts[r->ctr->n_mounts++] = m;
	}
	return 0;
}

static int fill_user(
        struct ctl *c, Runtime__V1__LinuxContainerSecurityContext *s, struct berth_error **err)
{
	const char *user = ctl_text(c, "user");
	char *end = NULL;
	if (!user)
		return 0;
	if (*user < '0' || *user > '9') {
		s->run_as_username = text(user);
		return 0;
	}
	s->run_as_user = NEW(c, int64_value, Int64Value);
	s->run_as_user->value = strtoll(user, &end, 10);
	if (*end == ':' && end[1] >= '0' && end[1] <= '9') {
		s->run_as_group = NEW(c, int64_value, Int64Value);
		s->run_as_group->value = strtoll(end + 1, &end, 10);
	}
	if (*end)
		return berth_error_set(err, BERTH_INVALID_ARGUMENT,
		        "--user '%s' is not a name, UID or UID:GID", user);
	return 0;
}

static int make_container(struct run *r, struct berth_error **err)
{
	struct ctl *c = r->c;
	Runtime__V1__ContainerConfig *k = NEW(c, container_config, ContainerConfig);

	r->ctr = k;
	k->metadata = NEW(c, container_metadata, ContainerMetadata);
	k->metadata->name = r->pod->metadata->name;
	k->image = NEW(c, image_spec, ImageSpec);
	k->image->image = c->args[0];
	k->args = c->args + 1;
	k->n_args = (size_t)c->n_args - 1;
	if (ctl_text(c, "entrypoint")) {
		k->command = berth_arena_alloc(c->arena, sizeof(char *));
		k->command[0] = text(ctl_text(c, "entrypoint"));
		k->n_command = 1;
	}
	if (ctl_text(c, "workdir"))
		k->working_dir = text(ctl_text(c, "workdir"));
	k->log_path = berth_arena_printf(c->arena, "%s.log", k->metadata->name);
	k->linux = NEW(c, linux_container_config, LinuxContainerConfig);
	k->linux->security_context =
	        NEW(c, linux_container_security_context, LinuxContainerSecurityContext);
	k->linux->security_context->privileged = ctl_flag(c, "privileged");
	k->linux->security_context->readonly_rootfs = ctl_flag(c, "read-only");
	k->linux->security_context->namespace_options = NEW(c, namespace_option, NamespaceOption);
	*k->linux->security_context->namespace_options =
	        *r->pod->linux->security_context->namespace_options;
	if (fill_user(c, k->linux->security_context, err) || fill_environment(r, err))
		return -1;
	return fill_mounts(r, err);
}

static int from_files(struct run *r, struct berth_error **err)
{
	struct ctl *c = r->c;
	if (!ctl_text(c, "pod") || !ctl_text(c, "ctr"))
		return berth_error_set(err, BERTH_INVALID_ARGUMENT,
		        "--pod and --ctr come together, without IMAGE");
	r->pod = (void *)ctl_from_file(
	        c->arena, &runtime__v1__pod_sandbox_config__descriptor, ctl_text(c, "pod"), err);
	if (!r->pod)
		return -1;
	r->ctr = (void *)ctl_from_file(
	        c->arena, &runtime__v1__container_config__descriptor, ctl_text(c, "ctr"), err);
	if (!r->ctr)
		return -1;
	if (!r->ctr->image || !r->ctr->image->image || !*r->ctr->image->image)
		return berth_error_set(err, BERTH_INVALID_ARGUMENT, "%s: image.image is missing",
		        ctl_text(c, "ctr"));
	return 0;
}

/* The image, pulled where --pull wants it. */
static int have_image(struct run *r, struct berth_error **err)
{
	const char *policy = ctl_text(r->c, "pull") ? ctl_text(r->c, "pull") : "missing";
	const char *id = NULL;
	bool here = false;

	if (strcmp(policy, "always") != 0 && strcmp(policy, "missing") != 0 &&
	        strcmp(policy, "never") != 0)
		return berth_error_set(err, BERTH_INVALID_ARGUMENT,
		        "--pull is always, missing or never, not '%s'", policy);
	if (strcmp(policy, "missing") == 0) {
		Runtime__V1__ImageStatusRequest req = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
		req.image = r->ctr->image;
		Runtime__V1__ImageStatusResponse *res =
		        ctl_call(r->c, "ImageService/ImageStatus", &req.base,
		                &runtime__v1__image_status_response__descriptor, CTL_SHORT_MS, err);
		if (!res)
			return -1;
		here = res->image != NULL;
		ctl_free_message(res);
	}
	if (here || strcmp(policy, "never") == 0)
		return 0;
	return ctl_pull(r->c, r->ctr->image->image, &id, err);
}

static int start(struct run *r, struct berth_error **err)
{
	Runtime__V1__CreateContainerRequest create = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
	Runtime__V1__StartContainerRequest begin = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;

	create.pod_sandbox_id = text(r->pod_id);
	create.config = r->ctr;
	create.sandbox_config = r->pod;
	Runtime__V1__CreateContainerResponse *res =
	        ctl_call(r->c, "RuntimeService/CreateContainer", &create.base,
	                &runtime__v1__create_container_response__descriptor, CTL_LONG_MS, err);
	if (!res)
		return -1;
	r->ctr_id = berth_arena_strdup(r->c->arena, res->container_id);
	ctl_free_message(res);
	begin.container_id = text(r->ctr_id);
	void *started = ctl_call(r->c, "RuntimeService/StartContainer", &begin.base,
	        &runtime__v1__start_container_response__descriptor, CTL_LONG_MS, err);
	ctl_free_message(started);
	return started ? 0 : -1;
}

static int run_pod(struct run *r, struct berth_error **err)
{
	Runtime__V1__RunPodSandboxRequest req = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	req.config = r->pod;
	if (ctl_text(r->c, "runtime"))
		req.runtime_handler = text(ctl_text(r->c, "runtime"));
	Runtime__V1__RunPodSandboxResponse *res = ctl_call(r->c, "RuntimeService/RunPodSandbox",
	        &req.base, &runtime__v1__run_pod_sandbox_response__descriptor, CTL_LONG_MS, err);
	if (!res)
		return -1;
	r->pod_id = berth_arena_strdup(r->c->arena, res->pod_sandbox_id);
	ctl_free_message(res);
	return 0;
}

static void remove_pod(struct run *r)
{
	struct berth_error *err = NULL;
	if (ctl_stop_pod(r->c, r->pod_id, &err) || ctl_remove_pod(r->c, r->pod_id, &err)) {
		fprintf(stderr, "berthctl: pod %s is left behind: %s\n", r->pod_id, err->msg);
		berth_error_free(err);
	}
}

static int exit_code(struct run *r, int *ret, struct berth_error **err)
{
	Runtime__V1__ContainerStatusRequest req = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	req.container_id = text(r->ctr_id);
	Runtime__V1__ContainerStatusResponse *res = ctl_call(r->c, "RuntimeService/ContainerStatus",
	        &req.base, &runtime__v1__container_status_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	*ret = res->status ? res->status->exit_code & 255 : CTL_EXEC_FAILED;
	ctl_free_message(res);
	return 0;
}

static void print_ids(const struct run *r)
{
	if (r->c->json)
		ctl_print_json(json_pack(
		        "{s:s, s:s}", "podSandboxId", r->pod_id, "containerId", r->ctr_id));
	else
		puts(r->ctr_id);
	fflush(stdout);
}

static int run(struct run *r, struct berth_error **err)
{
	struct ctl_log_opts o = {.follow = true, .tail = UINT64_MAX};
	bool wait = ctl_flag(r->c, "wait");
	int code = CTL_OK;

	if (have_image(r, err) || run_pod(r, err))
		return -1;
	int failed = start(r, err);
	if (failed == 0 && !wait)
		print_ids(r);
	if (failed == 0 && wait) {
		failed = ctl_follow_container(r->c, r->ctr_id, &o, err);
		if (failed == 0)
			failed = exit_code(r, &code, err);
	}
	if ((failed && !r->ctr_id) || (failed && !wait) || (wait && ctl_flag(r->c, "rm")))
		remove_pod(r);
	return failed ? -1 : code;
}

int ctl_cmd_run(struct ctl *c, struct berth_error **err)
{
	struct run r = {.c = c};
	bool files = ctl_text(c, "pod") || ctl_text(c, "ctr");

	if (files == (c->n_args > 0))
		return berth_error_set(err, BERTH_INVALID_ARGUMENT,
		        files ? "IMAGE and --pod, --ctr exclude each other"
		              : "an IMAGE is missing");
	if (ctl_flag(c, "rm") && !ctl_flag(c, "wait"))
		return berth_error_set(err, BERTH_INVALID_ARGUMENT, "--rm needs --wait");
	if (files ? from_files(&r, err) : make_pod(&r, err) || make_container(&r, err))
		return -1;
	int code = run(&r, err);
	return code < 0 && ctl_flag(c, "wait") ? CTL_EXEC_FAILED : code;
}
