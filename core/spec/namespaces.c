#include <string.h>

#include "base/mem.h"
#include "spec/build.h"
#include "spec/podfiles.h"

static void add(json_t *list, const char *type, const char *path)
{
	json_t *o = json_pack("{s:s}", "type", type);
	if (path)
		json_object_set_new(o, "path", json_string(path));
	json_array_append_new(list, o);
}

/* One namespace that pods have as a whole: the pod's pinned one or the host's. */
static int pod_level(json_t *list, const char *type, Runtime__V1__NamespaceMode mode,
        const char *pinned, bool pod_on_host, bool *ret_host, struct berth_error **ret_err)
{
	*ret_host = false;
	if (mode != RUNTIME__V1__NAMESPACE_MODE__POD && mode != RUNTIME__V1__NAMESPACE_MODE__NODE)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "namespace_options.%s: mode %d is for processes only", type, (int)mode);
	if (mode == RUNTIME__V1__NAMESPACE_MODE__NODE || (!pinned && pod_on_host)) {
		/* A pod without host access gives its containers none. */
		if (!pod_on_host)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "namespace_options.%s: NODE, but the pod has a namespace of its "
			        "own",
			        type);
		*ret_host = true;
		return 0;
	}
	if (!pinned)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "namespace_options.%s: the pod's namespace is gone", type);
	add(list, type, pinned);
	return 0;
}

static int pid(struct spec_build *b, json_t *list, struct berth_error **ret_err)
{
	const struct berth_spec_in *in = b->in;
	Runtime__V1__NamespaceMode pod_mode;

	switch (b->ns->pid) {
	case RUNTIME__V1__NAMESPACE_MODE__POD:
		if (in->ns.pid) {
			add(list, "pid", in->ns.pid);
			return 0;
		}
		/* Also what a request without namespace options says: then the pod decides. */
		pod_mode = berth_pod_pid_mode(in->pod_config);
		if (pod_mode == RUNTIME__V1__NAMESPACE_MODE__NODE)
			return 0;
		if (pod_mode == RUNTIME__V1__NAMESPACE_MODE__CONTAINER) {
			add(list, "pid", NULL);
			return 0;
		}
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "namespace_options.pid: the pod's shared PID namespace is gone");
	case RUNTIME__V1__NAMESPACE_MODE__CONTAINER:
		add(list, "pid", NULL);
		return 0;
	case RUNTIME__V1__NAMESPACE_MODE__NODE:
		if (berth_pod_pid_mode(in->pod_config) != RUNTIME__V1__NAMESPACE_MODE__NODE)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "namespace_options.pid: NODE, but the pod does not use the node's");
		return 0;
	case RUNTIME__V1__NAMESPACE_MODE__TARGET: {
		if (in->target_pid <= 0)
			return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
			        "namespace_options.pid: TARGET: container %.64s does not run",
			        b->ns->target_id);
		_cleanup_free_ char *path = berth_asprintf("/proc/%d/ns/pid", (int)in->target_pid);
		add(list, "pid", path);
		return 0;
	}
	case _RUNTIME__V1__NAMESPACE_MODE_IS_INT_SIZE:
		break;
	}
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "namespace_options.pid: mode %d is unknown", (int)b->ns->pid);
}

static bool same_ranges(
        Runtime__V1__IDMapping *const *a, size_t n_a, Runtime__V1__IDMapping *const *b, size_t n_b)
{
	for (size_t i = 0; n_a == n_b && i < n_a; i++)
		if (a[i]->container_id != b[i]->container_id || a[i]->host_id != b[i]->host_id ||
		        a[i]->length != b[i]->length)
			return false;
	return n_a == n_b;
}

static json_t *ranges(Runtime__V1__IDMapping *const *v, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
		        list, json_pack("{s:I,s:I,s:I}", "containerID",
		                      (json_int_t)v[i]->container_id, "hostID",
		                      (json_int_t)v[i]->host_id, "size", (json_int_t)v[i]->length));
	return list;
}

/* The pod's, or the node's. A request that says something about it must say the same. */
static int user(struct spec_build *b, json_t *list, struct berth_error **ret_err)
{
	const Runtime__V1__UserNamespace *pod = berth_pod_userns(b->in->pod_config);
	const Runtime__V1__UserNamespace *own = b->ns->userns_options;
	bool said = own &&
	            (own->mode != RUNTIME__V1__NAMESPACE_MODE__POD || own->n_uids || own->n_gids);

	if (said && own->mode == RUNTIME__V1__NAMESPACE_MODE__NODE ? pod != NULL
	        : said ? !pod || own->mode != RUNTIME__V1__NAMESPACE_MODE__POD ||
	                         !same_ranges(own->uids, own->n_uids, pod->uids, pod->n_uids) ||
	                         !same_ranges(own->gids, own->n_gids, pod->gids, pod->n_gids)
	               : false)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "namespace_options.userns_options: they are not those of the pod");
	if (!pod)
		return 0;
	if (!b->in->ns.user)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "namespace_options.userns_options: the pod's user namespace is gone");
	add(list, "user", b->in->ns.user);
	/* Runtimes want to be told although they could read it. */
	json_object_set_new(b->oci_linux, "uidMappings", ranges(pod->uids, pod->n_uids));
	json_object_set_new(b->oci_linux, "gidMappings", ranges(pod->gids, pod->n_gids));
	return 0;
}

int spec_namespaces(struct spec_build *b, struct berth_error **ret_err)
{
	const struct berth_spec_in *in = b->in;
	bool pod_host_net = berth_pod_host_network(in->pod_config), host_net;
	bool pod_host_ipc = berth_pod_ipc_mode(in->pod_config) == RUNTIME__V1__NAMESPACE_MODE__NODE;
	json_t *list = json_array();

	json_object_set_new(b->oci_linux, "namespaces", list);
	/* Before those that it owns. */
	if (user(b, list, ret_err) < 0 || pid(b, list, ret_err) < 0 ||
	        pod_level(list, "network", b->ns->network, in->ns.net, pod_host_net, &host_net,
	                ret_err) < 0 ||
	        pod_level(list, "ipc", b->ns->ipc, in->ns.ipc, pod_host_ipc, &b->host_ipc,
	                ret_err) < 0)
		return -1;
	if (in->ns.uts) {
		add(list, "uts", in->ns.uts);
		if (spec_is_set(in->hostname) && spec_set(b->out->config, "hostname", "hostname",
		                                         in->hostname, 253, ret_err) < 0)
			return -1;
	}
	add(list, "mount", NULL);
	/* Hides the host's hierarchy behind the container's own cgroup; v1 has bind mounts for
	 * that. */
	if (b->host->cgroup_v2 && !b->privileged)
		add(list, "cgroup", NULL);
	return 0;
}
