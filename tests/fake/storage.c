#include "fake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "berth/util.h"

#define TABLE "snaps"
#define DIRS "dirs"

/* A snapshot's directory keeps its number when the snapshot is renamed by a commit. */
static void dir_path(struct fake *f, const struct row *r, char *out, size_t size)
{
	char n[VALUE_LIMIT];

	snprintf(out, size, "%s/" DIRS "/%s", f->state, row_get(r, "dir", n));
}

static berth_status command(struct fake *f, struct berth_op *op, const char *const *argv)
{
	const struct berth_run run = {.size = sizeof(run), .argv = argv};
	struct berth_run_result res = {.size = sizeof(res)};
	berth_status st = f->host->run(op, &run, &res);

	if (st == BERTH_OK && res.wait_status != 0)
		st = berth_fail(f->host, op, BERTH_E_INTERNAL, "fake storage: %s failed: %s",
		        argv[0], res.err);
	return st;
}

static berth_status describe(struct fake *f, struct berth_op *op, const struct row *r, bool ro,
        struct berth_mounts_result *res)
{
	char how[VALUE_LIMIT], path[4096];
	struct berth_mount *m = f->host->op_alloc(op, sizeof(*m));
	const struct berth_mount **v = f->host->op_alloc(op, sizeof(*v));
	const char **options = f->host->op_alloc(op, 2 * sizeof(*options));

	inject_get(f, "mounts", how);
	res->mounts = v;
	res->n = 0;
	if (*how ? strcmp(how, "none") == 0 : geteuid() != 0)
		return BERTH_OK;
	dir_path(f, r, path, sizeof(path));
	options[0] = ro ? "ro" : "rw";
	m->size = sizeof(*m);
	m->type = "bind";
	m->source = berth_dup(f->host, op, path);
	m->options = options;
	v[0] = m;
	res->n = 1;
	return BERTH_OK;
}

static berth_status fill(
        struct fake *f, struct berth_op *op, struct row *r, const char *parent, const char *key)
{
	struct row *p = f->host->op_alloc(op, sizeof(*p));
	char path[4096], from[4200], number[64], kind[VALUE_LIMIT];

	snprintf(path, sizeof(path), "%s/" DIRS, f->state);
	if (mkdir(path, 0711) < 0 && errno != EEXIST)
		return fake_fail(f, op, errno, "make a directory for snapshot", key);
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	snprintf(number, sizeof(number), "%lld", (long long)t.tv_sec * 1000000000 + t.tv_nsec);
	row_set(r, "dir", number);
	row_set(r, "created", number);
	dir_path(f, r, path, sizeof(path));
	if (mkdir(path, 0755) < 0)
		return fake_fail(f, op, errno, "make the directory of snapshot", key);
	if (!parent || !*parent)
		return BERTH_OK;
	row_set(r, "parent", parent);
	int e = row_load(f->state, TABLE, parent, p);
	if (e < 0 || strcmp(row_get(p, "kind", kind), "committed") != 0)
		return berth_fail(f->host, op, BERTH_E_NOT_FOUND,
		        "fake snapshot '%s': its parent '%s' is not committed", key, parent);
	dir_path(f, p, from, sizeof(from) - 4);
	strcat(from, "/.");
	const char *const argv[] = {"/bin/cp", "-a", from, path, NULL};
	return command(f, op, argv);
}

static berth_status make(struct fake *f, struct berth_op *op, const struct berth_snap_args *a,
        const char *kind, struct berth_mounts_result *res)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	struct row *old = f->host->op_alloc(op, sizeof(*old));

	if (row_load(f->state, TABLE, a->key, old) == 0)
		return berth_fail(f->host, op, BERTH_E_EXISTS, "fake snapshot '%s' exists", a->key);
	row_set(r, "kind", kind);
	berth_status st = fake_flags(f, op, a->key, a->flags, BERTH_SNAP_F_LAYER);
	if (st == BERTH_OK)
		st = fill(f, op, r, a->parent, a->key);
	if (st != BERTH_OK)
		return st;
	int e = row_save(f->state, TABLE, a->key, r);
	if (e < 0)
		return fake_fail(f, op, e, "keep snapshot", a->key);
	return describe(f, op, r, strcmp(kind, "view") == 0, res);
}

static berth_status op_prepare(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	berth_status st = inject_before(self, op, "storage.prepare");
	if (st == BERTH_OK)
		st = make(self, op, a, "active", res);
	inject_after(self, "storage.prepare");
	return st;
}

static berth_status op_view(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	berth_status st = inject_before(self, op, "storage.view");
	if (st == BERTH_OK)
		st = make(self, op, a, "view", res);
	inject_after(self, "storage.view");
	return st;
}

static berth_status op_mounts(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_mounts_result *res)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	char kind[VALUE_LIMIT];
	berth_status st = inject_before(self, op, "storage.mounts");

	if (st != BERTH_OK)
		return st;
	if (row_load(f->state, TABLE, a->key, r) < 0)
		return berth_fail(
		        f->host, op, BERTH_E_NOT_FOUND, "fake snapshot '%s' is not there", a->key);
	if (strcmp(row_get(r, "kind", kind), "committed") == 0)
		return berth_fail(f->host, op, BERTH_E_PRECONDITION,
		        "fake snapshot '%s' is committed", a->key);
	return describe(f, op, r, strcmp(row_get(r, "kind", kind), "view") == 0, res);
}

