/* core/stream: HTTP heads and upgrades, SPDY frames and header blocks, tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "stream/spdy_wire.h"
#include "stream/token.h"
#include "stream/upgrade.h"

/* ---- HTTP ---- */

static int parse(const char *s, struct berth_http_head *h)
{
	return berth_http_parse(s, strlen(s), h);
}

static bool same(struct berth_http_text t, const char *s)
{
	return t.n == strlen(s) && memcmp(t.p, s, t.n) == 0;
}

static void heads_are_read_strictly(void **state)
{
	static const char good[] =
	        "GET /exec/ab?x=1 HTTP/1.1\r\nHost: a\r\nEmpty:\r\nX:  y z \t\r\n\r\n";
	static const char *const bad[] = {
	        "\r\n\r\n",
	        "GET /\r\n\r\n",
	        "GET / HTTP/1.0\r\n\r\n",
	        "GET / HTTP/1.1\n\n",
	        "GET  / HTTP/1.1\r\n\r\n",
	        "GET /a b HTTP/1.1\r\n\r\n",
	        "GET exec HTTP/1.1\r\n\r\n",
	        " GET / HTTP/1.1\r\n\r\n",
	        "G(T / HTTP/1.1\r\n\r\n",
	        "GET / HTTP/1.1\r\nHost\r\n\r\n",
	        "GET / HTTP/1.1\r\n: v\r\n\r\n",
	        "GET / HTTP/1.1\r\nHost : v\r\n\r\n",
	        "GET / HTTP/1.1\r\n folded\r\n\r\n",
	        "GET / HTTP/1.1\r\nA: b\x01\r\n\r\n",
	        "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
	        "\x16\x03\x01",
	};
	struct berth_http_head h;

	assert_int_equal(parse(good, &h), (int)strlen(good));
	assert_true(same(h.method, "GET") && same(h.target, "/exec/ab?x=1"));
	assert_int_equal(h.n_headers, 3);
	assert_true(same(h.headers[1].name, "Empty") && same(h.headers[1].value, ""));
	assert_true(same(h.headers[2].value, "y z"));
	for (size_t n = 0; n < strlen(good); n++)
		assert_int_equal(berth_http_parse(good, n, &h), 0);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		if (parse(bad[i], &h) != -1)
			fail_msg("taken: %s", bad[i]);
}

static void headers_are_counted(void **state)
{
	struct berth_http_head h;
	for (int n = BERTH_HTTP_HEADERS; n <= BERTH_HTTP_HEADERS + 1; n++) {
		struct berth_buf b = {0};
		berth_buf_adds(&b, "GET / HTTP/1.1\r\n");
		for (int i = 0; i < n; i++)
			berth_buf_addf(&b, "H%d: x\r\n", i);
		berth_buf_adds(&b, "\r\n");
		assert_int_equal(berth_http_parse(b.data, b.len, &h),
		        n == BERTH_HTTP_HEADERS ? (int)b.len : -1);
		berth_buf_finish(&b);
	}
}

static void paths_name_kind_and_token(void **state)
{
	enum berth_stream_kind kind;
	struct berth_http_text token;
	static const char *const bad[] = {
	        "/", "/exec", "/exec/", "/exec/?a", "/logs/x", "/EXEC/x", "/exe/c"};

	assert_int_equal(
	        berth_stream_path(&(struct berth_http_text){"/exec/ab?c=/d", 13}, &kind, &token),
	        0);
	assert_true(kind == BERTH_STREAM_EXEC && same(token, "ab"));
	assert_int_equal(
	        berth_stream_path(&(struct berth_http_text){"/portforward/t", 14}, &kind, &token),
	        0);
	assert_true(kind == BERTH_STREAM_FORWARD && same(token, "t"));
	assert_int_equal(
	        berth_stream_path(&(struct berth_http_text){"/attach/t", 9}, &kind, &token), 0);
	assert_int_equal(kind, BERTH_STREAM_ATTACH);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		assert_int_equal(
		        berth_stream_path(
		                &(struct berth_http_text){bad[i], strlen(bad[i])}, &kind, &token),
		        -1);
}

