/* The file systems on the devices. */
#include "devmapper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "berth/util.h"

#define OPTIONS_MAX 48
#define MKFS_ARGS_MAX 48

bool fs_known(const char *fs)
{
	return strcmp(fs, "ext4") == 0 || strcmp(fs, "xfs") == 0;
}

/* ---- mkfs ---- */

/* Nothing is discarded or zeroed: a new device of the pool reads as zeros, unless the pool is told
 * not to zero new blocks. Then ext4's tables are written, once: left for later, every container
 * would have them written anew. */
static size_t ext4_args(const struct dm *d, bool prezeroed, const char **v)
{
	size_t n = 0;

	v[n++] = "mkfs.ext4";
	v[n++] = "-q";
	v[n++] = "-F";
	v[n++] = "-m";
	v[n++] = "0";
	v[n++] = "-E";
	v[n++] = prezeroed && d->zeroes ? "nodiscard,assume_storage_prezeroed=1"
	                                : "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
	return n;
}

static size_t xfs_args(const char **v)
{
	v[0] = "mkfs.xfs";
	v[1] = "-q";
	v[2] = "-f";
	v[3] = "-K";
	return 4;
}

static berth_status run_mkfs(
        struct store *st, struct berth_op *op, const char *path, const char *fs, bool prezeroed)
{
	struct dm *d = st->self;
	const char *v[MKFS_ARGS_MAX + 3];
	char *more = d->mkfs_options ? berth_dup(st->host, op, d->mkfs_options) : NULL,
	     *save = NULL;
	size_t n = strcmp(fs, "xfs") == 0 ? xfs_args(v) : ext4_args(d, prezeroed, v);

	for (char *o = more ? strtok_r(more, " ", &save) : NULL; o && n < MKFS_ARGS_MAX;
	        o = strtok_r(NULL, " ", &save))
		v[n++] = o;
	v[n++] = path;
	v[n] = NULL;
	return run_tool(st, op, "make the file system that all snapshots begin with", v, NULL);
}

/* Does this mkfs.ext4 know the option? It came with e2fsprogs 1.47. It is asked for its version,
 * for a failed run would fail the op. */
static bool knows_prezeroed(struct store *st, struct berth_op *op)
{
	static const char *const argv[] = {"/bin/sh", "-c", "mkfs.ext4 -V 2>&1", NULL};
	static const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
	const struct berth_run run = {.size = sizeof(run), .argv = argv, .envp = env};
	struct berth_run_result res = {.size = sizeof(res)};
	unsigned int major = 0, minor = 0;

	if (st->host->run(op, &run, &res) != BERTH_OK || !res.out)
		return false;
	return sscanf(res.out, "mke2fs %u.%u", &major, &minor) == 2 &&
	       (major > 1 || (major == 1 && minor >= 47));
}

berth_status fs_make(struct store *st, struct berth_op *op, const char *path, const char *fs)
{
	bool prezeroed = strcmp(fs, "ext4") == 0 && knows_prezeroed(st, op);

	return run_mkfs(st, op, path, fs, prezeroed);
}

/* ---- mounts ---- */

/* All snapshots of a file system have its UUID. */
static const char *needs(const char *fs)
{
	return strcmp(fs, "xfs") == 0 ? "nouuid" : NULL;
}

/* A view is clean, and must not be written to. */
static const char *without_log(const char *fs)
{
	return strcmp(fs, "xfs") == 0 ? "norecovery" : "noload";
}

