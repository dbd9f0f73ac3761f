/* The start: what is on the disk. */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

struct loaded { /* snapshots whose parent's name is known, but not found yet */
	struct {
		struct snap *snap;
		char *parent;
	} * v;
	size_t n, cap;
};

static void note(
        struct store *st, struct berth_op *op, const char *dir, const char *name, const char *what)
{
	char msg[768];

	snprintf(msg, sizeof(msg), "%s: '%s/%s/%s': %s", st->host->plugin_name, st->root, dir, name,
	        what);
	st->host->log(st->host, op, BERTH_LOG_WARN, msg);
}

static void remember(struct loaded *l, struct snap *s, const char *parent)
{
	if (!*parent)
		return;
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 64;
		void *p = realloc(l->v, l->cap * sizeof(*l->v));
		if (!p)
			abort();
		l->v = p;
	}
	l->v[l->n].snap = s;
	l->v[l->n].parent = strdup(parent);
	if (!l->v[l->n].parent)
		abort();
	l->n++;
}

/* Under the lock, before any op. */
static void keep(struct store *st, struct berth_op *op, const char *dir, const char *key,
        const char *name, const char *why)
{
	struct strange *s = calloc(1, sizeof(*s));
	char what[256];

	if (!s)
		abort();
	s->key = index_text(key);
	s->dir = dir;
	s->next = st->own->strange;
	st->own->strange = s;
	snprintf(what, sizeof(what), "%s: it is kept and not used, and its name is not given away",
	        why);
	note(st, op, dir, name, what);
}

static const struct strange *find_strange(const struct store *st, const char *key)
{
	const struct strange *s = st->own->strange;

	while (s && strcmp(s->key, key) != 0)
		s = s->next;
	return s;
}

berth_status check_strange(struct store *st, struct berth_op *op, const char *key)
{
	const struct strange *s = find_strange(st, key);

	if (!s)
		return BERTH_OK;
	return berth_fail(st->host, op, BERTH_E_PRECONDITION,
	        "snapshot '%s' is in '%s/%s' in a form that this version does not understand: it "
	        "is neither used nor replaced nor removed",
	        key, st->root, s->dir);
}

/* What a crash left. A layer's meta file was on the disk before the layer had its name: one that
 * has none was being removed, and whose file was cut was damaged later, with what it names. */
static void drop_remnant(
        struct store *st, struct berth_op *op, int dirfd, const char *dir, const char *name)
{
	char what[128];
	int r = trash_add(st, dirfd, name, TRASH_SNAPSHOT, NULL);

	snprintf(what, sizeof(what), "no complete snapshot, left by a crash: %s%s",
	        r < 0 ? "cannot be moved away: " : "removed", r < 0 ? strerror(-r) : "");
	note(st, op, dir, name, what);
}

/* Where the content of a layer lies that is not ours: "" = none. */
static int read_external(int dirfd, char ret[PATH_MAX])
{
	ssize_t n = readlinkat(dirfd, "fs", ret, PATH_MAX - 1);

	ret[n > 0 ? n : 0] = '\0';
	return n < 0 && errno != EINVAL && errno != ENOENT ? -errno : 0;
}

static int read_one(int dirfd, const char *name, struct meta *m, char external[PATH_MAX])
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	external[0] = '\0';
	if (fd < 0)
		return errno == ENOTDIR || errno == ELOOP ? META_FOREIGN : -errno;
	int r = meta_read(fd, m);
	if (r == 0 && m->layer)
		r = read_external(fd, external);
	close(fd);
	return r;
}

static berth_status load_one(struct store *st, struct berth_op *op, int dirfd, const char *dir,
        const char *name, struct loaded *l)
{
	char key[NAME_LIMIT + 1], external[PATH_MAX];
	bool committed = dirfd == st->layers_fd;
	struct meta m;

	if (name_decode(name, key) < 0) {
		note(st, op, dir, name, "not named as a snapshot is: ignored");
		return BERTH_OK;
	}
	int r = read_one(dirfd, name, &m, external);
	if (meta_is_none(r)) {
		drop_remnant(st, op, dirfd, dir, name);
		return BERTH_OK;
	}
	if (meta_is_strange(r)) {
		keep(st, op, dir, key, name,
		        r == META_FOREIGN ? "no snapshot of this driver"
		                          : "a snapshot of another version");
		return BERTH_OK;
	}
	/* Not to be had now: nothing is known of it, least of all that it is not there. */
	if (r < 0)
		return store_fail(st, op, r, "read it", key);
	if (index_find(&st->own->index, key) || find_strange(st, key)) {
		note(st, op, dir, name, "there is a layer of this name: ignored");
		return BERTH_OK;
	}
	/* A crash within commit leaves an active snapshot that calls itself committed. */
	struct snap *s = index_add(&st->own->index, key,
	        committed                   ? BERTH_SNAP_COMMITTED
	        : m.kind == BERTH_SNAP_VIEW ? BERTH_SNAP_VIEW
	                                    : BERTH_SNAP_ACTIVE);
	s->phase = PHASE_READY;
	s->layer = m.layer;
	s->external = *external ? index_text(external) : NULL;
	s->is_volatile = m.is_volatile && !committed;
	s->created_ns = m.created_ns;
	memcpy(s->boot, m.boot, sizeof(s->boot));
	memcpy(s->own, m.own, sizeof(s->own));
	remember(l, s, m.parent);
	return BERTH_OK;
}