/* The status of an upgrade, 0 = done; *up is the caller's to finish. */
static int ask(const char *head, enum berth_stream_kind kind, struct berth_upgrade *up)
{
	struct berth_http_head h;
	struct berth_buf extra = {0};
	const char *why = NULL;

	assert_int_equal(parse(head, &h), (int)strlen(head));
	int r = berth_upgrade(&h, kind, up, &extra, &why);
	if (r != 0)
		assert_non_null(why);
	else
		assert_non_null(up->answer.data);
	if (r == 426)
		assert_non_null(strstr(extra.data, "Sec-WebSocket-Version: 13\r\n"));
	berth_buf_finish(&extra);
	return r;
}

#define WS(more)                                                                          \
	"GET /exec/t HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: " \
	"websocket\r\n"                                                                   \
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" more "\r\n"

static void websockets_shake_hands(void **state)
{
	static const struct {
		const char *head;
		enum berth_stream_kind kind;
		int status, version;
		bool base64;
		enum berth_stream_wire wire;
	} cases[] = {
	        {WS(""), BERTH_STREAM_EXEC, 0, 0, false, BERTH_WIRE_WS},
	        {WS("Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"), BERTH_STREAM_EXEC, 0, 5,
	                false, BERTH_WIRE_WS},
	        {WS("Sec-WebSocket-Protocol: x, v4.base64.channel.k8s.io\r\n"), BERTH_STREAM_ATTACH,
	                0, 4, true, BERTH_WIRE_WS},
	        {WS("Sec-WebSocket-Protocol: x\r\nSec-WebSocket-Protocol: channel.k8s.io\r\n"),
	                BERTH_STREAM_EXEC, 0, 0, false, BERTH_WIRE_WS},
	        {WS("Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"),
	                BERTH_STREAM_FORWARD, 0, 1, false, BERTH_WIRE_WS_SPDY},
	        {WS("Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"), BERTH_STREAM_FORWARD, 0, 4,
	                false, BERTH_WIRE_WS},
	        {WS("Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"), BERTH_STREAM_FORWARD, 403, 0,
	                false, 0},
	        {WS("Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"), BERTH_STREAM_EXEC,
	                403, 0, false, 0},
	        {WS("Sec-WebSocket-Version: 13\r\n"), BERTH_STREAM_EXEC, 426, 0, false, 0},
	        {WS("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), BERTH_STREAM_EXEC, 400, 0,
	                false, 0},
	        {WS("Content-Length: 4\r\n"), BERTH_STREAM_EXEC, 400, 0, false, 0},
	        {WS("Transfer-Encoding: chunked\r\n"), BERTH_STREAM_EXEC, 400, 0, false, 0},
	        {"POST /exec/t HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	                BERTH_STREAM_EXEC, 405, 0, false, 0},
	        {"GET /exec/t HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: "
	         "websocket\r\nSec-WebSocket-Version: "
	         "8\r\n\r\n",
	                BERTH_STREAM_EXEC, 426, 0, false, 0},
	        {"GET /exec/t HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: "
	         "websocket\r\nSec-WebSocket-Version: "
	         "13\r\nSec-WebSocket-Key: short==\r\n\r\n",
	                BERTH_STREAM_EXEC, 400, 0, false, 0},
	        {"GET /exec/t HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", BERTH_STREAM_EXEC, 400, 0,
	                false, 0},
	        {"PUT /exec/t HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
	                BERTH_STREAM_EXEC, 405, 0, false, 0},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		struct berth_upgrade up;
		int status = ask(cases[i].head, cases[i].kind, &up);
		if (status != cases[i].status)
			fail_msg("case %zu: %d", i, status);
		if (status == 0) {
			assert_int_equal(up.version, cases[i].version);
			assert_int_equal(up.base64, cases[i].base64);
			assert_int_equal(up.wire, cases[i].wire);
			/* The example of RFC 6455. */
			assert_non_null(strstr(up.answer.data,
			        "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
			assert_int_equal(
			        strstr(up.answer.data, "Sec-WebSocket-Protocol:") != NULL, i != 0);
		}
		berth_buf_finish(&up.answer);
	}
}

#define SPDY(more) \
	"POST /exec/t HTTP/1.1\r\nconnection: upgrade\r\nupgrade: spdy/3.1\r\n" more "\r\n"

static void spdy_versions_are_negotiated(void **state)
{
	static const struct {
		const char *head;
		enum berth_stream_kind kind;
		int status, version;
	} cases[] = {
	        {SPDY(""), BERTH_STREAM_EXEC, 0, 1},
	        {SPDY("X-Stream-Protocol-Version: channel.k8s.io\r\n"), BERTH_STREAM_EXEC, 0, 1},
	        {SPDY("X-Stream-Protocol-Version: v9\r\nX-Stream-Protocol-Version: "
	              "v3.channel.k8s.io\r\n"),
	                BERTH_STREAM_ATTACH, 0, 3},
	        {SPDY("X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: "
	              "v3.channel.k8s.io\r\n"),
	                BERTH_STREAM_EXEC, 0, 4},
	        {SPDY("X-Stream-Protocol-Version: portforward.k8s.io\r\n"), BERTH_STREAM_FORWARD, 0,
	                1},
	        {SPDY("X-Stream-Protocol-Version: v5.channel.k8s.io\r\n"), BERTH_STREAM_EXEC, 403,
	                0},
	        {SPDY("X-Stream-Protocol-Version: v4.channel.k8s.io\r\n"), BERTH_STREAM_FORWARD,
	                403, 0},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		struct berth_upgrade up;
		assert_int_equal(ask(cases[i].head, cases[i].kind, &up), cases[i].status);
		if (cases[i].status == 0) {
			assert_int_equal(up.version, cases[i].version);
			assert_int_equal(up.wire, BERTH_WIRE_SPDY);
		}
		berth_buf_finish(&up.answer);
	}
}

/* ---- SPDY ---- */

struct seen {
	struct berth_buf text;
	int fail_at;
};

static int note(struct seen *s, const char *fmt, ...) BERTH_PRINTF(2, 3);
static int note(struct seen *s, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	berth_buf_adds(&s->text, line);
	berth_buf_adds(&s->text, ";");
	return 0;
}

static int on_syn(
        void *arg, uint32_t id, bool fin, bool one_way, const struct berth_spdy_headers *h)
{
	size_t n = 0;
	const char *v = berth_spdy_header(h, "streamtype", &n);
	return note(arg, "syn %u%s%s %zu %.*s", id, fin ? " fin" : "", one_way ? " one-way" : "",
	        h->n, (int)n, v ? v : "");
}
static int on_data(void *arg, uint32_t id, const char *p, size_t n, bool fin)
{
	/* Pieces depend on how it arrived: their sum is noted. */
	struct seen *s = arg;
	for (size_t i = 0; i < n; i++)
		berth_buf_addf(&s->text, "%u:%c;", id, p[i]);
	return fin ? note(s, "end %u", id) : 0;
}
static int on_fin(void *arg, uint32_t id)
{
	return note(arg, "fin %u", id);
}
static int on_rst(void *arg, uint32_t id, uint32_t status)
{
	return note(arg, "rst %u %u", id, status);
}
static int on_setting(void *arg, uint32_t id, uint32_t v)
{
	return note(arg, "set %u %u", id, v);
}
static int on_ping(void *arg, uint32_t id)
{
	return note(arg, "ping %u", id);
}
static int on_goaway(void *arg)
{
	return note(arg, "goaway");
}
static int on_window(void *arg, uint32_t id, uint32_t delta)
{
	return note(arg, "window %u %u", id, delta);
}

static const struct berth_spdy_events events = {
        on_syn, on_data, on_fin, on_rst, on_setting, on_ping, on_goaway, on_window};

static void frames_arrive_in_any_pieces(void **state)
{
	static const struct berth_spdy_pair pairs[] = {{"streamtype", "stdin"}, {"port", "80"}};
	static const unsigned char settings[] = {
	        0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 1, 0, 0, 7, 0, 0, 16, 0};
	static const unsigned char unknown[] = {0x80, 3, 0, 77, 0, 0, 0, 2, 1, 2};
	static const char want[] = "syn 1 2 stdin;syn 3 2 stdin;1:a;1:b;end 1;end 3;rst 3 5;set 7 "
	                           "4096;ping 9;window 0 "
	                           "100;fin 5;goaway;";
	struct berth_spdy_out out = {0};
	struct berth_buf b = {0};

	for (uint32_t id = 1; id <= 3; id += 2)
		assert_int_equal(
		        berth_spdy_put_headers(&out, &b, BERTH_SPDY_SYN_STREAM, id, pairs, 2), 0);
	berth_spdy_put_data_head(&b, 1, 2, true);
	berth_buf_add(&b, "ab", 2);
	berth_spdy_put_data_head(&b, 3, 0, true);
	berth_spdy_put_words(&b, BERTH_SPDY_RST_STREAM, 3, BERTH_SPDY_CANCEL);
	berth_buf_add(&b, settings, sizeof(settings));
	berth_buf_add(&b, unknown, sizeof(unknown));
	berth_spdy_put_ping(&b, 9);
	berth_spdy_put_words(&b, BERTH_SPDY_WINDOW_UPDATE, 0, 100);
	size_t at = b.len;
	assert_int_equal(berth_spdy_put_headers(&out, &b, BERTH_SPDY_HEADERS, 5, pairs, 1), 0);
	b.data[at + 4] = 1; /* FIN */
	berth_spdy_put_words(&b, BERTH_SPDY_GOAWAY, 3, 0);
	for (size_t piece = 1; piece <= b.len; piece++) {
		struct seen s = {0};
		struct berth_spdy_in in;
		berth_spdy_in_init(&in, &events, &s);
		for (size_t i = 0; i < b.len; i += piece)
			assert_int_equal(berth_spdy_in_feed(&in, b.data + i,
			                         b.len - i < piece ? b.len - i : piece),
			        0);
		assert_string_equal(s.text.data, want);
		berth_spdy_in_finish(&in);
		berth_buf_finish(&s.text);
	}
	berth_spdy_out_finish(&out);
	berth_buf_finish(&b);
}

static void header_blocks_are_bounded(void **state)
{
	struct berth_spdy_headers h;
	char big[BERTH_SPDY_HEADERS_MAX + 100];
	struct berth_spdy_pair pair = {"a", big};

	assert_int_equal(berth_spdy_headers_parse("\0\0\0\1\0\0\0\1a\0\0\0\1b", 14, &h), 0);
	assert_int_equal(h.n, 1);
	for (size_t n = 0; n < 14; n++)
		assert_int_equal(berth_spdy_headers_parse("\0\0\0\1\0\0\0\1a\0\0\0\1b", n, &h), -1);
	assert_int_equal(berth_spdy_headers_parse("\0\0\0\1\0\0\0\1a\0\0\0\1bc", 15, &h), -1);
	assert_int_equal(berth_spdy_headers_parse("\0\0\0\1\0\0\0\0\0\0\0\1b", 13, &h), -1);
	assert_int_equal(berth_spdy_headers_parse("\0\0\0\1\xff\xff\xff\xff\0\0\0\1b", 13, &h), -1);
	assert_int_equal(berth_spdy_headers_parse("\0\0\0\x41", 4, &h), -1);
	/* What is small when packed may not grow without bound. */
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	for (size_t cut = 0; cut < 2; cut++) {
		struct berth_spdy_out out = {0};
		struct berth_buf b = {0};
		struct seen s = {0};
		struct berth_spdy_in in;
		if (cut)
			big[BERTH_SPDY_HEADERS_MAX - 100] = '\0';
		assert_int_equal(
		        berth_spdy_put_headers(&out, &b, BERTH_SPDY_SYN_STREAM, 1, &pair, 1), 0);
		assert_true(b.len < 1000);
		berth_spdy_in_init(&in, &events, &s);
		assert_int_equal(berth_spdy_in_feed(&in, b.data, b.len), cut ? 0 : -1);
		if (!cut)
			assert_string_equal(in.why, "a header block is too large");
		berth_spdy_in_finish(&in);
		berth_spdy_out_finish(&out);
		berth_buf_finish(&b);
		berth_buf_finish(&s.text);
	}
}

static void broken_frames_end_it(void **state)
{
	static const struct {
		unsigned char p[24];
		size_t n;
	} bad[] = {
	        {{0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1}, 12}, /* version 2 */
	        {{0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 1}, 11},    /* a short PING */
	        {{0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1}, 12}, /* a short RST_STREAM */
	        {{0x80, 3, 0, 7, 0, 0, 0, 0}, 8},              /* an empty GOAWAY */
	        {{0x80, 3, 0, 9, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0},
	                17}, /* a long WINDOW_UPDATE */
	        {{0x80, 3, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0},
	                17}, /* a short SYN_STREAM */
	        {{0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9},
	                20}, /* no zlib */
	        {{0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0},
	                18}, /* no block at all */
	        {{0x80, 3, 0, 4, 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
	                16},                      /* SETTINGS that are not there */
	        {{0x80, 3, 0, 1, 0, 1, 0, 0}, 8}, /* too large */
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		struct seen s = {0};
		struct berth_spdy_in in;
		berth_spdy_in_init(&in, &events, &s);
		if (berth_spdy_in_feed(&in, (const char *)bad[i].p, bad[i].n) != -1 || !in.why)
			fail_msg("frame %zu was taken", i);
		assert_null(s.text.data);
		berth_spdy_in_finish(&in);
	}
}

/* ---- tokens ---- */

struct kept {
	struct berth_loop *loop;
	int dropped;
};
static struct kept *kept_of; /* tokens know their value alone */

static void drop(void *value)
{
	kept_of->dropped += (int)(intptr_t)value;
}

static void stop(void *arg)
{
	berth_loop_stop(arg);
}

static void tokens_are_good_once(void **state)
{
	struct kept k = {.loop = berth_loop_new()};
	struct berth_error *err = NULL;
	kept_of = &k;
	struct berth_tokens *t = berth_tokens_new(k.loop, 3, 60000, drop);
	char *names[3];

	for (intptr_t i = 0; i < 3; i++) {
		names[i] = berth_strdup(berth_tokens_put(t, (void *)(i + 1), &err));
		assert_int_equal(strlen(names[i]), 2 * BERTH_STREAM_TOKEN_BYTES);
		assert_int_equal(strspn(names[i], "0123456789abcdef"), strlen(names[i]));
	}
	assert_string_not_equal(names[0], names[1]);
	assert_null(berth_tokens_put(t, (void *)4, &err));
	assert_int_equal(err->code, BERTH_RESOURCE_EXHAUSTED);
	berth_error_free(err);
	assert_null(berth_tokens_take(t, names[1], strlen(names[1]) - 1));
	assert_null(berth_tokens_take(t, "", 0));
	assert_ptr_equal(berth_tokens_take(t, names[1], strlen(names[1])), (void *)2);
	assert_null(berth_tokens_take(t, names[1], strlen(names[1])));
	assert_int_equal(berth_tokens_count(t), 2);
	assert_int_equal(k.dropped, 0);
	berth_tokens_free(t);
	assert_int_equal(k.dropped, 1 + 3);
	for (size_t i = 0; i < 3; i++)
		free(names[i]);
	berth_loop_free(k.loop);
}

static void tokens_expire(void **state)
{
	struct kept k = {.loop = berth_loop_new()};
	struct berth_error *err = NULL;
	kept_of = &k;
	struct berth_tokens *t = berth_tokens_new(k.loop, 3, 30, drop);
	char *name = berth_strdup(berth_tokens_put(t, (void *)1, &err));

	assert_non_null(berth_tokens_put(t, (void *)2, &err));
	struct berth_timer *timer = berth_timer_start(k.loop, 300, stop, k.loop);
	berth_loop_run(k.loop);
	assert_int_equal(k.dropped, 3);
	assert_int_equal(berth_tokens_count(t), 0);
	assert_null(berth_tokens_take(t, name, strlen(name)));
	berth_timer_free(timer);
	berth_tokens_free(t);
	free(name);
	berth_loop_free(k.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(heads_are_read_strictly),
	        cmocka_unit_test(headers_are_counted),
	        cmocka_unit_test(paths_name_kind_and_token),
	        cmocka_unit_test(websockets_shake_hands),
	        cmocka_unit_test(spdy_versions_are_negotiated),
	        cmocka_unit_test(frames_arrive_in_any_pieces),
	        cmocka_unit_test(header_blocks_are_bounded),
	        cmocka_unit_test(broken_frames_end_it),
	        cmocka_unit_test(tokens_are_good_once),
	        cmocka_unit_test(tokens_expire),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