static berth_status commit(struct fake *f, struct berth_op *op, const struct berth_snap_args *a)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	char kind[VALUE_LIMIT];
	berth_status st = fake_flags(f, op, a->key, a->flags, 0);

	if (st != BERTH_OK)
		return st;
	if (row_load(f->state, TABLE, a->key, r) < 0)
		return berth_fail(
		        f->host, op, BERTH_E_NOT_FOUND, "fake snapshot '%s' is not there", a->key);
	if (strcmp(row_get(r, "kind", kind), "active") != 0)
		return berth_fail(f->host, op, BERTH_E_PRECONDITION,
		        "fake snapshot '%s' is not active", a->key);
	row_set(r, "kind", "committed");
	if (a->parent)
		row_set(r, "parent", a->parent);
	int e = row_create(f->state, TABLE, a->name, r);
	if (e == -EEXIST)
		return berth_fail(
		        f->host, op, BERTH_E_EXISTS, "fake snapshot '%s' exists", a->name);
	if (e == 0)
		e = row_remove(f->state, TABLE, a->key);
	return e < 0 ? fake_fail(f, op, e, "commit snapshot", a->key) : BERTH_OK;
}

static berth_status op_commit(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	berth_status st = inject_before(self, op, "storage.commit");
	if (st == BERTH_OK)
		st = commit(self, op, a);
	inject_after(self, "storage.commit");
	return st;
}

struct child {
	const char *of;
	char found[NAME_LIMIT + 1];
};

static void look_for_child(const char *id, const struct row *r, void *arg)
{
	struct child *c = arg;
	char parent[VALUE_LIMIT];

	if (strcmp(row_get(r, "parent", parent), c->of) == 0)
		snprintf(c->found, sizeof(c->found), "%s", id);
}

static berth_status remove_snap(
        struct fake *f, struct berth_op *op, const struct berth_snap_args *a)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	struct child c = {.of = a->key};
	char path[4096];

	if (row_load(f->state, TABLE, a->key, r) < 0)
		return BERTH_OK;
	row_each(f->state, TABLE, look_for_child, &c);
	if (*c.found)
		return berth_fail(f->host, op, BERTH_E_PRECONDITION,
		        "fake snapshot '%s' has the child '%s'", a->key, c.found);
	dir_path(f, r, path, sizeof(path));
	int e = row_remove(f->state, TABLE, a->key);
	if (e < 0)
		return fake_fail(f, op, e, "remove snapshot", a->key);
	const char *const argv[] = {"/bin/rm", "-rf", "--one-file-system", path, NULL};
	return command(f, op, argv);
}

static berth_status op_remove(struct berth_op *op, void *self, const struct berth_snap_args *a)
{
	berth_status st = inject_before(self, op, "storage.remove");
	if (st == BERTH_OK)
		st = remove_snap(self, op, a);
	inject_after(self, "storage.remove");
	return st;
}

static void tell(struct fake *f, struct berth_op *op, const char *id, const struct row *r,
        struct berth_snap_info *i)
{
	char v[VALUE_LIMIT];

	row_get(r, "kind", v);
	i->kind = strcmp(v, "active") == 0 ? BERTH_SNAP_ACTIVE
	          : strcmp(v, "view") == 0 ? BERTH_SNAP_VIEW
	                                   : BERTH_SNAP_COMMITTED;
	i->key = berth_dup(f->host, op, id);
	row_get(r, "parent", v);
	i->parent = *v ? berth_dup(f->host, op, v) : NULL;
	i->created_ns = strtoull(row_get(r, "created", v), NULL, 10);
}

static berth_status op_stat(struct berth_op *op, void *self, const struct berth_snap_args *a,
        struct berth_snap_info *res)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = inject_before(self, op, "storage.stat");

	if (st != BERTH_OK)
		return st;
	if (row_load(f->state, TABLE, a->key, r) < 0)
		return berth_fail(
		        f->host, op, BERTH_E_NOT_FOUND, "fake snapshot '%s' is not there", a->key);
	tell(f, op, a->key, r, res);
	return BERTH_OK;
}

struct listing {
	struct fake *f;
	struct berth_op *op;
	const struct berth_snap_info *v[1024];
	uint32_t n;
};

static void list_one(const char *id, const struct row *r, void *arg)
{
	struct listing *l = arg;
	struct berth_snap_info *i = l->f->host->op_alloc(l->op, sizeof(*i));

	i->size = sizeof(*i);
	tell(l->f, l->op, id, r, i);
	if (l->n < sizeof(l->v) / sizeof(l->v[0]))
		l->v[l->n++] = i;
}

static berth_status op_list(struct berth_op *op, void *self, struct berth_snap_list *res)
{
	struct fake *f = self;
	struct listing *l = f->host->op_alloc(op, sizeof(*l));
	berth_status st = inject_before(self, op, "storage.list");

	if (st != BERTH_OK)
		return st;
	l->f = f;
	l->op = op;
	row_each(f->state, TABLE, list_one, l);
	res->snaps = l->v;
	res->n = l->n;
	return BERTH_OK;
}

static berth_status op_cleanup(struct berth_op *op, void *self)
{
	return inject_before(self, op, "storage.cleanup");
}

const struct berth_storage_ops fake_storage = {
        .size = sizeof(fake_storage),
        .prepare = op_prepare,
        .view = op_view,
        .mounts = op_mounts,
        .commit = op_commit,
        .remove = op_remove,
        .stat = op_stat,
        .list = op_list,
        .cleanup = op_cleanup,
};
