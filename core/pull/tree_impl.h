/* What tree.c and whiteout.c share. */
#ifndef BERTH_PULL_TREE_IMPL_H
#define BERTH_PULL_TREE_IMPL_H

#include "pull/pathset.h"
#include "pull/tree.h"

struct pull_tree {
	int root;
	struct pull_tree_opts o;
	/* The parent of the last entry: archives are sorted by directory. */
	char *cached;
	int cached_fd;
	bool cached_setgid;
	struct pull_pathset *implied;
	/* What this layer has made, with all its parents. Only where lower layers' content lies in
	 * the same directory, and must be told apart (PULL_WHITEOUT_DELETE). */
	struct pull_pathset *touched;
	/* What whiteouts of this layer hide (PULL_WHITEOUT_AUFS). */
	struct pull_pathset *hidden;
};

/* Relative to root, "" is root itself. Returns the fd or a negative errno. */
int pull_tree_open_beneath(int root, const char *path, int flags);
/* Forgets the cached parent, which may have been removed or changed. */
void pull_tree_forget(struct pull_tree *t);
/* `path` has been made by this layer: aufs must not find a whiteout of it. */
int pull_tree_unhide(struct pull_tree *t, const char *path, const struct pull_place *pl,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
int pull_tree_opaque(struct pull_tree *t, const struct pull_place *pl,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
