#include "stream/upgrade.h"

#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <string.h>
#include <strings.h>

#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define WS_KEY_TEXT 24 /* 16 bytes in base64 */
#define WS_KEY_BYTES 16

typedef struct berth_http_text text;

static bool is(const text *t, const char *s)
{
	return t->n == strlen(s) && strncasecmp(t->p, s, t->n) == 0;
}

static bool is_exactly(const text *t, const char *s)
{
	return t->n == strlen(s) && memcmp(t->p, s, t->n) == 0;
}

/* ---- the head ---- */

static bool token_char(unsigned char c)
{
	return c > ' ' && c < 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool visible(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];
		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static int parse_request_line(const char *p, size_t n, struct berth_http_head *h)
{
	static const char version[] = " HTTP/1.1";
	const size_t v = sizeof(version) - 1;
	const char *space = memchr(p, ' ', n);

	if (!space || n < v || memcmp(p + n - v, version, v) != 0 || space >= p + n - v)
		return -1;
	h->method = (text){p, (size_t)(space - p)};
	h->target = (text){space + 1, (size_t)(p + n - v - (space + 1))};
	if (h->method.n == 0 || h->target.n == 0 || h->target.p[0] != '/' ||
	        memchr(h->target.p, ' ', h->target.n))
		return -1;
	for (size_t i = 0; i < h->method.n; i++)
		if (!token_char((unsigned char)h->method.p[i]))
			return -1;
	return 0;
}

static int parse_header(const char *p, size_t n, struct berth_http_head *h)
{
	const char *colon = memchr(p, ':', n);
	if (!colon || colon == p || h->n_headers == BERTH_HTTP_HEADERS)
		return -1;
	for (const char *q = p; q < colon; q++)
		if (!token_char((unsigned char)*q))
			return -1;
	const char *v = colon + 1, *end = p + n;
	while (v < end && (*v == ' ' || *v == '\t'))
		v++;
	while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	h->headers[h->n_headers].name = (text){p, (size_t)(colon - p)};
	h->headers[h->n_headers++].value = (text){v, (size_t)(end - v)};
	return 0;
}

int berth_http_parse(const char *p, size_t n, struct berth_http_head *ret)
{
	size_t at = 0;
	bool first = true;

	memset(ret, 0, sizeof(*ret));
	for (;;) {
		const char *nl = memchr(p + at, '\n', n - at);
		if (!nl)
			return visible(p + at, n - at) || memchr(p + at, '\r', n - at) ? 0 : -1;
		size_t len = (size_t)(nl - (p + at));
		if (len == 0 || nl[-1] != '\r')
			return -1;
		len--;
		if (!visible(p + at, len))
			return -1;
		if (len == 0)
			return first ? -1 : (int)(at + 2);
		if ((first ? parse_request_line : parse_header)(p + at, len, ret) < 0)
			return -1;
		first = false;
		at += len + 2;
	}
}

int berth_stream_path(
        const struct berth_http_text *target, enum berth_stream_kind *ret_kind, text *ret_token)
{
	static const char *const names[] = {"/exec/", "/attach/", "/portforward/"};
	const char *query = memchr(target->p, '?', target->n);
	size_t n = query ? (size_t)(query - target->p) : target->n;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++) {
		size_t len = strlen(names[i]);
		if (n <= len || memcmp(target->p, names[i], len) != 0)
			continue;
		*ret_kind = (enum berth_stream_kind)i;
		*ret_token = (text){target->p + len, n - len};
		return 0;
	}
	return -1;
}

/* ---- the upgrade ---- */

/* The next element of a comma-separated list that goes on over all headers of that name. */
struct list {
	const struct berth_http_head *h;
	const char *name;
	size_t header, at;
};

