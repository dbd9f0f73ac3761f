#include "container/checkpoint_layer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/pull.h"
#include "mount/mount.h"

/* One of nobody, where berthd is killed: a start removes it. */
static char *view_key(const struct berth_container *c)
{
	return berth_asprintf("checkpoint-%s", c->id);
}

static int open_below(
        const struct berth_container *c, struct berth_ctr_layer *l, struct berth_error **ret_err)
{
	_cleanup_free_ char *key = view_key(c);
	struct berth_snap_args args = {.size = sizeof(args), .key = key, .parent = c->parent};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->storage, BERTH_OP_STORAGE_VIEW, key);

	if (!c->parent)
		return 0;
	l->viewed = true;
	if (berth_call_run(call, &args, &res, ret_err) < 0)
		return -1;
	l->fds.below = berth_mount_clone(&res, true, ret_err);
	return l->fds.below < 0 ? -1 : 0;
}

static int open_own(const struct berth_container *c, const char *upper, struct berth_ctr_layer *l,
        struct berth_error **ret_err)
{
	struct berth_buf paths = {0};
	_cleanup_close_ int fd = -1;
	int r = 0;

	l->own = true;
	l->fds.top = berth_mount_clone_path(upper, true, ret_err);
	if (l->fds.top < 0)
		return -1;
	if (pull_opaque_dirs(upper, &paths, ret_err) < 0) {
		r = -1;
	} else if (paths.len > 0) {
		fd = memfd_create("berth-opaque", MFD_CLOEXEC);
		int e = fd < 0 ? -errno : berth_write_all(fd, paths.data, paths.len);
		if (e == 0 && lseek(fd, 0, SEEK_SET) < 0)
			e = -errno;
		r = e < 0 ? berth_error_errno(ret_err, e, "a list of directories")
		          : open_below(c, l, ret_err);
	}
	berth_buf_finish(&paths);
	l->fds.opaque = r == 0 ? berth_take_fd(&fd) : -1;
	return r;
}

/* Owners are mapped by the mount, where they are: the driver's own description shows those of the
 * container. */
static int open_differing(const struct berth_container *c, const struct berth_mounts_result *res,
        struct berth_ctr_layer *l, struct berth_error **ret_err)
{
	_cleanup_(berth_ctr_maps_finish) struct berth_ctr_maps maps = {0};
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	_cleanup_free_ char *rootfs = berth_path(bundle, "rootfs", NULL);

	if (berth_container_maps(c, &maps, ret_err) < 0)
		return -1;
	if (maps.mapped && res->n > 0 && strcmp(res->mounts[0]->type, "overlay") == 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "its owners are mapped, and its overlay has redirect_dir or metacopy: "
		        "what was written cannot be told");
	l->fds.top = maps.mapped ? berth_mount_clone(res, true, ret_err)
	                         : berth_mount_clone_path(rootfs, true, ret_err);
	return l->fds.top < 0 ? -1 : open_below(c, l, ret_err);
}

int berth_ctr_layer_open(
        const struct berth_container *c, struct berth_ctr_layer *ret, struct berth_error **ret_err)
{
	struct berth_snap_args args = {.size = sizeof(args), .key = c->id};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_free_ char *upper = NULL;

	*ret = (struct berth_ctr_layer){.fds = {-1, -1, -1}};
	if (!c->storage)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "its storage driver is not configured any more");
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(c->storage, BERTH_OP_STORAGE_MOUNTS, c->id);
	if (berth_call_run(call, &args, &res, ret_err) < 0 ||
	        berth_mount_upper_dir(&res, &upper, ret_err) < 0)
		return -1;
	return upper ? open_own(c, upper, ret, ret_err) : open_differing(c, &res, ret, ret_err);
}

void berth_ctr_layer_close(const struct berth_container *c, struct berth_ctr_layer *l)
{
	_cleanup_free_ char *key = view_key(c);

	berth_close(l->fds.top);
	berth_close(l->fds.below);
	berth_close(l->fds.opaque);
	if (l->viewed)
		pull_drop_snapshot(c->storage, key);
	*l = (struct berth_ctr_layer){.fds = {-1, -1, -1}};
}

static json_t *maps_json(const struct berth_idmap *maps, uint32_t n)
{
	json_t *a = json_array();
	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(
		        a, json_pack("[I, I, I]", (json_int_t)maps[i].container_id,
		                   (json_int_t)maps[i].host_id, (json_int_t)maps[i].count));
	return a;
}

int berth_ctr_layer_owners(const struct berth_container *c, const struct berth_ctr_layer *l,
        json_t *request, struct berth_error **ret_err)
{
	_cleanup_(berth_ctr_maps_finish) struct berth_ctr_maps maps = {0};

	if (!l->own)
		return 0;
	if (berth_container_maps(c, &maps, ret_err) < 0)
		return -1;
	/* What is written through a mapped overlay lies on the disk with the host's owners. */
	json_object_set_new(request, "uids", maps_json(maps.uids, maps.n_uids));
	json_object_set_new(request, "gids", maps_json(maps.gids, maps.n_gids));
	return 0;
}
