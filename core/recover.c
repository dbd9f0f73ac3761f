#include "recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "container/checkpoint.h"
#include "container/container.h"
#include "image/image.h"
#include "monitor/host.h"
#include "mount/mount.h"
#include "pod/pod.h"

#define MAX_OBJECTS 100000
#define NETWORKS_WAIT_S 10 /* for those of all half-made pods */

/* Of what stays as it is. */
static void complain(
        struct berth_daemon *d, const char *what, const char *id, struct berth_error *err)
{
	d->counts.unrepaired++;
	berth_log_error(what, "id", id, "error", err->msg);
	berth_error_free(err);
}

/* Of what is mended. */
static void mention(
        struct berth_daemon *d, const char *what, const char *id, struct berth_error *err)
{
	d->counts.repaired++;
	berth_log_error(what, "id", id, "error", err->msg);
	berth_error_free(err);
}

/* The names in a directory that look like ids; NULL-terminated. */
static char **ids_in(const char *path)
{
	char **v = NULL;
	DIR *d = opendir(path);
	size_t n = 0;
	if (!d)
		return NULL;
	for (struct dirent *e; (e = readdir(d)) && n < MAX_OBJECTS;) {
		if (strlen(e->d_name) == BERTH_ID_LEN &&
		        strspn(e->d_name, "0123456789abcdef") == BERTH_ID_LEN) {
			v = berth_strv_append(v, e->d_name);
			n++;
		}
	}
	closedir(d);
	return v;
}

/* ---- pods ---- */

static int release_namespaces(struct berth_daemon *d, const char *id)
{
	static const char *const kinds[] = {"pid", "net", "uts", "ipc", "user"};
	_cleanup_free_ char *dir = berth_path(d->config->run, "ns", id, NULL);
	int r = 0;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(kinds); i++) {
		_cleanup_free_ char *path = berth_path(dir, kinds[i], NULL);
		struct berth_error *err = NULL;
		if (berth_umount(path, true, &err) < 0) {
			complain(d, "a namespace stays pinned", path, err);
			r = -1;
			continue;
		}
		unlink(path);
	}
	rmdir(dir);
	return r;
}

/* A directory without a readable record: nothing in it was ever acknowledged. */
static void scrap_pod(struct berth_daemon *d, const char *id)
{
	_cleanup_free_ char *dir = berth_path(d->config->run, "pods", id, NULL);
	struct berth_error *err = NULL;

	berth_monitor_abort(dir);
	berth_monitor_destroy(dir);
	if (berth_umount_tree(dir, true, &err) < 0) {
		complain(d, "a damaged pod sandbox stays", id, err);
		return;
	}
	(void)!release_namespaces(d, id);
	(void)!berth_rm_tree(AT_FDCWD, dir);
}

/* It holds something: who cleans up must see it. */
static void keep_pod(struct berth_pod *p, struct berth_error *err)
{
	complain(p->d, "undoing a pod sandbox failed; it stays to be removed", p->id, err);
	p->release_by_ns = 0;
	p->undo_failed = true;
	p->phase = BERTH_POD_STOPPED;
	berth_pods_add(p);
}

static void recover_pod(struct berth_daemon *d, const char *id, uint64_t networks_by_ns)
{
	struct berth_error *err = NULL;
	bool old_boot = false;
	struct berth_pod *p = berth_pod_load(d, id, &old_boot, &err);

	if (!p) {
		mention(d, "a pod sandbox without a whole record is removed", id, err);
		scrap_pod(d, id);
		return;
	}
	if (old_boot || p->phase == BERTH_POD_CREATING || p->phase == BERTH_POD_REMOVING) {
		berth_log_info(old_boot ? "a pod sandbox of an earlier boot is released"
		                        : "a half-made pod sandbox is undone",
		        "pod", id, "name", p->name);
		p->release_by_ns = networks_by_ns;
		if (berth_pod_destroy(p, &err) < 0)
			keep_pod(p, err);
		else
			d->counts.repaired++;
	} else {
		berth_pods_add(p);
		if (p->phase == BERTH_POD_READY)
			berth_pod_watch(p);
	}
	berth_pod_unref(p);
}

/* ---- containers ---- */

