#include <errno.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kernel.h"

/* One answer of the kernel. Sets *next to where the next one begins, false in *more at the end. */
static int take_items(const struct btrfs_ioctl_search_args *a, const struct tree_range *range,
        tree_item_fn fn, void *arg, uint64_t *next, bool *more)
{
	size_t at = 0;

	for (uint32_t i = 0; i < a->key.nr_items; i++) {
		struct btrfs_ioctl_search_header h;

		if (at + sizeof(h) > sizeof(a->buf))
			return -EOVERFLOW;
		memcpy(&h, a->buf + at, sizeof(h));
		at += sizeof(h);
		if (h.len > sizeof(a->buf) - at)
			return -EOVERFLOW;
		/* The kernel compares whole keys, so others may lie between the two ends. */
		if (h.objectid == range->objectid && h.type == range->type) {
			int r = fn(arg, h.offset, a->buf + at, h.len);
			if (r != 0)
				return r;
		}
		at += h.len;
		*more = h.offset < range->last;
		*next = h.offset + 1;
	}
	return 0;
}

int tree_search(int fs, const struct tree_range *range, tree_item_fn fn, void *arg)
{
	struct btrfs_ioctl_search_args a;
	uint64_t next = range->first;
	bool more = true;

	while (more) {
		memset(&a.key, 0, sizeof(a.key));
		a.key.tree_id = range->tree;
		a.key.min_objectid = a.key.max_objectid = range->objectid;
		a.key.min_type = a.key.max_type = range->type;
		a.key.min_offset = next;
		a.key.max_offset = range->last;
		a.key.max_transid = UINT64_MAX;
		a.key.nr_items = UINT32_MAX;
		if (ioctl(fs, BTRFS_IOC_TREE_SEARCH, &a) < 0)
			return -errno;
		if (a.key.nr_items == 0)
			return 0;
		int r = take_items(&a, range, fn, arg, &next, &more);
		if (r != 0)
			return r;
	}
	return 0;
}
