#include "repair.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "container/container.h"
#include "image/image.h"
#include "mount/mount.h"
#include "pod/pod.h"
#include "recover.h"

/* No id of a container: the next start removes it if this one does not get there. */
#define VIEW "berthd-check"

/* Reads the directory at the top, and what each of its entries is. */
static int look_into(int dir, struct berth_error **ret_err)
{
	DIR *it = fdopendir(dir);
	struct stat st;
	int r = 0;

	if (!it) {
		berth_error_errno(ret_err, errno, "its root directory");
		berth_close(dir);
		return -1;
	}
	errno = 0;
	for (struct dirent *e; r == 0 && (e = readdir(it)); errno = 0) {
		if (fstatat(dirfd(it), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = berth_error_errno(ret_err, errno, "/%s", e->d_name);
	}
	if (r == 0 && errno)
		r = berth_error_errno(ret_err, errno, "its root directory");
	closedir(it);
	return r;
}

static void remove_view(struct berth_instance *storage)
{
	struct berth_snap_args a = {.size = sizeof(a), .key = VIEW};
	struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_REMOVE, VIEW);
	if (berth_call_run(c, &a, NULL, &err) < 0)
		berth_error_free(err); /* the next start says why */
}

static int try_image(
        struct berth_instance *storage, const struct berth_image *i, struct berth_error **ret_err)
{
	const char *chain = berth_image_chain_id(i);
	if (!chain)
		return 0;
	struct berth_snap_args a = {.size = sizeof(a), .key = VIEW, .parent = chain};
	struct berth_mounts_result m = {.size = sizeof(m)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(storage, BERTH_OP_STORAGE_VIEW, VIEW);
	int r = berth_call_run(c, &a, &m, ret_err);
	if (r == 0 && m.n > 0) {
		int root = berth_mount_clone(&m, true, ret_err);
		int dir = root < 0 ? -1 : openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (root >= 0 && dir < 0)
			berth_error_errno(ret_err, errno, "its root directory");
		r = dir < 0 ? -1 : look_into(dir, ret_err);
		berth_close(root);
	}
	remove_view(storage);
	return r;
}

static const char *user_of(
        struct berth_daemon *d, const struct berth_image *i, const struct berth_instance *storage)
{
	struct berth_container *c, *tmp;
	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		if (berth_container_uses_image(c, i->id, storage))
			return c->id;
	}
	return NULL;
}

struct findings {
	uint64_t removed, damaged, unknown;
};

/* For want of room, of an answer, of time: it says nothing of the image. */
static bool says_nothing(const struct berth_error *err)
{
	return err->code == BERTH_RESOURCE_EXHAUSTED || err->code == BERTH_UNAVAILABLE ||
	       err->code == BERTH_DEADLINE_EXCEEDED || err->code == BERTH_CANCELLED;
}

static void trouble(struct findings *f, struct berth_error *err)
{
	printf("error    %s\n", err->msg);
	berth_error_free(err);
	f->damaged++;
}

static void scrap(struct berth_daemon *d, struct berth_image *i, struct findings *f)
{
	struct berth_error *err = NULL;
	if (berth_image_scrap(d, i, &err) < 0)
		trouble(f, err);
}

static void repair_image(struct berth_daemon *d, struct berth_image *i,
        struct berth_instance *storage, struct findings *f)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (try_image(storage, i, &err) == 0)
		return;
	const char *user = user_of(d, i, storage);
	_cleanup_free_ char *where =
	        d->n_storages > 1 ? berth_asprintf(" in %s", berth_instance_name(storage))
	                          : berth_strdup("");
	if (says_nothing(err)) {
		printf("error    image %s cannot be checked%s: %s\n", i->id, where, err->msg);
		f->unknown++;
		return;
	}
	if (user) {
		printf("error    image %s is damaged%s, and container %s uses it: %s\n", i->id,
		        where, user, err->msg);
		f->damaged++;
		return;
	}
	printf("repaired image %s is damaged%s and is removed: %s\n", i->id, where, err->msg);
	f->removed++;
	if (berth_image_elsewhere(
	            d, i, storage)) /* without its top layer it is not this driver's any more */
		berth_layer_drop(d, storage, berth_image_chain_id(i));
	else
		scrap(d, i, f);
}

/* An image store is another's to repair, and may hang. */
static bool lies_elsewhere(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage)
{
	size_t n = json_array_size(json_object_get(i->record, "layers"));

	while (n > 0)
		if (berth_image_external(d, i, storage, --n))
			return true;
	return false;
}

/* A layer that went may have been below another image's top. */
static void scrap_homeless(struct berth_daemon *d, struct findings *f)
{
	struct berth_image *i, *tmp;

	HASH_ITER (hh, d->images->by_id, i, tmp) {
		if (!berth_image_home(d, i, NULL))
			scrap(d, i, f);
	}
}

int berth_repair(struct berth_daemon *d)
{
	struct berth_image *i, *tmp;
	struct berth_error *err = NULL;
	struct findings f = {0};

	for (size_t n = 0; n < d->n_storages; n++) {
		HASH_ITER (hh, d->images->by_id, i, tmp) {
			if (berth_image_chain_id(i) && berth_image_in(d, i, d->storages[n]) &&
			        !lies_elsewhere(d, i, d->storages[n]))
				repair_image(d, i, d->storages[n], &f);
		}
	}
	if (f.removed)
		scrap_homeless(d, &f);
	if (f.removed && berth_recover_snapshots(d, &err) < 0)
		trouble(&f, err);
	printf("%u pod sandboxes, %u containers, %u images; %" PRIu64 " repaired, %" PRIu64
	       " damaged",
	        HASH_CNT(hh_id, d->pods->by_id), HASH_CNT(hh, d->containers->by_id),
	        HASH_COUNT(d->images->by_id), d->counts.repaired + f.removed,
	        d->counts.unrepaired + f.damaged);
	if (f.unknown)
		printf(", %" PRIu64 " not checked", f.unknown);
	printf("\n");
	return d->counts.unrepaired + f.damaged + f.unknown > 0;
}
