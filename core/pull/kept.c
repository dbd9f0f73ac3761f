#include "pull/kept.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/protocol.h"

/* Of this many bytes a killed pull loses what came after the last head. */
#define MARK_BYTES (1024 * 1024)
#define READ_BYTES (256 * 1024)

/* Written and read by the same machine, and checked by the digest: no fixed byte order. */
struct head {
	char magic[16];
	uint64_t len;
	char digest[PULL_DIGEST_SIZE]; /* of the first `len` bytes */
};
static const char magic[16] = "berth partial 1\n";

struct pull_kept {
	int fd;
	uint64_t len, marked, size;
	bool broken; /* nothing more is written */
};

struct pull_kept *pull_kept_new(int fd, const struct pull_desc *d)
{
	struct pull_kept *k = berth_new(struct pull_kept);
	k->fd = fd;
	k->size = d->size;
	return k;
}

struct pull_kept *pull_kept_free(struct pull_kept *k)
{
	if (!k)
		return NULL;
	berth_close(k->fd);
	free(k);
	return NULL;
}

static bool put(struct pull_kept *k, const void *p, size_t n, uint64_t at)
{
	while (n > 0 && !k->broken) {
		ssize_t w = pwrite(k->fd, p, n, (off_t)at);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0) {
			k->broken = true;
			break;
		}
		p = (const char *)p + w;
		n -= (size_t)w;
		at += (uint64_t)w;
	}
	return !k->broken;
}

static bool get(int fd, void *p, size_t n, uint64_t at)
{
	ssize_t r;
	do
		r = pread(fd, p, n, (off_t)at);
	while (r < 0 && errno == EINTR);
	return r == (ssize_t)n;
}

/* Hands over the first `len` bytes; how many could be read. -1: the sink ended it. */
static int64_t each_piece(struct pull_kept *k, uint64_t len, pull_sink sink, void *arg)
{
	_cleanup_free_ char *buf = berth_reallocarray(NULL, 1, READ_BYTES);
	uint64_t at = 0;

	while (at < len) {
		size_t n = len - at < READ_BYTES ? (size_t)(len - at) : READ_BYTES;
		if (!get(k->fd, buf, n, BERTH_PULL_PARTIAL_HEAD + at))
			break;
		if (sink(arg, buf, n) < 0)
			return -1;
		at += n;
	}
	return (int64_t)at;
}

static int hash(void *hasher, const void *p, size_t n)
{
	pull_hasher_update(hasher, p, n);
	return 0;
}

int64_t pull_kept_replay(struct pull_kept *k, pull_sink sink, void *arg)
{
	struct head h;
	char digest[PULL_DIGEST_SIZE];

	if (!k || !get(k->fd, &h, sizeof(h), 0) || memcmp(h.magic, magic, sizeof(magic)) != 0 ||
	        h.len > k->size)
		return 0;
	/* All of it is looked at before the first byte is used: a power cut may have left a head
	 * without its bytes. */
	_cleanup_(pull_hasher_freep) struct pull_hasher *check = pull_hasher_new();
	if (each_piece(k, h.len, hash, check) != (int64_t)h.len)
		return 0;
	pull_hasher_final(check, digest);
	if (memcmp(digest, h.digest, sizeof(digest)) != 0)
		return 0;
	int64_t n = each_piece(k, h.len, sink, arg);
	k->len = n < 0 ? h.len : (uint64_t)n;
	k->marked = h.len;
	return n;
}

void pull_kept_mark(struct pull_kept *k, const struct pull_hasher *so_far)
{
	struct head h = {0};

	if (!k || k->broken || k->len == k->marked)
		return;
	memcpy(h.magic, magic, sizeof(magic));
	h.len = k->len;
	pull_hasher_peek(so_far, h.digest);
	if (put(k, &h, sizeof(h), 0))
		k->marked = k->len;
}

void pull_kept_add(struct pull_kept *k, const void *p, size_t n, const struct pull_hasher *so_far)
{
	if (!k || !put(k, p, n, BERTH_PULL_PARTIAL_HEAD + k->len))
		return;
	k->len += n;
	if (k->len - k->marked >= MARK_BYTES)
		pull_kept_mark(k, so_far);
}

void pull_kept_forget(struct pull_kept *k)
{
	struct head none = {0};

	if (!k)
		return;
	put(k, &none, sizeof(none), 0);
	k->broken = true;
}
