#include "aufs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

/* Without "+wh" a branch that is not written to has its whiteouts ignored. */
#define LOWER "ro+wh"

static const char *branch(struct store *st, struct berth_op *op, const struct snap *s,
        const char *key, const char *mode)
{
	const char *path = store_path(st, op, s, "fs");
	size_t n = strlen(key) + strlen(path) + strlen(mode) + 3;
	char *text = st->host->op_alloc(op, n);

	snprintf(text, n, "%s=%s=%s", key, path, mode);
	return text;
}

/* The numbers of inodes lie in a file of their own. aufs would make it in the writable branch,
 * where a container sees the name taken for a moment, or in /tmp. */
static const char *xino(struct store *st, struct berth_op *op, const struct snap *s)
{
	const struct aufs *d = st->self;
	const char *path = d->xino_dir ? NULL : store_path(st, op, s, "work/xino");
	char leaf[LEAF_PATH];

	if (!path) {
		size_t n = strlen(d->xino_dir) + LEAF_PATH;
		char *text = st->host->op_alloc(op, n);
		store_leaf(s, "", leaf); /* NAME/ */
		snprintf(text, n, "%s/%.*s", d->xino_dir, (int)strcspn(leaf, "/"), leaf);
		path = text;
	}
	size_t n = strlen(path) + sizeof("xino=");
	char *text = st->host->op_alloc(op, n);
	snprintf(text, n, "xino=%s", path);
	return text;
}

berth_status aufs_describe(struct store *st, struct berth_op *op, const struct snap *s,
        struct berth_mounts_result *res)
{
	/* dirperm1: what a directory's mode forbids in a layer below does not count where one above
	 * changed it. Pseudo-links (plink) are aufs' default: without them a file of several names
	 * is an error under the others once one is written to. The host touches no branch of a
	 * mount, which udba=none says. Without acl the kernel looks at the mode alone, whose group
	 * bits are the mask of an ACL: it would allow the group more than the image does. */
	static const char *const fixed[] = {"dirperm1", "udba=none", "acl", "dio", "nowarn_perm"};
	const struct aufs *d = st->self;
	bool view = s->kind == BERTH_SNAP_VIEW;
	size_t n = 0;

	if (s->layer || !s->parent)
		return store_bind(st, op, s, "fs", view, res);
	const char **options = st->host->op_alloc(
	        op, (store_chain(s) + sizeof(fixed) / sizeof(fixed[0]) + OPTIONS_MAX + 4) *
	                    sizeof(*options));
	options[n++] =
	        view ? branch(st, op, s->parent, "br", LOWER) : branch(st, op, s, "br", "rw");
	for (const struct snap *p = view ? s->parent->parent : s->parent; p; p = p->parent)
		options[n++] = branch(st, op, p, "append", LOWER);
	if (view)
		options[n++] = "ro";
	options[n++] = xino(st, op, s);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		options[n++] = fixed[i];
	for (size_t i = 0; d->options[i]; i++)
		options[n++] = berth_dup(st->host, op, d->options[i]);
	return store_mount(st, op, "aufs", "aufs", options, res);
}
