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

static void load_one(struct store *st, struct berth_op *op, int dirfd, bool committed,
        const char *name, struct loaded *l)
{
	char key[NAME_LIMIT + 1];
	const char *dir = committed ? "layers" : "active";
	struct meta m;

	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	char external[PATH_MAX] = "";
	int r = fd < 0 ? -errno : meta_read(fd, &m);
	if (r == 0 && m.layer) {
		ssize_t n = readlinkat(fd, "fs", external, sizeof(external) - 1);
		external[n > 0 ? n : 0] = '\0';
	}
	if (fd >= 0)
		close(fd);
	if (r == 0)
		r = name_decode(name, key);
	/* A snapshot gets its place with its meta file in it, which no crash but that of the
	 * machine takes away or cuts. What cannot be read for another reason may be a container's
	 * own. */
	if (!committed && (r == -ENOENT || r == -EINVAL || r == -ENOTDIR)) {
		note(st, op, dir, name, "no complete snapshot, left by a crash: removed");
		(void)trash_add(st, dirfd, name, TRASH_SNAPSHOT, NULL);
		return;
	}
	if (r < 0) {
		char what[256];
		snprintf(what, sizeof(what), "%s (%s)",
		        committed ? "not a layer of this driver: ignored"
		                  : "its meta file cannot be read: it is kept, and not used",
		        strerror(-r));
		note(st, op, dir, name, what);
		return;
	}
	if (index_find(&st->own->index, key)) {
		note(st, op, dir, name, "there is a layer of this name: ignored");
		return;
	}
	/* A crash within commit leaves an active snapshot that calls itself committed. */
	struct snap *s = index_add(&st->own->index, key,
	        committed                   ? BERTH_SNAP_COMMITTED
	        : m.kind == BERTH_SNAP_VIEW ? BERTH_SNAP_VIEW
	                                    : BERTH_SNAP_ACTIVE);
	s->phase = PHASE_READY;
	s->layer = m.layer;
	s->external = *external ? strdup(external) : NULL;
	s->is_volatile = m.is_volatile && !committed;
	s->created_ns = m.created_ns;
	memcpy(s->boot, m.boot, sizeof(s->boot));
	memcpy(s->own, m.own, sizeof(s->own));
	remember(l, s, m.parent);
}

static berth_status each(struct store *st, struct berth_op *op, int dirfd, const char *dir,
        void (*fn)(struct store *st, struct berth_op *op, int dirfd, const char *name,
                struct loaded *l),
        struct loaded *l)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *v = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!v) {
		int saved = errno;
		if (fd >= 0)
			close(fd);
		return berth_fail(st->host, op, BERTH_E_INTERNAL, "%s: read '%s/%s': %s",
		        st->host->plugin_name, st->root, dir, strerror(saved));
	}
	while ((errno = 0, e = readdir(v)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fn(st, op, dirfd, e->d_name, l);
	int saved = errno;
	closedir(v);
	if (saved)
		return berth_fail(st->host, op, BERTH_E_INTERNAL, "%s: read '%s/%s': %s",
		        st->host->plugin_name, st->root, dir, strerror(saved));
	return BERTH_OK;
}

static void load_layer(
        struct store *st, struct berth_op *op, int dirfd, const char *name, struct loaded *l)
{
	load_one(st, op, dirfd, true, name, l);
}

static void load_active(
        struct store *st, struct berth_op *op, int dirfd, const char *name, struct loaded *l)
{
	load_one(st, op, dirfd, false, name, l);
}

static void discard(
        struct store *st, struct berth_op *op, int dirfd, const char *name, struct loaded *l)
{
	(void)l;
	int r = trash_add(st, dirfd, name, TRASH_SNAPSHOT, NULL);
	if (r < 0)
		note(st, op, "new", name, strerror(-r));
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
	berth_status r = each(st, op, st->new_fd, "new", discard, &l);
	if (r == BERTH_OK)
		r = each(st, op, st->layers_fd, "layers", load_layer, &l);
	if (r == BERTH_OK)
		r = each(st, op, st->active_fd, "active", load_active, &l);
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
		bool known = at >= 0 && meta_read(at, &m) == 0;
		if (at >= 0)
			close(at);
		r = fn(arg, in, e->d_name, known ? &m : NULL);
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
