/* Unpacks one layer's tar stream into a directory. One thread. */
#ifndef BERTH_PULL_UNPACK_H
#define BERTH_PULL_UNPACK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "pull/tree.h"

struct pull_unpack_opts {
	struct pull_tree_opts tree;
	/* The next piece of the stream, valid until the next call: its size, 0 at the end, -1 where
	 * it failed (the caller knows why). */
	ssize_t (*read)(void *arg, const void **ret);
	void *read_arg;
};

struct pull_unpacked {
	uint64_t bytes, inodes;
	size_t n_implied;
	char *implied; /* NUL-terminated paths, parents first; the caller frees it */
	size_t implied_len;
};

/* root is borrowed. Reads up to the archive's end; what follows it is the caller's to read. Each
 * error names the entry. */
int pull_unpack(int root, const struct pull_unpack_opts *o, struct pull_unpacked *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
