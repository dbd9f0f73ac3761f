#include "pull/decode.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/mem.h"
#include "pull/gunzip.h"
#include "pull/protocol.h"

enum form { FORM_UNKNOWN, FORM_PLAIN, FORM_GZIP, FORM_ZSTD };

/* zstd's own default for a decoder: what `zstd --ultra -22` needs, without --long. */
enum { ZSTD_WINDOW_LOG = 27, MAGIC = 6 };

struct pull_decoder {
	struct pull_queue *q;
	enum form form;
	unsigned char head[MAGIC]; /* until the form is known */
	size_t n_head;
	struct pull_gunzip *gz;
	ZSTD_DStream *zs;
	bool between; /* gzip member or zstd frame complete */
	bool members; /* at least one was complete */
	char *out;
	size_t out_len, out_cap;
	uint64_t total;
};

struct pull_decoder *pull_decoder_new(struct pull_queue *q)
{
	struct pull_decoder *d = berth_new(struct pull_decoder);
	d->q = q;
	return d;
}

struct pull_decoder *pull_decoder_free(struct pull_decoder *d)
{
	if (!d)
		return NULL;
	pull_gunzip_free(d->gz);
	ZSTD_freeDStream(d->zs);
	free(d);
	return NULL;
}

static int reserve(struct pull_decoder *d, struct berth_error **ret_err)
{
	if (d->out && d->out_len < d->out_cap)
		return 0;
	if (d->out)
		pull_queue_commit(d->q, d->out_len);
	d->out_len = 0;
	d->out = pull_queue_reserve(d->q, &d->out_cap);
	if (!d->out)
		return berth_error_set(ret_err, BERTH_CANCELLED, "unpacking has stopped");
	return 0;
}

static int made(struct pull_decoder *d, size_t n, struct berth_error **ret_err)
{
	d->out_len += n;
	d->total += n;
	if (d->total > BERTH_LIMIT_LAYER_BYTES)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "layer is larger than %llu bytes unpacked", BERTH_LIMIT_LAYER_BYTES);
	return 0;
}

static int feed_plain(struct pull_decoder *d, const char *p, size_t n, struct berth_error **ret_err)
{
	while (n > 0) {
		if (reserve(d, ret_err) < 0)
			return -1;
		size_t part = d->out_cap - d->out_len;
		if (part > n)
			part = n;
		memcpy(d->out + d->out_len, p, part);
		if (made(d, part, ret_err) < 0)
			return -1;
		p += part;
		n -= part;
	}
	return 0;
}

/* Some tools pad a gzip file with zeros to a block's length; gzip(1) ignores them, too. */
static bool all_zero(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

static int feed_gzip(struct pull_decoder *d, const char *p, size_t n, struct berth_error **ret_err)
{
	bool full = false;

	/* A full output buffer may hide more output that needs no more input. */
	while (n > 0 || full) {
		size_t used, got;
		if (d->between && d->members && all_zero(p, n))
			return 0;
		if (reserve(d, ret_err) < 0)
			return -1;
		const char *why = pull_gunzip_step(d->gz, p, n, d->out + d->out_len,
		        d->out_cap - d->out_len, &used, &got, &d->between);
		if (why)
			return berth_error_set(ret_err, BERTH_DATA_LOSS, "gzip: %s", why);
		if (made(d, got, ret_err) < 0)
			return -1;
		d->members |= d->between;
		full = d->out_len == d->out_cap && !d->between;
		p += used;
		n -= used;
	}
	return 0;
}

static int feed_zstd(struct pull_decoder *d, const char *p, size_t n, struct berth_error **ret_err)
{
	ZSTD_inBuffer in = {p, n, 0};
	bool full = false;

	while (in.pos < in.size || full) {
		if (reserve(d, ret_err) < 0)
			return -1;
		ZSTD_outBuffer out = {d->out + d->out_len, d->out_cap - d->out_len, 0};
		size_t r = ZSTD_decompressStream(d->zs, &out, &in);
		if (ZSTD_isError(r))
			return berth_error_set(
			        ret_err, BERTH_DATA_LOSS, "zstd: %s", ZSTD_getErrorName(r));
		if (made(d, out.pos, ret_err) < 0)
			return -1;
		full = out.pos == out.size && r != 0;
		d->between = r == 0;
	}
	return 0;
}

static int choose(struct pull_decoder *d, struct berth_error **ret_err)
{
	const unsigned char *m = d->head;

	if (d->n_head >= 2 && m[0] == 0x1f && m[1] == 0x8b) {
		d->form = FORM_GZIP;
		d->gz = pull_gunzip_new();
	} else if (d->n_head >= 4 &&
	           ((m[0] == 0x28 && m[1] == 0xb5 && m[2] == 0x2f && m[3] == 0xfd) ||
	                   ((m[0] & 0xf0) == 0x50 && m[1] == 0x2a && m[2] == 0x4d &&
	                           m[3] == 0x18))) {
		d->form = FORM_ZSTD; /* a frame, or a skippable one */
		d->zs = ZSTD_createDStream();
		if (!d->zs)
			abort();
		ZSTD_DCtx_setParameter(d->zs, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
	} else if (d->n_head >= 3 && memcmp(m, "BZh", 3) == 0) {
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "layers compressed by bzip2 are not supported");
	} else if (d->n_head >= 6 && memcmp(m,
	                                     "\xfd"
	                                     "7zXZ\0",
	                                     6) == 0) {
		return berth_error_set(
		        ret_err, BERTH_UNIMPLEMENTED, "layers compressed by xz are not supported");
	} else {
		d->form = FORM_PLAIN;
	}
	return 0;
}

static int feed(struct pull_decoder *d, const void *p, size_t n, struct berth_error **ret_err)
{
	switch (d->form) {
	case FORM_GZIP:
		return feed_gzip(d, p, n, ret_err);
	case FORM_ZSTD:
		return feed_zstd(d, p, n, ret_err);
	case FORM_PLAIN:
	case FORM_UNKNOWN:
		break;
	}
	return feed_plain(d, p, n, ret_err);
}

static int start(struct pull_decoder *d, struct berth_error **ret_err)
{
	return choose(d, ret_err) < 0 ? -1 : feed(d, d->head, d->n_head, ret_err);
}

void pull_decoder_plain(struct pull_decoder *d)
{
	d->form = FORM_PLAIN;
}

int pull_decoder_feed(struct pull_decoder *d, const void *p, size_t n, struct berth_error **ret_err)
{
	if (d->form == FORM_UNKNOWN) {
		size_t part = MAGIC - d->n_head;
		if (part > n)
			part = n;
		memcpy(d->head + d->n_head, p, part);
		d->n_head += part;
		p = (const char *)p + part;
		n -= part;
		if (d->n_head < MAGIC)
			return 0;
		if (start(d, ret_err) < 0)
			return -1;
	}
	return n ? feed(d, p, n, ret_err) : 0;
}

int pull_decoder_finish(struct pull_decoder *d, struct berth_error **ret_err)
{
	if (d->form == FORM_UNKNOWN && start(d, ret_err) < 0)
		return -1;
	if ((d->form == FORM_GZIP || d->form == FORM_ZSTD) && !d->between)
		return berth_error_set(
		        ret_err, BERTH_DATA_LOSS, "the compressed data ends too early");
	if (d->out && d->out_len > 0)
		pull_queue_commit(d->q, d->out_len);
	d->out = NULL;
	return 0;
}
