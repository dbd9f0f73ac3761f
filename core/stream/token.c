#include "stream/token.h"

#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/mem.h"

struct entry {
	char token[2 * BERTH_STREAM_TOKEN_BYTES + 1];
	void *value;
	uint64_t until_ns;
	struct entry *prev, *next; /* oldest first: all live equally long */
	UT_hash_handle hh;
};

struct berth_tokens {
	struct berth_loop *loop;
	struct entry *by_token, *oldest;
	size_t n, max;
	uint64_t ttl_ms;
	berth_fn drop;
	struct berth_timer *timer;
};

struct berth_tokens *berth_tokens_new(
        struct berth_loop *l, size_t max, uint64_t ttl_ms, berth_fn drop)
{
	struct berth_tokens *t = berth_new(struct berth_tokens);
	t->loop = l;
	t->max = max;
	t->ttl_ms = ttl_ms;
	t->drop = drop;
	return t;
}

static void *forget(struct berth_tokens *t, struct entry *e)
{
	void *value = e->value;
	HASH_DEL(t->by_token, e);
	DL_DELETE(t->oldest, e);
	t->n--;
	explicit_bzero(e->token, sizeof(e->token));
	free(e);
	return value;
}

struct berth_tokens *berth_tokens_free(struct berth_tokens *t)
{
	if (!t)
		return NULL;
	while (t->oldest)
		t->drop(forget(t, t->oldest));
	berth_timer_free(t->timer);
	free(t);
	return NULL;
}

static void expire(void *arg)
{
	struct berth_tokens *t = arg;
	uint64_t now = berth_now_ns();

	t->timer = berth_timer_free(t->timer);
	while (t->oldest && t->oldest->until_ns <= now)
		t->drop(forget(t, t->oldest));
	if (t->oldest)
		t->timer = berth_timer_start(
		        t->loop, (t->oldest->until_ns - now) / 1000000u + 1, expire, t);
}

const char *berth_tokens_put(struct berth_tokens *t, void *value, struct berth_error **ret_err)
{
	if (t->n >= t->max) {
		berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "%zu streaming requests wait for their clients already", t->n);
		return NULL;
	}
	struct entry *e = berth_new(struct entry);
	berth_random_hex(e->token, BERTH_STREAM_TOKEN_BYTES);
	e->value = value;
	e->until_ns = berth_now_ns() + t->ttl_ms * 1000000u;
	HASH_ADD_STR(t->by_token, token, e);
	DL_APPEND(t->oldest, e);
	t->n++;
	if (!t->timer)
		t->timer = berth_timer_start(t->loop, t->ttl_ms + 1, expire, t);
	return e->token;
}

void *berth_tokens_take(struct berth_tokens *t, const char *token, size_t len)
{
	struct entry *e = NULL;

	if (len == 2 * BERTH_STREAM_TOKEN_BYTES)
		HASH_FIND(hh, t->by_token, token, len, e);
	if (!e)
		return NULL;
	if (e->until_ns <= berth_now_ns()) {
		t->drop(forget(t, e));
		return NULL;
	}
	return forget(t, e);
}

size_t berth_tokens_count(const struct berth_tokens *t)
{
	return t->n;
}
