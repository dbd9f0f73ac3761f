/* Limits by project quota: what a container writes has a project id of its own, which xfs and ext4
 * count and limit. So usage needs no walk, either.
 *
 * The id is in the snapshot's meta file, as "project=N". The limit is in the file system; it goes
 * when the snapshot does. */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "berth/util.h"

#ifndef PRJQUOTA
#define PRJQUOTA 2
#endif
#define BASIC_BLOCK 512 /* what these calls count in */
#define PICK_TRIES 4096 /* ids that others use, one behind the other */
#define PROBE_DIR "quota-probe"
#define PROBE_BLOCKS 2048

static int ask(struct store *st, int cmd, uint32_t id, void *arg)
{
	unsigned int qcmd = QCMD((unsigned int)cmd, PRJQUOTA);

	return syscall(SYS_quotactl_fd, st->root_fd, qcmd, id, arg) < 0 ? -errno : 0;
}

static int get_record(struct store *st, uint32_t id, struct fs_disk_quota *ret)
{
	*ret = (struct fs_disk_quota){0};
	int r = ask(st, Q_XGETQUOTA, id, ret);
	return r == -ENOENT ? 0 : r;
}

/* In bytes and inodes, 0 = none. */
static int set_limits(struct store *st, uint32_t id, uint64_t bytes, uint64_t inodes)
{
	/* Not 0 by rounding: that is none. */
	uint64_t blocks = bytes / BASIC_BLOCK + (bytes % BASIC_BLOCK != 0);
	struct fs_disk_quota q = {.d_version = FS_DQUOT_VERSION,
	        .d_id = id,
	        .d_flags = FS_PROJ_QUOTA,
	        .d_fieldmask = FS_DQ_BHARD | FS_DQ_BSOFT | FS_DQ_IHARD | FS_DQ_ISOFT,
	        .d_blk_hardlimit = blocks,
	        .d_blk_softlimit = blocks,
	        .d_ino_hardlimit = inodes,
	        .d_ino_softlimit = inodes};

	return ask(st, Q_XSETQLIM, id, &q);
}

static int set_project(int dirfd, const char *name, uint32_t id)
{
	struct fsxattr x;
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0) {
		r = -errno;
	} else {
		x.fsx_projid = id;
		x.fsx_xflags |= FS_XFLAG_PROJINHERIT;
		if (ioctl(fd, FS_IOC_FSSETXATTR, &x) < 0)
			r = -errno;
	}
	if (r == 0 && (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0 || x.fsx_projid != id))
		r = -EOPNOTSUPP;
	close(fd);
	return r;
}

/* An id that nothing has: neither a file nor a limit of ours or of others. */
static int pick(struct store *st, uint32_t *ret)
{
	struct overlay *o = st->self;
	struct fs_disk_quota q;

	for (int i = 0; i < PICK_TRIES; i++) {
		uint32_t id = __atomic_fetch_add(&o->next_project, 1, __ATOMIC_RELAXED);
		if (id < o->first_project)
			continue; /* it has wrapped */
		int r = get_record(st, id, &q);
		if (r < 0)
			return r;
		if (q.d_bcount || q.d_icount || q.d_blk_hardlimit || q.d_ino_hardlimit)
			continue;
		*ret = id;
		return 0;
	}
	return -EBUSY;
}

/* ---- probing ---- */

static int try_project(struct store *st, int fd, char why[256])
{
	struct fs_disk_quota q;
	uint32_t id;

	int r = pick(st, &id);
	if (r < 0) {
		snprintf(why, 256, "no project id can be had");
		return r;
	}
	r = set_project(fd, PROBE_DIR, id);
	if (r < 0) {
		snprintf(why, 256, "a directory cannot be given a project id");
		return r;
	}
	r = set_limits(st, id, (uint64_t)PROBE_BLOCKS * BASIC_BLOCK, 0);
	if (r == 0)
		r = get_record(st, id, &q);
	(void)set_limits(st, id, 0, 0);
	if (r == 0 && q.d_blk_hardlimit != PROBE_BLOCKS)
		r = -EOPNOTSUPP;
	/* The directory itself. */
	if (r == 0 && q.d_icount != 1)
		r = -EOPNOTSUPP;
	if (r < 0)
		snprintf(why, 256, "a limit cannot be set and read back");
	return r;
}