static void scrap_container(struct berth_daemon *d, const char *id)
{
	_cleanup_free_ char *dir = berth_path(d->config->run, "containers", id, NULL);
	_cleanup_free_ char *bundle = berth_path(dir, "bundle", NULL);
	struct berth_error *err = NULL;

	berth_monitor_abort(dir);
	/* Which runtime it was is not known: each is asked to remove it. */
	for (size_t i = 0; i < d->n_handlers; i++) {
		struct berth_ctr_args a = {.size = sizeof(a), .id = id, .bundle = bundle};
		_cleanup_(berth_call_freep) struct berth_call *c =
		        berth_call_new(d->handlers[i].instance, BERTH_OP_RUNTIME_REMOVE, id);
		if (berth_call_run(c, &a, NULL, &err) < 0)
			err = berth_error_free(err);
	}
	berth_monitor_destroy(dir);
	if (berth_umount_tree(dir, true, &err) < 0) {
		complain(d, "a damaged container stays", id, err);
		return;
	}
	(void)!berth_rm_tree(AT_FDCWD, dir);
}

static void adopt(struct berth_container *c)
{
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_ctr_state st;
	struct berth_error *err = NULL;

	berth_containers_add(c);
	if (c->phase == BERTH_CTR_EXITED)
		return;
	if (!c->pod->handler) {
		berth_log_warn("a container's runtime handler is not configured any more",
		        "container", c->id, "handler", c->pod->handler_name);
		c->phase = BERTH_CTR_EXITED;
		return;
	}
	if (berth_container_read_state(c, &st, &err) == 0) {
		berth_container_apply_state(c, &st);
	} else if (err->code == BERTH_NOT_FOUND) {
		st = (struct berth_ctr_state){.size = sizeof(st), .status = BERTH_ST_UNKNOWN};
		berth_container_apply_state(c, &st);
	} else {
		/* It may run: it is what the record says until an answer comes. */
		berth_log_warn("the state of a container is not known", "container", c->id, "error",
		        err->msg);
		berth_container_check_later(c);
	}
	berth_error_free(err);
	berth_container_recover_update(c);
	if (c->phase != BERTH_CTR_EXITED)
		berth_monitor_watch(c->pod->handler->instance, c->id, bundle);
	berth_log_info("container adopted", "container", c->id, "name", c->name, "state",
	        c->phase == BERTH_CTR_EXITED    ? "exited"
	        : c->phase == BERTH_CTR_CREATED ? "created"
	                                        : "running");
}

/* As one that has ended, with what its end is known to be. */
static void keep_container(struct berth_container *c, struct berth_error *why)
{
	struct berth_ctr_state st;
	struct berth_error *err = NULL;

	complain(c->d, "undoing a container failed; it stays to be removed", c->id, why);
	berth_containers_add(c);
	if (c->phase == BERTH_CTR_REMOVING && c->pod->handler &&
	        berth_container_read_state(c, &st, &err) == 0)
		berth_container_apply_state(c, &st);
	berth_error_free(err);
	if (c->phase != BERTH_CTR_EXITED)
		c->finished_ns = berth_realtime_ns();
	c->phase = BERTH_CTR_EXITED;
}

static void recover_container(struct berth_daemon *d, const char *id)
{
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_load(d, id, &err);

	if (!c) {
		mention(d, "a container without a whole record is removed", id, err);
		scrap_container(d, id);
		return;
	}
	if (c->phase == BERTH_CTR_CREATING || c->phase == BERTH_CTR_REMOVING) {
		berth_log_info("a half-made container is undone", "container", id, "name", c->name);
		if (berth_container_destroy(c, &err) < 0)
			keep_container(c, err);
		else
			d->counts.repaired++;
	} else {
		adopt(c);
	}
	berth_container_unref(c);
}

/* ---- what belongs to nobody ---- */

static bool snapshot_wanted(struct berth_daemon *d, const struct berth_instance *storage,
        const struct berth_snap_info *s)
{
	struct berth_container *c = NULL, *tmp;

	if (s->kind == BERTH_SNAP_COMMITTED) {
		if (berth_image_layer_used(d, storage, s->key))
			return true;
		HASH_ITER (hh, d->containers->by_id, c, tmp) {
			if (berth_container_uses_layer(c, s->key, storage))
				return true;
		}
		return false;
	}
	/* Its own, "ID", or a volume's, "ID.N". */
	size_t n = strcspn(s->key, ".");
	if (n == BERTH_ID_LEN)
		HASH_FIND(hh, d->containers->by_id, s->key, BERTH_ID_LEN, c);
	return c != NULL;
}

