#include <errno.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <endian.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kernel.h"

/* Linux 6.7 has them; headers may be older. */
#define QUOTA_CTL_ENABLE_SIMPLE 4
#define QUOTA_STATUS_SIMPLE (1ull << 3)

static int take_status(void *arg, uint64_t offset, const void *item, uint32_t len)
{
	struct quota_state *s = arg;
	struct btrfs_qgroup_status_item i;

	(void)offset;
	/* Newer kernels append to it. */
	if (len < sizeof(i))
		return -EPROTO;
	memcpy(&i, item, sizeof(i));
	uint64_t flags = le64toh(i.flags);
	if (flags & BTRFS_QGROUP_STATUS_FLAG_ON)
		s->mode = flags & QUOTA_STATUS_SIMPLE ? QUOTA_SIMPLE : QUOTA_FULL;
	s->rescanning = flags & BTRFS_QGROUP_STATUS_FLAG_RESCAN;
	s->inconsistent = flags & BTRFS_QGROUP_STATUS_FLAG_INCONSISTENT;
	return 0;
}

int quota_state(int fs, struct quota_state *ret)
{
	const struct tree_range range = {
	        .tree = BTRFS_QUOTA_TREE_OBJECTID, .type = BTRFS_QGROUP_STATUS_KEY};
	struct quota_state s = {0};
	int r = tree_search(fs, &range, take_status, &s);

	if (r < 0 && r != -ENOENT)
		return r;
	*ret = s;
	return 0;
}

int quota_enable(int fs, enum quota_mode mode)
{
	struct btrfs_ioctl_quota_ctl_args a = {
	        .cmd = mode == QUOTA_SIMPLE ? QUOTA_CTL_ENABLE_SIMPLE : BTRFS_QUOTA_CTL_ENABLE};

	if (ioctl(fs, BTRFS_IOC_QUOTA_CTL, &a) == 0)
		return 0;
	return errno == EINVAL && mode == QUOTA_SIMPLE ? -EOPNOTSUPP : -errno;
}

int quota_rescan(int fs)
{
	struct btrfs_ioctl_quota_rescan_args a = {0};

	if (ioctl(fs, BTRFS_IOC_QUOTA_RESCAN, &a) < 0 && errno != EINPROGRESS)
		return -errno;
	return 0;
}

struct usage_search {
	struct qgroup_usage *ret;
	bool found;
};

static int take_info(void *arg, uint64_t offset, const void *item, uint32_t len)
{
	struct usage_search *s = arg;
	struct btrfs_qgroup_info_item i;

	(void)offset;
	if (len < sizeof(i))
		return -EPROTO;
	memcpy(&i, item, sizeof(i));
	s->ret->referenced = le64toh(i.rfer);
	s->ret->exclusive = le64toh(i.excl);
	s->found = true;
	return 0;
}

int qgroup_usage(int fs, uint64_t qgroup, struct qgroup_usage *ret)
{
	const struct tree_range range = {.tree = BTRFS_QUOTA_TREE_OBJECTID,
	        .type = BTRFS_QGROUP_INFO_KEY,
	        .first = qgroup,
	        .last = qgroup};
	struct usage_search s = {.ret = ret};
	int r = tree_search(fs, &range, take_info, &s);

	return r < 0 ? r : s.found ? 0 : -ENOENT;
}

int qgroup_limit(int fs, uint64_t qgroup, uint64_t max_exclusive)
{
	/* All ones take a limit away. */
	struct btrfs_ioctl_qgroup_limit_args a = {.qgroupid = qgroup,
	        .lim = {.flags = BTRFS_QGROUP_LIMIT_MAX_EXCL,
	                .max_excl = max_exclusive ? max_exclusive : UINT64_MAX}};

	return ioctl(fs, BTRFS_IOC_QGROUP_LIMIT, &a) < 0 ? -errno : 0;
}

int qgroup_remove(int fs, uint64_t qgroup)
{
	struct btrfs_ioctl_qgroup_create_args a = {.qgroupid = qgroup};

	if (ioctl(fs, BTRFS_IOC_QGROUP_CREATE, &a) == 0)
		return 0;
	/* Not there; no quota; or a kernel that removes it together with the subvolume. */
	return errno == ENOENT || errno == ENOTCONN || errno == EBUSY ? 0 : -errno;
}

int qgroup_create(int fs, uint64_t qgroup)
{
	struct btrfs_ioctl_qgroup_create_args a = {.create = 1, .qgroupid = qgroup};

	return ioctl(fs, BTRFS_IOC_QGROUP_CREATE, &a) < 0 && errno != EEXIST ? -errno : 0;
}

int qgroup_assign(int fs, uint64_t member, uint64_t qgroup, bool add)
{
	struct btrfs_ioctl_qgroup_assign_args a = {.assign = add, .src = member, .dst = qgroup};

	/* Positive: done, and full accounting would have to count anew. */
	return ioctl(fs, BTRFS_IOC_QGROUP_ASSIGN, &a) < 0 ? -errno : 0;
}

static int take_first(void *arg, uint64_t offset, const void *item, uint32_t len)
{
	(void)item;
	(void)len;
	*(uint64_t *)arg = offset;
	return 1;
}

int qgroup_member(int fs, uint64_t qgroup, uint64_t *ret)
{
	/* Each relation is there twice; a member's number is lower than its group's. */
	const struct tree_range range = {.tree = BTRFS_QUOTA_TREE_OBJECTID,
	        .objectid = qgroup,
	        .type = BTRFS_QGROUP_RELATION_KEY,
	        .last = qgroup - 1};
	int r = tree_search(fs, &range, take_first, ret);

	return r == 1 ? 0 : r == 0 ? -ENOENT : r;
}
