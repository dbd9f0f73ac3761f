/* What gRPC puts on top of HTTP/2, for both sides: message framing, compression, timeouts, status
 * text, and protobuf messages from bytes that a peer chose. Internal to grpc/. [any] */
#ifndef BERTH_GRPC_WIRE_H
#define BERTH_GRPC_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"

#define BERTH_GRPC_PREFIX 5 /* compressed flag and length before each message */

/* Collects one message at a time. Memory follows the bytes that came, not the announced length. */
struct berth_grpc_reader {
	size_t limit; /* largest message, compressed or not */
	uint8_t prefix[BERTH_GRPC_PREFIX];
	size_t prefix_len;
	uint8_t *data; /* `len` of `size` bytes so far */
	size_t len, size, cap;
};

/* Takes bytes from *p and *n up to the end of a message, then sets *ret_complete; the caller uses
 * data and size, calls berth_grpc_reader_reset() and goes on with the rest. RESOURCE_EXHAUSTED for
 * a message above the limit or when there is no memory for it. */
int berth_grpc_reader_feed(struct berth_grpc_reader *r, const uint8_t **p, size_t *n,
        bool *ret_complete, struct berth_error **ret_err) BERTH_MUST_CHECK;
bool berth_grpc_reader_compressed(const struct berth_grpc_reader *r);
bool berth_grpc_reader_empty(const struct berth_grpc_reader *r); /* between two messages */
void berth_grpc_reader_reset(struct berth_grpc_reader *r);

/* Inflates a gzip message of at most `limit` bytes into *ret, which the caller frees. */
int berth_grpc_inflate(const uint8_t *data, size_t len, size_t limit, uint8_t **ret,
        size_t *ret_len, struct berth_error **ret_err) BERTH_MUST_CHECK;

void berth_grpc_write_prefix(uint8_t out[BERTH_GRPC_PREFIX], size_t message_len);

/* grpc-timeout: up to eight digits and one of H M S m u n. -EINVAL for all else. */
int berth_grpc_parse_timeout(const char *s, uint64_t *ret_ns) BERTH_MUST_CHECK;
void berth_grpc_format_timeout(char out[16], uint64_t ms);

/* grpc-message: printable ASCII stays, all else and '%' becomes %XX. The text is cut, at a
 * character of UTF-8, where the result would be longer than BERTH_LIMIT_GRPC_STATUS_TEXT. */
char *berth_grpc_percent_encode(const char *text);
char *berth_grpc_percent_decode(const char *text, size_t len);

/* A message in the arena, never freed by itself. INVALID_ARGUMENT where the bytes are not such a
 * message or a string is not UTF-8, RESOURCE_EXHAUSTED where it would take more than `max_memory`
 * bytes. */
ProtobufCMessage *berth_grpc_unpack(const ProtobufCMessageDescriptor *type,
        struct berth_arena *arena, size_t max_memory, const uint8_t *data, size_t len,
        struct berth_error **ret_err);

#endif
