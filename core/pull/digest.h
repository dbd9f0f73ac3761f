/* sha256 digests in the form "sha256:<64 hex digits>". [any] A hasher belongs to one thread. */
#ifndef BERTH_PULL_DIGEST_H
#define BERTH_PULL_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

#include "pull/ref.h"

struct pull_hasher;
struct pull_hasher *pull_hasher_new(void); /* never NULL */
void pull_hasher_update(struct pull_hasher *h, const void *p, size_t n);
void pull_hasher_final(struct pull_hasher *h, char out[PULL_DIGEST_SIZE]);
/* The digest of what has come so far; more may follow. */
void pull_hasher_peek(const struct pull_hasher *h, char out[PULL_DIGEST_SIZE]);
struct pull_hasher *pull_hasher_free(struct pull_hasher *h);
void pull_hasher_freep(struct pull_hasher **h);

void pull_digest_of(const void *p, size_t n, char out[PULL_DIGEST_SIZE]);
/* OCI image-spec, config.md: parent is the ChainID below, NULL for the first layer. */
void pull_chain_id(const char *parent, const char *diff_id, char out[PULL_DIGEST_SIZE]);

#endif
