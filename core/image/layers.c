/* The layers of a pull: a place for each, and its commit in order. */
#include "image/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "mount/mount.h"

#define XATTR_BYTES_MAX BERTH_KIB(64)

int pull_set_layers(struct berth_pull *p, const json_t *layers, struct berth_error **ret_err)
{
	size_t i, n = json_array_size(layers);
	json_t *l;

	if (!json_is_array(layers) || n > BERTH_LIMIT_IMAGE_LAYERS)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "pull of %s: %zu layers, at most %d", p->key, n, BERTH_LIMIT_IMAGE_LAYERS);
	p->layers = berth_new_array(struct pull_layer, n + 1);
	json_array_foreach (layers, i, l) {
		const char *chain = json_string_value(json_object_get(l, "chain_id"));
		const char *diff = json_string_value(json_object_get(l, "diff_id"));
		const char *digest = json_string_value(json_object_get(l, "digest"));
		if (!berth_digest_ok(chain) || !berth_digest_ok(diff) || !berth_digest_ok(digest))
			return berth_error_set(ret_err, BERTH_INTERNAL,
			        "pull of %s: layer %zu has no well-formed digests", p->key, i);
		struct pull_layer *to = &p->layers[p->n_layers++];
		to->chain_id = berth_strdup(chain);
		to->diff_id = berth_strdup(diff);
		to->digest = berth_strdup(digest);
		to->size = (uint64_t)json_integer_value(json_object_get(l, "size"));
		to->key = berth_asprintf("pull-%s-%zu-%zu", p->tag, p->n_images, i);
		to->fd = -1;
	}
	return 0;
}

void pull_free_layers(struct berth_pull *p)
{
	for (size_t i = 0; i < p->n_layers; i++) {
		struct pull_layer *l = &p->layers[i];
		free(l->chain_id);
		free(l->diff_id);
		free(l->digest);
		free(l->key);
		free(l->implied);
		free(l->external);
		berth_close(l->fd);
	}
	free(p->layers);
	p->layers = NULL;
	p->n_layers = 0;
}

bool pull_layers_done(const struct berth_pull *p)
{
	for (size_t i = 0; i < p->n_layers; i++) {
		if (p->layers[i].state != LAYER_COMMITTED)
			return false;
	}
	return true;
}

/* ---- jobs ---- */

static void job_done(void *arg)
{
	struct pull_job *j = arg;
	struct berth_pull *p = j->p;

	p->jobs--;
	j->layer->jobs--;
	j->done(j);
	if (j->err)
		pull_fail(p, berth_take(j->err));
	berth_close(j->fd);
	free(j);
	pull_advance(p);
}

void pull_start_job(struct berth_pull *p, size_t n, berth_fn work, berth_fn done, int fd)
{
	struct pull_job *j = berth_new(struct pull_job);
	j->p = p;
	j->n = n;
	j->layer = &p->layers[n];
	j->parent = n > 0 ? p->layers[n - 1].chain_id : NULL;
	j->fd = fd;
	j->below_fd = j->opaque_fd = -1;
	j->done = done;
	p->jobs++;
	j->layer->jobs++;
	if (berth_work(p->d->flows, p->d->loop, work, job_done, j) < 0) {
		berth_error_set(&j->err, BERTH_RESOURCE_EXHAUSTED,
		        "pull of %s: too many requests are under way", p->key);
		job_done(j);
	}
}

static int mount_id(int fd, uint64_t *ret)
{
	struct statx stx;
	if (statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_MNT_ID, &stx) < 0)
		return -errno;
	if (!(stx.stx_mask & STATX_MNT_ID))
		return -ENOSYS;
	*ret = stx.stx_mnt_id;
	return 0;
}

static bool detached(const struct berth_pull *p)
{
	return berth_instance_features(p->storage) & BERTH_F_DETACHED_LAYERS;
}

static void open_work(void *arg)
{
	struct pull_job *j = arg;
	struct berth_pull *p = j->p;
	struct berth_snap_args args = {.size = sizeof(args),
	        .flags = BERTH_SNAP_F_LAYER,
	        .key = j->layer->key,
	        .parent = detached(p) ? NULL : j->parent};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(p->storage, BERTH_OP_STORAGE_PREPARE, j->layer->key);

	if (berth_call_run(c, &args, &res, &j->err) < 0)
		return;
	j->prepared = true;
	berth_fault("layer-prepare-after");
	j->fd = berth_mount_clone(&res, true, &j->err);
	if (j->fd < 0)
		return;
	int r = mount_id(j->fd, &j->mnt_id);
	if (r < 0)
		berth_error_errno(&j->err, r, "pull of %s: layer %zu", p->key, j->n);
}

