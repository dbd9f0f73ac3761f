#include "storage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "mount/mount.h"

#define TEXT_MAX BERTH_MIB(1)

bool detached(void)
{
	return (check.features & BERTH_F_DETACHED_LAYERS) != 0;
}

/* ---- descriptions ---- */

void desc_free(struct desc *d)
{
	if (d)
		berth_arena_free(d->arena);
	free(d);
}

static struct berth_mount *keep_mount(struct berth_arena *a, const struct berth_mount *m)
{
	struct berth_mount *to = berth_arena_alloc(a, sizeof(*to));
	size_t n = 0;

	to->size = sizeof(*to);
	to->flags = m->flags;
	to->type = berth_arena_strdup(a, m->type);
	to->source = berth_arena_strdup(a, m->source);
	to->target = berth_arena_strdup(a, m->target);
	while (m->options && m->options[n])
		n++;
	const char **options = berth_arena_alloc(a, (n + 1) * sizeof(*options));
	for (size_t i = 0; i < n; i++)
		options[i] = berth_arena_strdup(a, m->options[i]);
	to->options = options;
	return to;
}

static struct desc *keep(const struct berth_mounts_result *r)
{
	struct desc *d = berth_new(struct desc);

	d->arena = berth_arena_new();
	struct berth_mount const **v = berth_arena_alloc(d->arena, (r->n + 1) * sizeof(*v));
	for (uint32_t i = 0; i < r->n; i++) {
		expect(r->mounts[i]->size >= offsetof(struct berth_mount, options) +
		                                     sizeof(r->mounts[i]->options),
		        "a described mount has no size");
		v[i] = keep_mount(d->arena, r->mounts[i]);
	}
	d->r = (struct berth_mounts_result){.size = sizeof(d->r), .n = r->n, .mounts = v};
	return d;
}

bool describes(const struct desc *d)
{
	return d->r.n > 0;
}

/* ---- ops ---- */

int snap_make(struct session *s, enum berth_opcode opcode, const struct berth_snap_args *a,
        struct desc **ret)
{
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args copy = *a;

	copy.size = sizeof(copy);
	int code = op(s, opcode, a->key ? a->key : "none", &copy, &r);
	if (ret)
		*ret = code == 0 ? keep(&r) : NULL;
	return code;
}

int snap_prepare(struct session *s, const char *key, const char *parent, struct desc **ret)
{
	const struct berth_snap_args a = {.key = key, .parent = parent};
	return snap_make(s, BERTH_OP_STORAGE_PREPARE, &a, ret);
}

int snap_view(struct session *s, const char *key, const char *parent, struct desc **ret)
{
	const struct berth_snap_args a = {.key = key, .parent = parent};
	return snap_make(s, BERTH_OP_STORAGE_VIEW, &a, ret);
}

int snap_mounts(struct session *s, const char *key, struct desc **ret)
{
	const struct berth_snap_args a = {.key = key};
	return snap_make(s, BERTH_OP_STORAGE_MOUNTS, &a, ret);
}

int snap_commit(struct session *s, const char *key, const char *name, const char *parent)
{
	const struct berth_snap_args a = {
	        .size = sizeof(a), .key = key, .name = name, .parent = parent};
	return op(s, BERTH_OP_STORAGE_COMMIT, key ? key : "none", &a, NULL);
}

int snap_remove(struct session *s, const char *key)
{
	const struct berth_snap_args a = {.size = sizeof(a), .key = key};
	return op(s, BERTH_OP_STORAGE_REMOVE, key ? key : "none", &a, NULL);
}

int snap_stat(struct session *s, const char *key, struct berth_snap_info *ret)
{
	const struct berth_snap_args a = {.size = sizeof(a), .key = key};

	*ret = (struct berth_snap_info){.size = sizeof(*ret)};
	return op(s, BERTH_OP_STORAGE_STAT, key ? key : "none", &a, ret);
}

uint32_t snap_list(struct session *s, const struct berth_snap_info *const **ret)
{
	struct berth_snap_list l = {.size = sizeof(l)};

	ended(s, op(s, BERTH_OP_STORAGE_LIST, NULL, NULL, &l), OK, NULL, "list");
	for (uint32_t i = 0; i < l.n; i++)
		expect(l.snaps[i] && l.snaps[i]->key && l.snaps[i]->size,
		        "list: element %u has no key or no size", i);
	*ret = l.snaps;
	return l.n;
}

