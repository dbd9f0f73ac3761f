/* The btrfs driver: each snapshot is a subvolume "fs" in its directory, which begins as a snapshot
 * of its parent's. A view of something has none: it shows its parent's, which is read-only.
 *
 * The kernel ends no transaction in the middle: what is renamed, made and deleted comes back after
 * a power cut in the order in which it was done, or not at all. Data of files is flushed by commit.
 */
#ifndef STORAGE_BTRFS_BTRFS_H
#define STORAGE_BTRFS_BTRFS_H

#include "kernel.h"
#include "storage-common/store.h"

#define CHAIN_LIMIT 1000 /* the kernel has none */

struct btrfs {
	bool atime;
	bool no_quota;          /* quotas of the file system are not used */
	enum quota_mode wanted; /* enabled where it has none yet; QUOTA_OFF: none is enabled */
	enum quota_mode mode;   /* what is used */
	uint64_t looked_ns;     /* atomic: when the state of the quota was looked at last */
};

/* quota.c */
berth_status btrfs_quota_begin(struct store *st, struct berth_op *op);
/* Numbers that the kernel calls inconsistent are counted anew, now and then. */
void btrfs_quota_tend(struct store *st, struct berth_op *op, bool now);
int btrfs_set_limit(struct store *st, uint64_t subvol, uint64_t bytes); /* 0 = none */
/* What lets a subvolume be counted together with those made within it goes. */
int btrfs_forget_limit(struct store *st, uint64_t subvol);
/* Writes what a snapshot that is sealed takes for itself into its `own`. Its data are on the disk.
 */
int btrfs_note_usage(struct store *st, struct snap *s, int dirfd);
int btrfs_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u);

/* content.c */
berth_status btrfs_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a);
berth_status btrfs_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a);
berth_status btrfs_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd);
berth_status btrfs_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res);
int btrfs_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m);

#endif
