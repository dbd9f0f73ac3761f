/* Writes the tar stream of a layer: PAX, with all that the unpacker reads (core/pull/unpack.h). One
 * thread. */
#ifndef BERTH_PULL_TAR_H
#define BERTH_PULL_TAR_H

#include <sys/stat.h>

#include "base/error.h"
#include "pull/source.h"

struct pull_tar;

struct pull_tar *pull_tar_new(pull_sink sink, void *arg); /* never NULL */
struct pull_tar *pull_tar_free(struct pull_tar *t);

/* dir/name as `path` (both "" for the tree's root, of which `dir` is then the fd); `st` is its own.
 * hardlink: the path of an entry before it that is the same file, or NULL. */
int pull_tar_add(struct pull_tar *t, int dir, const char *name, const char *path,
        const struct stat *st, const char *hardlink, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* An empty file: what is said by its name. */
int pull_tar_mark(
        struct pull_tar *t, const char *path, struct berth_error **ret_err) BERTH_MUST_CHECK;
int pull_tar_end(struct pull_tar *t, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