static int try_quota(struct store *st, struct berth_op *op, char why[256])
{
	struct fs_quota_stat state = {.qs_version = FS_QSTAT_VERSION};

	int r = ask(st, Q_XGETQSTAT, 0, &state);
	if (r < 0) {
		snprintf(why, 256,
		        "the file system, or this kernel, has no quota (xfs or ext4 mounted with "
		        "prjquota has)");
		return r;
	}
	if (!(state.qs_flags & FS_QUOTA_PDQ_ACCT) || !(state.qs_flags & FS_QUOTA_PDQ_ENFD)) {
		snprintf(why, 256, "project quota is not %s: the mount option prjquota is missing",
		        state.qs_flags & FS_QUOTA_PDQ_ACCT ? "enforced" : "on");
		return -ESRCH;
	}
	(void)store_delete_tree(st, op, st->new_fd, PROBE_DIR);
	if (mkdirat(st->new_fd, PROBE_DIR, 0700) < 0) {
		snprintf(why, 256, "cannot make a directory");
		return -errno;
	}
	r = try_project(st, st->new_fd, why);
	(void)store_delete_tree(st, op, st->new_fd, PROBE_DIR);
	return r;
}

void quota_probe(struct store *st, struct berth_op *op)
{
	struct overlay *o = st->self;
	char why[256] = "";
	int r = o->program ? -EOPNOTSUPP : try_quota(st, op, why);

	if (o->program) /* root writes, and root may exceed a limit */
		snprintf(why, sizeof(why), "mount_program is used");

	o->quota = r == 0;
	o->next_project = o->first_project;
	if (o->quota)
		st->features |= BERTH_F_QUOTA;
	else if (asprintf(&st->no_quota, "%s: %s", why, strerror(-r)) < 0)
		abort();
}

/* ---- snapshots ---- */

static int note_project(void *arg, const char *in, const char *name, const struct meta *m)
{
	struct overlay *o = arg;
	uint64_t id;

	(void)in;
	(void)name;
	if (m && own_u64(m->own, "project", &id) && id >= o->next_project && id < UINT32_MAX)
		o->next_project = (uint32_t)id + 1;
	return 0;
}

berth_status quota_start(struct store *st, struct berth_op *op)
{
	struct overlay *o = st->self;

	int r = o->quota ? store_each(st, note_project, o) : 0;
	if (r < 0)
		return berth_fail(st->host, op, BERTH_E_INTERNAL,
		        "%s: read the snapshots in '%s': %s", st->host->plugin_name, st->root,
		        strerror(-r));
	return BERTH_OK;
}

int quota_plan(struct store *st, struct snap *s)
{
	const struct overlay *o = st->self;
	uint32_t id;

	if (!o->quota)
		return 0;
	int r = pick(st, &id);
	if (r == 0)
		snprintf(s->own, sizeof(s->own), "project=%u", id);
	return r;
}

static bool project_of(const char *own, uint32_t *ret)
{
	uint64_t id;

	if (!own_u64(own, "project", &id) || id == 0 || id > UINT32_MAX)
		return false;
	*ret = (uint32_t)id;
	return true;
}

int quota_apply(struct store *st, const struct snap *s, int dirfd, bool work,
        const struct berth_snap_args *a)
{
	uint32_t id;

	if (!project_of(s->own, &id))
		return 0;
	int r = set_project(dirfd, "fs", id);
	if (r == 0 && work)
		r = set_project(dirfd, "work", id);
	if (r == 0 && (a->size_limit || a->inode_limit))
		r = set_limits(st, id, a->size_limit, a->inode_limit);
	return r;
}

int quota_lift(struct store *st, const char *own)
{
	const struct overlay *o = st->self;
	struct fs_disk_quota q;
	uint32_t id;

	if (!o->quota || !project_of(own, &id))
		return 0;
	int r = get_record(st, id, &q);
	return r == 0 && (q.d_blk_hardlimit || q.d_ino_hardlimit) ? set_limits(st, id, 0, 0) : r;
}

int quota_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u)
{
	const struct overlay *o = st->self;
	struct fs_disk_quota q;
	uint32_t id;

	/* One that was made while there was no quota, or a layer. */
	if (!o->quota || !project_of(s->own, &id))
		return store_tree_usage(st, op, dirfd, "fs", u);
	int r = get_record(st, id, &q);
	if (r < 0)
		return r;
	u->bytes = q.d_bcount * BASIC_BLOCK;
	u->inodes = q.d_icount;
	return 0;
}