static bool list_next(struct list *l, text *ret)
{
	for (; l->header < l->h->n_headers; l->header++, l->at = 0) {
		const text *v = &l->h->headers[l->header].value;
		if (!is(&l->h->headers[l->header].name, l->name))
			continue;
		while (l->at < v->n) {
			const char *p = v->p + l->at, *comma = memchr(p, ',', v->n - l->at);
			size_t n = comma ? (size_t)(comma - p) : v->n - l->at;
			l->at += n + (comma ? 1 : 0);
			for (; n > 0 && (*p == ' ' || *p == '\t'); n--)
				p++;
			while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
				n--;
			if (n > 0) {
				*ret = (text){p, n};
				return true;
			}
		}
	}
	return false;
}

static bool list_has(const struct berth_http_head *h, const char *name, const char *word)
{
	struct list l = {.h = h, .name = name};
	text t;
	while (list_next(&l, &t))
		if (is(&t, word))
			return true;
	return false;
}

static const text *one_header(const struct berth_http_head *h, const char *name)
{
	const text *found = NULL;
	for (size_t i = 0; i < h->n_headers; i++) {
		if (!is(&h->headers[i].name, name))
			continue;
		if (found)
			return NULL;
		found = &h->headers[i].value;
	}
	return found;
}

struct protocol {
	const char *name;
	int version;
	bool base64, spdy;
};

static const struct protocol term_ws[] = {
        {"v5.channel.k8s.io", 5, false, false},
        {"v5.base64.channel.k8s.io", 5, true, false},
        {"v4.channel.k8s.io", 4, false, false},
        {"v4.base64.channel.k8s.io", 4, true, false},
        {"channel.k8s.io", 0, false, false},
        {"base64.channel.k8s.io", 0, true, false},
        {NULL, 0, false, false},
};
static const struct protocol forward_ws[] = {
        {"SPDY/3.1+portforward.k8s.io", 1, false, true},
        {"v4.channel.k8s.io", 4, false, false},
        {"v4.base64.channel.k8s.io", 4, true, false},
        {NULL, 0, false, false},
};
static const struct protocol term_spdy[] = {
        {"v4.channel.k8s.io", 4, false, true},
        {"v3.channel.k8s.io", 3, false, true},
        {"v2.channel.k8s.io", 2, false, true},
        {"channel.k8s.io", 1, false, true},
        {NULL, 0, false, false},
};
static const struct protocol forward_spdy[] = {
        {"portforward.k8s.io", 1, false, true},
        {NULL, 0, false, false},
};

/* The first that the client names and we speak; *ret_any tells whether it named one at all. */
static const struct protocol *choose(const struct berth_http_head *h, const char *header,
        const struct protocol *table, bool *ret_any)
{
	struct list l = {.h = h, .name = header};
	text t;

	*ret_any = false;
	while (list_next(&l, &t)) {
		*ret_any = true;
		for (const struct protocol *p = table; p->name; p++)
			if (is_exactly(&t, p->name))
				return p;
	}
	return NULL;
}

/* `ret` holds BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) + 1 bytes. */
static int ws_accept(const text *key, char *ret)
{
	struct base64_decode_ctx decode;
	struct sha1_ctx sha;
	uint8_t raw[BASE64_DECODE_LENGTH(WS_KEY_TEXT)], digest[SHA1_DIGEST_SIZE];
	size_t n = 0;

	if (!key || key->n != WS_KEY_TEXT)
		return -1;
	base64_decode_init(&decode);
	if (!base64_decode_update(&decode, &n, raw, key->n, key->p) ||
	        !base64_decode_final(&decode) || n != WS_KEY_BYTES)
		return -1;
	sha1_init(&sha);
	sha1_update(&sha, key->n, (const uint8_t *)key->p);
	sha1_update(&sha, sizeof(WS_GUID) - 1, (const uint8_t *)WS_GUID);
	sha1_digest(&sha, sizeof(digest), digest);
	base64_encode_raw(ret, sizeof(digest), digest);
	ret[BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE)] = '\0';
	return 0;
}

