#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

#define OPTIONS_MAX 64

static char *keyed(struct store *st, struct berth_op *op, const char *key, const char *value)
{
	size_t n = strlen(key) + strlen(value) + 1;
	char *s = st->host->op_alloc(op, n);

	snprintf(s, n, "%s%s", key, value);
	return s;
}

/* lowerdir=TOP:...:BOTTOM */
static char *lowers(struct store *st, struct berth_op *op, const struct snap *top)
{
	static const char key[] = "lowerdir=";
	size_t each = strlen(st->root) * 2 + NAME_LIMIT + 32;
	char *list = st->host->op_alloc(op, sizeof(key) + store_chain(top) * each), *out = list;

	memcpy(out, key, sizeof(key) - 1);
	out += sizeof(key) - 1;
	for (const struct snap *s = top; s; s = s->parent) {
		if (s != top)
			*out++ = ':';
		for (const char *p = store_path(st, op, s, "fs"); *p; p++) {
			if (*p == ':' || *p == '\\')
				*out++ = '\\';
			*out++ = *p;
		}
	}
	*out = '\0';
	return list;
}

/* A volatile overlay marks its work directory and is refused a second time, for its upper may have
 * lost data in a crash of the system. Within one boot nothing was lost. */
static berth_status clear_dirty_mark(struct store *st, struct berth_op *op, const struct snap *s)
{
	if (strcmp(s->boot, st->boot) != 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "snapshot '%s' was written without syncing, and the system has been "
		        "restarted since: its content is not to be trusted",
		        s->key);
	char *mark = store_path(st, op, s, "work/work/incompat/volatile/dirty");
	for (int i = 0; i < 3; i++) {
		if (unlink(mark) < 0 && (errno == EISDIR || errno == EPERM))
			(void)rmdir(mark);
		*strrchr(mark, '/') = '\0';
	}
	return BERTH_OK;
}

berth_status overlay_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res)
{
	const struct overlay *o = st->self;

	if (s->layer || !s->parent)
		return store_bind(st, op, s, "fs", s->kind == BERTH_SNAP_VIEW, res);
	const struct snap *masked = mask_unshown(o, s->parent);
	if (masked)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "layer '%s' was made with force_mask: it needs a mount_program",
		        masked->key);
	if (s->kind == BERTH_SNAP_VIEW && !s->parent->parent && !mask_has(s->parent))
		return store_bind(st, op, s->parent, "fs", true, res);

	const char **options = st->host->op_alloc(op, (OPTIONS_MAX + 1) * sizeof(*options));
	size_t n = 0;
	options[n++] = lowers(st, op, s->parent);
	options[n++] = o->program ? o->program : "index=off";
	if (o->userxattr)
		options[n++] = "userxattr";
	if (o->redirect)
		options[n++] = o->redirect;
	if (o->metacopy)
		options[n++] = o->metacopy;
	if (s->kind == BERTH_SNAP_VIEW) {
		options[n++] = "ro";
	} else {
		options[n++] = keyed(st, op, "upperdir=", store_path(st, op, s, "fs"));
		options[n++] = keyed(st, op, "workdir=", store_path(st, op, s, "work"));
	}
	if (s->is_volatile) {
		berth_status r = clear_dirty_mark(st, op, s);
		if (r != BERTH_OK)
			return r;
		options[n++] = "volatile";
	}
	char *extra = o->extra_options ? berth_dup(st->host, op, o->extra_options) : NULL, *save;
	for (char *one = extra ? strtok_r(extra, ",", &save) : NULL; one && n < OPTIONS_MAX;
	        one = strtok_r(NULL, ",", &save))
		options[n++] = one;
	return store_mount(st, op, "overlay", "overlay", options, res);
}
