/* A storage driver on storage-common whose content lies outside of the store: "devices" are files
 * in STATE/devices, numbered as the meta files say. Or, with `inside`, one whose content is files,
 * and whose layers learn their parent at the commit. For the tests of store_fixture.h. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "berth/util.h"
#include "storage-common/store.h"

#define NUMBERS 256 /* of devices */

struct toy {
	int devices_fd;
	bool taken[NUMBERS + 1]; /* atomic, each */
	int cursor; /* atomic: a number is used again late, as a dead one may come back */
};

static char root[4096]; /* of the only store: this and what follows is for one */

/* ---- what storage-common calls fails, waits or dies where a file says so ---- */

static bool in_root(const char *name, char path[sizeof(root) + 32])
{
	snprintf(path, sizeof(root) + 32, "%s/%s", root, name);
	return access(path, F_OK) == 0;
}

/* The file NAME, "SKIP ERRNO" or empty: after SKIP calls one fails. 0: not this one. */
static int told(const char *name)
{
	char path[sizeof(root) + 32], text[32] = "";
	int skip = 0, err = EIO;

	if (!in_root(name, path))
		return 0;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && syscall(SYS_read, fd, text, sizeof(text) - 1) > 0)
		(void)sscanf(text, "%d %d", &skip, &err);
	if (skip > 0) {
		int n = snprintf(text, sizeof(text), "%d %d  ", skip - 1, err);
		(void)!pwrite(fd, text, (size_t)n, 0);
	} else {
		unlink(path);
	}
	close(fd);
	return skip > 0 ? 0 : err;
}

static struct {
	int from, to;
	char old[64], new[64];
} renamed[64]; /* that a power cut undoes */
static size_t n_renamed;
static pthread_mutex_t faults = PTHREAD_MUTEX_INITIALIZER;

static bool same(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino;
}

static void remember(int from, const char *old, int to, const char *new)
{
	if (n_renamed == sizeof(renamed) / sizeof(renamed[0]))
		n_renamed = 0;
	renamed[n_renamed].from = from;
	renamed[n_renamed].to = to;
	snprintf(renamed[n_renamed].old, sizeof(renamed[0].old), "%s", old);
	snprintf(renamed[n_renamed++].new, sizeof(renamed[0].new), "%s", new);
}

/* A rename is sure once the directory that it was in, or that it went to, is synced. */
static void forget(int fd)
{
	size_t n = 0;

	for (size_t i = 0; i < n_renamed; i++)
		if (!same(fd, renamed[i].from) && !same(fd, renamed[i].to))
			renamed[n++] = renamed[i];
	n_renamed = n;
}

/* Before each step that changes the disk. The file "die", "N" or "N cut": at the Nth step the
 * process is killed, or the power is cut. */
static void step(void)
{
	static int left;
	static bool cut;
	char path[sizeof(root) + 32], text[32] = "";

	if (in_root("die", path)) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		(void)!syscall(SYS_read, fd, text, sizeof(text) - 1);
		close(fd);
		unlink(path);
		left = atoi(text);
		cut = strstr(text, "cut");
	}
	if (left == 0 || --left > 0)
		return;
	for (; cut && n_renamed > 0; n_renamed--)
		(void)syscall(SYS_renameat2, renamed[n_renamed - 1].to, renamed[n_renamed - 1].new,
		        renamed[n_renamed - 1].from, renamed[n_renamed - 1].old, RENAME_NOREPLACE);
	kill(getpid(), SIGKILL);
}

static int begin(const char *name)
{
	pthread_mutex_lock(&faults);
	step();
	int e = told(name);
	pthread_mutex_unlock(&faults);
	return e;
}

