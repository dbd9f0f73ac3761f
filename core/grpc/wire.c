#include "grpc/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/limits.h"

#define READER_START 4096

static int grow(struct berth_grpc_reader *r, size_t want, struct berth_error **ret_err)
{
	size_t cap = r->cap ? r->cap : READER_START;
	while (cap < want)
		cap *= 2;
	if (cap > r->size)
		cap = r->size;
	if (cap <= r->cap)
		return 0;
	uint8_t *data = realloc(r->data, cap);
	if (!data)
		return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "no memory for a message of %zu bytes", r->size);
	r->data = data;
	r->cap = cap;
	return 0;
}

static size_t take(uint8_t *to, size_t room, const uint8_t **p, size_t *n)
{
	size_t m = *n < room ? *n : room;
	if (m)
		memcpy(to, *p, m);
	*p += m;
	*n -= m;
	return m;
}

int berth_grpc_reader_feed(struct berth_grpc_reader *r, const uint8_t **p, size_t *n,
        bool *ret_complete, struct berth_error **ret_err)
{
	*ret_complete = false;
	if (r->prefix_len < BERTH_GRPC_PREFIX) {
		r->prefix_len +=
		        take(r->prefix + r->prefix_len, BERTH_GRPC_PREFIX - r->prefix_len, p, n);
		if (r->prefix_len < BERTH_GRPC_PREFIX)
			return 0;
		r->size = (size_t)r->prefix[1] << 24 | (size_t)r->prefix[2] << 16 |
		          (size_t)r->prefix[3] << 8 | r->prefix[4];
		if (r->prefix[0] > 1)
			return berth_error_set(ret_err, BERTH_INTERNAL,
			        "message with an unknown compression flag %u", r->prefix[0]);
		if (r->size > r->limit)
			return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
			        "message of %zu bytes is larger than the limit of %zu", r->size,
			        r->limit);
	}
	size_t want = r->size - r->len;
	if (want > *n)
		want = *n;
	if (grow(r, r->len + want, ret_err))
		return -1;
	if (want)
		r->len += take(r->data + r->len, want, p, n);
	*ret_complete = r->len == r->size;
	return 0;
}

bool berth_grpc_reader_compressed(const struct berth_grpc_reader *r)
{
	return r->prefix[0] == 1;
}

bool berth_grpc_reader_empty(const struct berth_grpc_reader *r)
{
	return r->prefix_len == 0;
}

void berth_grpc_reader_reset(struct berth_grpc_reader *r)
{
	free(r->data);
	*r = (struct berth_grpc_reader){.limit = r->limit};
}

/* One output buffer that doubles up to one byte above the limit, so that a message of exactly the
 * limit passes. */
static int inflate_all(z_stream *z, size_t limit, struct berth_buf *out)
{
	int r = Z_OK;
	while (r == Z_OK) {
		if (out->len == out->cap) {
			size_t cap = out->cap ? out->cap * 2 : READER_START;
			if (cap > limit + 1)
				cap = limit + 1;
			if (out->len == cap)
				return -EFBIG;
			char *data = realloc(out->data, cap);
			if (!data)
				return -ENOMEM;
			out->data = data;
			out->cap = cap;
		}
		z->next_out = (Bytef *)out->data + out->len;
		z->avail_out = (uInt)(out->cap - out->len);
		r = inflate(z, Z_NO_FLUSH);
		out->len = out->cap - z->avail_out;
	}
	if (r != Z_STREAM_END || z->avail_in != 0)
		return -EBADMSG;
	return out->len > limit ? -EFBIG : 0;
}

int berth_grpc_inflate(const uint8_t *data, size_t len, size_t limit, uint8_t **ret,
        size_t *ret_len, struct berth_error **ret_err)
{
	struct berth_buf out = {0};
	z_stream z = {0};

	z.next_in = (Bytef *)(uintptr_t)data;
	z.avail_in = (uInt)len;
	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return berth_error_set(
		        ret_err, BERTH_RESOURCE_EXHAUSTED, "no memory to inflate a message");
	int r = inflate_all(&z, limit, &out);
	inflateEnd(&z);
	if (r == 0) {
		*ret = (uint8_t *)out.data;
		*ret_len = out.len;
		return 0;
	}
	berth_buf_finish(&out);
	if (r == -EBADMSG)
		return berth_error_set(ret_err, BERTH_INTERNAL, "message is not valid gzip data");
	return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
	        "message is larger than the limit of %zu bytes once it is inflated", limit);
}

void berth_grpc_write_prefix(uint8_t out[BERTH_GRPC_PREFIX], size_t message_len)
{
	out[0] = 0;
	out[1] = (uint8_t)(message_len >> 24);
	out[2] = (uint8_t)(message_len >> 16);
	out[3] = (uint8_t)(message_len >> 8);
	out[4] = (uint8_t)message_len;
}

int berth_grpc_parse_timeout(const char *s, uint64_t *ret_ns)
{
	static const struct {
		char unit;
		uint64_t ns;
	} units[] = {{'H', UINT64_C(3600000000000)}, {'M', UINT64_C(60000000000)},
	        {'S', UINT64_C(1000000000)}, {'m', 1000000}, {'u', 1000}, {'n', 1}};
	size_t digits = strspn(s, "0123456789");

	if (digits == 0 || digits > 8 || s[digits] == '\0' || s[digits + 1] != '\0')
		return -EINVAL;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(units); i++) {
		if (units[i].unit == s[digits]) {
			uint64_t v = strtoull(s, NULL, 10);
			*ret_ns = v > INT64_MAX / units[i].ns ? INT64_MAX : v * units[i].ns;
			return 0;
		}
	}
	return -EINVAL;
}

void berth_grpc_format_timeout(char out[16], uint64_t ms)
{
	const char *unit = "m";
	if (ms > 99999999) {
		ms = ms / 1000 + 1;
		unit = "S";
	}
	if (ms > 99999999)
		ms = 99999999;
	snprintf(out, 16, "%" PRIu64 "%s", ms, unit);
}

char *berth_grpc_percent_encode(const char *text)
{
	static const char hex[] = "0123456789ABCDEF";
	char *out = berth_zalloc(BERTH_LIMIT_GRPC_STATUS_TEXT + 1);
	size_t n = 0, whole = 0;

	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if ((*p & 0xc0) != 0x80)
			whole = n; /* a character begins here */
		bool plain = *p >= ' ' && *p <= '~' && *p != '%';
		if (n + (plain ? 1 : 3) > BERTH_LIMIT_GRPC_STATUS_TEXT) {
			n = whole;
			break;
		}
		if (plain) {
			out[n++] = (char)*p;
		} else {
			out[n++] = '%';
			out[n++] = hex[*p >> 4];
			out[n++] = hex[*p & 15];
		}
	}
	out[n] = '\0';
	return out;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *berth_grpc_percent_decode(const char *text, size_t len)
{
	char *out = berth_zalloc(len + 1);
	size_t n = 0;
	for (size_t i = 0; i < len; i++) {
		int hi = text[i] == '%' && i + 2 < len ? hex_digit(text[i + 1]) : -1;
		int lo = hi >= 0 ? hex_digit(text[i + 2]) : -1;
		if (lo >= 0) {
			out[n++] = (char)(hi << 4 | lo);
			i += 2;
		} else {
			out[n++] = text[i];
		}
	}
	return out;
}