static void open_done(void *arg)
{
	struct pull_job *j = arg;
	j->layer->prepared = j->prepared;
	if (j->err)
		return;
	j->layer->state = LAYER_OPEN;
	j->layer->fd = berth_take_fd(&j->fd);
	j->layer->mnt_id = j->mnt_id;
	if (!j->p->over)
		pull_send(j->p, json_pack("{s:s, s:I}", "t", "dir", "n", (json_int_t)j->n),
		        j->layer->fd);
}

void pull_open(struct berth_pull *p, size_t n)
{
	struct berth_error *err = NULL;
	if (p->layers[n].state != LAYER_WAITING) {
		berth_error_set(&err, BERTH_INTERNAL,
		        "pull of %s: berth-pull asked twice for layer %zu", p->key, n);
		pull_fail(p, err);
		return;
	}
	p->layers[n].state = LAYER_WANTED;
	pull_advance(p);
}

/* berth-pull may not set trusted.*: we do, if what it hands over is a directory of that layer. */
static void opaque_work(void *arg)
{
	struct pull_job *j = arg;
	uint64_t id = 0;
	struct stat st;

	if (j->fd < 0 || mount_id(j->fd, &id) < 0 || id != j->layer->mnt_id ||
	        fstat(j->fd, &st) < 0 || !S_ISDIR(st.st_mode)) {
		berth_error_set(&j->err, BERTH_INTERNAL,
		        "pull of %s: berth-pull wants something marked that is no directory of "
		        "layer %zu",
		        j->p->key, j->n);
		return;
	}
	const char *mark = berth_instance_features(j->p->storage) & BERTH_F_XATTR_USER
	                           ? "user.overlay.opaque"
	                           : "trusted.overlay.opaque";
	if (fsetxattr(j->fd, mark, "y", 1, 0) < 0)
		berth_error_errno(
		        &j->err, errno, "pull of %s: layer %zu: %s", j->p->key, j->n, mark);
}

static void nothing(void *arg)
{
	(void)arg;
}

void pull_opaque(struct berth_pull *p, size_t n, int fd)
{
	struct berth_error *err = NULL;
	if (p->layers[n].state != LAYER_OPEN) {
		berth_close(fd);
		berth_error_set(&err, BERTH_INTERNAL,
		        "pull of %s: berth-pull marks a directory of layer %zu, which is not open",
		        p->key, n);
		pull_fail(p, err);
		return;
	}
	pull_start_job(p, n, opaque_work, nothing, fd);
}

/* ---- directories that the archive only implied ---- */

int pull_open_beneath(int root, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static void copy_xattrs(int from, int to)
{
	_cleanup_free_ char *names = berth_zalloc(XATTR_BYTES_MAX);
	_cleanup_free_ char *value = berth_zalloc(XATTR_BYTES_MAX);
	ssize_t n = flistxattr(from, names, XATTR_BYTES_MAX);
	for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		if (strncmp(name, "trusted.overlay.", 16) == 0)
			continue;
		ssize_t len = fgetxattr(from, name, value, XATTR_BYTES_MAX);
		if (len >= 0 && fsetxattr(to, name, value, (size_t)len, 0) < 0 &&
		        errno != EOPNOTSUPP)
			berth_log_debug("an attribute of a directory is left out", "name", name);
	}
}

static int adopt_attributes(struct pull_job *j, int lower, const char *path)
{
	_cleanup_close_ int from = pull_open_beneath(lower, path, O_RDONLY | O_DIRECTORY);
	_cleanup_close_ int to = pull_open_beneath(j->layer->fd, path, O_RDONLY | O_DIRECTORY);
	struct stat st;

	if (to < 0)
		return berth_error_errno(&j->err, errno,
		        "pull of %s: layer %zu: implied directory \"%s\"", j->p->key, j->n, path);
	if (from < 0)
		return 0; /* no lower layer has it: the puller's own choice stands */
	if (fstat(from, &st) < 0 || fchown(to, st.st_uid, st.st_gid) < 0 ||
	        fchmod(to, st.st_mode & 07777) < 0)
		return berth_error_errno(&j->err, errno,
		        "pull of %s: layer %zu: implied directory \"%s\"", j->p->key, j->n, path);
	copy_xattrs(from, to);
	struct timespec times[2] = {st.st_atim, st.st_mtim};
	futimens(to, times);
	return 0;
}

