/* What has come of a blob so far, in a file that outlives the pull, so that a later one goes on
 * where this one ended. Behind a head with the length of what is whole and its digest lie the
 * blob's first bytes. The file is berthd's, the content ours: a file that does not hold what its
 * head says counts as empty. A failure to write costs what would have been kept, and nothing else.
 * One thread at a time. */
#ifndef BERTH_PULL_KEPT_H
#define BERTH_PULL_KEPT_H

#include <stdint.h>

#include "pull/digest.h"
#include "pull/source.h"

struct pull_kept;

/* Owns fd (open for reading and writing). Never NULL. */
struct pull_kept *pull_kept_new(int fd, const struct pull_desc *d);
struct pull_kept *pull_kept_free(struct pull_kept *k);

/* Once, before anything is added: hands what the file holds to the sink. -1: the sink ended it;
 * else how many bytes of the blob it was. NULL holds nothing, here and below. */
int64_t pull_kept_replay(struct pull_kept *k, pull_sink sink, void *arg);
/* Adds the next bytes. `so_far` has hashed the blob up to and with them. */
void pull_kept_add(struct pull_kept *k, const void *p, size_t n, const struct pull_hasher *so_far);
/* Brings the head up to date: what was added until now can be gone on with. */
void pull_kept_mark(struct pull_kept *k, const struct pull_hasher *so_far);
/* The bytes were not the blob's. */
void pull_kept_forget(struct pull_kept *k);

#endif
