#include "pull/emit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/protocol.h"
#include "pull/tar.h"
#include "pull/tree_impl.h"

#define WH ".wh."
#define WH_OPAQUE ".wh..wh..opq"

/* The first name of a file that has several. */
struct link {
	struct {
		dev_t dev;
		ino_t ino;
	} id;
	char *path;
	UT_hash_handle hh;
};

struct walk {
	const struct pull_emit *e;
	struct pull_tar *tar;
	struct pull_pathset *told; /* directories that are in the stream */
	struct link *links;
	uint64_t entries;
};

/* One directory: no fd is held while its own directories are walked. */
struct place {
	const char *path;
	int top, below;
};

static char *join(const char *dir, const char *name)
{
	return *dir ? berth_asprintf("%s/%s", dir, name) : berth_strdup(name);
}

static int count(struct walk *w, const char *path, struct berth_error **ret_err)
{
	if (++w->entries > BERTH_LIMIT_LAYER_ENTRIES)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "the layer has more than %d entries", BERTH_LIMIT_LAYER_ENTRIES);
	if (strlen(path) >= BERTH_LIMIT_PATH)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED, "its name is too long");
	return 0;
}

/* ---- what goes into the stream ---- */

static uint32_t owner(const struct pull_owners *maps, size_t n, uint32_t id)
{
	for (size_t i = 0; i < n; i++)
		if (id >= maps[i].outside && id - maps[i].outside < maps[i].count)
			return maps[i].inside + (id - maps[i].outside);
	return id;
}

static struct stat as_inside(const struct pull_emit *e, const struct stat *st)
{
	struct stat own = *st;
	own.st_uid = owner(e->uids, e->n_uids, st->st_uid);
	own.st_gid = owner(e->gids, e->n_gids, st->st_gid);
	return own;
}

static int tell_dir(struct walk *w, int fd, const char *path, struct berth_error **ret_err)
{
	struct stat st;

	if (!pull_pathset_add(w->told, path))
		return 0;
	if (fstat(fd, &st) < 0)
		return berth_error_errno(ret_err, errno, "stat it");
	st = as_inside(w->e, &st);
	return count(w, path, ret_err) < 0 ? -1
	                                   : pull_tar_add(w->tar, fd, "", path, &st, NULL, ret_err);
}

/* A directory with all above it: else the unpacker would choose their attributes. */
static int tell_dirs(struct walk *w, const char *path, struct berth_error **ret_err)
{
	_cleanup_free_ char *part = berth_strdup(path);

	if (pull_pathset_has(w->told, path) || !*path)
		return 0;
	for (char *end = strchrnul(part, '/');; end = strchrnul(end + 1, '/')) {
		char kept = *end;
		*end = '\0';
		if (!pull_pathset_has(w->told, part)) {
			_cleanup_close_ int fd =
			        pull_tree_open_beneath(w->e->top, part, O_RDONLY | O_DIRECTORY);
			if (fd < 0)
				return berth_error_errno(ret_err, fd, "open '%s'", part);
			if (tell_dir(w, fd, part, ret_err) < 0)
				return -1;
		}
		if (!kept)
			return 0;
		*end = kept;
	}
}

static int tell_mark(
        struct walk *w, const struct place *at, const char *name, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = join(at->path, name);

	if (tell_dirs(w, at->path, ret_err) < 0 || count(w, path, ret_err) < 0)
		return -1;
	return pull_tar_mark(w->tar, path, ret_err);
}

static int tell_deleted(
        struct walk *w, const struct place *at, const char *name, struct berth_error **ret_err)
{
	_cleanup_free_ char *mark = berth_asprintf(WH "%s", name);

	if (w->e->deleted) {
		_cleanup_free_ char *path = join(at->path, name);
		if (w->e->skip && pull_pathset_has(w->e->skip, path))
			return 0;
		return count(w, path, ret_err) < 0 ? -1 : w->e->deleted(w->e->arg, path, ret_err);
	}
	return tell_mark(w, at, mark, ret_err);
}

