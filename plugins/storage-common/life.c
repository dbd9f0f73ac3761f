/* Life of a store: create, start, stop, destroy. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/util.h"

#define SWEEP_FIRST_NS 1000000000ull /* leftovers wait until the start is over */

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

static berth_status open_dirs(struct store *st, struct berth_op *op)
{
	static const char *const names[] = {"layers", "active", "new", "trash"};
	int *const fds[] = {&st->layers_fd, &st->active_fd, &st->new_fd, &st->trash_fd};
	const char *who = st->host->plugin_name;

	st->root_fd = open(st->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (st->root_fd < 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: state directory '%s': %s", who, st->root, strerror(errno));
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		*fds[i] = subdir(st->root_fd, names[i]);
		if (*fds[i] < 0)
			return berth_fail(st->host, op, BERTH_E_PRECONDITION,
			        "%s: directory '%s/%s': %s", who, st->root, names[i],
			        strerror(errno));
	}
	spread(st->new_fd); /* where layers and containers begin */
	return BERTH_OK;
}

static berth_status read_boot(struct store *st, struct berth_op *op)
{
	char boot[64];
	int r = store_read_small(AT_FDCWD, "/proc/sys/kernel/random/boot_id", boot, sizeof(boot));

	if (r < 0) {
		errno = -r;
		return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: read the boot id: %s",
		        st->host->plugin_name, strerror(-r));
	}
	memcpy(st->boot, boot, BOOT_ID_LEN);
	return BERTH_OK;
}

static struct store *new_store(const struct store_driver *driver, const struct berth_host *h)
{
	struct store *st = calloc(1, sizeof(*st));
	struct store_own *own = calloc(1, sizeof(*own));
	char *root = strdup(h->state_dir);

	if (!st || !own || !root) {
		free(st);
		free(own);
		free(root);
		return NULL;
	}
	index_init(&own->index);
	pthread_mutex_init(&own->destroying, NULL);
	/* Names in the trash must not meet those of an earlier run too often. */
	own->serial = (store_now_ns(CLOCK_REALTIME) / 1000000000ull) << 20;
	*st = (struct store){.host = h,
	        .driver = driver,
	        .root = root,
	        .root_fd = -1,
	        .layers_fd = -1,
	        .active_fd = -1,
	        .new_fd = -1,
	        .trash_fd = -1,
	        .features = driver->features,
	        .own = own};
	return st;
}

berth_status store_create(const struct store_driver *driver, struct berth_op *op,
        const struct berth_host *h, const struct berth_conf *c, void **self)
{
	struct store *st = new_store(driver, h);

	if (!st)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "%s: no memory", h->plugin_name);
	berth_status r = read_boot(st, op);
	if (r == BERTH_OK)
		r = driver->configure(st, op, c);
	if (r == BERTH_OK)
		r = open_dirs(st, op);
	if (r == BERTH_OK && driver->probe)
		r = driver->probe(st, op);
	if (r != BERTH_OK) {
		store_destroy(st);
		return r;
	}
	st->own->features = (struct berth_features){.size = sizeof(st->own->features),
	        .features = st->features,
	        .no_quota = st->no_quota};
	*self = st;
	return BERTH_OK;
}

berth_status store_start(struct berth_op *op, void *self)
{
	struct store *st = self;
	berth_status r = load_all(st, op);

	if (r == BERTH_OK && st->driver->start)
		r = st->driver->start(st, op);
	if (r != BERTH_OK)
		return r;
	return st->host->watch_after(st->host, SWEEP_FIRST_NS, trash_sweep, st, &st->own->sweeper);
}

const void *store_extension(void *self, const char *id)
{
	struct store *st = self;

	return strcmp(id, BERTH_FEATURES_EXT) == 0 ? &st->own->features : NULL;
}

berth_status store_stop(struct berth_op *op, void *self)
{
	struct store *st = self;

	__atomic_store_n(&st->own->stopping, true, __ATOMIC_RELAXED);
	if (st->own->sweeper)
		st->host->unwatch(st->own->sweeper);
	st->own->sweeper = NULL;
	if (st->driver->stop)
		st->driver->stop(st, op);
	return BERTH_OK;
}

void store_destroy(void *self)
{
	struct store *st = self;
	const int fds[] = {st->root_fd, st->layers_fd, st->active_fd, st->new_fd, st->trash_fd};

	if (st->driver->finish)
		st->driver->finish(st);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	index_finish(&st->own->index);
	while (st->own->strange) {
		struct strange *s = st->own->strange;
		st->own->strange = s->next;
		free(s->key);
		free(s);
	}
	pthread_mutex_destroy(&st->own->destroying);
	free(st->own);
	free(st->no_quota);
	free(st->root);
	free(st);
}
