/* A pool on two files of the state directory: for trials. The files' loop devices belong to the
 * pool: they go when it goes. */
#include "devmapper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "berth/util.h"

#define CHUNK_SECTORS 128 /* 64 KiB: what a container's first write to a place copies */
#define METADATA_SHARE 256
#define METADATA_MIN (16ull << 20)
#define METADATA_MAX (15ull << 30) /* the kernel's limit is a little below 16 GiB */
#define ATTACH_TRIES 32
/* What the file system of the files must have for what the pool has not used. */
#define FILES_ROOM (32ull << 20)

static berth_status fail_file(
        struct store *st, struct berth_op *op, const char *what, const char *name, int e)
{
	errno = e < 0 ? -e : e;
	return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: %s '%s/%s': %s",
	        st->host->plugin_name, what, st->root, name, strerror(errno));
}

/* A file that is there keeps its size, or grows. Of metadata all has its room: a pool that cannot
 * write its own is lost until somebody repairs it. */
static int open_file(struct store *st, const char *name, uint64_t size, bool sparse)
{
	int fd = openat(st->root_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat s;

	if (fd < 0)
		return -errno;
	int r = fstat(fd, &s);
	if (r == 0 && (uint64_t)s.st_size < size)
		r = ftruncate(fd, (off_t)size);
	if (r == 0 && !sparse && fallocate(fd, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP)
		r = -1;
	if (r < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static int attach_to(int number, int file, const char *name)
{
	struct loop_config c = {.fd = (uint32_t)file,
	        .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO}};
	char path[32];

	snprintf(path, sizeof(path), "/dev/loop%d", number);
	snprintf((char *)c.info.lo_file_name, sizeof(c.info.lo_file_name), "%s", name);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, LOOP_CONFIGURE, &c) < 0) {
		int e = -errno;
		close(fd);
		return e;
	}
	return fd;
}

/* A loop device on the file; it detaches itself when it is closed and no pool has it. */
static int attach(int file, const char *name)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -EBUSY;

	if (control < 0)
		return -errno;
	/* Between the question and the answer another may take it. */
	for (int i = 0; i < ATTACH_TRIES && fd == -EBUSY; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		fd = number < 0 ? -errno : attach_to(number, file, name);
	}
	close(control);
	return fd;
}

static int device_of(int fd, char text[32], uint64_t *sectors)
{
	struct stat s;
	uint64_t bytes;

	if (fstat(fd, &s) < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		return -errno;
	snprintf(text, 32, "%u:%u", major(s.st_rdev), minor(s.st_rdev));
	if (sectors)
		*sectors = bytes / SECTOR;
	return 0;
}

static bool all_zero(int fd)
{
	char block[4096];
	ssize_t n = pread(fd, block, sizeof(block), 0);

	for (ssize_t i = 0; i < n; i++)
		if (block[i])
			return false;
	return n == (ssize_t)sizeof(block);
}

static berth_status check_metadata(struct store *st, struct berth_op *op, int file)
{
	char path[PATH_LIMIT];

	if (all_zero(file)) /* new: the kernel formats it */
		return BERTH_OK;
	int n = snprintf(path, sizeof(path), "%s/metadata", st->root);
	if (n < 0 || n >= PATH_LIMIT)
		return fail_file(st, op, "path of", "metadata", ENAMETOOLONG);
	return run_tool(st, op,
	        "the thin pool's metadata is damaged (thin_repair writes a repaired copy of the "
	        "file to another)",
	        (const char *const[]){"thin_check", "-q", path, NULL}, NULL);
}

static berth_status make_pool(struct store *st, struct berth_op *op, int data, int metadata)
{
	struct dm *d = st->self;
	char data_dev[32], meta_dev[32], params[128];
	uint64_t sectors;
	int data_loop = attach(data, "berth-data");
	int meta_loop = data_loop < 0 ? data_loop : attach(metadata, "berth-metadata");
	int r = meta_loop < 0 ? meta_loop : device_of(meta_loop, meta_dev, NULL);

	if (r == 0)
		r = device_of(data_loop, data_dev, &sectors);
	if (r == 0) {
		/* Full is an error at once: a writer that waits for space cannot be killed. */
		snprintf(params, sizeof(params), "%s %s %d %" PRIu64 " 1 error_if_no_space",
		        meta_dev, data_dev, CHUNK_SECTORS, sectors / CHUNK_SECTORS / 20);
		const struct dm_table t = {.sectors = sectors - sectors % CHUNK_SECTORS,
		        .type = "thin-pool",
		        .params = params};
		r = dm_make(d->ctl, d->pool, &t, &d->pool_dev);
		d->pool_made = r == 0;
	}
	if (meta_loop >= 0)
		close(meta_loop);
	if (data_loop >= 0)
		close(data_loop);
	if (r == 0)
		return BERTH_OK;
	errno = -r;
	return berth_fail(st->host, op, BERTH_E_PRECONDITION,
	        "%s: thin pool on loop devices in '%s': %s", st->host->plugin_name, st->root,
	        strerror(-r));
}

bool pool_files_full(const struct dm *d, const struct pool_status *s, uint64_t *ret_free)
{
	struct statvfs v;

	if (d->files_fd < 0 || fstatvfs(d->files_fd, &v) < 0)
		return false;
	*ret_free = (uint64_t)v.f_bfree * v.f_frsize;
	uint64_t rest = (s->data_total - s->data_used) * CHUNK_SECTORS * SECTOR;
	return *ret_free < (rest < FILES_ROOM ? rest : FILES_ROOM);
}

berth_status pool_on_files(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	struct dm_dev there;
	char msg[512];
	uint64_t meta = d->loop_size / METADATA_SHARE;

	d->files_fd = st->root_fd;
	snprintf(d->pool, sizeof(d->pool), "berth-%s-pool", d->tag);
	snprintf(msg, sizeof(msg),
	        "%s: the thin pool lies on loop files in '%s': good for trials, slow and not meant "
	        "for a node that matters",
	        st->host->plugin_name, st->root);
	st->host->log(st->host, op, BERTH_LOG_WARN, msg);
	if (dm_find(d->ctl, d->pool, &there) == 0 && there.live)
		return BERTH_OK;                 /* of an earlier run */
	(void)dm_remove(d->ctl, d->pool, false); /* killed between making it and its table */
	meta = meta < METADATA_MIN ? METADATA_MIN : meta > METADATA_MAX ? METADATA_MAX : meta;
	int data_fd = open_file(st, "data", d->loop_size, true);
	if (data_fd < 0)
		return fail_file(st, op, "file", "data", data_fd);
	int meta_fd = open_file(st, "metadata", meta & ~4095ull, false);
	berth_status r = meta_fd < 0 ? fail_file(st, op, "file", "metadata", meta_fd)
	                             : check_metadata(st, op, meta_fd);
	if (r == BERTH_OK)
		r = make_pool(st, op, data_fd, meta_fd);
	if (meta_fd >= 0)
		close(meta_fd);
	close(data_fd);
	return r;
}
