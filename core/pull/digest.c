#include "pull/digest.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const char prefix[] = "sha256:";

struct pull_hasher {
	EVP_MD_CTX *ctx;
};

/* OpenSSL fails here only where it has no memory or is broken as a whole. */
static void must(int ok)
{
	if (ok != 1) {
		fputs("berth-pull: OpenSSL's sha256 failed\n", stderr);
		abort();
	}
}

struct pull_hasher *pull_hasher_new(void)
{
	struct pull_hasher *h = berth_new(struct pull_hasher);
	h->ctx = EVP_MD_CTX_new();
	must(h->ctx != NULL);
	must(EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL));
	return h;
}

void pull_hasher_update(struct pull_hasher *h, const void *p, size_t n)
{
	must(EVP_DigestUpdate(h->ctx, p, n));
}

static void write_digest(EVP_MD_CTX *ctx, char out[PULL_DIGEST_SIZE])
{
	unsigned char raw[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	must(EVP_DigestFinal_ex(ctx, raw, &n));
	memcpy(out, prefix, sizeof(prefix));
	for (unsigned int i = 0; i < n; i++)
		snprintf(out + sizeof(prefix) - 1 + 2 * i, 3, "%02x", raw[i]);
}

void pull_hasher_final(struct pull_hasher *h, char out[PULL_DIGEST_SIZE])
{
	write_digest(h->ctx, out);
}

void pull_hasher_peek(const struct pull_hasher *h, char out[PULL_DIGEST_SIZE])
{
	EVP_MD_CTX *copy = EVP_MD_CTX_new();
	must(copy != NULL);
	must(EVP_MD_CTX_copy_ex(copy, h->ctx));
	write_digest(copy, out);
	EVP_MD_CTX_free(copy);
}

struct pull_hasher *pull_hasher_free(struct pull_hasher *h)
{
	if (h) {
		EVP_MD_CTX_free(h->ctx);
		free(h);
	}
	return NULL;
}

void pull_hasher_freep(struct pull_hasher **h)
{
	*h = pull_hasher_free(*h);
}

void pull_digest_of(const void *p, size_t n, char out[PULL_DIGEST_SIZE])
{
	struct pull_hasher *h = pull_hasher_new();
	pull_hasher_update(h, p, n);
	pull_hasher_final(h, out);
	pull_hasher_free(h);
}

void pull_chain_id(const char *parent, const char *diff_id, char out[PULL_DIGEST_SIZE])
{
	if (!parent) {
		snprintf(out, PULL_DIGEST_SIZE, "%s", diff_id);
		return;
	}
	_cleanup_free_ char *both = berth_asprintf("%s %s", parent, diff_id);
	pull_digest_of(both, strlen(both), out);
}
