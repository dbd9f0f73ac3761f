/* core/grpc: the server against what no decent client sends. */
#include "grpc_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <nghttp2/nghttp2.h>
#include <zlib.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

/* Raw HTTP/2, for what no decent client does. */
static int raw_connect(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	memcpy(addr.sun_path, gt_path, strlen(gt_path));
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void raw_write(int fd, const struct berth_buf *b)
{
	/* The server may have closed already. */
	(void)!send(fd, b->data, b->len, MSG_NOSIGNAL);
}

static void frame(
        struct berth_buf *b, int type, int flags, uint32_t stream_id, const void *p, size_t n)
{
	uint8_t head[9] = {(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, (uint8_t)type,
	        (uint8_t)flags, (uint8_t)(stream_id >> 24), (uint8_t)(stream_id >> 16),
	        (uint8_t)(stream_id >> 8), (uint8_t)stream_id};
	berth_buf_add(b, head, 9);
	berth_buf_add(b, p, n);
}

static void greet(struct berth_buf *b)
{
	berth_buf_adds(b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	frame(b, 4, 0, 0, NULL, 0);
}

static void field(struct berth_buf *b, const char *name, const char *value)
{
	size_t n = strlen(value);
	uint8_t prefix[2] = {0, (uint8_t)strlen(name)};
	berth_buf_add(b, prefix, 2);
	berth_buf_adds(b, name);
	if (n < 127) {
		uint8_t len = (uint8_t)n;
		berth_buf_add(b, &len, 1);
	} else {
		uint8_t len[4] = {127, (uint8_t)(0x80 | ((n - 127) & 127)),
		        (uint8_t)(0x80 | (((n - 127) >> 7) & 127)), (uint8_t)((n - 127) >> 14)};
		berth_buf_add(b, len, 4);
	}
	berth_buf_adds(b, value);
}

static void request(struct berth_buf *out, uint32_t stream_id, const char *method, const char *name,
        const char *value, int flags)
{
	struct berth_buf h = {0};
	_cleanup_free_ char *path = berth_asprintf("/berth.test.Test/%s", method);
	field(&h, ":method", "POST");
	field(&h, ":scheme", "http");
	field(&h, ":path", path);
	field(&h, ":authority", "x");
	if (!name || strcmp(name, "content-type") != 0)
		field(&h, "content-type", "application/grpc");
	if (name)
		field(&h, name, value);
	frame(out, 1, 4 | flags, stream_id, h.data, h.len);
	berth_buf_finish(&h);
}

/* Reads until `needle` is there or the server closes or nothing comes. Header values of the server
 * are huffman-coded, so that only frames' own bytes are good needles. */
struct answer {
	struct berth_buf all;
	bool closed;
};

static bool next_frame(
        const struct answer *a, size_t *at, uint8_t *type, const uint8_t **p, size_t *n)
{
	const uint8_t *d = (const uint8_t *)a->all.data + *at;
	if (a->all.len < *at + 9)
		return false;
	*n = (size_t)d[0] << 16 | (size_t)d[1] << 8 | d[2];
	if (a->all.len < *at + 9 + *n)
		return false;
	*type = d[3];
	*p = d;
	*at += 9 + *n;
	return true;
}

static const uint8_t *find_frame(const struct answer *a, int want, size_t *ret_n)
{
	size_t at = 0, n;
	uint8_t type;
	const uint8_t *p;
	while (next_frame(a, &at, &type, &p, &n)) {
		if (type == want) {
			if (ret_n)
				*ret_n = n;
			return p;
		}
	}
	return NULL;
}

static void read_until(int fd, struct answer *a, int want)
{
	char buf[4096];
	while (!a->closed && (want < 0 || !find_frame(a, want, NULL))) {
		struct pollfd p = {fd, POLLIN, 0};
		assert_int_equal(poll(&p, 1, 5000), 1);
		ssize_t n = recv(fd, buf, sizeof(buf), 0);
		a->closed = n <= 0;
		if (n > 0)
			berth_buf_add(&a->all, buf, (size_t)n);
	}
}

/* One call of Echo with these bytes as the body; its grpc-status from the client's point of view is
 * found by decoding with nghttp2. */
static int take_status(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name,
        size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
	if (name_len == 11 && memcmp(name, "grpc-status", 11) == 0)
		*(int *)arg = (int)strtol((const char *)value, NULL, 10);
	if (name_len == 7 && memcmp(name, ":status", 7) == 0 && memcmp(value, "200", 3) != 0)
		*(int *)arg = (int)strtol((const char *)value, NULL, 10);
	return 0;
}

static int raw_call(const char *name, const char *value, const void *body, size_t n, int end)
{
	struct berth_buf b = {0};
	struct answer a = {0};
	int fd = raw_connect(), status = -1;
	nghttp2_session *session;
	nghttp2_session_callbacks *cb;
	const nghttp2_nv nv[] = {
	        {(uint8_t *)(uintptr_t) ":method", (uint8_t *)(uintptr_t) "GET", 7, 3, 0}};

	greet(&b);
	request(&b, 1, "Echo", name, value, body ? 0 : 1);
	if (body)
		frame(&b, 0, end, 1, body, n);
	raw_write(fd, &b);
	/* A session that believes it has sent stream 1. */
	nghttp2_session_callbacks_new(&cb);
	nghttp2_session_callbacks_set_on_header_callback(cb, take_status);
	nghttp2_session_client_new(&session, cb, &status);
	nghttp2_session_callbacks_del(cb);
	nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, NULL, 0);
	nghttp2_submit_request(session, NULL, nv, 1, NULL, NULL);
	const uint8_t *out;
	while (nghttp2_session_mem_send(session, &out) > 0)
		;
	for (int i = 0; i < 100 && status < 0 && !a.closed; i++) {
		char buf[4096];
		struct pollfd p = {fd, POLLIN, 0};
		if (poll(&p, 1, 5000) != 1)
			break;
		ssize_t r = recv(fd, buf, sizeof(buf), 0);
		a.closed = r <= 0;
		if (r > 0)
			assert_true(
			        nghttp2_session_mem_recv(session, (uint8_t *)buf, (size_t)r) > 0);
	}
	nghttp2_session_del(session);
	berth_buf_finish(&b);
	close(fd);
	return status;
}

static size_t gzip(const void *p, size_t n, uint8_t *out, size_t room)
{
	z_stream z = {0};
	deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY);
	z.next_in = (Bytef *)(uintptr_t)p;
	z.avail_in = (uInt)n;
	z.next_out = out;
	z.avail_out = (uInt)room;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

static void bad_requests_are_told(void **state)
{
	static const uint8_t good[] = {0, 0, 0, 0, 3, 10, 1, 'a'};
	static const uint8_t wrong_type[] = {0, 0, 0, 0, 2, 10, 200};
	static const uint8_t two[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const uint8_t huge[] = {0, 0xff, 0xff, 0xff, 0xff, 1};
	static const uint8_t flag2[] = {2, 0, 0, 0, 0};
	static const uint8_t flag1[] = {1, 0, 0, 0, 0};

	assert_int_equal(raw_call(NULL, NULL, good, sizeof(good), 1), BERTH_OK_);
	assert_int_equal(raw_call(NULL, NULL, NULL, 0, 1), BERTH_INVALID_ARGUMENT);
	assert_int_equal(raw_call(NULL, NULL, good, 3, 1), BERTH_INVALID_ARGUMENT);
	assert_int_equal(raw_call(NULL, NULL, good, 7, 1), BERTH_INVALID_ARGUMENT);
	assert_int_equal(
	        raw_call(NULL, NULL, wrong_type, sizeof(wrong_type), 1), BERTH_INVALID_ARGUMENT);
	assert_int_equal(raw_call(NULL, NULL, two, sizeof(two), 1), BERTH_INVALID_ARGUMENT);
	/* These are answered before the request ends. */
	assert_int_equal(raw_call(NULL, NULL, huge, sizeof(huge), 0), BERTH_RESOURCE_EXHAUSTED);
	assert_int_equal(raw_call(NULL, NULL, flag2, sizeof(flag2), 0), BERTH_INTERNAL);
	assert_int_equal(raw_call(NULL, NULL, flag1, sizeof(flag1), 1), BERTH_INTERNAL);
	assert_int_equal(raw_call("grpc-timeout", "5", good, sizeof(good), 1), BERTH_INTERNAL);
	assert_int_equal(raw_call("grpc-timeout", "5S", good, sizeof(good), 1), BERTH_OK_);
	assert_int_equal(raw_call("grpc-timeout", "99999999H", good, sizeof(good), 1), BERTH_OK_);
	assert_int_equal(raw_call("grpc-timeout", "10m", good, 7, 0), BERTH_DEADLINE_EXCEEDED);
	assert_int_equal(
	        raw_call("grpc-encoding", "br", good, sizeof(good), 1), BERTH_UNIMPLEMENTED);
	assert_int_equal(raw_call("content-type", "text/html", good, sizeof(good), 1), 415);
	assert_int_equal(raw_call("content-type", "application/grpcx", good, sizeof(good), 1), 415);
	assert_int_equal(raw_call("content-type", "application/grpc+proto", good, sizeof(good), 1),
	        BERTH_OK_);
	char *text = berth_zalloc(20001);
	memset(text, 'h', 15000);
	assert_int_equal(raw_call("x-big", text, good, sizeof(good), 1), BERTH_OK_);
	memset(text, 'h', 16200);
	assert_int_equal(raw_call("x-big", text, good, sizeof(good), 1), BERTH_RESOURCE_EXHAUSTED);
	free(text);
	gt_expect_counts(0, 0);
}

static void gzip_is_taken_and_bounded(void **state)
{
	static const uint8_t message[] = {10, 1, 'a'};
	uint8_t out[4096] = {1};
	size_t n = gzip(message, sizeof(message), out + 5, sizeof(out) - 5);
	out[4] = (uint8_t)n;
	assert_int_equal(raw_call("grpc-encoding", "gzip", out, n + 5, 1), BERTH_OK_);
	assert_int_equal(raw_call("grpc-encoding", "identity", out, n + 5, 1), BERTH_INTERNAL);
	out[5] ^= 1;
	assert_int_equal(raw_call("grpc-encoding", "gzip", out, n + 5, 1), BERTH_INTERNAL);
	out[5] ^= 1;
	out[4] = (uint8_t)(n - 3); /* cut */
	assert_int_equal(raw_call("grpc-encoding", "gzip", out, n + 2, 1), BERTH_INTERNAL);

	_cleanup_free_ char *zeros = berth_zalloc(2 * GT_LIMIT);
	n = gzip(zeros, 2 * GT_LIMIT, out + 5, sizeof(out) - 5);
	out[3] = (uint8_t)(n >> 8);
	out[4] = (uint8_t)n;
	assert_int_equal(
	        raw_call("grpc-encoding", "gzip", out, n + 5, 1), BERTH_RESOURCE_EXHAUSTED);
}

static void pings_are_answered_and_garbage_is_not(void **state)
{
	struct berth_grpc_client *other = gt_client();
	struct berth_buf b = {0};
	struct answer a = {0};
	size_t n = 0;
	int fd = raw_connect();
	greet(&b);
	frame(&b, 6, 0, 0, "12345678", 8);
	raw_write(fd, &b);
	read_until(fd, &a, 6);
	const uint8_t *ping = find_frame(&a, 6, &n);
	assert_int_equal(ping[4], 1);
	assert_memory_equal(ping + 9, "12345678", 8);
	berth_buf_finish(&a.all);

	/* Half a frame harms nobody. */
	berth_buf_finish(&b);
	frame(&b, 0, 0, 1, NULL, 0);
	b.data[2] = 100;
	b.len = 7;
	raw_write(fd, &b);
	gt_expect(other, "Echo", "x", "x");
	close(fd);
	berth_buf_finish(&b);

	static const char *const garbage[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "\xff\xff\xff\xff\xff\xff\xff\xff\xff"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(garbage); i++) {
		fd = raw_connect();
		berth_buf_adds(&b, garbage[i]);
		raw_write(fd, &b);
		a = (struct answer){0};
		read_until(fd, &a, -1);
		assert_true(a.closed);
		berth_buf_finish(&a.all);
		berth_buf_finish(&b);
		close(fd);
	}
	gt_expect(other, "Echo", "x", "x");
	berth_grpc_client_free(other);
	gt_expect_counts(0, 0);
}

static void rapid_resets_are_stopped(void **state)
{
	struct berth_grpc_client *other = gt_client();
	struct berth_buf b = {0};
	struct answer a = {0};
	int fd = raw_connect();
	static const uint8_t cancel[4] = {0, 0, 0, 8};
	greet(&b);
	for (uint32_t i = 0; i < 3 * BERTH_LIMIT_GRPC_RESETS; i++) {
		request(&b, 2 * i + 1, "Hang", NULL, NULL, 0);
		frame(&b, 0, 1, 2 * i + 1, "\0\0\0\0\0", 5);
		frame(&b, 3, 0, 2 * i + 1, cancel, 4);
		if (b.len > 30000) {
			raw_write(fd, &b);
			berth_buf_finish(&b);
		}
	}
	raw_write(fd, &b);
	berth_buf_finish(&b);
	read_until(fd, &a, -1);
	const uint8_t *goaway = find_frame(&a, 7, NULL);
	assert_non_null(goaway);
	assert_int_equal(goaway[9 + 7], NGHTTP2_ENHANCE_YOUR_CALM);
	berth_buf_finish(&a.all);
	close(fd);
	gt_expect(other, "Echo", "x", "x");
	berth_grpc_client_free(other);
	gt_expect_counts(0, 0);
}

/* A client that asks and never reads: the server neither grows without bound nor stops serving. */
static void an_unread_client_is_bounded(void **state)
{
	struct berth_grpc_client *other = gt_client();
	struct berth_buf b = {0};
	struct berth_buf settings = {0};
	int fd = raw_connect();
	/* Windows as large as they get, so that only the socket holds the server up. */
	static const uint8_t window[6] = {0, 4, 0x7f, 0xff, 0xff, 0xff};
	static const uint8_t more[4] = {0x7f, 0, 0, 0};
	berth_buf_adds(&b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	frame(&b, 4, 0, 0, window, 6);
	frame(&b, 8, 0, 0, more, 4);
	for (uint32_t i = 0; i < 200; i++) {
		static const uint8_t body[] = {0, 0, 0, 0, 7, 10, 5, '9', '0', '0', '0', '0'};
		request(&b, 2 * i + 1, "Big", NULL, NULL, 0);
		frame(&b, 0, 1, 2 * i + 1, body, sizeof(body));
	}
	raw_write(fd, &b);
	for (int i = 0; i < 20; i++) {
		gt_expect(other, "Echo", "x", "x");
		usleep(2000);
	}
	/* 18 MB are asked for; what is not sent waits as requests, not as responses. */
	assert_in_range(atomic_load(&gt_observed), 60, 180);
	/* It may also come back and read it all. */
	size_t got = 0;
	char *buf = berth_zalloc(65536);
	while (got < 200 * 90000) {
		struct pollfd p = {fd, POLLIN, 0};
		assert_int_equal(poll(&p, 1, 5000), 1);
		ssize_t n = recv(fd, buf, 65536, 0);
		assert_true(n > 0);
		got += (size_t)n;
	}
	free(buf);
	close(fd);
	berth_buf_finish(&b);
	berth_buf_finish(&settings);
	berth_grpc_client_free(other);
	gt_expect_counts(0, 0);
}

static void many_idle_connections(void **state)
{
	int fds[900];
	struct berth_grpc_client *c = gt_client();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(fds); i++) {
		struct berth_buf b = {0};
		fds[i] = raw_connect();
		greet(&b);
		raw_write(fds[i], &b);
		berth_buf_finish(&b);
	}
	gt_expect_counts(BERTH_ARRAY_LEN(fds) + 1, 0);
	gt_expect(c, "Echo", "x", "x");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(fds); i++)
		close(fds[i]);
	gt_expect_counts(1, 0);
	berth_grpc_client_free(c);
}
/* What grpc-core sends for a call that is given up very early; other calls go on. */
static void a_lone_reset_is_left_out(void **state)
{
	static const uint8_t cancel[4] = {0, 0, 0, 8}, body[] = {0, 0, 0, 0, 3, 10, 1, 'a'};
	struct berth_buf b = {0};
	struct answer a = {0};
	size_t n = 0;
	int fd = raw_connect();

	greet(&b);
	request(&b, 1, "Hang", NULL, NULL, 0);
	frame(&b, 0, 1, 1, "\0\0\0\0\0", 5);
	frame(&b, 3, 0, 3, cancel, 4);
	request(&b, 5, "Echo", NULL, NULL, 0);
	frame(&b, 0, 1, 5, body, sizeof(body));
	/* In single bytes, so that frames are cut everywhere. */
	for (size_t i = 0; i < b.len; i++)
		assert_int_equal(send(fd, b.data + i, 1, MSG_NOSIGNAL), 1);
	read_until(fd, &a, 0);
	const uint8_t *data = find_frame(&a, 0, &n);
	assert_int_equal(data[8], 5);
	assert_null(find_frame(&a, 7, NULL));
	gt_expect_counts(1, 1);
	berth_buf_finish(&a.all);
	berth_buf_finish(&b);
	close(fd);
	gt_expect_counts(0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WITH_SERVER(bad_requests_are_told),
	        WITH_SERVER(gzip_is_taken_and_bounded),
	        WITH_SERVER(pings_are_answered_and_garbage_is_not),
	        WITH_SERVER(a_lone_reset_is_left_out),
	        WITH_SERVER(rapid_resets_are_stopped),
	        WITH_SERVER(an_unread_client_is_bounded),
	        WITH_SERVER(many_idle_connections),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
