/* OCI artifacts: manifests whose blobs are files, not layers. Each blob becomes a layer that holds
 * one file, so that everything after it is as for an image: it is unpacked from a tar stream that
 * is made around it. */
#ifndef BERTH_PULL_ARTIFACT_H
#define BERTH_PULL_ARTIFACT_H

#include <stddef.h>

#include "base/error.h"
#include "pull/image.h"

/* What the blob's file is called: its title, or the hex digits of its digest. Caller frees.
 * INVALID_ARGUMENT for a title that is no name of a file. */
int pull_artifact_name(
        const struct pull_desc *d, char **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* What stands for a config. A layer's DiffID is no digest of a stream, which nobody knows before
 * the blob is here, but names what the layer holds: file name and blob. */
int pull_artifact_config(const struct pull_manifest *m, struct pull_config *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* The tar stream before and after a blob. Caller frees. */
char *pull_artifact_head(const char *name, uint64_t size, size_t *ret_len);
char *pull_artifact_tail(uint64_t size, size_t *ret_len);

#endif
