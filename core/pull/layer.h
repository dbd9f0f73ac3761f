/* One layer's way: blob -> sha256 -> decompress -> sha256 (DiffID) -> unpack -> `unpacked`. Two
 * threads with a bounded queue between them: the caller's reads and decompresses, a second one
 * hashes the tar stream and unpacks it. */
#ifndef BERTH_PULL_LAYER_H
#define BERTH_PULL_LAYER_H

#include "base/error.h"
#include "pull/source.h"
#include "pull/tree.h"
#include "pull/unpack.h"
#include "pull/wire.h"

struct pull_layer {
	size_t n; /* index in the image */
	const struct pull_desc *desc;
	const char *diff_id;
	const char
	        *file; /* the blob is a file of this name (pull/artifact.h); NULL: a tar stream */
};

/* Asks berthd for the directory, fills it and reports it. The error names the layer. */
int pull_layer_run(const struct pull_layer *l, struct pull_source *source, struct pull_wire *wire,
        enum pull_whiteout whiteout, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Tells berthd that something is wanted of layer n: "open", "fetch", "source". */
int pull_layer_ask(
        struct pull_wire *wire, const char *what, size_t n, struct berth_error **ret_err);
/* Tells berthd that the layer is unpacked. */
int pull_layer_report(struct pull_wire *wire, size_t n, const struct pull_unpacked *u,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