static berth_status each(struct store *st, struct berth_op *op, int dirfd, const char *dir,
        berth_status (*fn)(struct store *st, struct berth_op *op, int dirfd, const char *dir,
                const char *name, struct loaded *l),
        struct loaded *l)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *v = fd < 0 ? NULL : fdopendir(fd);
	berth_status r = BERTH_OK;
	struct dirent *e;

	if (!v) {
		int saved = errno;
		if (fd >= 0)
			close(fd);
		return berth_fail(st->host, op, BERTH_E_INTERNAL, "%s: read '%s/%s': %s",
		        st->host->plugin_name, st->root, dir, strerror(saved));
	}
	while (r == BERTH_OK && (errno = 0, e = readdir(v)))
		if (!tree_dots(e->d_name))
			r = fn(st, op, dirfd, dir, e->d_name, l);
	int saved = errno;
	closedir(v);
	if (r == BERTH_OK && saved)
		return berth_fail(st->host, op, BERTH_E_INTERNAL, "%s: read '%s/%s': %s",
		        st->host->plugin_name, st->root, dir, strerror(saved));
	return r;
}

/* What a killed process has renamed is on the disk before anything goes by it: a layer is said to
 * be there, and what has lost its name is deleted. */
static berth_status settle(struct store *st, struct berth_op *op)
{
	const int fds[] = {st->layers_fd, st->active_fd};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fsync(fds[i]) < 0)
			return berth_fail(st->host, op, BERTH_E_INTERNAL, "%s: sync '%s/%s': %s",
			        st->host->plugin_name, st->root, i ? "active" : "layers",
			        strerror(errno));
	return BERTH_OK;
}

static berth_status discard(struct store *st, struct berth_op *op, int dirfd, const char *dir,
        const char *name, struct loaded *l)
{
	(void)l;
	int r = trash_add(st, dirfd, name, TRASH_SNAPSHOT, NULL);
	if (r < 0)
		note(st, op, dir, name, strerror(-r));
	return BERTH_OK;
}

static bool has_bottom(const struct snap *s, uint32_t n)
{
	for (; s && n > 0; s = s->parent, n--)
		if (s->broken)
			return false;
	return !s; /* else a circle */
}

/* A snapshot whose parent is not there cannot be mounted, nor can what stands on it. */
static void link_parents(struct store *st, struct berth_op *op, struct loaded *l)
{
	for (size_t i = 0; i < l->n; i++) {
		struct snap *s = l->v[i].snap, *p = index_find(&st->own->index, l->v[i].parent);
		if (p && p->kind == BERTH_SNAP_COMMITTED && p != s)
			index_set_parent(s, p);
		else
			s->broken = true;
	}
	for (size_t i = 0; i < l->n; i++)
		if (!has_bottom(l->v[i].snap, st->own->index.n))
			l->v[i].snap->broken = true;
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].snap->broken)
			index_set_parent(l->v[i].snap, NULL);
	for (size_t i = 0; i < l->n; i++) {
		struct snap *s = l->v[i].snap;
		if (!s->broken)
			continue;
		note(st, op, store_dir(s->kind), s->key, "a layer below it is missing: ignored");
		index_remove(&st->own->index, s);
	}
}

berth_status load_all(struct store *st, struct berth_op *op)
{
	struct loaded l = {0};

	pthread_mutex_lock(&st->own->index.lock);
	berth_status r = settle(st, op);
	if (r == BERTH_OK)
		r = each(st, op, st->new_fd, "new", discard, &l);
	if (r == BERTH_OK)
		r = each(st, op, st->layers_fd, "layers", load_one, &l);
	if (r == BERTH_OK)
		r = each(st, op, st->active_fd, "active", load_one, &l);
	if (r == BERTH_OK)
		link_parents(st, op, &l);
	pthread_mutex_unlock(&st->own->index.lock);
	for (size_t i = 0; i < l.n; i++)
		free(l.v[i].parent);
	free(l.v);
	return r;
}

/* ---- */

static int each_in(struct store *st, const char *in, int dirfd,
        int (*fn)(void *arg, const char *in, const char *name, const struct meta *m), void *arg)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *v = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct meta m;

	if (!v) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(v))) {
		if (tree_dots(e->d_name) || (dirfd == st->trash_fd && trash_is_part(e->d_name)))
			continue;
		int at = openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int known = at >= 0                              ? meta_read(at, &m)
		            : errno == ENOTDIR || errno == ELOOP ? META_FOREIGN
		                                                 : -errno;
		if (at >= 0)
			close(at);
		r = known == 0 || meta_is_none(known) || meta_is_strange(known)
		            ? fn(arg, in, e->d_name, known == 0 ? &m : NULL)
		            : known;
		errno = 0;
	}
	if (r == 0 && errno)
		r = -errno;
	closedir(v);
	return r;
}

int store_each(struct store *st,
        int (*fn)(void *arg, const char *in, const char *name, const struct meta *m), void *arg)
{
	static const char *const names[] = {"layers", "active", "new", "trash"};
	const int fds[] = {st->layers_fd, st->active_fd, st->new_fd, st->trash_fd};
	int r = 0;

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]) && r == 0; i++)
		r = each_in(st, names[i], fds[i], fn, arg);
	return r;
}

static int is_kept(void *arg, const char *in, const char *name, const struct meta *m)
{
	(void)arg;
	(void)name;
	(void)m;
	return strcmp(in, "layers") == 0 || strcmp(in, "active") == 0;
}

int store_in_use(struct store *st)
{
	return store_each(st, is_kept, NULL);
}

bool store_lacks_room(struct store *st, struct berth_op *op, int r)
{
	char msg[512];

	r = r < 0 ? -r : r;
	if ((r != ENOSPC && r != EDQUOT) || store_in_use(st) <= 0)
		return false;
	snprintf(msg, sizeof(msg),
	        "%s: there is no room in '%s' to try what its file system can (%s): it is taken to "
	        "be as before",
	        st->host->plugin_name, st->root, strerror(r));
	st->host->log(st->host, op, BERTH_LOG_WARN, msg);
	return true;
}
