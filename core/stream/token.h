/* Requests that wait for their client, by one-shot token. [loop] */
#ifndef BERTH_STREAM_TOKEN_H
#define BERTH_STREAM_TOKEN_H

#include <stddef.h>

#include "base/error.h"
#include "loop/loop.h"

#define BERTH_STREAM_TOKEN_BYTES 16 /* of randomness; twice as many hex digits */

struct berth_tokens;
struct berth_tokens *berth_tokens_new(
        struct berth_loop *l, size_t max, uint64_t ttl_ms, berth_fn drop);
/* drop(value) for all that nobody took. NULL-safe, returns NULL. */
struct berth_tokens *berth_tokens_free(struct berth_tokens *t);
/* The token (valid until it is taken or has expired), or NULL with RESOURCE_EXHAUSTED: then `value`
 * stays the caller's. After the time to live drop(value) runs. */
const char *berth_tokens_put(
        struct berth_tokens *t, void *value, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Takes the value out, once. NULL where there is no such token (any more). `token` may be any text.
 */
void *berth_tokens_take(struct berth_tokens *t, const char *token, size_t len);
size_t berth_tokens_count(const struct berth_tokens *t);

#endif