const struct berth_snap_info *snap_listed(struct session *s, const char *key)
{
	const struct berth_snap_info *const *v, *found = NULL;
	uint32_t n = snap_list(s, &v);

	for (uint32_t i = 0; i < n; i++) {
		if (strcmp(v[i]->key, key) != 0)
			continue;
		expect(!found, "list has '%s' twice", key);
		found = v[i];
	}
	return found;
}

struct desc *must_prepare(struct session *s, const char *key, const char *parent)
{
	struct desc *d = NULL;

	ended(s, snap_prepare(s, key, parent, &d), OK, key, "prepare");
	return d;
}

struct desc *must_view(struct session *s, const char *key, const char *parent)
{
	struct desc *d = NULL;

	ended(s, snap_view(s, key, parent, &d), OK, key, "view");
	return d;
}

void must_remove(struct session *s, const char *key)
{
	ended(s, snap_remove(s, key), OK, key, "remove");
}

/* ---- what is mounted ---- */

void on(struct session *s, const struct desc *d)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	off(s);
	if (berth_mount_apply(&d->r, s->mnt, &err) < 0)
		fail("what was described cannot be mounted: %s", err->msg);
}

void off(struct session *s)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (berth_umount_tree(s->mnt, false, &err) < 0)
		fail("unmount: %s", err->msg);
}

void put_file(struct session *s, const char *path, const char *text)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", s->mnt, path);
	_cleanup_free_ char *dir = berth_strdup(p);
	*strrchr(dir, '/') = '\0';
	int r = berth_mkdir_p(dir, 0755);
	_cleanup_close_ int fd =
	        r < 0 ? -1 : open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	expect(fd >= 0, "cannot make %s in what was mounted: %s", path, strerror(errno));
	r = berth_write_all(fd, text, strlen(text));
	expect(r == 0, "cannot write %s in what was mounted: %s", path, strerror(-r));
}

void put_dir(struct session *s, const char *path)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", s->mnt, path);
	int r = berth_mkdir_p(p, 0755);

	expect(r == 0, "cannot make the directory %s: %s", path, strerror(-r));
}

void see_file(struct session *s, const char *path, const char *text)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", s->mnt, path), *is = NULL;
	int r = berth_read_file(AT_FDCWD, p, TEXT_MAX, &is, NULL);

	if (!text) {
		expect(r == -ENOENT || r == -ENOTDIR, "%s is there, and should not be", path);
		return;
	}
	expect(r == 0, "%s: %s; it should read \"%.40s\"", path, strerror(-r), text);
	expect(strcmp(is, text) == 0, "%s reads \"%.40s\", not \"%.40s\"", path, is, text);
}

/* ---- layers ---- */

int layer_prepare(struct session *s, const char *key, const char *parent, struct desc **ret)
{
	const struct berth_snap_args a = {
	        .key = key, .flags = BERTH_SNAP_F_LAYER, .parent = detached() ? NULL : parent};
	return snap_make(s, BERTH_OP_STORAGE_PREPARE, &a, ret);
}

static void parents_of(struct session *s, const char *path)
{
	_cleanup_free_ char *dir = berth_strdup(path);
	char *slash = strrchr(dir, '/');

	if (slash) {
		*slash = '\0';
		put_dir(s, dir);
	}
}

static void marked_gone(struct session *s, const char *path)
{
	_cleanup_free_ char *full = berth_asprintf("%s/%s", s->mnt, path);
	const char *slash = strrchr(path, '/');

	if (check.features & BERTH_F_WHITEOUT_OVERLAY) {
		parents_of(s, path);
		expect(mknod(full, S_IFCHR, makedev(0, 0)) == 0, "mknod %s: %s", path,
		        strerror(errno));
	} else if (check.features & BERTH_F_WHITEOUT_AUFS) {
		_cleanup_free_ char *mark = berth_asprintf("%.*s.wh.%s",
		        slash ? (int)(slash + 1 - path) : 0, path, slash ? slash + 1 : path);
		put_file(s, mark, "");
	} else {
		int r = berth_rm_tree(AT_FDCWD, full);
		expect(r == 0, "remove %s: %s", path, strerror(-r));
	}
}

