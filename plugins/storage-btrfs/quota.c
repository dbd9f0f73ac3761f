/* Limits and usage by quota groups. The group of a subvolume has its number; what lies in it alone
 * ("exclusive") is what a container has written.
 *
 * Where each extent is counted for who wrote it (simple quotas), a limited subvolume is also in a
 * group of level 1 with the same number, which the kernel adds all subvolumes to that are made
 * within it. With full accounting it does not, and a snapshot cannot be added to a group without
 * counting the whole file system anew: subvolumes of a container's making have no limit there. */
#include "btrfs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

#define LOOK_NS 600000000000ull /* counting anew reads all of the file system's metadata */

static void say(struct store *st, struct berth_op *op, int level, const char *what, int r)
{
	char msg[512];

	snprintf(msg, sizeof(msg), "%s: '%s': %s%s%s", st->host->plugin_name, st->root, what,
	        r ? ": " : "", r ? strerror(-r) : "");
	st->host->log(st->host, op, level, msg);
}

static berth_status without(struct store *st, struct berth_op *op, const char *why)
{
	struct btrfs *b = st->self;

	b->mode = QUOTA_OFF;
	st->features &= ~(uint64_t)BERTH_F_QUOTA;
	st->no_quota = strdup(why);
	if (!st->no_quota)
		return berth_fail(
		        st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
	return BERTH_OK;
}

berth_status btrfs_quota_begin(struct store *st, struct berth_op *op)
{
	struct btrfs *b = st->self;
	struct quota_state q;

	if (b->no_quota)
		return without(st, op, "the configuration says quota: off");
	int r = quota_state(st->root_fd, &q);
	if (r == 0 && q.mode == QUOTA_OFF && b->wanted == QUOTA_OFF)
		return without(st, op,
		        "the file system has none enabled, and quota: full or simple is not "
		        "configured");
	if (r == 0 && q.mode == QUOTA_OFF) {
		r = quota_enable(st->root_fd, b->wanted);
		if (r == -EOPNOTSUPP)
			return berth_fail(st->host, op, BERTH_E_PRECONDITION,
			        "%s: quota: simple: this kernel has no simple quotas (Linux 6.7 "
			        "has)",
			        st->host->plugin_name);
		q.mode = b->wanted;
	}
	if (r < 0) {
		say(st, op, BERTH_LOG_WARN, "no quota: sizes are not limited, and usage is walked",
		        r);
		return without(st, op, strerror(-r));
	}
	if (b->wanted != QUOTA_OFF && q.mode != b->wanted)
		say(st, op, BERTH_LOG_INFO,
		        q.mode == QUOTA_FULL
		                ? "the file system has full quotas already; they are used"
		                : "the file system has simple quotas already; they are used",
		        0);
	b->mode = q.mode;
	return BERTH_OK;
}

void btrfs_quota_tend(struct store *st, struct berth_op *op, bool now)
{
	struct btrfs *b = st->self;
	uint64_t t = store_now_ns(CLOCK_MONOTONIC);
	uint64_t before = __atomic_load_n(&b->looked_ns, __ATOMIC_RELAXED);
	struct quota_state q;

	if (b->mode != QUOTA_FULL || (!now && t - before < LOOK_NS))
		return;
	__atomic_store_n(&b->looked_ns, t, __ATOMIC_RELAXED);
	if (quota_state(st->root_fd, &q) < 0 || !q.inconsistent || q.rescanning)
		return;
	int r = quota_rescan(st->root_fd);
	say(st, op, r < 0 ? BERTH_LOG_WARN : BERTH_LOG_INFO,
	        "its quota groups are inconsistent and are counted anew", r);
}

/* ---- limits ---- */

static uint64_t level_1(uint64_t subvol)
{
	return QGROUP_LEVEL_1 | subvol;
}

int btrfs_set_limit(struct store *st, uint64_t subvol, uint64_t bytes)
{
	const struct btrfs *b = st->self;

	if (b->mode != QUOTA_SIMPLE)
		return b->mode == QUOTA_OFF ? 0 : qgroup_limit(st->root_fd, subvol, bytes);
	if (!bytes)
		return btrfs_forget_limit(st, subvol);
	int r = qgroup_create(st->root_fd, level_1(subvol));
	if (r == 0)
		r = qgroup_limit(st->root_fd, level_1(subvol), bytes);
	return r < 0 ? r : qgroup_assign(st->root_fd, subvol, level_1(subvol), true);
}

int btrfs_forget_limit(struct store *st, uint64_t subvol)
{
	int r;

	for (uint64_t member; (r = qgroup_member(st->root_fd, level_1(subvol), &member)) == 0;) {
		r = qgroup_assign(st->root_fd, member, level_1(subvol), false);
		if (r < 0)
			return r;
	}
	return r == -ENOENT ? qgroup_remove(st->root_fd, level_1(subvol)) : r;
}

/* ---- usage ---- */

struct sum {
	int fs;
	uint64_t bytes;
};

static int add_exclusive(void *arg, uint64_t id)
{
	struct sum *s = arg;
	struct qgroup_usage q;
	int r = qgroup_usage(s->fs, id, &q);

	if (r == 0)
		s->bytes += q.exclusive;
	return r == -ENOENT ? 0 : r; /* made since the last commit */
}

static int exclusive(struct store *st, int dirfd, bool with_below, uint64_t *ret)
{
	struct sum s = {.fs = st->root_fd};
	uint64_t id;
	int r = subvol_id_at(dirfd, "fs", &id);

	if (r == 0)
		r = add_exclusive(&s, id);
	if (r == 0 && with_below)
		r = subvol_each_below(st->root_fd, id, add_exclusive, &s);
	*ret = s.bytes;
	return r;
}

int btrfs_note_usage(struct store *st, struct snap *s, int dirfd)
{
	uint64_t bytes;
	int r = exclusive(st, dirfd, false, &bytes);

	if (r == 0)
		snprintf(s->own, sizeof(s->own), "bytes=%llu", (unsigned long long)bytes);
	return r;
}

/* Of a layer that was committed without quotas: what it has more than what it stands on. */
static int more_than_parent(struct store *st, const struct snap *s, int dirfd, uint64_t *ret)
{
	struct qgroup_usage own, below = {0};
	char path[LEAF_PATH];
	uint64_t id;
	int r = subvol_id_at(dirfd, "fs", &id);

	if (r == 0)
		r = qgroup_usage(st->root_fd, id, &own);
	if (r == 0 && s->parent) {
		store_leaf(s->parent, "fs", path);
		r = subvol_id_at(st->layers_fd, path, &id);
		if (r == 0)
			r = qgroup_usage(st->root_fd, id, &below);
	}
	*ret = r == 0 && own.referenced > below.referenced ? own.referenced - below.referenced : 0;
	return r == -ENOENT ? 0 : r;
}

/* Without quotas both trees are walked. */
static int walked(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u)
{
	struct usage below = {0};
	char path[LEAF_PATH];
	int r = store_tree_usage(st, op, dirfd, "fs", u);

	if (r == 0 && s->parent) {
		store_leaf(s->parent, "fs", path);
		r = store_tree_usage(st, op, st->layers_fd, path, &below);
	}
	u->bytes -= below.bytes < u->bytes ? below.bytes : u->bytes;
	u->inodes -= below.inodes < u->inodes ? below.inodes : u->inodes;
	return r;
}

int btrfs_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u)
{
	const struct btrfs *b = st->self;

	*u = (struct usage){0};
	if (s->kind == BERTH_SNAP_VIEW && s->parent)
		return 0;
	if (b->mode == QUOTA_OFF)
		return walked(st, op, s, dirfd, u);
	btrfs_quota_tend(st, op, false);
	if (s->kind != BERTH_SNAP_COMMITTED)
		return exclusive(st, dirfd, true, &u->bytes);
	if (b->mode == QUOTA_SIMPLE)
		return exclusive(st, dirfd, false, &u->bytes);
	return own_u64(s->own, "bytes", &u->bytes) ? 0 : more_than_parent(st, s, dirfd, &u->bytes);
}
