/* The branches of an aufs mount. Private to core/mount. */
#ifndef BERTH_MOUNT_AUFS_H
#define BERTH_MOUNT_AUFS_H

#include "mount/options.h"

/* What is under way of one mount's branches: {.plan, .lock = -1}. */
struct aufs_branches {
	const struct mount_plan *plan;
	size_t next; /* the first parameter that was not looked at yet */
	int lock;    /* the writable branch, locked until the mount is there; -1 = none */
};

/* aufs says most of what it has to say there. */
#define AUFS_HINT "; the kernel's log may say why"
bool aufs_is_branch(const struct mount_param *q);
/* Names the file of inode numbers, which the kernel makes and unlinks at once. 0 or a negative
 * errno; *keep as for mount_fsconfig_string(). */
int aufs_set_xino(int fsfd, const char *path, int *keep);
/* Gives some of the branches to a file system context, from the top on. FAILED_PRECONDITION where
 * the writable one is in use. `keep` has room for one fd per parameter (-1 where there is none):
 * they stay open until the context was carried out. Returns how many were given, or -1. */
int aufs_give_branches(int fsfd, struct aufs_branches *b, int *keep, struct berth_error **ret_err);
/* The mount is there: appends the rest of them. */
int aufs_append_rest(int fsfd, struct aufs_branches *b, struct berth_error **ret_err);
void aufs_finish(struct aufs_branches *b);

#endif
