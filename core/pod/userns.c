#include "pod/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/usage.h"
#include "loop/run.h"
#include "mount/mount.h"
#include "spec/podfiles.h"

#define TIMEOUT_MS 30000
#define PROBE_ID 65536

struct berth_idmap *berth_idmaps(Runtime__V1__IDMapping *const *v, size_t n)
{
	struct berth_idmap *maps = berth_new_array(struct berth_idmap, n + 1);
	for (size_t i = 0; i < n; i++)
		maps[i] = (struct berth_idmap){v[i]->container_id, v[i]->host_id, v[i]->length};
	return maps;
}

bool berth_idmaps_equal(
        Runtime__V1__IDMapping *const *a, size_t n_a, Runtime__V1__IDMapping *const *b, size_t n_b)
{
	if (n_a != n_b)
		return false;
	for (size_t i = 0; i < n_a; i++)
		if (a[i]->container_id != b[i]->container_id || a[i]->host_id != b[i]->host_id ||
		        a[i]->length != b[i]->length)
			return false;
	return true;
}

static char **add_maps(char **argv, const char *option, Runtime__V1__IDMapping *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *map =
		        berth_asprintf("%u:%u:%u", v[i]->container_id, v[i]->host_id, v[i]->length);
		argv = berth_strv_append(argv, option);
		argv = berth_strv_append(argv, map);
	}
	return argv;
}

char **berth_userns_args(char **argv, const char *path, Runtime__V1__IDMapping *const *uids,
        size_t n_uids, Runtime__V1__IDMapping *const *gids, size_t n_gids)
{
	_cleanup_free_ char *pin = berth_asprintf("user=%s", path);

	argv = berth_strv_append(argv, "--pin");
	argv = berth_strv_append(argv, pin);
	argv = add_maps(argv, "--uid-map", uids, n_uids);
	return add_maps(argv, "--gid-map", gids, n_gids);
}

int berth_userns_make(struct berth_daemon *d, const char *path, Runtime__V1__IDMapping *const *uids,
        size_t n_uids, Runtime__V1__IDMapping *const *gids, size_t n_gids,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *helper = berth_path(d->helpers_dir, "berth-ns", NULL);
	_cleanup_(berth_strv_freep) char **argv = berth_strv_append(NULL, helper);

	argv = berth_userns_args(argv, path, uids, n_uids, gids, n_gids);
	return berth_run_helper((const char *const *)(void *)argv, TIMEOUT_MS, ret_err);
}

int berth_pod_userns_open(const struct berth_pod *p, int *ret, struct berth_error **ret_err)
{
	*ret = -1;
	if (!berth_pod_userns(p->config))
		return 0;
	_cleanup_free_ char *path = berth_pod_ns_path(p, "user");
	if (berth_is_mount_point(path) <= 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "pod sandbox %s: its user namespace is gone", p->id);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? berth_error_errno(ret_err, errno, "%s", path) : 0;
}

/* ---- can this node do it? ---- */

static int make_probe_dirs(const char *dir, struct berth_error **ret_err)
{
	static const char *const names[] = {"lower", "upper", "work", "mnt"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		_cleanup_free_ char *path = berth_path(dir, names[i], NULL);
		int r = berth_mkdir_p(path, 0700);
		if (r < 0)
			return berth_error_errno(ret_err, r, "%s", path);
	}
	_cleanup_free_ char *file = berth_path(dir, "lower", "file", NULL);
	int r = berth_write_file_atomic(AT_FDCWD, file, "", 0, 0600, false);
	return r < 0 ? berth_error_errno(ret_err, r, "%s", file) : 0;
}

