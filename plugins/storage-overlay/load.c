#include "overlay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
        struct driver *d, struct berth_op *op, const char *dir, const char *name, const char *what)
{
	char msg[768];

	snprintf(msg, sizeof(msg), "storage-overlay: '%s/%s/%s': %s", d->root, dir, name, what);
	d->host->log(d->host, op, BERTH_LOG_WARN, msg);
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

static void load_one(struct driver *d, struct berth_op *op, int dirfd, bool committed,
        const char *name, struct loaded *l)
{
	char key[NAME_LIMIT + 1];
	const char *dir = committed ? "layers" : "active";
	struct meta m;

	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : meta_read(fd, &m);
	if (fd >= 0)
		close(fd);
	if (r == 0)
		r = name_decode(name, key);
	if (r < 0 && !committed) {
		note(d, op, dir, name, "no complete snapshot, left by a crash: removed");
		(void)trash_add(d, dirfd, name, NULL);
		return;
	}
	if (r < 0) {
		note(d, op, dir, name, "not a layer of this driver: ignored");
		return;
	}
	if (index_find(&d->index, key)) {
		note(d, op, dir, name, "there is a layer of this name: ignored");
		return;
	}
	/* A crash within commit leaves an active snapshot that calls itself committed. */
	struct snap *s = index_add(&d->index, key,
	        committed                   ? BERTH_SNAP_COMMITTED
	        : m.kind == BERTH_SNAP_VIEW ? BERTH_SNAP_VIEW
	                                    : BERTH_SNAP_ACTIVE);
	s->phase = PHASE_READY;
	s->layer = m.layer;
	s->is_volatile = m.is_volatile && !committed;
	s->created_ns = m.created_ns;
	memcpy(s->boot, m.boot, sizeof(s->boot));
	remember(l, s, m.parent);
}

static berth_status each(struct driver *d, struct berth_op *op, int dirfd, const char *dir,
        void (*fn)(struct driver *d, struct berth_op *op, int dirfd, const char *name,
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
		return berth_fail(d->host, op, BERTH_E_INTERNAL,
		        "storage-overlay: read '%s/%s': %s", d->root, dir, strerror(saved));
	}
	while ((errno = 0, e = readdir(v)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fn(d, op, dirfd, e->d_name, l);
	int saved = errno;
	closedir(v);
	if (saved)
		return berth_fail(d->host, op, BERTH_E_INTERNAL,
		        "storage-overlay: read '%s/%s': %s", d->root, dir, strerror(saved));
	return BERTH_OK;
}

static void load_layer(
        struct driver *d, struct berth_op *op, int dirfd, const char *name, struct loaded *l)
{
	load_one(d, op, dirfd, true, name, l);
}

static void load_active(
        struct driver *d, struct berth_op *op, int dirfd, const char *name, struct loaded *l)
{
	load_one(d, op, dirfd, false, name, l);
}

static void discard(
        struct driver *d, struct berth_op *op, int dirfd, const char *name, struct loaded *l)
{
	(void)l;
	if (trash_add(d, dirfd, name, NULL) < 0)
		note(d, op, "new", name, strerror(errno));
}

static bool has_bottom(const struct snap *s)
{
	uint32_t n = 0;

	for (; s && n <= LAYERS_LIMIT; s = s->parent, n++)
		if (s->broken)
			return false;
	return n <= LAYERS_LIMIT; /* else a circle */
}

/* A snapshot whose parent is not there cannot be mounted, nor can what stands on it. */
static void link_parents(struct driver *d, struct berth_op *op, struct loaded *l)
{
	for (size_t i = 0; i < l->n; i++) {
		struct snap *s = l->v[i].snap, *p = index_find(&d->index, l->v[i].parent);
		if (p && p->kind == BERTH_SNAP_COMMITTED && p != s)
			index_set_parent(s, p);
		else
			s->broken = true;
	}
	for (size_t i = 0; i < l->n; i++)
		if (!has_bottom(l->v[i].snap))
			l->v[i].snap->broken = true;
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].snap->broken)
			index_set_parent(l->v[i].snap, NULL);
	for (size_t i = 0; i < l->n; i++) {
		struct snap *s = l->v[i].snap;
		if (!s->broken)
			continue;
		note(d, op, dir_of(s->kind), s->key, "a layer below it is missing: ignored");
		index_remove(&d->index, s);
	}
}

berth_status load_all(struct driver *d, struct berth_op *op)
{
	struct loaded l = {0};

	pthread_mutex_lock(&d->index.lock);
	berth_status st = each(d, op, d->new_fd, "new", discard, &l);
	if (st == BERTH_OK)
		st = each(d, op, d->layers_fd, "layers", load_layer, &l);
	if (st == BERTH_OK)
		st = each(d, op, d->active_fd, "active", load_active, &l);
	if (st == BERTH_OK)
		link_parents(d, op, &l);
	pthread_mutex_unlock(&d->index.lock);
	for (size_t i = 0; i < l.n; i++)
		free(l.v[i].parent);
	free(l.v);
	return st;
}
