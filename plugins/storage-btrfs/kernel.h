/* What btrfs itself does: subvolumes, snapshots and quota groups, by ioctl. Knows nothing of the
 * driver. All functions return 0 or a negative errno. An fd of "the file system" is any directory
 * of it. */
#ifndef STORAGE_BTRFS_KERNEL_H
#define STORAGE_BTRFS_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

/* ---- search.c: the trees on the disk ---- */

struct tree_range {
	uint64_t tree;
	uint64_t objectid;
	uint32_t type;
	uint64_t first, last; /* offsets of the keys */
};
/* Called for each item; what it returns other than 0 ends the search, and is its result. */
typedef int (*tree_item_fn)(void *arg, uint64_t offset, const void *item, uint32_t len);
/* -ENOENT where there is no such tree. */
int tree_search(int fs, const struct tree_range *range, tree_item_fn fn, void *arg);

/* ---- subvol.c ---- */

int fs_is_btrfs(int fd); /* 1, 0 or a negative errno */
int subvol_create(int dirfd, const char *name);
int subvol_snapshot(int dirfd, const char *name, int source);
/* Of the subvolume that fd lies in. */
int subvol_id(int fd, uint64_t *ret);
/* Of dirfd/name; -ENOENT, -ENOTDIR where it is no subvolume. */
int subvol_id_at(int dirfd, const char *name, uint64_t *ret);
int subvol_set_readonly(int fd, bool readonly);
/* Its root directory, wherever it hangs; the fd or a negative errno. */
int subvol_open_id(int fs, uint64_t id);
/* All subvolumes below `id`, in no order, which themselves have none: each is told once. */
int subvol_each_below(int fs, uint64_t id, int (*fn)(void *arg, uint64_t id), void *arg);
/* Deletes subvolume `id` and all that were made within it, with their quota groups. `go_on` is
 * asked before each and ends the work where it returns a negative errno. A second call goes on. */
int subvol_delete(int fs, uint64_t id, int (*go_on)(void *arg), void *arg);

/* ---- qgroup.c ---- */

enum quota_mode {
	QUOTA_OFF,
	QUOTA_FULL,   /* each shared extent is counted where it is referenced */
	QUOTA_SIMPLE, /* each extent is counted where it was written */
};
struct quota_state {
	enum quota_mode mode;
	bool inconsistent, rescanning;
};
int quota_state(int fs, struct quota_state *ret);
int quota_enable(int fs, enum quota_mode mode); /* -EOPNOTSUPP: an older kernel */
int quota_rescan(int fs);                       /* begins it; one that is running is fine */

struct qgroup_usage {
	uint64_t referenced, exclusive;
};
/* As of the last commit of the file system. -ENOENT where the group is not there. */
int qgroup_usage(int fs, uint64_t qgroup, struct qgroup_usage *ret);
/* 0 = no limit. Of what the group has alone. */
int qgroup_limit(int fs, uint64_t qgroup, uint64_t max_exclusive);
int qgroup_remove(int fs, uint64_t qgroup); /* absent, or left to the kernel: fine */

/* Groups of groups. */
#define QGROUP_LEVEL_1 (1ull << 48)
int qgroup_create(int fs, uint64_t qgroup); /* one that is there is fine */
int qgroup_assign(int fs, uint64_t member, uint64_t qgroup, bool add);
int qgroup_member(int fs, uint64_t qgroup, uint64_t *ret); /* any of them; -ENOENT: it has none */

#endif
