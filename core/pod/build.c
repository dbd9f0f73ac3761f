/* What a pod sandbox is made of, made and released. [worker] Every step is written down before it
 * is taken, and its release is idempotent: undo, removal and recovery are one code. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/run.h"
#include "monitor/host.h"
#include "mount/mount.h"
#include "pod/netargs.h"
#include "pod/pod.h"
#include "pod/userns.h"
#include "spec/podfiles.h"
#include "spec/resources.h"

#define NS_TIMEOUT_MS 30000
#define NETWORK_DEADLINE_S 120
#define SHM_BYTES (64u << 20)
#define SHM_ANNOTATION "shm-size.crio.io"

static bool own_ipc(const struct berth_pod *p)
{
	return berth_pod_ipc_mode(p->config) != RUNTIME__V1__NAMESPACE_MODE__NODE;
}

/* ---- namespaces ---- */

static int pin_namespaces(struct berth_pod *p, struct berth_error **ret_err)
{
	char **argv = NULL;
	struct berth_sysctl *sysctls = NULL;
	size_t n_sysctls = 0;
	static const char *const kinds[] = {"net", "uts", "ipc"};

	_cleanup_free_ char *helper = berth_path(p->d->helpers_dir, "berth-ns", NULL);
	_cleanup_free_ char *dir = berth_path(p->d->config->run, "ns", p->id, NULL);
	int r = berth_mkdir_p(dir, 0711);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", dir);
	if (berth_pod_sysctls(p->config, &sysctls, &n_sysctls, ret_err) < 0)
		return -1;
	argv = berth_strv_append(argv, helper);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(kinds); i++) {
		/* The host name belongs to the network: a pod on the node's network has the node's.
		 */
		if (i < 2 ? p->host_network : !own_ipc(p))
			continue;
		_cleanup_free_ char *pin = berth_asprintf("%s=%s/%s", kinds[i], dir, kinds[i]);
		argv = berth_strv_append(argv, "--pin");
		argv = berth_strv_append(argv, pin);
	}
	const Runtime__V1__UserNamespace *u = berth_pod_userns(p->config);
	if (u) {
		_cleanup_free_ char *path = berth_pod_ns_path(p, "user");
		argv = berth_userns_args(argv, path, u->uids, u->n_uids, u->gids, u->n_gids);
	}
	if (!p->host_network) {
		argv = berth_strv_append(argv, "--hostname");
		argv = berth_strv_append(argv, p->hostname);
	}
	for (size_t i = 0; i < n_sysctls; i++) {
		_cleanup_free_ char *kv =
		        berth_asprintf("%s=%s", sysctls[i].path, sysctls[i].value);
		argv = berth_strv_append(argv, "--sysctl");
		argv = berth_strv_append(argv, kv);
	}
	berth_sysctls_free(sysctls, n_sysctls);
	r = 0;
	if (berth_strv_len(argv) > 1)
		r = berth_run_helper((const char *const *)(void *)argv, NS_TIMEOUT_MS, ret_err);
	berth_strv_free(argv);
	return r < 0 ? berth_error_wrap(ret_err, "pod sandbox %s: namespaces", p->id) : 0;
}

static int unpin(const char *path, struct berth_error **ret_err)
{
	if (berth_umount(path, true, ret_err) < 0)
		return -1;
	if (unlink(path) < 0 && errno != ENOENT)
		return berth_error_errno(ret_err, errno, "%s", path);
	return 0;
}

/* ---- network ---- */

static int attach(struct berth_pod *p, struct berth_error **ret_err)
{
	struct pod_netargs in;
	struct berth_net_result res = {.size = sizeof(res)};

	if (p->host_network)
		return 0;
	if (!p->d->network)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "pod sandbox %s: no network plugin is configured (network.plugin)", p->id);
	if (pod_netargs_fill(p, &in, ret_err) < 0) {
		pod_netargs_finish(&in);
		return -1;
	}
	p->has_network = true;
	int r = berth_pod_save(p, BERTH_POD_CREATING, ret_err);
	berth_fault("pod-attach-before");
	if (r == 0) {
		_cleanup_(berth_call_freep) struct berth_call *c =
		        berth_call_new(p->d->network, BERTH_OP_NETWORK_ATTACH, p->id);
		berth_call_set_deadline(c, berth_now_ns() + NETWORK_DEADLINE_S * 1000000000ull);
		r = berth_call_run(c, &in.args, &res, ret_err);
		for (uint32_t i = 0; r == 0 && i < res.n_ips; i++)
			p->ips = berth_strv_append(p->ips, res.ips[i]);
	}
	berth_fault("pod-attach-after");
	pod_netargs_finish(&in);
	return r < 0 ? berth_error_wrap(ret_err, "pod sandbox %s: network", p->id) : 0;
}

