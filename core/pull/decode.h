/* Turns a layer's blob into its tar stream: gzip (one or more members), zstd (one or more frames)
 * or plain, told apart by the first bytes. The output goes into a queue. One thread. */
#ifndef BERTH_PULL_DECODE_H
#define BERTH_PULL_DECODE_H

#include <stddef.h>

#include "base/error.h"
#include "pull/queue.h"

struct pull_decoder;

struct pull_decoder *pull_decoder_new(struct pull_queue *q); /* the queue is borrowed */
struct pull_decoder *pull_decoder_free(struct pull_decoder *d);
/* Before the first byte: what comes is passed on as it is. */
void pull_decoder_plain(struct pull_decoder *d);
/* Fails with DATA_LOSS on a damaged stream, UNIMPLEMENTED on bzip2 and xz, RESOURCE_EXHAUSTED
 * above BERTH_LIMIT_LAYER_BYTES, CANCELLED where the queue's reader has stopped. */
int pull_decoder_feed(struct pull_decoder *d, const void *p, size_t n,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* After the last byte: a stream that is cut short fails. Hands over what is left, but does not end
 * the queue. */
int pull_decoder_finish(struct pull_decoder *d, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