const char *const *fs_options(struct store *st, struct berth_op *op, const char *fs, bool view)
{
	struct dm *d = st->self;
	const char **v = st->host->op_alloc(op, (OPTIONS_MAX + 1) * sizeof(*v));
	char *more = d->mount_options ? berth_dup(st->host, op, d->mount_options) : NULL,
	     *save = NULL;
	size_t n = 0;

	if (needs(fs))
		v[n++] = needs(fs);
	if (view) {
		v[n++] = "ro";
		v[n++] = without_log(fs);
	} else {
		/* A device that fails must not be written on. */
		if (strcmp(fs, "ext4") == 0)
			v[n++] = "errors=remount-ro";
		if (d->discard)
			v[n++] = "discard";
	}
	for (char *o = more ? strtok_r(more, ",", &save) : NULL; o && n < OPTIONS_MAX;
	        o = strtok_r(NULL, ",", &save))
		v[n++] = o;
	return v;
}

static int configure(const struct dm *d, int fsfd, const char *path, const char *fs, bool readonly)
{
	if (fsconfig(fsfd, FSCONFIG_SET_STRING, "source", path, 0) < 0)
		return -errno;
	if (needs(fs) && fsconfig(fsfd, FSCONFIG_SET_FLAG, needs(fs), NULL, 0) < 0)
		return -errno;
	if (readonly && (fsconfig(fsfd, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
	                        fsconfig(fsfd, FSCONFIG_SET_FLAG, without_log(fs), NULL, 0) < 0))
		return -errno;
	if (!readonly && strcmp(fs, "ext4") == 0 &&
	        fsconfig(fsfd, FSCONFIG_SET_STRING, "errors", "remount-ro", 0) < 0)
		return -errno;
	if (!readonly && d->discard && fsconfig(fsfd, FSCONFIG_SET_FLAG, "discard", NULL, 0) < 0)
		return -errno;
	return fsconfig(fsfd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
}

int fs_open(struct dm *d, const char *path, const char *fs, bool readonly)
{
	int fsfd = fsopen(fs, FSOPEN_CLOEXEC);

	if (fsfd < 0)
		return -errno;
	int r = configure(d, fsfd, path, fs, readonly);
	int mnt = r < 0 ? r : fsmount(fsfd, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (r == 0 && mnt < 0)
		mnt = -errno;
	close(fsfd);
	if (mnt < 0)
		return mnt;
	/* The mount's own descriptor is of no use for syncfs() and ioctls. */
	int fd = openat(mnt, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	close(mnt);
	return fd;
}

int fs_totals(int fd, struct fs_totals *ret)
{
	struct statfs s;

	if (fstatfs(fd, &s) < 0)
		return -errno;
	ret->bytes = (uint64_t)(s.f_blocks - s.f_bfree) * (uint64_t)s.f_bsize;
	ret->files = (uint64_t)(s.f_files - s.f_ffree);
	return 0;
}

/* ---- growing ---- */

/* Of the kernel's ABI, but in none of its exported headers. */
#define RESIZE_EXT4 _IOW('f', 16, uint64_t)
struct xfs_geometry {
	uint32_t blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
	uint64_t datablocks, rtblocks, rtextents, logstart;
	uint8_t uuid[16];
	uint32_t sunit, swidth;
	int32_t version;
	uint32_t flags, logsectsize, rtsectsize, dirblocksize;
};
struct xfs_grow {
	uint64_t newblocks;
	uint32_t imaxpct;
};
#define GEOMETRY_XFS _IOR('X', 100, struct xfs_geometry)
#define GROW_XFS _IOW('X', 110, struct xfs_grow)

int fs_grow(int fd, const char *fs, uint64_t size)
{
	if (strcmp(fs, "xfs") == 0) {
		struct xfs_geometry g;
		if (ioctl(fd, GEOMETRY_XFS, &g) < 0)
			return -errno;
		struct xfs_grow grow = {.newblocks = size / g.blocksize, .imaxpct = g.imaxpct};
		return ioctl(fd, GROW_XFS, &grow) < 0 ? -errno : 0;
	}
	struct statfs s;
	if (fstatfs(fd, &s) < 0)
		return -errno;
	uint64_t blocks = size / (uint64_t)s.f_bsize;
	return ioctl(fd, RESIZE_EXT4, &blocks) < 0 ? -errno : 0;
}
