/* An image that one storage driver has, made anew in another: each layer is read back as a tar
 * stream (emit.h) and unpacked as one that was pulled. */
#ifndef BERTH_PULL_COPY_H
#define BERTH_PULL_COPY_H

#include "pull/session.h"

/* Asks berthd which of the n layers are missing, and makes those. */
int pull_copy_run(
        const struct pull_session *s, size_t n, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Makes layer n in `dir`, which is taken. */
int pull_copy_into(const struct pull_session *s, size_t n, int dir,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* A list of paths, NUL-terminated each, as a set. [for tests] */
struct pull_pathset *pull_copy_paths(const char *text, size_t len);

#endif
