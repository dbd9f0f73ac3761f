/* Mounts of the request that berth makes itself, under the container's directory: images, and
 * copies of trees with what a runtime may not know to do. Their names follow from the record, and
 * they are released by it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "container/container.h"
#include "image/image.h"
#include "mount/mount.h"

#define FAILED "ImageVolumeMountFailed" /* clients look for it */

/* ---- which images ---- */

int berth_container_resolve_volumes(struct berth_container *c, struct berth_error **ret_err)
{
	c->volumes = berth_new_array(struct berth_ctr_volume, c->config->n_mounts + 1);
	for (size_t i = 0; i < c->config->n_mounts; i++) {
		const Runtime__V1__ImageSpec *spec = c->config->mounts[i]->image;
		if (!spec || !*spec->image)
			continue;
		struct berth_image *image = berth_image_find(c->d, spec->image, ret_err);
		if (!image && *ret_err)
			return berth_error_wrap(
			        ret_err, FAILED ": container %s: mounts[%zu]: image", c->name, i);
		if (!image)
			return berth_error_set(ret_err, BERTH_NOT_FOUND,
			        FAILED ": container %s: mounts[%zu]: image \"%s\" is not on this "
			               "node",
			        c->name, i, spec->image);
		c->volumes[c->n_volumes++] = (struct berth_ctr_volume){
		        .mount = i,
		        .image_id = berth_strdup(image->id),
		        .parent = berth_strdup(berth_image_chain_id(image)),
		        /* Any driver will do: it is the node that mounts it. */
		        .storage = berth_image_home(c->d, image, c->storage),
		};
	}
	return 0;
}

const struct berth_ctr_volume *berth_container_volume(const struct berth_container *c, size_t mount)
{
	for (size_t i = 0; i < c->n_volumes; i++) {
		if (c->volumes[i].mount == mount)
			return &c->volumes[i];
	}
	return NULL;
}

static bool is(const char *a, const char *b, const struct berth_instance *in,
        const struct berth_instance *storage)
{
	return a && strcmp(a, b) == 0 && (!storage || in == storage);
}

bool berth_container_uses_image(
        const struct berth_container *c, const char *image_id, const struct berth_instance *storage)
{
	if (is(c->image_id, image_id, c->storage, storage))
		return true;
	for (size_t i = 0; i < c->n_volumes; i++) {
		if (is(c->volumes[i].image_id, image_id, c->volumes[i].storage, storage))
			return true;
	}
	return false;
}

bool berth_container_uses_layer(
        const struct berth_container *c, const char *chain_id, const struct berth_instance *storage)
{
	if (is(c->parent, chain_id, c->storage, storage))
		return true;
	for (size_t i = 0; i < c->n_volumes; i++) {
		if (is(c->volumes[i].parent, chain_id, c->volumes[i].storage, storage))
			return true;
	}
	return false;
}

/* ---- how they are mounted ---- */

char *berth_container_stage_dir(const struct berth_container *c)
{
	return berth_path(c->d->config->run, "containers", c->id, "mounts", NULL);
}

static char *view_key(const struct berth_container *c, const struct berth_ctr_volume *v)
{
	return berth_asprintf("%s.%zu", c->id, v->mount);
}

static int mount_view(struct berth_container *c, const struct berth_ctr_volume *v,
        const char *target, struct berth_error **ret_err)
{
	_cleanup_free_ char *key = view_key(c, v);
	struct berth_snap_args args = {.size = sizeof(args), .key = key, .parent = v->parent};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *call =
	        berth_call_new(v->storage, BERTH_OP_STORAGE_VIEW, key);

	_cleanup_(berth_ctr_maps_finish) struct berth_ctr_maps maps = {0};
	if (berth_container_maps(c, &maps, ret_err) < 0)
		return -1;
	berth_ctr_maps_give(&maps, &args);
	int r = berth_mkdir_p(target, 0711);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s", target);
	if (berth_call_run(call, &args, &res, ret_err) < 0)
		return -1;
	berth_fault("ctr-volume-viewed");
	if (berth_ctr_mount(c, &maps, &res, target, ret_err) < 0)
		return -1;
	berth_fault("ctr-volume-mounted");
	return 0;
}

/* Whatever links the image holds, they lead nowhere but into it. */
static int stage_sub_path(
        const char *root, const char *sub, const char *target, struct berth_error **ret_err)
{
	const struct berth_stage how = {.readonly = true, .userns_fd = -1};
	_cleanup_close_ int dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (dir < 0)
		return berth_error_errno(ret_err, errno, "%s", root);
	_cleanup_close_ int fd = berth_open_in_root(dir, sub, O_PATH, 0);
	if (fd < 0)
		return berth_error_errno(ret_err, fd, "image_sub_path \"%.256s\"", sub);
	if (fstat(fd, &st) < 0)
		return berth_error_errno(ret_err, errno, "image_sub_path \"%.256s\"", sub);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "image_sub_path \"%.256s\": neither a directory nor a file", sub);
	if (berth_mount_stage(fd, "image_sub_path", target, &how, ret_err) < 0)
		return -1;
	return berth_umount(root, true, ret_err);
}