/* Of a pod that exists: a client would take a plugin's NOT_FOUND for the pod's, and go. */
static int not_released(struct berth_pod *p, const char *by, struct berth_error **ret_err)
{
	if ((*ret_err)->code == BERTH_NOT_FOUND)
		(*ret_err)->code = BERTH_UNAVAILABLE;
	return berth_error_wrap(ret_err, "pod sandbox %s: %s", p->id, by);
}

static int detach(struct berth_pod *p, struct berth_error **ret_err)
{
	if (!p->has_network || !p->d->network)
		return 0;
	struct berth_net_args args = {
	        .size = sizeof(args),
	        .sandbox_id = p->id,
	        .pod_name = p->config->metadata->name,
	        .pod_namespace = p->config->metadata->namespace_,
	        .pod_uid = p->config->metadata->uid,
	        .ifname = POD_IFNAME,
	};
	/* The network wants to know when the namespace is gone already. */
	_cleanup_free_ char *netns = berth_pod_ns_path(p, "net");
	if (berth_is_mount_point(netns) > 0)
		args.netns = netns;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(p->d->network, BERTH_OP_NETWORK_DETACH, p->id);
	berth_call_set_deadline(c, p->release_by_ns
	                                   ? p->release_by_ns
	                                   : berth_now_ns() + NETWORK_DEADLINE_S * 1000000000ull);
	if (berth_call_run(c, &args, NULL, ret_err) < 0)
		return not_released(p, "network", ret_err);
	p->has_network = false;
	return 0;
}

/* ---- the rest ---- */

static uint64_t shm_bytes(const struct berth_pod *p)
{
	for (size_t i = 0; i < p->config->n_annotations; i++) {
		if (strcmp(p->config->annotations[i]->key, SHM_ANNOTATION) != 0)
			continue;
		char *end;
		unsigned long long n = strtoull(p->config->annotations[i]->value, &end, 10);
		unsigned int shift = *end == 'k' || *end == 'K'   ? 10
		                     : *end == 'm' || *end == 'M' ? 20
		                     : *end == 'g' || *end == 'G' ? 30
		                                                  : 0;
		if (n > 0 && n < (1ull << 33))
			return n << shift;
	}
	return SHM_BYTES;
}

static int make_shm(struct berth_pod *p, const char *dir, struct berth_error **ret_err)
{
	if (!own_ipc(p))
		return 0;
	_cleanup_free_ char *shm = berth_path(dir, "shm", NULL);
	int r = berth_mkdir_p(shm, 0711);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", shm);
	return berth_mount_tmpfs(shm, shm_bytes(p), 01777, p->mount_label, ret_err);
}

/* What a pod has for itself belongs to its own root. */
static int give_to_root(struct berth_pod *p, const char *dir, struct berth_error **ret_err)
{
	static const char *const names[] = {"hostname", "resolv.conf", "hosts", "shm"};
	const Runtime__V1__UserNamespace *u = berth_pod_userns(p->config);

	for (size_t i = 0; u && i < BERTH_ARRAY_LEN(names); i++) {
		_cleanup_free_ char *path = berth_path(dir, names[i], NULL);
		if (lchown(path, u->uids[0]->host_id, u->gids[0]->host_id) < 0 && errno != ENOENT)
			return berth_error_errno(ret_err, errno, "%s", path);
	}
	return 0;
}

static int make_log_dir(struct berth_pod *p, struct berth_error **ret_err)
{
	const char *dir = p->config->log_directory;
	int r = dir && *dir ? berth_mkdir_p(dir, 0755) : 0;
	return r < 0 ? berth_error_errno(ret_err, r, "pod sandbox %s: log_directory %s", p->id, dir)
	             : 0;
}

