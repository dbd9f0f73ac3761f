/* A layer's directory as it is being filled. Own code decides here where an entry may land: nothing
 * is ever reached through a symbolic link, a mount or "..", and what a name would replace is
 * decided by rules, not by the kernel's. One thread. */
#ifndef BERTH_PULL_TREE_H
#define BERTH_PULL_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"

enum pull_whiteout { PULL_WHITEOUT_OVERLAY, PULL_WHITEOUT_AUFS, PULL_WHITEOUT_DELETE };

/* "overlay", "aufs", "delete"; -1 where it is none of them. */
int pull_whiteout_parse(const char *name);

struct pull_tree_opts {
	enum pull_whiteout whiteout;
	/* Marks a directory opaque (overlay alone: aufs' mark is a file). */
	int (*opaque)(void *arg, int dirfd, struct berth_error **ret_err);
	void *arg;
};

struct pull_tree;

/* root is borrowed: an open directory. */
struct pull_tree *pull_tree_new(int root, const struct pull_tree_opts *opts); /* never NULL */
struct pull_tree *pull_tree_free(struct pull_tree *t);

/* Why a name from an archive is refused, NULL where it is good; then `out` (BERTH_LIMIT_PATH bytes)
 * holds it without ".", doubled and trailing slashes: "" is the root itself. */
const char *pull_tree_clean(const char *raw, char *out);

struct pull_place {
	int dir;          /* the parent's fd, borrowed until the next call */
	const char *base; /* within `path` */
	bool dir_setgid;  /* what is made there inherits the group */
};
/* The parent of a clean, non-empty path, made where it is missing (0755, root) and remembered as
 * implied. Fails where a part of it is no directory. */
int pull_tree_parent(struct pull_tree *t, const char *path, struct pull_place *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Without making anything: for the targets of hard links. NOT_FOUND where it is not there. */
int pull_tree_find(struct pull_tree *t, const char *path, struct pull_place *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Removes what stands at a place, for an entry that is no directory. A directory that this layer
 * has filled is not replaced but refused. */
int pull_tree_clear(struct pull_tree *t, const char *path, const struct pull_place *pl,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Makes or finds the directory; the caller owns the fd and sets owner, mode and the rest. The root
 * for "". */
int pull_tree_dir(struct pull_tree *t, const char *path, int *ret_fd,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The path has now been made by this layer. */
int pull_tree_made(
        struct pull_tree *t, const char *path, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Why the storage driver's file system cannot show a file of this clean path; NULL where it can. */
const char *pull_tree_unfit(const struct pull_tree *t, const char *path);
/* Does the last component begin with ".wh."? */
bool pull_tree_is_whiteout(const char *path);
int pull_tree_whiteout(
        struct pull_tree *t, const char *path, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* aufs' own files, that no layer should hold: left out. */
bool pull_tree_is_noise(const struct pull_tree *t, const char *path);

/* The implied directories' paths, NUL-terminated each, parents first; the caller frees them. */
size_t pull_tree_implied(struct pull_tree *t, char **ret, size_t *ret_bytes);

#endif
