/* An example of a plugin: a storage driver whose snapshots are plain directories, each a copy of
 * its parent. Slow and simple; it runs on any file system. Build it outside of the tree:
 *
 *   cc -shared -fPIC -fvisibility=hidden -Wl,-z,nodelete -o storage-dir.so storage_dir.c \
 *      $(pkg-config --cflags berth-plugin)
 *
 * and name it in berth.yaml:
 *
 *   plugins: { storage-dir: { path: /usr/local/lib/storage-dir.so } }
 *   storage: { driver: storage-dir }
 *
 * On disk: STATE/KIND-KEY/{fs/,parent}, where KIND is a (active), v (view) or c (committed). A
 * snapshot is made under STATE/new-KEY and renamed, so one that has its final name is complete.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <berth/util.h>

enum { PATH_SIZE = 4096 };

struct dir_driver {
	const struct berth_host *host;
	const char *cp, *rm; /* absolute: a plugin gets no PATH */
};

static const char kinds[] = {0, 'a', 'v', 'c'}; /* by BERTH_SNAP_* */

/* ---- helpers: every failure names its object and its cause ---- */

static berth_status trouble(
        struct dir_driver *d, struct berth_op *op, const char *what, const char *key)
{
	int e = errno;
	return berth_fail(d->host, op,
	        e == ENOSPC || e == EDQUOT ? BERTH_E_EXHAUSTED : BERTH_E_INTERNAL,
	        "snapshot '%s': %s: %s", key, what, strerror(e));
}

/* A key becomes a file name, so it must be one. */
static berth_status check(struct dir_driver *d, struct berth_op *op, const char *key)
{
	if (!key || !*key || strlen(key) > 200 || strchr(key, '/'))
		return berth_fail(d->host, op, BERTH_E_INVALID,
		        "snapshot key '%.200s' is not a name", key ? key : "");
	return BERTH_OK;
}

/* A flag that this driver does not know may mean something: it is not passed over. */
static berth_status check_flags(
        struct dir_driver *d, struct berth_op *op, const struct berth_snap_args *a, uint32_t known)
{
	if (a->flags & ~known)
		return berth_fail(d->host, op, BERTH_E_INVALID, "snapshot '%s': unknown flags 0x%x",
		        a->key, (unsigned)a->flags);
	return BERTH_OK;
}

static char *path_of(struct dir_driver *d, struct berth_op *op, const char *prefix, const char *key,
        const char *leaf)
{
	char *p = d->host->op_alloc(op, PATH_SIZE);
	snprintf(p, PATH_SIZE, "%s/%s-%s%s", d->host->state_dir, prefix, key, leaf);
	return p;
}

/* The kind of a snapshot, 0 where there is none. */
static uint32_t kind_of(struct dir_driver *d, struct berth_op *op, const char *key)
{
	for (uint32_t k = BERTH_SNAP_ACTIVE; k <= BERTH_SNAP_COMMITTED; k++) {
		const char prefix[] = {kinds[k], '\0'};
		if (access(path_of(d, op, prefix, key, ""), F_OK) == 0)
			return k;
	}
	return 0;
}

/* The kind of a snapshot that must be there; of `wanted`, where that is not 0. */
static berth_status find(
        struct dir_driver *d, struct berth_op *op, const char *key, uint32_t wanted, uint32_t *ret)
{
	berth_status st = check(d, op, key);

	if (st != BERTH_OK)
		return st;
	*ret = kind_of(d, op, key);
	if (!*ret || (wanted && *ret != wanted))
		return berth_fail(
		        d->host, op, BERTH_E_NOT_FOUND, "snapshot '%s' is not there", key);
	return BERTH_OK;
}

static char *leaf_of(
        struct dir_driver *d, struct berth_op *op, uint32_t kind, const char *key, const char *leaf)
{
	const char prefix[] = {kinds[kind], '\0'};
	return path_of(d, op, prefix, key, leaf);
}

/* Programs are run by the host: it collects their output and ends them when the op is cancelled. */
static berth_status run(struct dir_driver *d, struct berth_op *op, const char *const *argv)
{
	const struct berth_run spec = {.size = sizeof(spec), .argv = argv};
	struct berth_run_result res = {.size = sizeof(res)};
	berth_status st = d->host->run(op, &spec, &res);

	if (st != BERTH_OK || res.wait_status == 0)
		return st;
	return berth_fail(d->host, op, BERTH_E_INTERNAL, "%s failed: %s", argv[0], res.err);
}

static berth_status delete_tree(struct dir_driver *d, struct berth_op *op, const char *path)
{
	const char *const argv[] = {d->rm, "-rf", "--one-file-system", path, NULL};
	return run(d, op, argv);
}