static int start_init(struct berth_pod *p, const char *dir, struct berth_error **ret_err)
{
	if (!p->shared_pid)
		return 0;
	_cleanup_free_ char *helper = berth_path(p->d->helpers_dir, "berth-ns", NULL);
	_cleanup_free_ char *init = berth_path(p->d->helpers_dir, "berth-init", NULL);
	_cleanup_free_ char *pid_file = berth_path(dir, "pid", NULL);
	_cleanup_free_ char *pid_ns = berth_pod_ns_path(p, "pid");
	_cleanup_free_ char *pin = berth_asprintf("pid=%s", pid_ns);
	char **argv = NULL;
	static const char *const kinds[] = {"net", "uts", "ipc", "user"};

	argv = berth_strv_append(argv, helper);
	argv = berth_strv_append(argv, "--pod-pid");
	argv = berth_strv_append(argv, "--init");
	argv = berth_strv_append(argv, init);
	argv = berth_strv_append(argv, "--pin");
	argv = berth_strv_append(argv, pin);
	argv = berth_strv_append(argv, "--pid-file");
	argv = berth_strv_append(argv, pid_file);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(kinds); i++) {
		_cleanup_free_ char *ns = berth_pod_ns_path(p, kinds[i]);
		if (berth_is_mount_point(ns) <= 0)
			continue;
		_cleanup_free_ char *ns_arg = berth_asprintf("%s=%s", kinds[i], ns);
		argv = berth_strv_append(argv, "--ns");
		argv = berth_strv_append(argv, ns_arg);
	}
	struct berth_monitor_result res = {.size = sizeof(res)};
	struct berth_monitor_spec spec = {
	        .id = p->id,
	        .dir = dir,
	        .cwd = dir,
	        .argv = (const char *const *)(void *)argv,
	        .pid_file = pid_file,
	        .cancel_fd = -1,
	        .deadline_ns = berth_now_ns() + NS_TIMEOUT_MS * 1000000ull,
	};
	int r = berth_monitor_start(&spec, &res, ret_err);
	berth_strv_free(argv);
	return r < 0 ? berth_error_wrap(ret_err, "pod sandbox %s: its init", p->id) : 0;
}

/* OCI linux.resources of the pod as a whole, as text; NULL where the kubelet gave none. */
static int sandbox_resources(struct berth_pod *p, char **ret, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxPodSandboxConfig *l = p->config->linux;
	json_t *model = NULL, *oci = NULL;

	*ret = NULL;
	if (!l || !l->resources)
		return 0;
	int r = berth_resources_merge(p->id, NULL, l->resources, &model, ret_err);
	if (r == 0)
		r = berth_resources_oci(p->id, model, &p->d->host, &oci, ret_err);
	if (r == 0)
		*ret = json_dumps(oci, JSON_COMPACT);
	json_decref(model);
	json_decref(oci);
	return r;
}

static int sandbox_create(struct berth_pod *p, struct berth_instance *i,
        struct berth_sandbox_args *args, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxPodSandboxConfig *l = p->config->linux;
	struct berth_sandbox_result res = {.size = sizeof(res)};
	_cleanup_free_ char *resources = NULL;

	if (sandbox_resources(p, &resources, ret_err) < 0)
		return -1;
	_cleanup_free_ struct berth_kv *kv =
	        berth_new_array(struct berth_kv, p->config->n_annotations + 1);
	for (size_t n = 0; n < p->config->n_annotations; n++)
		kv[n] = (struct berth_kv){
		        p->config->annotations[n]->key, p->config->annotations[n]->value};
	args->annotations = kv;
	args->n_annotations = (uint32_t)p->config->n_annotations;
	args->oci_resources_json = resources;
	args->cgroup_parent = l && *l->cgroup_parent ? l->cgroup_parent : NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(i, BERTH_OP_RUNTIME_SANDBOX_CREATE, p->id);
	if (berth_call_run(c, args, &res, ret_err) < 0)
		return -1;
	if (res.state_json && strlen(res.state_json) > BERTH_LIMIT_SANDBOX_STATE)
		return berth_error_set(ret_err, BERTH_INTERNAL,
		        "its state is longer than %zu bytes", BERTH_LIMIT_SANDBOX_STATE);
	p->sandbox_state = berth_strdup(res.state_json);
	return 0;
}

static int sandbox_remove(struct berth_pod *p, struct berth_instance *i,
        struct berth_sandbox_args *args, struct berth_error **ret_err)
{
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(i, BERTH_OP_RUNTIME_SANDBOX_REMOVE, p->id);

	args->state_json = p->sandbox_state;
	return berth_call_run(c, args, NULL, ret_err);
}

static int runtime_sandbox(struct berth_pod *p, enum berth_opcode op, struct berth_error **ret_err)
{
	struct berth_instance *i = p->handler ? p->handler->instance : NULL;
	if (!i || !berth_instance_has_op(i, op))
		return 0;
	_cleanup_free_ char *netns = p->host_network ? NULL : berth_pod_ns_path(p, "net");
	struct berth_sandbox_args args = {.size = sizeof(args), .id = p->id, .netns = netns};
	int r = op == BERTH_OP_RUNTIME_SANDBOX_CREATE ? sandbox_create(p, i, &args, ret_err)
	                                              : sandbox_remove(p, i, &args, ret_err);
	_cleanup_free_ char *by = berth_asprintf("runtime %s", p->handler->name);
	return r < 0 ? not_released(p, by, ret_err) : 0;
}

