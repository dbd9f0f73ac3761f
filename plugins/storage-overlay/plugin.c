/* Life of the driver: configuration, the state directory, start. */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "berth/util.h"

static int subdir(int root, const char *name)
{
	/* Others than root pass through on the way to a root file system of their own. */
	if (mkdirat(root, name, 0711) < 0 && errno != EEXIST)
		return -1;
	return openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ext4 puts directories made here far from each other. Otherwise all layers share a few block
 * groups, and where images come and go each new file there is searched for past all inodes that
 * were freed in the last minutes, which ext4 does not use again yet. Other file systems do not know
 * the flag, and do not need it. */
static void spread(int fd)
{
	int flags = 0;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && !(flags & FS_TOPDIR_FL)) {
		flags |= FS_TOPDIR_FL;
		(void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
	}
}

static void overlay_destroy(void *self)
{
	struct driver *d = self;
	const int fds[] = {d->root_fd, d->layers_fd, d->active_fd, d->new_fd, d->trash_fd};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	index_finish(&d->index);
	free(d->extra_options);
	free(d->root);
	free(d);
}

static berth_status open_dirs(struct driver *d, struct berth_op *op)
{
	static const char *const names[] = {"layers", "active", "new", "trash"};
	int *const fds[] = {&d->layers_fd, &d->active_fd, &d->new_fd, &d->trash_fd};

	d->root_fd = open(d->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->root_fd < 0)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "storage-overlay: state directory '%s': %s", d->root, strerror(errno));
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		*fds[i] = subdir(d->root_fd, names[i]);
		if (*fds[i] < 0)
			return berth_fail(d->host, op, BERTH_E_PRECONDITION,
			        "storage-overlay: directory '%s/%s': %s", d->root, names[i],
			        strerror(errno));
	}
	spread(d->new_fd); /* where layers and containers begin */
	return BERTH_OK;
}

static berth_status configure(struct driver *d, struct berth_op *op, const struct berth_conf *c)
{
	const char *extra = d->host->conf_str(c, "mount_options", NULL);

	d->use_volatile = d->host->conf_bool(c, "volatile", 1) != 0;
	if (extra && *extra) {
		static const char *const ours[] = {"lowerdir", "upperdir", "workdir"};
		for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
			if (strstr(extra, ours[i]))
				return berth_fail(d->host, op, BERTH_E_INVALID,
				        "storage-overlay: mount_options '%s': '%s' is the "
				        "driver's own",
				        extra, ours[i]);
		d->extra_options = strdup(extra);
		if (!d->extra_options)
			return berth_fail(d->host, op, BERTH_E_EXHAUSTED,
			        "storage-overlay: no memory for mount_options");
	}
	return BERTH_OK;
}

static berth_status overlay_create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	struct driver *d = calloc(1, sizeof(*d));

	if (!d)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "storage-overlay: no memory");
	d->host = h;
	d->root_fd = d->layers_fd = d->active_fd = d->new_fd = d->trash_fd = -1;
	index_init(&d->index);
	/* Names in the trash must not meet those of an earlier run too often. */
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	d->serial = (uint64_t)now.tv_sec << 20;
	d->root = strdup(h->state_dir);
	berth_status st = BERTH_OK;
	if (!d->root)
		st = berth_fail(h, op, BERTH_E_EXHAUSTED, "storage-overlay: no memory");
	char boot[64];
	int r = read_small(AT_FDCWD, "/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
	if (st == BERTH_OK && r < 0)
		st = berth_fail(h, op, BERTH_E_PRECONDITION,
		        "storage-overlay: read the boot id: %s", strerror(-r));
	if (r == 0)
		memcpy(d->boot, boot, BOOT_ID_LEN);
	if (st == BERTH_OK)
		st = configure(d, op, c);
	if (st == BERTH_OK)
		st = open_dirs(d, op);
	if (st == BERTH_OK)
		st = probe_overlay(d, op);
	if (st != BERTH_OK) {
		overlay_destroy(d);
		return st;
	}
	*self = d;
	return BERTH_OK;
}

#define SWEEP_FIRST_NS 1000000000ull /* leftovers wait until the start is over */
#define SWEEP_AGAIN_NS 5000000000ull

static void sweep(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	struct driver *d = arg;
	char where[NAME_LIMIT + 1], msg[512];

	(void)events;
	int r = trash_empty(d, op, where);
	/* Not by a stop: the op's own deadline. What cannot be deleted is left to cleanup(). */
	if (r == -ECANCELED && !__atomic_load_n(&d->stopping, __ATOMIC_RELAXED))
		d->host->rearm(w, 0, SWEEP_AGAIN_NS);
	if (r == 0 || r == -ECANCELED)
		return;
	snprintf(msg, sizeof(msg), "storage-overlay: delete '%s/trash/%s': %s", d->root, where,
	        strerror(-r));
	d->host->log(d->host, op, BERTH_LOG_WARN, msg);
}

static berth_status overlay_start(struct berth_op *op, void *self)
{
	struct driver *d = self;
	berth_status st = load_all(d, op);

	if (st != BERTH_OK)
		return st;
	return d->host->watch_after(d->host, SWEEP_FIRST_NS, sweep, d, &d->sweeper);
}

static berth_status overlay_stop(struct berth_op *op, void *self)
{
	struct driver *d = self;

	(void)op;
	__atomic_store_n(&d->stopping, true, __ATOMIC_RELAXED);
	if (d->sweeper)
		d->host->unwatch(d->sweeper);
	d->sweeper = NULL;
	return BERTH_OK;
}

static const struct berth_plugin plugin = {
        .size = sizeof(plugin),
        .abi_minor = BERTH_ABI_MINOR,
        .features = BERTH_F_DETACHED_LAYERS | BERTH_F_WHITEOUT_OVERLAY | BERTH_F_IDMAP,
        .name = "storage-overlay",
        .version = "0.1",
        .storage = &overlay_ops,
        .create = overlay_create,
        .start = overlay_start,
        .stop = overlay_stop,
        .destroy = overlay_destroy,
};

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