int fsync(int fd)
{
	char path[sizeof(root) + 32];

	for (; in_root("hold-fsync", path); usleep(1000))
		(void)close(open(strcat(path, ".there"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	int e = begin("fail-fsync");
	if (e == 0 && syscall(SYS_fsync, fd) == 0) {
		pthread_mutex_lock(&faults);
		forget(fd);
		pthread_mutex_unlock(&faults);
		return 0;
	}
	errno = e ? e : errno;
	return -1;
}

int syncfs(int fd)
{
	int e = begin("fail-syncfs");

	if (e == 0)
		return (int)syscall(SYS_syncfs, fd);
	errno = e;
	return -1;
}

/* Also "fail-rename-to-NAME". */
int renameat2(int from, const char *old, int to, const char *new, unsigned int flags)
{
	char name[320];
	int e = begin("fail-rename");

	snprintf(name, sizeof(name), "fail-rename-to-%s", new);
	pthread_mutex_lock(&faults);
	if (e == 0)
		e = told(name);
	if (e == 0 && syscall(SYS_renameat2, from, old, to, new, flags) < 0)
		e = errno;
	else if (e == 0)
		remember(from, old, to, new);
	pthread_mutex_unlock(&faults);
	errno = e;
	return e ? -1 : 0;
}

int mkdirat(int dirfd, const char *path, mode_t mode)
{
	int e = begin("fail-mkdir");

	if (e == 0)
		return (int)syscall(SYS_mkdirat, dirfd, path, mode);
	errno = e;
	return -1;
}

int unlinkat(int dirfd, const char *path, int flags)
{
	int e = begin("fail-unlink");

	if (e == 0)
		return (int)syscall(SYS_unlinkat, dirfd, path, flags);
	errno = e;
	return -1;
}

ssize_t read(int fd, void *buf, size_t size)
{
	pthread_mutex_lock(&faults);
	int e = told("fail-read");
	pthread_mutex_unlock(&faults);
	if (e == 0)
		return syscall(SYS_read, fd, buf, size);
	errno = e;
	return -1;
}

/* ---- the driver ---- */

static const struct store_driver inside;

static berth_status toy_configure(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct toy *t = st->self = calloc(1, sizeof(*t));
	char path[4096];

	if (st->host->conf_bool(c, "inside", 0)) {
		st->driver = &inside;
		st->features = BERTH_F_DETACHED_LAYERS;
	}
	snprintf(root, sizeof(root), "%s", st->root);
	snprintf(path, sizeof(path), "%s/devices", st->root);
	(void)mkdir(path, 0700);
	t->devices_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return t->devices_fd < 0 ? store_fail(st, op, errno, "open", "devices")
	                         : (berth_status)BERTH_OK;
}

static bool *number_of(struct toy *t, const char *own)
{
	uint64_t id;

	return own_u64(own, "dev", &id) && id >= 1 && id <= NUMBERS ? &t->taken[id] : NULL;
}

static int note(void *arg, const char *in, const char *name, const struct meta *m)
{
	bool *taken = m ? number_of(arg, m->own) : NULL;

	(void)in;
	(void)name;
	if (taken) {
		*taken = true;
		int at = (int)(taken - ((struct toy *)arg)->taken);
		if (((struct toy *)arg)->cursor < at)
			((struct toy *)arg)->cursor = at;
	}
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
	char name[32];

	(void)a;
	for (int i = 0; i < NUMBERS; i++) {
		int id = __atomic_fetch_add(&t->cursor, 1, __ATOMIC_RELAXED) % NUMBERS + 1;
		if (__atomic_exchange_n(&t->taken[id], true, __ATOMIC_RELAXED))
			continue;
		snprintf(name, sizeof(name), "%d", id);
		if (faccessat(t->devices_fd, name, F_OK, 0) == 0)
			continue; /* of one that is not known: it stays taken */
		snprintf(s->own, sizeof(s->own), "dev=%d state=new", id);
		return BERTH_OK;
	}
	return store_fail(st, op, ENOSPC, "find a number", s->key);
}

static void give_back(struct store *st, const char *own)
{
	bool *taken = number_of(st->self, own);

	if (taken)
		__atomic_store_n(taken, false, __ATOMIC_RELAXED);
}

static void toy_unplan(struct store *st, const struct snap *s)
{
	give_back(st, s->own);
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

	(void)op;
	(void)dirfd;
	if (told("slow-seal"))
		usleep(200000);
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
	if (unlinkat(t->devices_fd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	give_back(st, m->own);
	return 0;
}

static int toy_usage(
        struct store *st, struct berth_op *op, const struct snap *s, int dirfd, struct usage *u)
{
	(void)op;
	(void)s;
	(void)dirfd;
	if (told("slow"))
		usleep(300000);
	*u = (struct usage){.bytes = 4711, .inodes = 42};
	return 0;
}

/* ---- inside ---- */

#define FILES 3

static berth_status files_make(struct store *st, struct berth_op *op, const struct snap *s,
        int dirfd, const struct berth_snap_args *a)
{
	char name[16];

	(void)a;
	int r = mkdirat(dirfd, "fs", 0755) < 0 ? -errno : 0;
	for (int i = 0; i < FILES && r == 0; i++) {
		snprintf(name, sizeof(name), "fs/%d", i);
		int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0)
			r = -errno;
		else
			close(fd);
	}
	return r < 0 ? store_fail(st, op, r, "fill it", s->key) : (berth_status)BERTH_OK;
}

static int files_destroy(struct store *st, struct berth_op *op, int dirfd, const struct meta *m)
{
	(void)st;
	(void)op;
	(void)dirfd;
	(void)m;
	return 0;
}

static const struct store_driver inside = {
        .features = BERTH_F_DETACHED_LAYERS,
        .chain_limit = 4,
        .configure = toy_configure,
        .finish = toy_finish,
        .make = files_make,
        .seal = toy_seal,
        .describe = toy_describe,
        .destroy = files_destroy,
};

static const struct store_driver driver = {
        .chain_limit = 4,
        .outside = true,
        .configure = toy_configure,
        .start = toy_start,
        .finish = toy_finish,
        .plan = toy_plan,
        .unplan = toy_unplan,
        .make = toy_make,
        .seal = toy_seal,
        .describe = toy_describe,
        .destroy = toy_destroy,
        .usage = toy_usage,
};

STORE_PLUGIN("store-driver", 0)