static void marked_new(struct session *s, const char *path)
{
	_cleanup_free_ char *full = berth_asprintf("%s/%s", s->mnt, path);

	if (check.features & BERTH_F_WHITEOUT_OVERLAY) {
		put_dir(s, path);
		const char *opaque = check.features & BERTH_F_XATTR_USER ? "user.overlay.opaque"
		                                                         : "trusted.overlay.opaque";
		expect(lsetxattr(full, opaque, "y", 1, 0) == 0, "setxattr %s: %s", opaque,
		        strerror(errno));
	} else if (check.features & BERTH_F_WHITEOUT_AUFS) {
		_cleanup_free_ char *mark = berth_asprintf("%s/.wh..wh..opq", path);
		put_file(s, mark, "");
	} else {
		int r = berth_rm_tree(AT_FDCWD, full);
		expect(r == 0, "remove %s: %s", path, strerror(-r));
		put_dir(s, path);
	}
}

void layer_fill(struct session *s, const struct desc *d, const struct change *v, size_t n)
{
	on(s, d);
	for (size_t i = 0; i < n; i++) {
		if (v[i].what == FILE_IS)
			put_file(s, v[i].path, v[i].text);
		else if (v[i].what == FILE_GONE)
			marked_gone(s, v[i].path);
		else
			marked_new(s, v[i].path);
	}
	off(s);
}

void layer(
        struct session *s, const char *name, const char *parent, const struct change *v, size_t n)
{
	_cleanup_free_ char *key = berth_asprintf("pull-%s", name);
	struct desc *d = NULL;

	ended(s, layer_prepare(s, key, parent, &d), OK, key, "prepare of a layer");
	if (!describes(d))
		skip("the driver describes no mounts");
	layer_fill(s, d, v, n);
	desc_free(d);
	ended(s, snap_commit(s, key, name, parent), OK, key, "commit of a layer");
}

void two_layers(struct session *s, const char *name, char a[128], char b[128])
{
	const struct change first[] = {{FILE_IS, "a", "one"}, {FILE_IS, "dir/b", "two"},
	        {FILE_IS, "dir/deep/x", "x"}, {FILE_IS, "old/y", "y"}};
	const struct change second[] = {{FILE_IS, "a", "another"}, {FILE_GONE, "dir/b", NULL},
	        {FILE_IS, "c", "three"}, {DIR_NEW, "old", NULL}, {FILE_IS, "old/z", "z"}};

	snprintf(a, 128, "sha256:%s-a", name);
	snprintf(b, 128, "sha256:%s-b", name);
	layer(s, a, NULL, first, BERTH_ARRAY_LEN(first));
	layer(s, b, a, second, BERTH_ARRAY_LEN(second));
}

void see_two_layers(struct session *s)
{
	see_file(s, "a", "another");
	see_file(s, "dir/b", NULL);
	see_file(s, "dir/deep/x", "x");
	see_file(s, "c", "three");
	see_file(s, "old/y", NULL);
	see_file(s, "old/z", "z");
}

/* ---- the end ---- */

static bool is_parent(const struct berth_snap_info *const *v, uint32_t n, const char *key)
{
	for (uint32_t i = 0; i < n; i++)
		if (v[i]->parent && strcmp(v[i]->parent, key) == 0)
			return true;
	return false;
}

void storage_sweep(struct session *s)
{
	off(s);
	for (;;) {
		const struct berth_snap_info *const *v;
		uint32_t n = snap_list(s, &v);
		char **leaves = NULL;
		if (n == 0)
			return;
		for (uint32_t i = 0; i < n; i++)
			if (!is_parent(v, n, v[i]->key))
				leaves = berth_strv_append(leaves, v[i]->key);
		expect(leaves, "list: each of %u snapshots is another's parent", n);
		for (char **k = leaves; *k; k++)
			must_remove(s, *k);
		berth_strv_free(leaves);
	}
}
