#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

#define OPTIONS_MAX 64

const char *dir_of(uint32_t kind)
{
	return kind == BERTH_SNAP_COMMITTED ? "layers" : "active";
}

uint32_t chain_length(const struct snap *s)
{
	uint32_t n = 0;

	for (; s; s = s->parent)
		n++;
	return n;
}

static char *path_of(struct driver *d, struct berth_op *op, const struct snap *s, const char *leaf)
{
	char name[NAME_LIMIT + 1];
	size_t n = strlen(d->root) + NAME_LIMIT + 32;
	char *path = d->host->op_alloc(op, n);

	(void)name_encode(s->key, name); /* it was valid when it came in */
	snprintf(path, n, "%s/%s/%s/%s", d->root, dir_of(s->kind), name, leaf);
	return path;
}

static char *keyed(struct driver *d, struct berth_op *op, const char *key, const char *value)
{
	size_t n = strlen(key) + strlen(value) + 1;
	char *s = d->host->op_alloc(op, n);

	snprintf(s, n, "%s%s", key, value);
	return s;
}

/* lowerdir=TOP:...:BOTTOM */
static char *lowers(struct driver *d, struct berth_op *op, const struct snap *top)
{
	static const char key[] = "lowerdir=";
	size_t each = strlen(d->root) * 2 + NAME_LIMIT + 32;
	char *list = d->host->op_alloc(op, sizeof(key) + chain_length(top) * each), *out = list;

	memcpy(out, key, sizeof(key) - 1);
	out += sizeof(key) - 1;
	for (const struct snap *s = top; s; s = s->parent) {
		if (s != top)
			*out++ = ':';
		for (const char *p = path_of(d, op, s, "fs"); *p; p++) {
			if (*p == ':' || *p == '\\')
				*out++ = '\\';
			*out++ = *p;
		}
	}
	*out = '\0';
	return list;
}

static berth_status one_mount(struct driver *d, struct berth_op *op, const char *type,
        const char *source, const char *const *options, struct berth_mounts_result *res)
{
	struct berth_mount *m = d->host->op_alloc(op, sizeof(*m));
	const struct berth_mount **v = d->host->op_alloc(op, sizeof(*v));

	m->size = sizeof(*m);
	m->type = type;
	m->source = source;
	m->options = options;
	v[0] = m;
	res->mounts = v;
	res->n = 1;
	return BERTH_OK;
}

static berth_status bind(struct driver *d, struct berth_op *op, const struct snap *s, bool ro,
        struct berth_mounts_result *res)
{
	const char **options = d->host->op_alloc(op, 3 * sizeof(*options));

	options[0] = "bind";
	options[1] = ro ? "ro" : "rw";
	return one_mount(d, op, "bind", path_of(d, op, s, "fs"), options, res);
}

/* A volatile overlay marks its work directory and is refused a second time, for its upper may have
 * lost data in a crash of the system. Within one boot nothing was lost. */
static berth_status clear_dirty_mark(struct driver *d, struct berth_op *op, const struct snap *s)
{
	if (strcmp(s->boot, d->boot) != 0)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' was written without syncing, and the system has been "
		        "restarted since: its content is not to be trusted",
		        s->key);
	char *mark = path_of(d, op, s, "work/work/incompat/volatile/dirty");
	for (int i = 0; i < 3; i++) {
		if (unlink(mark) < 0 && (errno == EISDIR || errno == EPERM))
			(void)rmdir(mark);
		*strrchr(mark, '/') = '\0';
	}
	return BERTH_OK;
}

berth_status describe(
        struct driver *d, struct berth_op *op, struct snap *s, struct berth_mounts_result *res)
{
	if (s->kind == BERTH_SNAP_COMMITTED)
		return berth_fail(d->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' is committed: it is not mounted but through a view", s->key);
	if (s->layer || !s->parent)
		return bind(d, op, s, s->kind == BERTH_SNAP_VIEW, res);
	if (s->kind == BERTH_SNAP_VIEW && !s->parent->parent)
		return bind(d, op, s->parent, true, res);

	const char **options = d->host->op_alloc(op, (OPTIONS_MAX + 1) * sizeof(*options));
	size_t n = 0;
	options[n++] = lowers(d, op, s->parent);
	options[n++] = "index=off";
	if (s->kind == BERTH_SNAP_VIEW) {
		options[n++] = "ro";
	} else {
		options[n++] = keyed(d, op, "upperdir=", path_of(d, op, s, "fs"));
		options[n++] = keyed(d, op, "workdir=", path_of(d, op, s, "work"));
	}
	if (s->is_volatile) {
		berth_status st = clear_dirty_mark(d, op, s);
		if (st != BERTH_OK)
			return st;
		options[n++] = "volatile";
	}
	char *extra = d->extra_options ? berth_dup(d->host, op, d->extra_options) : NULL, *save;
	for (char *o = extra ? strtok_r(extra, ",", &save) : NULL; o && n < OPTIONS_MAX;
	        o = strtok_r(NULL, ",", &save))
		options[n++] = o;
	return one_mount(d, op, "overlay", "overlay", options, res);
}
