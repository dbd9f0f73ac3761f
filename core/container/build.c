/* What a container is made of, made and unmade. [worker] */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/container.h"
#include "image/image.h"
#include "monitor/host.h"
#include "mount/mount.h"
#include "spec/podfiles.h"

#define CREATE_DEADLINE_S 240

static int mount_rootfs(struct berth_container *c, const char *rootfs, struct berth_error **ret_err)
{
	struct berth_snap_args args = {.size = sizeof(args), .key = c->id, .parent = c->parent};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->storage, BERTH_OP_STORAGE_PREPARE, c->id);
	_cleanup_(berth_ctr_maps_finish) struct berth_ctr_maps maps = {0};

	if (berth_container_maps(c, &maps, ret_err) < 0 ||
	        berth_container_size_limit(c, &args.size_limit, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s", c->id);
	berth_ctr_maps_give(&maps, &args);
	if (berth_call_run(call, &args, &res, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s: its root file system", c->id);
	berth_fault("ctr-prepare-after");
	if (berth_ctr_mount(c, &maps, &res, rootfs, ret_err) < 0)
		return berth_error_wrap(
		        ret_err, "container %s: mounting its root file system", c->id);
	berth_fault("ctr-mount-after");
	return 0;
}

static bool pinned(const struct berth_pod *p, const char *kind, char **ret)
{
	*ret = berth_pod_ns_path(p, kind);
	if (berth_is_mount_point(*ret) > 0)
		return true;
	free(*ret);
	*ret = NULL;
	return false;
}

static void take_out(struct berth_container *c, struct berth_spec_out *out)
{
	c->resources = json_incref(out->resources);
	c->uid = out->uid;
	c->gid = out->gid;
	c->groups = berth_take(out->groups);
	c->n_groups = out->n_groups;
	out->n_groups = 0;
	c->mounts = berth_take(out->mounts);
	c->n_mounts = out->n_mounts;
	out->n_mounts = 0;
	c->stop_signal = out->stop_signal;
	c->privileged = out->privileged;
	c->cgroups_path = berth_take(out->cgroups_path);
}

static pid_t target_pid(const struct berth_container *c)
{
	_cleanup_free_ char *dir = berth_path(c->d->config->run, "containers", c->target_id, NULL);
	struct berth_monitor_state st;
	struct berth_error *err = NULL;

	if (!*c->target_id)
		return 0;
	if (berth_monitor_state(c->target_id, dir, &st, &err) < 0) {
		berth_error_free(err); /* it has ended meanwhile */
		return 0;
	}
	return st.pid;
}

static bool makes_pid_ns(const json_t *config)
{
	size_t i;
	json_t *ns;
	json_array_foreach (
	        json_object_get(json_object_get(config, "linux"), "namespaces"), i, ns) {
		if (strcmp(json_string_value(json_object_get(ns, "type")), "pid") == 0)
			return !json_object_get(ns, "path");
	}
	return false;
}

static int write_spec(struct berth_container *c, const json_t *image_config, const char *bundle,
        const char *rootfs, struct berth_error **ret_err)
{
	struct berth_pod *p = c->pod;
	_cleanup_free_ char *net = NULL, *ipc = NULL, *uts = NULL, *pid = NULL, *user = NULL;
	_cleanup_free_ char *sys = NULL;
	const Runtime__V1__UserNamespace *u = berth_pod_userns(p->config);
	_cleanup_free_ char *dir = berth_pod_dir(p);
	_cleanup_free_ char *hostname = berth_path(dir, "hostname", NULL);
	_cleanup_free_ char *resolv = berth_path(dir, "resolv.conf", NULL);
	_cleanup_free_ char *hosts = berth_path(dir, "hosts", NULL);
	_cleanup_free_ char *shm = berth_path(dir, "shm", NULL);
	_cleanup_close_ int fd = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "%s", rootfs);
	pinned(p, "net", &net);
	pinned(p, "uts", &uts);
	pinned(p, "pid", &pid);
	pinned(p, "user", &user);
	bool own_ipc = pinned(p, "ipc", &ipc);
	const char *parent = p->config->linux ? p->config->linux->cgroup_parent : NULL;
	/* sysfs shows a network namespace, and belongs to whose that is. */
	if (u && p->host_network && berth_container_stage_sys(c, &sys, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s", c->id);
	struct berth_spec_in in = {
	        .config = c->config,
	        .pod_config = p->config,
	        .image_config = image_config,
	        .image_ref = c->image_ref,
	        .container_id = c->id,
	        .pod_id = p->id,
	        .rootfs = rootfs,
	        .rootfs_fd = fd,
	        .handler = p->handler_name,
	        .handler_rro = p->handler && p->handler->rro,
	        .stage = berth_container_stage,
	        .stage_arg = c,
	        .ns = {.net = net, .ipc = ipc, .uts = uts, .pid = pid, .user = user},
	        .root_uid = u ? u->uids[0]->host_id : 0,
	        .root_gid = u ? u->gids[0]->host_id : 0,
	        .sys_path = sys,
	        .target_pid = target_pid(c),
	        .hostname = p->hostname,
	        .hostname_path = hostname,
	        .resolv_path = resolv,
	        .hosts_path = hosts,
	        .shm_path = own_ipc ? shm : "/dev/shm",
	        .cgroup_parent = parent,
	        .cgroup_driver = (enum berth_cgroup_driver)c->d->config->cri.cgroup_driver,
	        .cdi_dirs = (const char *const *)(void *)c->d->config->cri.cdi_spec_dirs,
	        .selinux_process_label = c->process_label,
	        .selinux_mount_label = c->mount_label,
	        .host = &c->d->host,
	};
	struct berth_spec_out out = {0};
	if (berth_spec_container(&in, &out, ret_err) < 0)
		return -1;
	take_out(c, &out);
	c->own_pid_ns = makes_pid_ns(out.config);
	_cleanup_free_ char *text = json_dumps(out.config, JSON_COMPACT);
	_cleanup_free_ char *path = berth_path(bundle, "config.json", NULL);
	berth_spec_out_finish(&out);
	int r = berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0600, false);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", path) : 0;
}

static void ctr_args(const struct berth_container *c, const char *bundle, struct berth_ctr_args *a)
{
	memset(a, 0, sizeof(*a));
	a->size = sizeof(*a);
	a->id = c->id;
	a->sandbox_id = c->pod->id;
	a->sandbox_state_json = c->pod->sandbox_state;
	a->bundle = bundle;
	a->log_path = c->log_path;
	if (c->config->tty)
		a->flags |= BERTH_IO_TTY;
	if (c->config->stdin)
		a->flags |= BERTH_IO_STDIN;
	if (c->config->stdin_once)
		a->flags |= BERTH_IO_STDIN_ONCE;
}

static int runtime_op(struct berth_container *c, enum berth_opcode op, uint64_t deadline_s,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_args args;
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, op, c->id);

	ctr_args(c, bundle, &args);
	berth_call_set_deadline(call, berth_now_ns() + deadline_s * 1000000000u);
	return berth_call_run(call, &args, NULL, ret_err);
}

static int make_log_dir(struct berth_container *c, struct berth_error **ret_err)
{
	if (!c->log_path)
		return 0;
	_cleanup_free_ char *dir = berth_strdup(c->log_path);
	*strrchr(dir, '/') = '\0';
	int r = berth_mkdir_p(dir, 0755);
	return r < 0 ? berth_error_errno(
	                       ret_err, r, "container %s: its log directory %s", c->id, dir)
	             : 0;
}

/* The record of the image is on disk, and cannot go while this container's intent names it. */
static json_t *load_image_config(struct berth_container *c, struct berth_error **ret_err)
{
	const char *hex = strchr(c->image_id, ':');
	_cleanup_free_ char *path = berth_path(
	        c->d->config->root, "images", hex ? hex + 1 : c->image_id, "image.json", NULL);
	_cleanup_free_ char *text = NULL;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);
	if (r < 0) {
		berth_error_errno(ret_err, r, "container %s: image %s", c->id, c->image_id);
		return NULL;
	}
	json_t *j = json_loads(text, 0, NULL);
	json_t *config = json_incref(json_object_get(json_object_get(j, "record"), "config"));
	json_decref(j);
	return config ? config : json_object();
}

static int build(struct berth_container *c, struct berth_error **ret_err)
{
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	_cleanup_free_ char *rootfs = berth_path(bundle, "rootfs", NULL);

	berth_fault("ctr-intent-before");
	if (berth_container_save(c, BERTH_CTR_CREATING, ret_err) < 0)
		return -1;
	berth_fault("ctr-intent-after");
	if (berth_container_check_labels(c, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s", c->name);
	int r = berth_mkdir_p(rootfs, 0711);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", rootfs);
	json_t *image_config = load_image_config(c, ret_err);
	if (!image_config)
		return -1;
	r = mount_rootfs(c, rootfs, ret_err);
	if (r == 0)
		r = write_spec(c, image_config, bundle, rootfs, ret_err);
	json_decref(image_config);
	if (r < 0 || make_log_dir(c, ret_err) < 0)
		return -1;
	berth_fault("ctr-create-before");
	if (runtime_op(c, BERTH_OP_RUNTIME_CREATE, CREATE_DEADLINE_S, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s: create", c->id);
	berth_fault("ctr-create-after");
	berth_container_release_trees(c);
	c->created_ns = berth_realtime_ns();
	berth_container_note_cgroup(c);
	if (berth_container_save(c, BERTH_CTR_CREATED, ret_err) < 0)
		return -1;
	berth_fault("ctr-created-after");
	return 0;
}

int berth_container_build(struct berth_container *c, struct berth_error **ret_err)
{
	if (build(c, ret_err) == 0)
		return 0;
	struct berth_error *err = NULL;
	if (berth_container_destroy(c, &err) < 0) {
		/* Its intent stays on disk: a removal or the next start tries again. */
		c->undo_failed = true;
		berth_log_error(
		        "undoing a container failed", "container", c->id, "error", err->msg);
		berth_error_free(err);
	}
	return -1;
}

/* A runtime that was killed while it created the container does not know of it; its cgroup is there
 * all the same. A unit of systemd goes by itself. */
static void remove_cgroup(const struct berth_container *c)
{
	enum berth_cgroup_driver driver = (enum berth_cgroup_driver)c->d->config->cri.cgroup_driver;
	const char *parent = c->pod->config->linux ? c->pod->config->linux->cgroup_parent : NULL;

	if (driver != BERTH_CGROUPFS)
		return;
	_cleanup_free_ char *path = berth_spec_cgroups_path(driver, parent, c->id);
	berth_cgroup_destroy(path);
}

int berth_container_drop_snapshot(const struct berth_container *c, struct berth_instance *storage,
        const char *key, struct berth_error **ret_err)
{
	struct berth_snap_args args = {.size = sizeof(args), .key = key};

	if (!storage) {
		/* Once the driver is there again, it is nobody's and goes. */
		berth_log_warn("a snapshot stays: its storage driver is not configured any more",
		        "container", c->id, "key", key);
		return 0;
	}
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(storage, BERTH_OP_STORAGE_REMOVE, key);
	return berth_call_run(call, &args, NULL, ret_err);
}

int berth_container_destroy(struct berth_container *c, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_container_dir(c);
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	_cleanup_free_ char *rootfs = berth_path(bundle, "rootfs", NULL);

	/* A create command that a killed daemon left half-way, first: it could go on. */
	berth_monitor_abort(dir);
	if (c->pod->handler &&
	        runtime_op(c, BERTH_OP_RUNTIME_REMOVE, CREATE_DEADLINE_S, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s: remove", c->id);
	berth_fault("ctr-delete-after");
	berth_monitor_destroy(dir);
	remove_cgroup(c);
	berth_fault("ctr-monitor-ended");
	if (berth_umount_tree(rootfs, true, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s", c->id);
	berth_fault("ctr-unmounted");
	if (berth_container_unstage(c, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s", c->id);
	if (berth_container_drop_snapshot(c, c->storage, c->id, ret_err) < 0)
		return berth_error_wrap(ret_err, "container %s: its root file system", c->id);
	berth_fault("ctr-remove-before");
	int r = berth_rm_tree(AT_FDCWD, dir);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", dir) : 0;
}

int berth_container_read_state(
        struct berth_container *c, struct berth_ctr_state *ret, struct berth_error **ret_err)
{
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_args args;
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_STATE, c->id);

	ctr_args(c, bundle, &args);
	memset(ret, 0, sizeof(*ret));
	ret->size = sizeof(*ret);
	int r = berth_call_run(call, &args, ret, ret_err);
	ret->id = ret->exec_id = NULL; /* of the call's arena */
	return r;
}
