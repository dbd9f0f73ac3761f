/* Where blobs come from: an archive, a layout, a registry. */
#ifndef BERTH_PULL_SOURCE_H
#define BERTH_PULL_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"
#include "pull/digest.h"

/* An OCI descriptor. */
struct pull_desc {
	char digest[PULL_DIGEST_SIZE];
	char *media_type; /* "" where there is none */
	uint64_t size;    /* 0 where it is not known: docker-archive */
	char *path;       /* docker-archive: its name there; no digest is known then */
	char *title;      /* of an artifact's blob; NULL where it has none */
};

void pull_desc_finish(struct pull_desc *d);

/* Takes the next bytes; -1 ends the stream (the receiver knows why). */
typedef int (*pull_sink)(void *arg, const void *p, size_t n);

/* A sink that keeps all in memory, up to `max` bytes. */
struct pull_collect {
	struct berth_buf b;
	size_t max;
	bool too_big; /* it ended the stream */
};
int pull_collect(void *collect, const void *p, size_t n);

struct pull_source {
	bool remote; /* what comes from it is slow, and may be gone on with in its middle */
	/* [any] Streams a blob from byte `from` (0 where the source is not remote) to its end,
	 * every byte once; digests are the receiver's to check. Fails with CANCELLED where the sink
	 * ended it. */
	int (*stream)(struct pull_source *s, const struct pull_desc *d, uint64_t from,
	        pull_sink sink, void *arg, struct berth_error **ret_err);
	/* A manifest or index, its digest checked, or where `d` has none set to what came. The
	 * caller frees *ret and *ret_type (NULL: not known). */
	int (*manifest)(struct pull_source *s, struct pull_desc *d, char **ret, size_t *ret_len,
	        char **ret_type, struct berth_error **ret_err);
};

/* [any] A whole blob of at most `max` bytes, its digest checked. NUL-terminated, the caller frees
 * it. `what` names it in errors. */
int pull_source_read(struct pull_source *s, const struct pull_desc *d, const char *what, size_t max,
        char **ret, size_t *ret_len, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
