/* One image from its manifest to its record: layers, several at once where the driver allows it. */
#ifndef BERTH_PULL_SESSION_H
#define BERTH_PULL_SESSION_H

#include "base/error.h"
#include "pull/image.h"
#include "pull/source.h"
#include "pull/tree.h"
#include "pull/wire.h"

struct pull_session {
	struct pull_wire *wire;
	struct pull_platform platform;
	unsigned int parallel; /* layers at once; 1 where the driver is not detached */
	enum pull_whiteout whiteout;
};

struct pull_image {
	struct pull_source *source;
	const char *ref;          /* or NULL */
	const char *digest;       /* the manifest's */
	const char *index_digest; /* where it came through an index, else NULL */
	struct pull_manifest *manifest;
};

/* Reads the config, asks what is missing, runs the layers, hands over the record and waits until
 * it is stored. */
int pull_session_image(const struct pull_session *s, const struct pull_image *image,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Follows indexes from a descriptor (empty: what the source begins with) to a manifest.
 * index_digest becomes "" where there was none. */
int pull_session_resolve(const struct pull_session *s, struct pull_source *source,
        const struct pull_desc *start, struct pull_manifest **ret, char digest[PULL_DIGEST_SIZE],
        char index_digest[PULL_DIGEST_SIZE], struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
