/* A storage driver on storage-common whose content lies outside of the store: "devices" are files
 * in STATE/devices, numbered as the meta files say. For test_storage_common.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "berth/util.h"
#include "storage-common/store.h"

struct toy {
	int devices_fd;
	uint64_t next; /* atomic */
};

static char root[4096]; /* of the only store: these two are for one */

static bool told(const char *name)
{
	char path[sizeof(root) + 32];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	return unlink(path) == 0;
}

/* What storage-common calls: fails once where a file says so. */
int fsync(int fd)
{
	if (!told("fail-fsync"))
		return (int)syscall(SYS_fsync, fd);
	errno = EIO;
	return -1;
}

int syncfs(int fd)
{
	if (!told("fail-syncfs"))
		return (int)syscall(SYS_syncfs, fd);
	errno = EIO;
	return -1;
}

static berth_status toy_configure(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct toy *t = st->self = calloc(1, sizeof(*t));
	char path[4096];

	(void)c;
	snprintf(root, sizeof(root), "%s", st->root);
	snprintf(path, sizeof(path), "%s/devices", st->root);
	(void)mkdir(path, 0700);
	t->devices_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	t->next = 1;
	return t->devices_fd < 0 ? store_fail(st, op, errno, "open", "devices")
	                         : (berth_status)BERTH_OK;
}

static int note(void *arg, const char *in, const char *name, const struct meta *m)
{
	struct toy *t = arg;
	uint64_t id;

	(void)in;
	(void)name;
	if (m && own_u64(m->own, "dev", &id) && id >= t->next)
		t->next = id + 1;
	return 0;
}

static berth_status toy_start(struct store *st, struct berth_op *op)
{
	int r = store_each(st, note, st->self);

	return r < 0 ? store_fail(st, op, r, "read", "all") : (berth_status)BERTH_OK;
}

static void toy_finish(struct store *st)
{
	struct toy *t = st->self;

	if (t)
		close(t->devices_fd);
	free(t);
}

static berth_status toy_plan(
        struct store *st, struct berth_op *op, struct snap *s, const struct berth_snap_args *a)
{
	struct toy *t = st->self;

	(void)op;
	(void)a;
	snprintf(s->own, sizeof(s->own), "dev=%llu state=new",
	        (unsigned long long)__atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED));
	return BERTH_OK;
}

static bool there(struct store *st, const char *name)
{
	return faccessat(st->root_fd, name, F_OK, 0) == 0;
}

static berth_status toy_make(struct store *st, struct berth_op *op, const struct snap *s, int dirfd,
        const struct berth_snap_args *a)
{
	struct toy *t = st->self;
	char name[32], meta[META_LIMIT];
	uint64_t id;

	(void)a;
	/* The intent is written down by now. */
	if (!own_u64(s->own, "dev", &id) ||
	        store_read_small(dirfd, "meta", meta, sizeof(meta)) < 0 || !strstr(meta, s->own))
		return store_fail(st, op, EBADMSG, "find its intent", s->key);
	snprintf(name, sizeof(name), "%llu", (unsigned long long)id);
	int fd = openat(t->devices_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return store_fail(st, op, errno, "make its device", s->key);
	close(fd);
	return there(st, "fail") ? store_fail(st, op, ENOSPC, "fill its device", s->key)
	                         : (berth_status)BERTH_OK;
}

static berth_status toy_seal(struct store *st, struct berth_op *op, struct snap *s, int dirfd)
{
	uint64_t id;

	(void)st;
	(void)op;
	(void)dirfd;
	if (own_u64(s->own, "dev", &id))
		snprintf(s->own, sizeof(s->own), "dev=%llu state=sealed", (unsigned long long)id);
	return BERTH_OK;
}

static berth_status toy_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res)
{
	static const char *const none[] = {NULL};
	char *source = st->host->op_alloc(op, OWN_LIMIT + 1);

	memcpy(source, s->own, strlen(s->own) + 1);
	return store_mount(st, op, "toy", source, none, res);
}

static int toy_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m)
{
	struct toy *t = st->self;
	char name[32];
	uint64_t id;

	(void)op;
	(void)dirfd;
	if (!m || !own_u64(m->own, "dev", &id))
		return 0;
	if (there(st, "busy"))
		return -EBUSY;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)id);
	return unlinkat(t->devices_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int toy_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u)
{
	(void)op;
	(void)s;
	(void)dirfd;
	if (unlinkat(st->root_fd, "slow", 0) == 0)
		usleep(300000);
	*u = (struct usage){.bytes = 4711, .inodes = 42};
	return 0;
}

static const struct store_driver driver = {
        .chain_limit = 4,
        .outside = true,
        .configure = toy_configure,
        .start = toy_start,
        .finish = toy_finish,
        .plan = toy_plan,
        .make = toy_make,
        .seal = toy_seal,
        .describe = toy_describe,
        .destroy = toy_destroy,
        .usage = toy_usage,
};

STORE_PLUGIN("store-driver", 0)