static int tell_file(struct walk *w, const struct place *at, const char *name, const char *path,
        const struct stat *st, struct berth_error **ret_err)
{
	struct link *l = NULL, key = {0};
	bool linked = st->st_nlink > 1;

	if (tell_dirs(w, at->path, ret_err) < 0 || count(w, path, ret_err) < 0)
		return -1;
	key.id.dev = st->st_dev;
	key.id.ino = st->st_ino;
	if (linked)
		HASH_FIND(hh, w->links, &key.id, sizeof(key.id), l);
	if (linked && !l) {
		struct link *first = berth_new(struct link);
		first->id.dev = st->st_dev;
		first->id.ino = st->st_ino;
		first->path = berth_strdup(path);
		HASH_ADD(hh, w->links, id, sizeof(first->id), first);
	}
	struct stat own = as_inside(w->e, st);
	return pull_tar_add(w->tar, at->top, name, path, &own, l ? l->path : NULL, ret_err);
}

/* ---- the walk ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int names_of(int dir, char ***ret, struct berth_error **ret_err)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	char **v = NULL;
	size_t n = 0, cap = 0;

	if (!d) {
		int e = errno;
		berth_close(fd);
		return berth_error_errno(ret_err, e, "read the directory");
	}
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (n + 1 >= cap) {
			cap = cap ? cap * 2 : 64;
			v = berth_reallocarray(v, cap, sizeof(*v));
		}
		v[n++] = berth_strdup(e->d_name);
		v[n] = NULL;
	}
	int failed = errno;
	closedir(d);
	if (failed) {
		berth_strv_free(v);
		return berth_error_errno(ret_err, failed, "read the directory");
	}
	if (n > 0)
		qsort(v, n, sizeof(*v), by_name);
	*ret = v;
	return 0;
}

static bool lower_stat(const struct place *at, const char *name, struct stat *ret)
{
	return at->below >= 0 && fstatat(at->below, name, ret, AT_SYMLINK_NOFOLLOW) == 0;
}

static int one(struct walk *w, const struct place *at, const char *name, char ***dirs,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *path = join(at->path, name);
	struct stat st, lower;

	if (w->e->skip && pull_pathset_has(w->e->skip, path))
		return 0;
	if (fstatat(at->top, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return berth_error_errno(ret_err, errno, "stat '%s'", path);
	if (S_ISCHR(st.st_mode) && st.st_rdev == 0)
		return tell_deleted(w, at, name, ret_err);
	if (strncmp(name, WH, strlen(WH)) == 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "'%s' would be taken for a deletion", path);
	if (S_ISDIR(st.st_mode)) {
		*dirs = berth_strv_append(*dirs, path);
		return 0;
	}
	if (S_ISSOCK(st.st_mode)) /* in no archive, and so in no image */
		return 0;
	if (lower_stat(at, name, &lower)) {
		int same = pull_same(at->top, &st, at->below, &lower, name, ret_err);
		if (same < 0)
			return berth_error_wrap(ret_err, "'%s'", path);
		if (same)
			return 0;
	}
	return tell_file(w, at, name, path, &st, ret_err) < 0
	               ? berth_error_wrap(ret_err, "'%s'", path)
	               : 0;
}