/* What a rename did is on the disk only once the directory is. */
static berth_status sync_names(struct dir_driver *d, struct berth_op *op, const char *key)
{
	berth_status st = BERTH_OK;
	int fd = open(d->host->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		st = trouble(d, op, "sync the directory of snapshots", key);
	if (fd >= 0)
		close(fd);
	return st;
}

/* ---- what the host is told: here always one bind mount ---- */

static void describe(struct dir_driver *d, struct berth_op *op, uint32_t kind, const char *key,
        struct berth_mounts_result *res)
{
	struct berth_mount *m = d->host->op_alloc(op, sizeof(*m));
	const struct berth_mount **v = d->host->op_alloc(op, sizeof(*v));
	const char **options = d->host->op_alloc(op, 2 * sizeof(*options));

	options[0] = kind == BERTH_SNAP_VIEW ? "ro" : "rw";
	m->size = sizeof(*m);
	m->type = "bind";
	m->source = leaf_of(d, op, kind, key, "/fs");
	m->options = options;
	v[0] = m;
	res->mounts = v;
	res->n = 1;
}

/* ---- the ops ---- */

static berth_status make(struct dir_driver *d, struct berth_op *op, const struct berth_snap_args *a,
        uint32_t kind, struct berth_mounts_result *res)
{
	berth_status st = check(d, op, a->key);

	if (st == BERTH_OK)
		st = check_flags(d, op, a, BERTH_SNAP_F_LAYER);
	if (st != BERTH_OK)
		return st;
	if (kind_of(d, op, a->key))
		return berth_fail(
		        d->host, op, BERTH_E_EXISTS, "snapshot '%s' exists already", a->key);
	if (a->parent && kind_of(d, op, a->parent) != BERTH_SNAP_COMMITTED)
		return berth_fail(d->host, op, BERTH_E_NOT_FOUND,
		        "snapshot '%s': its parent '%s' is not there", a->key, a->parent);
	char *tmp = path_of(d, op, "new", a->key, ""), *fs = path_of(d, op, "new", a->key, "/fs");
	st = delete_tree(d, op, tmp); /* what a crash left */
	if (st != BERTH_OK)
		return st;
	if (mkdir(tmp, 0711) < 0 || mkdir(fs, 0755) < 0)
		return trouble(d, op, "make its directory", a->key);
	if (a->parent) {
		char *from = leaf_of(d, op, BERTH_SNAP_COMMITTED, a->parent, "/fs/.");
		const char *const argv[] = {d->cp, "-a", from, fs, NULL};
		st = run(d, op, argv);
		if (st == BERTH_OK &&
		        symlink(a->parent, path_of(d, op, "new", a->key, "/parent")) < 0)
			st = trouble(d, op, "note its parent", a->key);
	}
	if (st == BERTH_OK && rename(tmp, leaf_of(d, op, kind, a->key, "")) < 0)
		st = trouble(d, op, "give it its name", a->key);
	if (st == BERTH_OK)
		describe(d, op, kind, a->key, res);
	return st;
}

static berth_status dir_prepare(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	return make(self, op, a, BERTH_SNAP_ACTIVE, res);
}

static berth_status dir_view(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	return make(self, op, a, BERTH_SNAP_VIEW, res);
}

static berth_status dir_mounts(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	struct dir_driver *d = self;
	uint32_t kind = 0;
	berth_status st = find(d, op, a->key, 0, &kind);

	if (st != BERTH_OK)
		return st;
	if (kind == BERTH_SNAP_COMMITTED)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' is committed: it is mounted through a view", a->key);
	describe(d, op, kind, a->key, res);
	return BERTH_OK;
}

static berth_status dir_commit(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct dir_driver *d = self;
	uint32_t kind;
	berth_status st = check(d, op, a->name);

	if (st == BERTH_OK)
		st = find(d, op, a->key, BERTH_SNAP_ACTIVE, &kind);
	if (st == BERTH_OK)
		st = check_flags(d, op, a, 0);
	if (st != BERTH_OK)
		return st;
	if (kind_of(d, op, a->name))
		return berth_fail(
		        d->host, op, BERTH_E_EXISTS, "snapshot '%s' exists already", a->name);
	/* On the disk before it has the name under which others trust it. */
	int fd = open(
	        leaf_of(d, op, BERTH_SNAP_ACTIVE, a->key, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || syncfs(fd) < 0)
		st = trouble(d, op, "sync it", a->key);
	if (fd >= 0)
		close(fd);
	if (st != BERTH_OK)
		return st;
	char *from = leaf_of(d, op, BERTH_SNAP_ACTIVE, a->key, ""),
	     *to = leaf_of(d, op, BERTH_SNAP_COMMITTED, a->name, "");
	if (rename(from, to) < 0)
		return trouble(d, op, "commit it", a->key);
	st = sync_names(d, op, a->key);
	if (st != BERTH_OK)
		(void)rename(to, from); /* what failed has not happened */
	return st;
}

/* A child is a full copy: a parent may go at any time. */
static berth_status dir_remove(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	struct dir_driver *d = self;
	berth_status st = check(d, op, a->key);

	if (st != BERTH_OK)
		return st;
	uint32_t kind = kind_of(d, op, a->key);
	if (!kind)
		return BERTH_OK;
	char *tmp = path_of(d, op, "new", a->key, "");
	st = delete_tree(d, op, tmp); /* what a crash left */
	if (st != BERTH_OK)
		return st;
	if (rename(leaf_of(d, op, kind, a->key, ""), tmp) < 0)
		return trouble(d, op, "remove it", a->key);
	/* Or a power cut could bring the name back, with half of the content. */
	st = sync_names(d, op, a->key);
	return st == BERTH_OK ? delete_tree(d, op, tmp) : st;
}

static void tell(struct dir_driver *d, struct berth_op *op, uint32_t kind, const char *key,
        struct berth_snap_info *i)
{
	char parent[PATH_SIZE];
	struct stat st;
	ssize_t n = readlink(leaf_of(d, op, kind, key, "/parent"), parent, sizeof(parent) - 1);

	parent[n > 0 ? n : 0] = '\0';
	i->kind = kind;
	i->key = berth_dup(d->host, op, key);
	i->parent = n > 0 ? berth_dup(d->host, op, parent) : NULL;
	if (stat(leaf_of(d, op, kind, key, ""), &st) == 0)
		i->created_ns =
		        (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
}

static berth_status dir_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res)
{
	struct dir_driver *d = self;
	uint32_t kind = 0;
	berth_status st = find(d, op, a->key, 0, &kind);

	if (st != BERTH_OK)
		return st;
	tell(d, op, kind, a->key, res); /* bytes and inodes stay 0: not known */
	return BERTH_OK;
}

static berth_status dir_list(struct berth_op *op, void *self, struct berth_snap_list *res)
{
	struct dir_driver *d = self;
	const struct berth_snap_info **v = NULL;
	uint32_t n = 0, room = 0;
	struct dirent *e;
	DIR *dir = opendir(d->host->state_dir);

	if (!dir)
		return trouble(d, op, "list snapshots", d->host->state_dir);
	while ((e = readdir(dir))) {
		const char *k =
		        e->d_name[0] && e->d_name[1] == '-' ? strchr("avc", e->d_name[0]) : NULL;
		if (!k)
			continue;
		if (n == room) {
			const struct berth_snap_info **more =
			        d->host->op_alloc(op, (room * 2 + 16) * sizeof(*v));
			if (n)
				memcpy(more, v, n * sizeof(*v));
			v = more;
			room = room * 2 + 16;
		}
		struct berth_snap_info *i = d->host->op_alloc(op, sizeof(*i));
		i->size = sizeof(*i);
		tell(d, op, (uint32_t)(k - "avc") + 1, e->d_name + 2, i);
		v[n++] = i;
	}
	closedir(dir);
	res->snaps = v;
	res->n = n;
	return BERTH_OK;
}

/* What a crash left half made or half removed. */
static berth_status dir_cleanup(struct berth_op *op, void *self)
{
	struct dir_driver *d = self;
	berth_status st = BERTH_OK;
	struct dirent *e;
	DIR *dir = opendir(d->host->state_dir);

	if (!dir)
		return trouble(d, op, "list snapshots", d->host->state_dir);
	while (st == BERTH_OK && (e = readdir(dir)) && !d->host->op_cancelled(op))
		if (strncmp(e->d_name, "new-", 4) == 0)
			st = delete_tree(d, op, path_of(d, op, "new", e->d_name + 4, ""));
	closedir(dir);
	return st;
}

/* ---- life ---- */

static berth_status dir_create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	struct dir_driver *d = calloc(1, sizeof(*d));

	if (!d)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "storage-dir: no memory");
	d->host = h;
	/* Keys that are never asked for are refused by the host: typing mistakes are found. */
	d->cp = h->conf_str(c, "cp", "/bin/cp");
	d->rm = h->conf_str(c, "rm", "/bin/rm");
	if (access(d->cp, X_OK) < 0 || access(d->rm, X_OK) < 0) {
		berth_status st = berth_fail(h, op, BERTH_E_PRECONDITION,
		        "storage-dir: '%s' or '%s' cannot be run", d->cp, d->rm);
		free(d);
		return st;
	}
	*self = d;
	return BERTH_OK;
}

static void dir_destroy(void *self)
{
	free(self);
}

static const struct berth_storage_ops ops = {
        .size = sizeof(ops),
        .prepare = dir_prepare,
        .view = dir_view,
        .mounts = dir_mounts,
        .commit = dir_commit,
        .remove = dir_remove,
        .stat = dir_stat,
        .list = dir_list,
        .cleanup = dir_cleanup,
};

/* No feature bits: the host asks for layers in order, finds the parent's content in each, and
 * really deletes what a layer deletes. BERTH_PLUGIN_SERIAL: one op at a time, hence no locks. */
static const struct berth_plugin plugin = {
        .size = sizeof(plugin),
        .abi_minor = BERTH_ABI_MINOR,
        .flags = BERTH_PLUGIN_SERIAL,
        .name = "storage-dir",
        .version = "1.0",
        .storage = &ops,
        .create = dir_create,
        .destroy = dir_destroy,
};

BERTH_PLUGIN_NEEDS(0)

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
