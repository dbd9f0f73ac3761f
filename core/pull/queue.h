/* A bounded queue of byte buffers between the thread that decompresses a layer and the one that
 * unpacks it: one writer, one reader, no copy. */
#ifndef BERTH_PULL_QUEUE_H
#define BERTH_PULL_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

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

/* Runs both sides to their end: `fill`, the writer, here, `drain` on a thread of its own; the queue
 * is ended for the one and stopped for the other. Where both fail, the error that is the cause is
 * returned. */
int pull_queue_run(struct pull_queue *q, int (*fill)(void *arg, struct berth_error **ret_err),
        int (*drain)(void *arg, struct berth_error **ret_err), void *arg,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