static int check_labels(struct berth_pod *p, struct berth_error **ret_err)
{
	const char *labels[] = {p->process_label, p->mount_label};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(labels); i++) {
		_cleanup_free_ char *as_written = NULL;
		if (labels[i] &&
		        berth_selinux_check(&p->d->selinux, labels[i], &as_written, ret_err) < 0)
			return -1;
	}
	return 0;
}

static int build(struct berth_pod *p, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_pod_dir(p);

	if (berth_pod_userns(p->config) && berth_userns_check(p->d, p->handler, ret_err) < 0)
		return berth_error_wrap(ret_err, "pod sandbox %s", p->id);
	if (check_labels(p, ret_err) < 0)
		return berth_error_wrap(ret_err, "pod sandbox %s", p->name);
	p->created_ns = berth_realtime_ns();
	p->shared_pid = berth_pod_pid_mode(p->config) == RUNTIME__V1__NAMESPACE_MODE__POD;
	berth_fault("pod-intent-before");
	if (berth_pod_save(p, BERTH_POD_CREATING, ret_err) < 0)
		return -1;
	berth_fault("pod-intent-after");
	if (make_log_dir(p, ret_err) < 0 || pin_namespaces(p, ret_err) < 0)
		return -1;
	berth_fault("pod-namespaces-after");
	if (attach(p, ret_err) < 0 || make_shm(p, dir, ret_err) < 0)
		return -1;
	berth_fault("pod-shm-after");
	if (berth_pod_files_write(dir, p->config, p->id, p->hostname,
	            (const char *const *)(void *)p->ips, berth_strv_len(p->ips), ret_err) < 0)
		return -1;
	berth_fault("pod-files-after");
	if (give_to_root(p, dir, ret_err) < 0 || berth_pod_label_files(p, false, ret_err) < 0)
		return -1;
	if (start_init(p, dir, ret_err) < 0)
		return -1;
	berth_fault("pod-init-after");
	if (runtime_sandbox(p, BERTH_OP_RUNTIME_SANDBOX_CREATE, ret_err) < 0)
		return -1;
	p->created_ns = berth_realtime_ns();
	berth_fault("pod-ready-before");
	if (berth_pod_save(p, BERTH_POD_READY, ret_err) < 0)
		return -1;
	berth_fault("pod-ready-after");
	return 0;
}

int berth_pod_build(struct berth_pod *p, struct berth_error **ret_err)
{
	if (build(p, ret_err) == 0)
		return 0;
	struct berth_error *err = NULL;
	if (berth_pod_destroy(p, &err) < 0) {
		/* Its intent stays on disk: a removal or the next start tries again. */
		p->undo_failed = true;
		berth_log_error("undoing a pod sandbox failed", "pod", p->id, "error", err->msg);
		berth_error_free(err);
	}
	return -1;
}

/* Keeps the first error, and goes on. */
static void note(struct berth_error **first, struct berth_error *err)
{
	if (err && !*first)
		*first = err;
	else
		berth_error_free(err);
}

int berth_pod_release(struct berth_pod *p, struct berth_error **ret_err)
{
	struct berth_error *first = NULL, *err = NULL;
	_cleanup_free_ char *dir = berth_pod_dir(p);
	_cleanup_free_ char *shm = berth_path(dir, "shm", NULL);
	_cleanup_free_ char *ns_dir = berth_path(p->d->config->run, "ns", p->id, NULL);
	static const char *const kinds[] = {"pid", "net", "uts", "ipc", "user"};

	if (runtime_sandbox(p, BERTH_OP_RUNTIME_SANDBOX_REMOVE, &err) < 0)
		note(&first, berth_take(err));
	if (detach(p, &err) < 0)
		note(&first, berth_take(err));
	berth_fault("pod-detach-after");
	berth_monitor_abort(dir);
	berth_monitor_destroy(dir);
	berth_fault("pod-init-ended");
	if (berth_umount(shm, true, &err) < 0)
		note(&first, berth_take(err));
	/* A network that could not be released keeps its namespace: the next try needs it. */
	for (size_t i = 0; i < BERTH_ARRAY_LEN(kinds) && !first; i++) {
		_cleanup_free_ char *path = berth_pod_ns_path(p, kinds[i]);
		if (unpin(path, &err) < 0)
			note(&first, berth_take(err));
	}
	berth_fault("pod-unpinned");
	if (!first && rmdir(ns_dir) < 0 && errno != ENOENT)
		berth_error_errno(&first, errno, "%s", ns_dir);
	return first ? berth_error_move(ret_err, &first) : 0;
}

int berth_pod_destroy(struct berth_pod *p, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_pod_dir(p);

	if (berth_pod_release(p, ret_err) < 0)
		return -1;
	berth_fault("pod-remove-before");
	int r = berth_rm_tree(AT_FDCWD, dir);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", dir) : 0;
}