static int upgrade_ws(const struct berth_http_head *h, enum berth_stream_kind kind,
        struct berth_upgrade *ret, struct berth_buf *extra, const char **ret_why)
{
	const text *version = one_header(h, "Sec-WebSocket-Version");
	char accept[BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) + 1];
	bool any;

	if (!is_exactly(&h->method, "GET")) {
		*ret_why = "a WebSocket begins with GET";
		return 405;
	}
	if (!version || !is_exactly(version, "13")) {
		berth_buf_adds(extra, "Sec-WebSocket-Version: 13\r\n");
		*ret_why = "only version 13 of WebSocket is served";
		return 426;
	}
	if (ws_accept(one_header(h, "Sec-WebSocket-Key"), accept) < 0) {
		*ret_why = "Sec-WebSocket-Key is missing or wrong";
		return 400;
	}
	const struct protocol *p = choose(h, "Sec-WebSocket-Protocol",
	        kind == BERTH_STREAM_FORWARD ? forward_ws : term_ws, &any);
	if (!p && any) {
		*ret_why = "none of the client's subprotocols is served";
		return 403;
	}
	ret->wire = p && p->spdy ? BERTH_WIRE_WS_SPDY : BERTH_WIRE_WS;
	ret->version = p ? p->version : kind == BERTH_STREAM_FORWARD ? 4 : 0;
	ret->base64 = p && p->base64;
	berth_buf_addf(&ret->answer,
	        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
	        "Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
	        accept);
	if (p)
		berth_buf_addf(&ret->answer, "Sec-WebSocket-Protocol: %s\r\n", p->name);
	berth_buf_adds(&ret->answer, "\r\n");
	return 0;
}

static int upgrade_spdy(const struct berth_http_head *h, enum berth_stream_kind kind,
        struct berth_upgrade *ret, struct berth_buf *extra, const char **ret_why)
{
	const struct protocol *table = kind == BERTH_STREAM_FORWARD ? forward_spdy : term_spdy;
	bool any;
	const struct protocol *p = choose(h, "X-Stream-Protocol-Version", table, &any);

	if (!p && any) {
		for (p = table; p->name; p++)
			berth_buf_addf(
			        extra, "X-Accepted-Stream-Protocol-Versions: %s\r\n", p->name);
		*ret_why = "none of the client's stream protocols is served";
		return 403;
	}
	ret->wire = BERTH_WIRE_SPDY;
	ret->version = p ? p->version : 1;
	berth_buf_adds(&ret->answer, "HTTP/1.1 101 Switching Protocols\r\nConnection: "
	                             "Upgrade\r\nUpgrade: SPDY/3.1\r\n");
	if (p)
		berth_buf_addf(&ret->answer, "X-Stream-Protocol-Version: %s\r\n", p->name);
	berth_buf_adds(&ret->answer, "\r\n");
	return 0;
}

int berth_upgrade(const struct berth_http_head *h, enum berth_stream_kind kind,
        struct berth_upgrade *ret, struct berth_buf *extra, const char **ret_why)
{
	memset(ret, 0, sizeof(*ret));
	if (!is_exactly(&h->method, "GET") && !is_exactly(&h->method, "POST")) {
		*ret_why = "the method must be GET or POST";
		return 405;
	}
	const text *length = one_header(h, "Content-Length");
	if ((length && !is_exactly(length, "0")) || list_has(h, "Transfer-Encoding", "chunked")) {
		*ret_why = "the request must have no body";
		return 400;
	}
	if (list_has(h, "Connection", "Upgrade")) {
		if (list_has(h, "Upgrade", "websocket"))
			return upgrade_ws(h, kind, ret, extra, ret_why);
		if (list_has(h, "Upgrade", "SPDY/3.1"))
			return upgrade_spdy(h, kind, ret, extra, ret_why);
	}
	*ret_why = "the request must ask for an upgrade to SPDY/3.1 or to a WebSocket";
	return 400;
}