/* What lies below, in the directory `below`, and is not shown by this layer. */
static int missing(struct walk *w, const struct place *at, int below, struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **names = NULL;
	struct stat st;

	if (below < 0)
		return 0;
	if (names_of(below, &names, ret_err) < 0)
		return -1;
	for (char **n = names; n && *n; n++) {
		if (fstatat(at->top, *n, &st, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		if (errno != ENOENT)
			return berth_error_errno(ret_err, errno, "stat '%s'", *n);
		if (tell_deleted(w, at, *n, ret_err) < 0)
			return -1;
	}
	return 0;
}

/* Is the directory, or one above it, opaque? */
static bool hides(const struct pull_pathset *opaque, const char *path)
{
	_cleanup_free_ char *part = berth_strdup(path);

	for (char *end = part + strlen(part); opaque; end = strrchr(part, '/')) {
		if (end)
			*end = '\0';
		if (pull_pathset_has(opaque, end ? part : ""))
			return true;
		if (!end)
			break;
	}
	return false;
}

/* Of what an opaque directory hides. */
static int missing_hidden(struct walk *w, const struct place *at, struct berth_error **ret_err)
{
	if (!w->e->deleted || w->e->hidden < 0 || !hides(w->e->opaque, at->path))
		return 0;
	_cleanup_close_ int fd =
	        pull_tree_open_beneath(w->e->hidden, at->path, O_RDONLY | O_DIRECTORY);
	if (fd < 0 && fd != -ENOENT && fd != -ENOTDIR && fd != -ELOOP)
		return berth_error_errno(ret_err, fd, "open it below");
	return missing(w, at, fd, ret_err);
}

static int itself(struct walk *w, const struct place *at, struct berth_error **ret_err)
{
	struct stat st, lower;
	int same = 0;

	if (at->below >= 0) {
		if (fstat(at->top, &st) < 0 || fstat(at->below, &lower) < 0)
			return berth_error_errno(ret_err, errno, "stat it");
		same = pull_same(at->top, &st, at->below, &lower, "", ret_err);
	}
	if (same < 0)
		return -1;
	if (!same) {
		char *slash = strrchr(at->path, '/');
		_cleanup_free_ char *above =
		        berth_strndup(at->path, slash ? (size_t)(slash - at->path) : 0);
		if (tell_dirs(w, above, ret_err) < 0 || tell_dir(w, at->top, at->path, ret_err) < 0)
			return -1;
	}
	return w->e->opaque && !w->e->deleted && pull_pathset_has(w->e->opaque, at->path)
	               ? tell_mark(w, at, WH_OPAQUE, ret_err)
	               : 0;
}

static int fill_place(
        struct walk *w, const char *path, struct place *at, struct berth_error **ret_err)
{
	at->path = path;
	at->top = pull_tree_open_beneath(w->e->top, path, O_RDONLY | O_DIRECTORY);
	if (at->top < 0)
		return berth_error_errno(ret_err, at->top, "open it");
	if (w->e->below < 0)
		return 0;
	at->below = pull_tree_open_beneath(w->e->below, path, O_RDONLY | O_DIRECTORY);
	if (at->below >= 0 || at->below == -ENOENT || at->below == -ENOTDIR || at->below == -ELOOP)
		return 0;
	return berth_error_errno(ret_err, at->below, "open it below");
}

static int walk_dir(struct walk *w, const char *path, struct berth_error **ret_err);

static int walk_names(struct walk *w, const char *path, char ***dirs, struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **names = NULL;
	struct place at = {.top = -1, .below = -1};

	int r = fill_place(w, path, &at, ret_err);
	if (r == 0)
		r = itself(w, &at, ret_err);
	if (r == 0)
		r = names_of(at.top, &names, ret_err);
	for (char **n = names; r == 0 && n && *n; n++)
		r = one(w, &at, *n, dirs, ret_err);
	if (r == 0)
		r = missing(w, &at, at.below, ret_err);
	if (r == 0)
		r = missing_hidden(w, &at, ret_err);
	if (at.top >= 0)
		close(at.top);
	if (at.below >= 0)
		close(at.below);
	return r;
}

static int walk_dir(struct walk *w, const char *path, struct berth_error **ret_err)
{
	_cleanup_(berth_strv_freep) char **dirs = NULL;

	if (walk_names(w, path, &dirs, ret_err) < 0)
		return berth_error_wrap(ret_err, "directory '/%s'", path);
	for (char **d = dirs; d && *d; d++)
		if (walk_dir(w, *d, ret_err) < 0)
			return -1;
	return 0;
}

int pull_emit(const struct pull_emit *e, struct berth_error **ret_err)
{
	struct walk w = {.e = e, .tar = pull_tar_new(e->sink, e->arg), .told = pull_pathset_new()};
	struct link *l, *tmp;

	int r = walk_dir(&w, "", ret_err);
	if (r == 0)
		r = pull_tar_end(w.tar, ret_err);
	HASH_ITER (hh, w.links, l, tmp) {
		HASH_DEL(w.links, l);
		free(l->path);
		free(l);
	}
	pull_pathset_free(w.told);
	pull_tar_free(w.tar);
	return r;
}
