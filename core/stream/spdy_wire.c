#include "stream/spdy_wire.h"

#include <string.h>
#include <strings.h>

#define VERSION 3
#define FLAG_FIN 1
#define FLAG_UNIDIRECTIONAL 2
#define ID_MASK 0x7fffffffu
/* A small window of our own: it holds the dictionary, and what we compress is a few bytes. */
#define DEFLATE_WINDOW_BITS 11
#define DEFLATE_MEM_LEVEL 1

static uint32_t get32(const void *v)
{
	const unsigned char *p = v;
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(unsigned char *p, uint32_t v)
{
	p[0] = (unsigned char)(v >> 24);
	p[1] = (unsigned char)(v >> 16);
	p[2] = (unsigned char)(v >> 8);
	p[3] = (unsigned char)v;
}

/* ---- header blocks ---- */

const char *berth_spdy_header(const struct berth_spdy_headers *h, const char *name, size_t *ret_len)
{
	for (size_t i = 0; i < h->n; i++) {
		if (h->pair[i].name_len == strlen(name) &&
		        strncasecmp(h->pair[i].name, name, h->pair[i].name_len) == 0) {
			*ret_len = h->pair[i].value_len;
			return h->pair[i].value;
		}
	}
	return NULL;
}

static int take_text(const char **p, size_t *left, const char **ret, size_t *ret_len)
{
	if (*left < 4)
		return -1;
	size_t n = get32(*p);
	if (n > *left - 4)
		return -1;
	*ret = *p + 4;
	*ret_len = n;
	*p += 4 + n;
	*left -= 4 + n;
	return 0;
}

int berth_spdy_headers_parse(const char *p, size_t n, struct berth_spdy_headers *ret)
{
	ret->n = 0;
	if (n < 4)
		return -1;
	uint32_t pairs = get32(p);
	if (pairs > BERTH_SPDY_PAIRS_MAX)
		return -1;
	p += 4;
	n -= 4;
	for (; ret->n < pairs; ret->n++) {
		if (take_text(&p, &n, &ret->pair[ret->n].name, &ret->pair[ret->n].name_len) < 0 ||
		        take_text(&p, &n, &ret->pair[ret->n].value, &ret->pair[ret->n].value_len) <
		                0 ||
		        ret->pair[ret->n].name_len == 0)
			return -1;
	}
	return n == 0 ? 0 : -1;
}

/* ---- reading ---- */

void berth_spdy_in_init(struct berth_spdy_in *in, const struct berth_spdy_events *events, void *arg)
{
	memset(in, 0, sizeof(*in));
	in->events = events;
	in->arg = arg;
}

void berth_spdy_in_finish(struct berth_spdy_in *in)
{
	if (in->z_ready)
		inflateEnd(&in->z);
	free(in->payload);
	in->z_ready = false;
	in->payload = NULL;
}

static int bad(struct berth_spdy_in *in, const char *why)
{
	in->why = why;
	return -1;
}

/* All blocks of a connection are one zlib stream: each one must be inflated, wanted or not. */
static int inflate_block(struct berth_spdy_in *in, const char *p, size_t n, char *out, size_t *ret)
{
	if (!in->z_ready && inflateInit(&in->z) != Z_OK)
		return bad(in, "no memory for zlib");
	in->z_ready = true;
	in->z.next_in = (Bytef *)(uintptr_t)p;
	in->z.avail_in = (uInt)n;
	in->z.next_out = (Bytef *)out;
	in->z.avail_out = BERTH_SPDY_HEADERS_MAX;
	while (in->z.avail_in > 0) {
		int r = inflate(&in->z, Z_SYNC_FLUSH);
		if (r == Z_NEED_DICT)
			r = inflateSetDictionary(
			        &in->z, berth_spdy_dictionary, BERTH_SPDY_DICTIONARY);
		if (r != Z_OK)
			return bad(in, in->z.avail_out == 0 ? "a header block is too large"
			                                    : "a header block cannot be inflated");
		if (in->z.avail_out == 0)
			return bad(in, "a header block is too large");
	}
	*ret = BERTH_SPDY_HEADERS_MAX - in->z.avail_out;
	return 0;
}

static int on_headers(struct berth_spdy_in *in, unsigned int type, unsigned int flags)
{
	char block[BERTH_SPDY_HEADERS_MAX];
	struct berth_spdy_headers h;
	size_t fixed = type == BERTH_SPDY_SYN_STREAM ? 10 : 4, n = 0;

	if (in->payload_len < fixed)
		return bad(in, "a frame is too short");
	if (inflate_block(in, in->payload + fixed, in->payload_len - fixed, block, &n) < 0)
		return -1;
	if (berth_spdy_headers_parse(block, n, &h) < 0)
		return bad(in, "a header block is broken");
	uint32_t id = get32(in->payload) & ID_MASK;
	if (type == BERTH_SPDY_SYN_STREAM)
		return in->events->syn_stream(in->arg, id, (flags & FLAG_FIN) != 0,
		        (flags & FLAG_UNIDIRECTIONAL) != 0, &h);
	return (flags & FLAG_FIN) ? in->events->fin(in->arg, id) : 0;
}

static int on_settings(struct berth_spdy_in *in)
{
	if (in->payload_len < 4)
		return bad(in, "a frame is too short");
	size_t n = get32(in->payload);
	if (n > (in->payload_len - 4) / 8 || in->payload_len != 4 + 8 * n)
		return bad(in, "a SETTINGS frame is broken");
	for (size_t i = 0; i < n; i++) {
		const char *p = in->payload + 4 + 8 * i;
		int r = in->events->setting(in->arg, get32(p) & 0xffffffu, get32(p + 4));
		if (r < 0)
			return r;
	}
	return 0;
}

static int on_control(struct berth_spdy_in *in)
{
	unsigned int type = (unsigned int)in->head[2] << 8 | in->head[3], flags = in->head[4];
	size_t n = in->payload_len;
	uint32_t a = n >= 4 ? get32(in->payload) : 0, b = n >= 8 ? get32(in->payload + 4) : 0;

	switch (type) {
	case BERTH_SPDY_SYN_STREAM:
	case BERTH_SPDY_SYN_REPLY:
	case BERTH_SPDY_HEADERS:
		return on_headers(in, type, flags);
	case BERTH_SPDY_SETTINGS:
		return on_settings(in);
	case BERTH_SPDY_RST_STREAM:
		return n == 8 ? in->events->rst(in->arg, a & ID_MASK, b)
		              : bad(in, "a RST_STREAM frame has a wrong size");
	case BERTH_SPDY_PING:
		return n == 4 ? in->events->ping(in->arg, a)
		              : bad(in, "a PING frame has a wrong size");
	case BERTH_SPDY_GOAWAY:
		return n == 8 ? in->events->goaway(in->arg)
		              : bad(in, "a GOAWAY frame has a wrong size");
	case BERTH_SPDY_WINDOW_UPDATE:
		return n == 8 ? in->events->window(in->arg, a & ID_MASK, b & ID_MASK)
		              : bad(in, "a WINDOW_UPDATE frame has a wrong size");
	default:
		return 0; /* to be ignored, says the protocol */
	}
}

static int on_head(struct berth_spdy_in *in)
{
	in->control = (in->head[0] & 0x80) != 0;
	in->fin = (in->head[4] & FLAG_FIN) != 0;
	in->left = get32(in->head + 4) & 0xffffffu;
	in->id = get32(in->head) & ID_MASK;
	in->payload_len = 0;
	if (!in->control)
		return 0;
	if ((((unsigned int)in->head[0] & 0x7f) << 8 | in->head[1]) != VERSION)
		return bad(in, "a frame is not of version 3");
	if (in->left > BERTH_SPDY_CONTROL_MAX)
		return bad(in, "a control frame is too large");
	free(in->payload);
	in->payload = berth_zalloc(in->left + 1);
	return 0;
}

int berth_spdy_in_feed(struct berth_spdy_in *in, const char *p, size_t n)
{
	const char *end = p + n;
	int r = 0;

	while (r == 0 && (p < end || (in->head_len == 8 && in->left == 0))) {
		if (in->head_len < 8) {
			in->head[in->head_len++] = (unsigned char)*p++;
			if (in->head_len < 8)
				continue;
			r = on_head(in);
			if (r < 0 || in->left > 0)
				continue;
		}
		size_t take = (size_t)(end - p) < in->left ? (size_t)(end - p) : in->left;
		in->left -= (uint32_t)take;
		if (in->control) {
			memcpy(in->payload + in->payload_len, p, take);
			in->payload_len += take;
			if (in->left == 0)
				r = on_control(in);
		} else {
			r = in->events->data(in->arg, in->id, p, take, in->fin && in->left == 0);
		}
		p += take;
		if (in->left == 0) {
			in->head_len = 0;
			free(in->payload);
			in->payload = NULL;
		}
	}
	return r;
}

/* ---- writing ---- */

void berth_spdy_out_finish(struct berth_spdy_out *out)
{
	if (out->z_ready)
		deflateEnd(&out->z);
	out->z_ready = false;
}

static void add32(struct berth_buf *b, uint32_t v)
{
	unsigned char p[4];
	put32(p, v);
	berth_buf_add(b, p, sizeof(p));
}

static void control_head(struct berth_buf *b, enum berth_spdy_type type, uint32_t length)
{
	add32(b, 0x80000000u | VERSION << 16 | (uint32_t)type);
	add32(b, length);
}

static int deflate_block(
        struct berth_spdy_out *out, const struct berth_buf *plain, struct berth_buf *ret)
{
	unsigned char chunk[1024];

	if (!out->z_ready) {
		if (deflateInit2(&out->z, Z_BEST_SPEED, Z_DEFLATED, DEFLATE_WINDOW_BITS,
		            DEFLATE_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
			return -1;
		out->z_ready = true;
		if (deflateSetDictionary(&out->z, berth_spdy_dictionary, BERTH_SPDY_DICTIONARY) !=
		        Z_OK)
			return -1;
	}
	out->z.next_in = (Bytef *)plain->data;
	out->z.avail_in = (uInt)plain->len;
	do {
		out->z.next_out = chunk;
		out->z.avail_out = sizeof(chunk);
		int r = deflate(&out->z, Z_SYNC_FLUSH);
		if (r != Z_OK && r != Z_BUF_ERROR)
			return -1;
		berth_buf_add(ret, chunk, sizeof(chunk) - out->z.avail_out);
	} while (out->z.avail_out == 0);
	return 0;
}

int berth_spdy_put_headers(struct berth_spdy_out *out, struct berth_buf *b,
        enum berth_spdy_type type, uint32_t id, const struct berth_spdy_pair *pairs, size_t n)
{
	struct berth_buf plain = {0}, packed = {0};
	bool syn = type == BERTH_SPDY_SYN_STREAM;

	add32(&plain, (uint32_t)n);
	for (size_t i = 0; i < n; i++) {
		add32(&plain, (uint32_t)strlen(pairs[i].name));
		berth_buf_adds(&plain, pairs[i].name);
		add32(&plain, (uint32_t)strlen(pairs[i].value));
		berth_buf_adds(&plain, pairs[i].value);
	}
	int r = deflate_block(out, &plain, &packed);
	if (r == 0) {
		control_head(b, type, (uint32_t)packed.len + (syn ? 10 : 4));
		add32(b, id);
		if (syn)
			berth_buf_add(b, "\0\0\0\0\0", 6); /* no associated stream, priority 0 */
		berth_buf_add(b, packed.data, packed.len);
	}
	berth_buf_finish(&plain);
	berth_buf_finish(&packed);
	return r;
}

void berth_spdy_put_data_head(struct berth_buf *b, uint32_t id, size_t n, bool fin)
{
	add32(b, id & ID_MASK);
	add32(b, (fin ? (uint32_t)FLAG_FIN << 24 : 0) | (uint32_t)n);
}

void berth_spdy_put_words(struct berth_buf *b, enum berth_spdy_type type, uint32_t id, uint32_t v)
{
	control_head(b, type, 8);
	add32(b, id);
	add32(b, v);
}

void berth_spdy_put_ping(struct berth_buf *b, uint32_t id)
{
	control_head(b, BERTH_SPDY_PING, 4);
	add32(b, id);
}
