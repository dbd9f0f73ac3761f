/* A bounded queue of byte buffers between the thread that decompresses a layer and the one that
 * unpacks it: one writer, one reader, no copy. */
#ifndef BERTH_PULL_QUEUE_H
#define BERTH_PULL_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct pull_queue;

struct pull_queue *pull_queue_new(void); /* never NULL */
struct pull_queue *pull_queue_free(struct pull_queue *q);

/* Writer: a free buffer, waits for one. NULL once the reader has stopped. */
void *pull_queue_reserve(struct pull_queue *q, size_t *ret_cap);
/* Writer: hands the reserved buffer over with n > 0 bytes in it. */
void pull_queue_commit(struct pull_queue *q, size_t n);
/* Writer: no more comes. failed: what came is not the whole. */
void pull_queue_end(struct pull_queue *q, bool failed);

/* Reader: the next buffer, valid until the next call; 0 at the end, -1 where the writer failed. */
ssize_t pull_queue_read(struct pull_queue *q, const void **ret);
/* Reader: reads no more; the writer's reserve gives NULL from now on. */
void pull_queue_stop(struct pull_queue *q);

#endif
