#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "kernel.h"

int fs_is_btrfs(int fd)
{
	struct statfs st;

	if (fstatfs(fd, &st) < 0)
		return -errno;
	return st.f_type == BTRFS_SUPER_MAGIC;
}

static int set_name(struct btrfs_ioctl_vol_args_v2 *a, const char *name)
{
	if (strlen(name) > BTRFS_VOL_NAME_MAX)
		return -ENAMETOOLONG;
	strcpy(a->name, name);
	return 0;
}

int subvol_create(int dirfd, const char *name)
{
	struct btrfs_ioctl_vol_args_v2 a = {0};
	int r = set_name(&a, name);

	if (r == 0 && ioctl(dirfd, BTRFS_IOC_SUBVOL_CREATE_V2, &a) < 0)
		r = -errno;
	return r;
}

int subvol_snapshot(int dirfd, const char *name, int source)
{
	struct btrfs_ioctl_vol_args_v2 a = {.fd = source};
	int r = set_name(&a, name);

	if (r == 0 && ioctl(dirfd, BTRFS_IOC_SNAP_CREATE_V2, &a) < 0)
		r = -errno;
	return r;
}

int subvol_id(int fd, uint64_t *ret)
{
	struct btrfs_ioctl_ino_lookup_args a = {.objectid = BTRFS_FIRST_FREE_OBJECTID};

	if (ioctl(fd, BTRFS_IOC_INO_LOOKUP, &a) < 0)
		return -errno;
	*ret = a.treeid;
	return 0;
}

int subvol_id_at(int dirfd, const char *name, uint64_t *ret)
{
	struct stat st;
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return errno == ELOOP ? -ENOTDIR : -errno;
	/* The root of each subvolume has this inode number, and nothing else has. */
	int r = fstat(fd, &st) < 0                       ? -errno
	        : st.st_ino != BTRFS_FIRST_FREE_OBJECTID ? -ENOTDIR
	                                                 : subvol_id(fd, ret);
	close(fd);
	return r;
}

int subvol_set_readonly(int fd, bool readonly)
{
	__u64 flags;

	if (ioctl(fd, BTRFS_IOC_SUBVOL_GETFLAGS, &flags) < 0)
		return -errno;
	__u64 want = readonly ? flags | BTRFS_SUBVOL_RDONLY : flags & ~(__u64)BTRFS_SUBVOL_RDONLY;
	if (want != flags && ioctl(fd, BTRFS_IOC_SUBVOL_SETFLAGS, &want) < 0)
		return -errno;
	return 0;
}

/* The file handle of a subvolume's root, as the kernel would give it out (fs/btrfs/export.h); a
 * generation of 0 stands for any. */
struct root_handle {
	uint32_t bytes;
	int32_t type;
	uint64_t objectid, root;
	uint32_t generation;
} __attribute__((packed));
#define HANDLE_TYPE 0x4d

int subvol_open_id(int fs, uint64_t id)
{
	struct root_handle h = {
	        .bytes = sizeof(h) - offsetof(struct root_handle, objectid),
	        .type = HANDLE_TYPE,
	        .objectid = BTRFS_FIRST_FREE_OBJECTID,
	        .root = id,
	};
	union {
		struct file_handle head;
		unsigned char bytes[sizeof(h)];
	} u;

	memcpy(u.bytes, &h, sizeof(h));
	int fd = open_by_handle_at(fs, &u.head, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- what lies below ---- */

static int stop_at_first(void *arg, uint64_t offset, const void *item, uint32_t len)
{
	(void)item;
	(void)len;
	*(uint64_t *)arg = offset;
	return 1;
}

/* The first subvolume that hangs in `id` and whose number is at least `from`. -ENOENT: none. */
static int child_of(int fs, uint64_t id, uint64_t from, uint64_t *ret)
{
	const struct tree_range range = {.tree = BTRFS_ROOT_TREE_OBJECTID,
	        .objectid = id,
	        .type = BTRFS_ROOT_REF_KEY,
	        .first = from,
	        .last = UINT64_MAX};
	int r = tree_search(fs, &range, stop_at_first, ret);

	return r == 1 ? 0 : r == 0 ? -ENOENT : r;
}

/* A way down. A container nests subvolumes as deep as it likes, so it lies on the heap. */
struct way {
	uint64_t *ids;
	size_t n, cap;
};
#define DEPTH_LIMIT 1000000

static int push(struct way *w, uint64_t id)
{
	if (w->n == w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 16;
		uint64_t *p = cap > DEPTH_LIMIT ? NULL : realloc(w->ids, cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		w->ids = p;
		w->cap = cap;
	}
	w->ids[w->n++] = id;
	return 0;
}

int subvol_each_below(int fs, uint64_t id, int (*fn)(void *arg, uint64_t id), void *arg)
{
	struct way w = {0};
	uint64_t from = 0, child;
	int r = push(&w, id);

	while (r == 0 && w.n > 0) {
		r = child_of(fs, w.ids[w.n - 1], from, &child);
		if (r == 0) {
			r = fn(arg, child);
			if (r == 0)
				r = push(&w, child);
			from = 0;
		} else if (r == -ENOENT) {
			from = w.ids[--w.n] + 1;
			r = 0;
		}
	}
	free(w.ids);
	return r;
}

/* A container may make its subvolumes read-only, and nothing is deleted in one that is. */
static int let_delete_in(int fs, uint64_t id)
{
	int fd = subvol_open_id(fs, id);

	if (fd < 0)
		return fd;
	int r = subvol_set_readonly(fd, false);
	close(fd);
	return r;
}

static int delete_one(int fs, uint64_t id)
{
	struct btrfs_ioctl_vol_args_v2 a = {.flags = BTRFS_SUBVOL_SPEC_BY_ID, .subvolid = id};

	/* First its group, which older kernels leave behind: so none outlives a crash. */
	int r = qgroup_remove(fs, id);
	if (r < 0)
		return r;
	return ioctl(fs, BTRFS_IOC_SNAP_DESTROY_V2, &a) < 0 ? -errno : 0;
}

int subvol_delete(int fs, uint64_t id, int (*go_on)(void *arg), void *arg)
{
	struct way w = {0};
	uint64_t child;
	int r = push(&w, id);

	while (r == 0 && w.n > 0 && (r = go_on(arg)) == 0) {
		uint64_t here = w.ids[w.n - 1];
		r = child_of(fs, here, 0, &child);
		if (r == 0) {
			r = let_delete_in(fs, here);
			if (r == 0)
				r = push(&w, child);
		} else if (r == -ENOENT) {
			r = delete_one(fs, here);
			w.n--;
		}
	}
	free(w.ids);
	return r;
}
