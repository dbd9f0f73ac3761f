/* What a snapshot consists of. */
#include "btrfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

static int open_fs(int dirfd)
{
	int fd = openat(dirfd, "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int make_empty(int dirfd)
{
	int r = subvol_create(dirfd, "fs");

	/* The umask is the host's. */
	return r == 0 && fchmodat(dirfd, "fs", 0755, 0) < 0 ? -errno : r;
}

static int make_on_parent(struct store *st, const struct snap *parent, int dirfd)
{
	char path[LEAF_PATH];

	store_leaf(parent, "fs", path);
	int fd = openat(st->layers_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = subvol_snapshot(dirfd, "fs", fd);
	close(fd);
	return r;
}

berth_status btrfs_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a)
{
	if (a->inode_limit)
		return berth_fail(st->host, op, BERTH_E_UNIMPLEMENTED,
		        "snapshot '%s': btrfs limits no numbers of inodes", s->key);
	if (a->size_limit)
		snprintf(s->own, sizeof(s->own), "limit=%llu", (unsigned long long)a->size_limit);
	return BERTH_OK;
}

static int limit(struct store *st, int dirfd, uint64_t bytes)
{
	uint64_t id;
	int r = subvol_id_at(dirfd, "fs", &id);

	return r < 0 ? r : btrfs_set_limit(st, id, bytes);
}

berth_status btrfs_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a)
{
	if (s->kind == BERTH_SNAP_VIEW && s->parent)
		return BERTH_OK;
	int r = s->parent ? make_on_parent(st, s->parent, dirfd) : make_empty(dirfd);
	if (r < 0)
		return store_fail(st, op, r, "make its subvolume", s->key);
	if (a->size_limit)
		r = limit(st, dirfd, a->size_limit);
	return r < 0 ? store_fail(st, op, r, "limit its size", s->key) : (berth_status)BERTH_OK;
}

berth_status btrfs_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd)
{
	const struct btrfs *b = st->self;
	uint64_t limited;
	int fd = open_fs(dirfd), r = fd;

	/* What stands on it would inherit the limit. */
	if (r >= 0 && own_u64(s->own, "limit", &limited))
		r = limit(st, dirfd, 0);
	s->own[0] = '\0';
	if (r >= 0)
		r = subvol_set_readonly(fd, true);
	/* The numbers are those of the file system's last commit. */
	if (r == 0 && b->mode == QUOTA_FULL)
		r = syncfs(fd) < 0 ? -errno : btrfs_note_usage(st, s, dirfd);
	if (fd >= 0)
		close(fd);
	return r < 0 ? store_fail(st, op, r, "make it read-only", s->key) : (berth_status)BERTH_OK;
}

/* After a commit that failed it may be read-only. */
static int let_write(struct store *st, const struct snap *s)
{
	char path[LEAF_PATH];

	store_leaf(s, "fs", path);
	int fd = openat(st->active_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = subvol_set_readonly(fd, false);
	close(fd);
	return r;
}

berth_status btrfs_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res)
{
	const struct btrfs *b = st->self;
	bool view = s->kind == BERTH_SNAP_VIEW;
	const char **options = st->host->op_alloc(op, 7 * sizeof(*options));
	size_t n = 0;

	int r = view ? 0 : let_write(st, s);
	if (r < 0)
		return store_fail(st, op, r, "open it", s->key);
	options[n++] = "bind";
	options[n++] = view ? "ro" : "rw";
	/* How the node mounts its own directories is nothing to a container. */
	options[n++] = "suid";
	options[n++] = "dev";
	options[n++] = "exec";
	if (!b->atime)
		options[n++] = "noatime";
	return store_mount(st, op, "bind",
	        store_path(st, op, view && s->parent ? s->parent : s, "fs"), options, res);
}

struct deletion {
	struct store *st;
	struct berth_op *op;
};

static int go_on(void *arg)
{
	const struct deletion *d = arg;

	return store_give_up(d->st, d->op);
}

int btrfs_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m)
{
	struct deletion d = {st, op};
	uint64_t id, limited;

	int r = subvol_id_at(dirfd, "fs", &id);
	if (r == -ENOENT || r == -ENOTDIR)
		return 0; /* never made; deleted before */
	if (r == 0 && (!m || own_u64(m->own, "limit", &limited)))
		r = btrfs_forget_limit(st, id);
	return r < 0 ? r : subvol_delete(st->root_fd, id, go_on, &d);
}