/* Children before parents: as long as something goes, there may be more that can. */
static int sweep_snapshots(
        struct berth_daemon *d, struct berth_instance *storage, struct berth_error **ret_err)
{
	struct berth_snap_list list = {.size = sizeof(list)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_LIST, NULL);
	bool any = true;

	if (berth_call_run(c, NULL, &list, ret_err) < 0)
		return berth_error_wrap(ret_err, "snapshots of %s", berth_instance_name(storage));
	/* What is wanted is so for as long as the layers are known: told before any goes. */
	bool *gone = berth_new_array(bool, list.n + 1);
	bool *wanted = berth_new_array(bool, list.n + 1);
	for (uint32_t i = 0; i < list.n; i++)
		wanted[i] = snapshot_wanted(d, storage, list.snaps[i]);
	while (any) {
		any = false;
		for (uint32_t i = 0; i < list.n; i++) {
			const struct berth_snap_info *s = list.snaps[i];
			struct berth_error *err = NULL;
			if (gone[i] || wanted[i])
				continue;
			struct berth_snap_args a = {.size = sizeof(a), .key = s->key};
			_cleanup_(berth_call_freep) struct berth_call *r =
			        berth_call_new(storage, BERTH_OP_STORAGE_REMOVE, s->key);
			if (berth_call_run(r, &a, NULL, &err) < 0) {
				berth_log_debug(
				        "a snapshot stays", "key", s->key, "error", err->msg);
				berth_error_free(err);
				continue;
			}
			berth_layer_drop(d, storage, s->key);
			berth_log_info("a snapshot of nobody is removed", "key", s->key);
			d->counts.repaired++;
			gone[i] = any = true;
		}
	}
	free(gone);
	free(wanted);
	_cleanup_(berth_call_freep) struct berth_call *clean =
	        berth_call_new(storage, BERTH_OP_STORAGE_CLEANUP, NULL);
	struct berth_error *err = NULL;
	if (berth_call_run(clean, NULL, NULL, &err) < 0) {
		if (err->code != BERTH_UNIMPLEMENTED)
			berth_log_warn("storage cleanup failed", "driver",
			        berth_instance_name(storage), "error", err->msg);
		berth_error_free(err);
	}
	return 0;
}

int berth_recover_snapshots(struct berth_daemon *d, struct berth_error **ret_err)
{
	for (size_t i = 0; i < d->n_storages; i++)
		if (sweep_snapshots(d, d->storages[i], ret_err) < 0)
			return -1;
	return 0;
}

static void sweep_namespaces(struct berth_daemon *d)
{
	_cleanup_free_ char *dir = berth_path(d->config->run, "ns", NULL);
	char **ids = ids_in(dir);

	for (char **id = ids; id && *id; id++) {
		struct berth_pod *p;
		HASH_FIND(hh_id, d->pods->by_id, *id, BERTH_ID_LEN, p);
		_cleanup_free_ char *record = berth_path(d->config->run, "pods", *id, NULL);
		if (p || access(record, F_OK) == 0)
			continue;
		if (release_namespaces(d, *id) == 0)
			d->counts.repaired++;
	}
	berth_strv_free(ids);
}

int berth_recover(struct berth_daemon *d, bool repair, struct berth_error **ret_err)
{
	_cleanup_free_ char *pods = berth_path(d->config->run, "pods", NULL);
	_cleanup_free_ char *containers = berth_path(d->config->run, "containers", NULL);
	char **ids = ids_in(pods);

	/* A network may need what the kubelet starts here: it must find a berthd that serves. */
	uint64_t by_ns = repair ? 0 : berth_now_ns() + NETWORKS_WAIT_S * 1000000000ull;
	berth_spawned_recover(d->config->run);
	for (char **id = ids; id && *id; id++)
		recover_pod(d, *id, by_ns);
	berth_strv_free(ids);
	ids = ids_in(containers);
	for (char **id = ids; id && *id; id++)
		recover_container(d, *id);
	berth_strv_free(ids);
	berth_checkpoints_recover(d);
	if (repair)
		berth_network_sweep_now(d);
	sweep_namespaces(d);
	return berth_recover_snapshots(d, ret_err);
}