/* The mount as a driver describes it: layers of an overlay, or the file system as it is. */
static int mount_probe(const struct berth_instance *storage, const char *dir, const char *target,
        int userns_fd, struct berth_error **ret_err)
{
	bool overlay = berth_instance_features(storage) & BERTH_F_WHITEOUT_OVERLAY;
	_cleanup_free_ char *scratch = berth_path(dir, "layers", NULL);
	_cleanup_free_ char *lower = berth_path(dir, "lower", NULL);
	_cleanup_free_ char *lowers = berth_asprintf("lowerdir+=%s/lower", dir);
	_cleanup_free_ char *upper = berth_asprintf("upperdir=%s/upper", dir);
	_cleanup_free_ char *work = berth_asprintf("workdir=%s/work", dir);
	const char *options[] = {lowers, upper, work, "index=off", NULL};
	const char *no_options[] = {NULL};
	const struct berth_mount m = {.size = sizeof(m),
	        .type = overlay ? "overlay" : "bind",
	        .source = overlay ? "overlay" : lower,
	        .options = overlay ? options : no_options};
	const struct berth_mount *v[] = {&m};
	const struct berth_mounts_result res = {.size = sizeof(res), .n = 1, .mounts = v};

	const struct berth_mount_how how = {.userns_fd = userns_fd, .scratch = scratch};
	return berth_mount_apply_as(&res, target, &how, ret_err);
}

static int try_in(struct berth_daemon *d, const struct berth_instance *storage, const char *dir,
        struct berth_error **ret_err)
{
	Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps[] = {&map};
	_cleanup_free_ char *ns = berth_path(d->config->run, "userns-probe", NULL);
	_cleanup_free_ char *target = berth_path(dir, "mnt", NULL);
	_cleanup_free_ char *file = berth_path(target, "file", NULL);
	struct stat st;

	map.host_id = map.length = PROBE_ID;
	if (make_probe_dirs(dir, ret_err) < 0)
		return -1;
	if (berth_umount(ns, true, ret_err) < 0)
		return -1;
	(void)unlink(ns);
	if (berth_userns_make(d, ns, maps, 1, maps, 1, ret_err) < 0)
		return -1;
	_cleanup_close_ int fd = open(ns, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? berth_error_errno(ret_err, errno, "%s", ns)
	               : mount_probe(storage, dir, target, fd, ret_err);
	if (r == 0 && (stat(file, &st) < 0 || st.st_uid != PROBE_ID))
		r = berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "the kernel shows owners of layers as they are");
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	if (berth_umount(ns, true, &err) == 0)
		(void)unlink(ns);
	return r;
}

static int try_out(
        struct berth_daemon *d, const struct berth_instance *storage, struct berth_error **ret_err)
{
	/* Layers may lie on another file system than all else. */
	_cleanup_free_ char *place = berth_disk_place(d, storage);
	_cleanup_free_ char *dir = berth_path(place, "userns-probe", NULL);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (!(berth_instance_features(storage) & BERTH_F_IDMAP))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "the storage driver %s maps no ids", berth_instance_name(storage));
	/* What a killed predecessor left. */
	if (berth_umount_tree(dir, true, ret_err) < 0)
		return -1;
	(void)!berth_rm_tree(AT_FDCWD, dir);
	int r = try_in(d, storage, dir, ret_err);
	if (berth_umount_tree(dir, true, &err) == 0)
		(void)!berth_rm_tree(AT_FDCWD, dir);
	return r;
}

static bool runtime_can(const struct berth_handler *h)
{
	json_t *j = h->info ? json_loads(h->info, 0, NULL) : NULL;
	json_t *kinds = json_object_get(json_object_get(j, "linux"), "namespaces"), *v;
	bool can = false;
	size_t i;

	json_array_foreach (kinds, i, v) {
		can = can || (json_is_string(v) && strcmp(json_string_value(v), "user") == 0);
	}
	json_decref(j);
	return can;
}

void berth_userns_probe(struct berth_daemon *d)
{
	for (size_t n = 0; n < d->n_storages; n++) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		bool can = try_out(d, d->storages[n], &err) == 0;
		if (!can)
			berth_log_info("no pod can have a user namespace", "driver",
			        berth_instance_name(d->storages[n]), "why", err->msg);
		for (size_t i = 0; i < d->n_handlers; i++) {
			struct berth_handler *h = &d->handlers[i];
			if (h->storage != d->storages[n])
				continue;
			h->userns_why = can ? NULL : berth_strdup(err->msg);
			h->userns = can && runtime_can(h);
		}
	}
}

int berth_userns_check(
        const struct berth_daemon *d, const struct berth_handler *h, struct berth_error **ret_err)
{
	if (h->userns)
		return 0;
	return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
	        "runtime handler \"%s\" cannot have user namespaces: %s", h->name,
	        h->userns_why ? h->userns_why : "the runtime does not know them");
}
