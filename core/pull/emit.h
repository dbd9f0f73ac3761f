/* A layer as a storage driver has it, turned back into the tar stream of an OCI layer. One thread.
 */
#ifndef BERTH_PULL_EMIT_H
#define BERTH_PULL_EMIT_H

#include <sys/stat.h>

#include "base/error.h"
#include "pull/pathset.h"
#include "pull/source.h"

/* So many ids in a row, as the container has them and as the host has. */
struct pull_owners {
	uint32_t inside, outside, count;
};

struct pull_emit {
	/* The layer alone, in overlay's form: deletions are character devices 0:0. Or with `below`
	 * all that shows up to this layer, and up to the one below it: the layer is what differs.
	 */
	int top, below; /* borrowed; below -1: none */
	/* Directories of the layer alone that hide what lies below; or NULL. */
	const struct pull_pathset *opaque;
	pull_sink sink;
	void *arg;
	/* Of a container's own layer. deleted(arg, path) takes the place of an entry for each
	 * deletion; what an opaque directory hides of `hidden` (-1: nothing) is told one by one. */
	int (*deleted)(void *arg, const char *path, struct berth_error **ret_err);
	int hidden;
	const struct pull_pathset *skip; /* left out, with all beneath them; or NULL */
	/* Owners are those on the host, and become the container's; without maps they stay. */
	const struct pull_owners *uids, *gids;
	size_t n_uids, n_gids;
};

/* Each error names the entry. CANCELLED where the sink ended it. */
int pull_emit(const struct pull_emit *e, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* same.c: is it the same file in both trees, as far as an image can tell? 1, 0, or -1. */
int pull_same(int a, const struct stat *a_st, int b, const struct stat *b_st, const char *name,
        struct berth_error **ret_err);

#endif
