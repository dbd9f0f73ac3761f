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

static void remove_view(struct berth_daemon *d)
{
	struct berth_snap_args a = {.size = sizeof(a), .key = VIEW};
	struct berth_error *err = NULL;
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(d->storage, BERTH_OP_STORAGE_REMOVE, VIEW);
	if (berth_call_run(c, &a, NULL, &err) < 0)
		berth_error_free(err); /* the next start says why */
}

static int try_image(
        struct berth_daemon *d, const struct berth_image *i, struct berth_error **ret_err)
{
	const char *chain = berth_image_chain_id(i);
	if (!chain)
		return 0;
	struct berth_snap_args a = {.size = sizeof(a), .key = VIEW, .parent = chain};
	struct berth_mounts_result m = {.size = sizeof(m)};
	_cleanup_(berth_call_freep) struct berth_call *c =
	        berth_call_new(d->storage, BERTH_OP_STORAGE_VIEW, VIEW);
	int r = berth_call_run(c, &a, &m, ret_err);
	if (r == 0 && m.n > 0) {
		int root = berth_mount_clone(&m, true, ret_err);
		int dir = root < 0 ? -1 : openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (root >= 0 && dir < 0)
			berth_error_errno(ret_err, errno, "its root directory");
		r = dir < 0 ? -1 : look_into(dir, ret_err);
		berth_close(root);
	}
	remove_view(d);
	return r;
}

static const char *user_of(struct berth_daemon *d, const struct berth_image *i)
{
	struct berth_container *c, *tmp;
	HASH_ITER (hh, d->containers->by_id, c, tmp) {
		if (berth_container_uses_image(c, i->id))
			return c->id;
	}
	return NULL;
}

int berth_repair(struct berth_daemon *d)
{
	struct berth_image *i, *tmp;
	struct berth_error *err = NULL;
	uint64_t removed = 0, damaged = 0;

	HASH_ITER (hh, d->images->by_id, i, tmp) {
		if (try_image(d, i, &err) == 0)
			continue;
		const char *user = user_of(d, i);
		if (user)
			printf("error    image %s is damaged, and container %s uses it: %s\n",
			        i->id, user, err->msg);
		else
			printf("repaired image %s is damaged and is removed: %s\n", i->id,
			        err->msg);
		err = berth_error_free(err);
		damaged += user != NULL;
		if (!user && berth_image_scrap(d, i, &err) < 0) {
			printf("error    %s\n", err->msg);
			err = berth_error_free(err);
			damaged++;
		} else if (!user) {
			removed++;
		}
	}
	if (removed && berth_recover_snapshots(d, &err) < 0) {
		printf("error    %s\n", err->msg);
		err = berth_error_free(err);
		damaged++;
	}
	printf("%u pod sandboxes, %u containers, %u images; %" PRIu64 " repaired, %" PRIu64
	       " damaged\n",
	        HASH_CNT(hh_id, d->pods->by_id), HASH_CNT(hh, d->containers->by_id),
	        HASH_COUNT(d->images->by_id), d->counts.repaired + removed,
	        d->counts.unrepaired + damaged);
	return d->counts.unrepaired + damaged > 0;
}