void pull_drop_snapshot(struct berth_instance *storage, const char *key)
{
	struct berth_snap_args args = {.size = sizeof(args), .key = key};
	struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_REMOVE, key);
	if (berth_call_run(c, &args, NULL, &err) < 0) {
		berth_log_warn(
		        "a snapshot stays until the next start", "key", key, "error", err->msg);
		berth_error_free(err);
	}
}

static int adopt_implied(struct pull_job *j)
{
	struct berth_pull *p = j->p;
	struct pull_layer *l = j->layer;

	if (l->implied_n == 0 || !j->parent || !detached(p))
		return 0;
	_cleanup_free_ char *key = berth_asprintf("%s-below", l->key);
	struct berth_snap_args args = {.size = sizeof(args), .key = key, .parent = j->parent};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *view =
	        berth_call_new(p->storage, BERTH_OP_STORAGE_VIEW, key);
	if (berth_call_run(view, &args, &res, &j->err) < 0)
		return -1;
	int lower = berth_mount_clone(&res, true, &j->err);
	int r = lower < 0 ? -1 : 0;
	const char *end = l->implied + l->implied_len;
	for (const char *path = l->implied; r == 0 && path < end; path += strlen(path) + 1)
		r = adopt_attributes(j, lower, path);
	berth_close(lower);
	pull_drop_snapshot(p->storage, key);
	return r;
}

/* ---- commit ---- */

/* What lies elsewhere takes a name and a place in the order alone. */
static int prepare_external(struct pull_job *j)
{
	struct pull_layer *l = j->layer;
	struct berth_snap_args args = {.size = sizeof(args),
	        .flags = BERTH_SNAP_F_LAYER,
	        .key = l->key,
	        .external = l->external};
	struct berth_mounts_result res = {.size = sizeof(res)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(j->p->storage, BERTH_OP_STORAGE_PREPARE, l->key);

	if (berth_call_run(c, &args, &res, &j->err) < 0)
		return -1;
	l->prepared = true;
	return 0;
}

static void commit_work(void *arg)
{
	struct pull_job *j = arg;
	struct berth_pull *p = j->p;
	struct berth_snap_args args = {.size = sizeof(args),
	        .key = j->layer->key,
	        .name = j->layer->chain_id,
	        .parent = j->parent};

	pull_source_release(p, j->layer);
	if (j->layer->external && prepare_external(j) < 0)
		return;
	if (adopt_implied(j) < 0)
		return;
	j->layer->fd = berth_close(j->layer->fd);
	berth_fault("layer-commit-before");
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(p->storage, BERTH_OP_STORAGE_COMMIT, j->layer->key);
	if (berth_call_run(c, &args, NULL, &j->err) < 0) {
		/* Another pull was faster: the same content under the same name. */
		j->exists = j->err->code == BERTH_ALREADY_EXISTS;
		if (j->exists) {
			j->err = berth_error_free(j->err);
			pull_drop_snapshot(p->storage, j->layer->key);
		}
	}
	if (!j->err && !p->import && !p->copied && !j->layer->external)
		pull_partial_remove(p->d, j->layer->digest);
	berth_fault("layer-commit-after");
}

static void commit_done(void *arg)
{
	struct pull_job *j = arg;
	if (j->err)
		return;
	j->layer->state = LAYER_COMMITTED;
	j->layer->prepared = false;
	/* Where another was faster, it is as that one made it; what it holds is the same. */
	if (j->layer->external && !j->exists)
		berth_layer_add_external(
		        j->p->d, j->p->storage, j->layer->chain_id, j->layer->external);
	else
		berth_layer_add(j->p->d, j->p->storage, j->layer->chain_id);
}

void pull_layers_advance(struct berth_pull *p)
{
	for (size_t i = 0; i < p->n_layers && !p->over; i++) {
		struct pull_layer *l = &p->layers[i];
		bool below = i == 0 || p->layers[i - 1].state == LAYER_COMMITTED;
		if (l->state == LAYER_WANTED && (below || detached(p))) {
			l->state = LAYER_OPENING;
			pull_start_job(p, i, open_work, open_done, -1);
		} else if (l->state == LAYER_UNPACKED && below && l->jobs == 0) {
			l->state = LAYER_COMMITTING;
			pull_start_job(p, i, commit_work, commit_done, -1);
		}
	}
}

void pull_layers_undo(struct berth_pull *p)
{
	for (size_t i = p->n_layers; i > 0; i--) {
		struct pull_layer *l = &p->layers[i - 1];
		l->fd = berth_close(l->fd);
		pull_source_release(p, l);
		if (l->prepared)
			pull_drop_snapshot(p->storage, l->key);
	}
}