static int stage_image(struct berth_container *c, const struct berth_ctr_volume *v,
        const char *target, char **ret, struct berth_error **ret_err)
{
	const char *sub = c->config->mounts[v->mount]->image_sub_path;
	_cleanup_free_ char *whole = berth_asprintf("%s.image", target);
	bool part = sub && *sub;

	if (mount_view(c, v, whole, ret_err) < 0 ||
	        (part && stage_sub_path(whole, sub, target, ret_err) < 0))
		return berth_error_wrap(ret_err, FAILED ": container %s: mounts[%zu]: image %s",
		        c->id, v->mount, v->image_id);
	*ret = part ? berth_strdup(target) : berth_take(whole);
	return 0;
}

static int stage_tree(struct berth_container *c, size_t i, const char *source, uint64_t propagation,
        const char *target, char **ret, struct berth_error **ret_err)
{
	_cleanup_close_ int userns = -1;
	_cleanup_close_ int fd = open(source, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "%s", source);
	if (berth_container_mount_userns(c, i, &userns, ret_err) < 0)
		return -1;
	const struct berth_stage how = {.rec = true,
	        .readonly = c->config->mounts[i]->recursive_read_only,
	        .userns_fd = userns,
	        .propagation = propagation};
	if (berth_mount_stage(fd, source, target, &how, ret_err) < 0)
		return -1;
	*ret = berth_strdup(target);
	return 0;
}

int berth_container_stage(void *arg, size_t i, const char *source, uint64_t propagation, char **ret,
        struct berth_error **ret_err)
{
	struct berth_container *c = arg;
	const struct berth_ctr_volume *v = berth_container_volume(c, i);
	_cleanup_free_ char *dir = berth_container_stage_dir(c);
	_cleanup_free_ char *target = berth_asprintf("%s/%zu", dir, i);

	if (berth_mount_stage_dir(dir, ret_err) < 0)
		return -1;
	int r = v ? stage_image(c, v, target, ret, ret_err)
	          : stage_tree(c, i, source, propagation, target, ret, ret_err);
	berth_fault("ctr-staged");
	return r;
}

int berth_container_stage_sys(struct berth_container *c, char **ret, struct berth_error **ret_err)
{
	const struct berth_stage how = {
	        .rec = true, .readonly = true, .userns_fd = -1, .propagation = MS_PRIVATE};
	_cleanup_free_ char *dir = berth_container_stage_dir(c);
	_cleanup_free_ char *target = berth_path(dir, "sys", NULL);
	_cleanup_close_ int fd = open("/sys", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return berth_error_errno(ret_err, errno, "/sys");
	if (berth_mount_stage_dir(dir, ret_err) < 0 ||
	        berth_mount_stage(fd, "/sys", target, &how, ret_err) < 0)
		return -1;
	*ret = berth_take(target);
	return 0;
}

void berth_container_release_trees(struct berth_container *c)
{
	_cleanup_free_ char *dir = berth_container_stage_dir(c);

	for (size_t i = 0; i < c->config->n_mounts; i++) {
		_cleanup_free_ char *target = berth_asprintf("%s/%zu", dir, i);
		struct berth_error *err = NULL;
		if (berth_container_volume(c, i) || berth_is_mount_point(target) != 1)
			continue;
		/* Else what is mounted beneath it would end at its origin, too. */
		if (mount(NULL, target, NULL, MS_REC | MS_PRIVATE, NULL) < 0)
			berth_error_errno(&err, errno, "%s", target);
		if (err || berth_umount(target, true, &err) < 0)
			berth_log_warn("a volume is kept until its container is removed",
			        "container", c->id, "error", err->msg);
		berth_error_free(err);
	}
}

int berth_container_unstage(struct berth_container *c, struct berth_error **ret_err)
{
	_cleanup_free_ char *dir = berth_container_dir(c);

	/* And layers that were attached while they were composed. */
	if (berth_umount_tree(dir, true, ret_err) < 0)
		return -1;
	berth_fault("ctr-unstaged");
	for (size_t i = 0; i < c->n_volumes; i++) {
		_cleanup_free_ char *key = view_key(c, &c->volumes[i]);
		if (berth_container_drop_snapshot(c, c->volumes[i].storage, key, ret_err) < 0)
			return berth_error_wrap(ret_err, "image volume %s", key);
	}
	return 0;
}
