/* core/grpc: the server in a thread of its own, the client and raw sockets against it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zlib.h>
#include <nghttp2/nghttp2.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "cri.pb-c.h"
#include "grpc/client.h"
#include "grpc/server.h"
#include "grpc/wire.h"

#define LIMIT 100000 /* of messages, both ways */

typedef Runtime__V1__VersionRequest Request;
typedef Runtime__V1__VersionResponse Response;

static char dir[] = "/tmp/berth-grpc-XXXXXX";
static char *socket_path;
static struct berth_loop *loop;
static struct berth_grpc_server *server;
static pthread_t thread;
static pthread_barrier_t started;
static atomic_int cancelled, observed, last_code;

/* Handlers: the request's `version` is their argument. */
static const char *argument(const ProtobufCMessage *m)
{
	return ((const Request *)m)->version;
}

static void reply_text(struct berth_grpc_call *call, const char *text)
{
	Response r = RUNTIME__V1__VERSION_RESPONSE__INIT;
	r.runtime_name = (char *)(uintptr_t)text;
	berth_grpc_reply(call, &r.base);
}

static void echo(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	assert_string_equal(arg, "argument");
	reply_text(call, argument(m));
}

static void big(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	size_t n = strtoul(argument(m), NULL, 10);
	char *text = berth_arena_alloc(berth_grpc_arena(call), n + 1);
	memset(text, 'x', n);
	reply_text(call, text);
}

static void failing(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	berth_grpc_failf(call, BERTH_FAILED_PRECONDITION, "pod '%s' is 100%% not\nready \xc3\xa9",
	        argument(m));
}

struct later {
	struct berth_grpc_call *call;
	struct berth_timer *timer;
};

static void later_fire(void *arg)
{
	struct later *l = arg;
	struct berth_grpc_call *call = l->call;
	berth_timer_free(l->timer);
	free(l);
	reply_text(call, "later");
}

static void later(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	struct later *l = berth_new(struct later);
	l->call = call;
	l->timer = berth_timer_start(loop, strtoul(argument(m), NULL, 10), later_fire, l);
}

static void hang_cancelled(void *arg)
{
	assert_true(berth_grpc_cancelled(arg));
	atomic_fetch_add(&cancelled, 1);
	berth_grpc_failf(arg, BERTH_CANCELLED, "never seen");
}

static void hang(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	berth_grpc_on_cancel(call, hang_cancelled, call);
}

struct flow {
	struct berth_grpc_call *call;
	unsigned int sent, count;
	size_t peak;
};
static atomic_size_t flow_peak;

static void flow_more(void *arg)
{
	struct flow *f = arg;
	while (f->sent < f->count && berth_grpc_queued(f->call) < 50000) {
		Response r = RUNTIME__V1__VERSION_RESPONSE__INIT;
		char number[16], filler[1001];
		snprintf(number, sizeof(number), "%u", f->sent);
		memset(filler, 'y', 1000);
		filler[1000] = '\0';
		r.version = number;
		r.runtime_name = filler;
		if (berth_grpc_send(f->call, &r.base) < 0)
			return; /* on_cancel comes */
		f->sent++;
		if (berth_grpc_queued(f->call) > f->peak)
			f->peak = berth_grpc_queued(f->call);
	}
	if (f->sent == f->count && berth_grpc_queued(f->call) == 0) {
		atomic_store(&flow_peak, f->peak);
		berth_grpc_finish(f->call);
	}
}

static void flow_cancelled(void *arg)
{
	struct flow *f = arg;
	atomic_fetch_add(&cancelled, 1);
	berth_grpc_finish(f->call);
}

static void stream(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	struct flow *f = berth_arena_alloc(berth_grpc_arena(call), sizeof(*f));
	f->call = call;
	f->count = (unsigned int)strtoul(argument(m), NULL, 10);
	berth_grpc_on_writable(call, flow_more, f);
	berth_grpc_on_cancel(call, flow_cancelled, f);
	flow_more(f);
}

static void stream_fails(struct berth_grpc_call *call, const ProtobufCMessage *m, void *arg)
{
	Response r = RUNTIME__V1__VERSION_RESPONSE__INIT;
	assert_int_equal(berth_grpc_send(call, &r.base), 0);
	berth_grpc_failf(call, BERTH_ABORTED, "in the middle");
}

#define TYPES &runtime__v1__version_request__descriptor, &runtime__v1__version_response__descriptor
static const struct berth_grpc_method methods[] = {
        {"Echo", TYPES, false, echo},
        {"Big", TYPES, false, big},
        {"Fail", TYPES, false, failing},
        {"Later", TYPES, false, later},
        {"Hang", TYPES, false, hang},
        {"Stream", TYPES, true, stream},
        {"StreamFails", TYPES, true, stream_fails},
        {"Absent", TYPES, false, NULL},
        {NULL},
};

static void observe(const char *path, const struct berth_error *err, uint64_t ns, void *arg)
{
	atomic_store(&last_code, err ? (int)err->code : 0);
	atomic_fetch_add(&observed, 1);
}

static void *serve(void *arg)
{
	const struct berth_grpc_opts opts = {LIMIT, LIMIT, observe, NULL};
	struct berth_error *err = NULL;
	loop = berth_loop_new();
	server = berth_grpc_server_new(loop, &opts);
	berth_grpc_server_add(server, "berth.test.Test", methods, (void *)(uintptr_t) "argument");
	if (berth_grpc_server_listen(server, socket_path, 0600, &err))
		fail_msg("%s", err->msg);
	pthread_barrier_wait(&started);
	berth_loop_run(loop);
	server = berth_grpc_server_free(server);
	loop = berth_loop_free(loop);
	return NULL;
}

static int start(void **state)
{
	memcpy(dir, "/tmp/berth-grpc-XXXXXX", sizeof(dir));
	if (!mkdtemp(dir))
		return -1;
	socket_path = berth_asprintf("%s/s", dir);
	cancelled = observed = last_code = 0;
	pthread_barrier_init(&started, NULL, 2);
	pthread_create(&thread, NULL, serve, NULL);
	pthread_barrier_wait(&started);
	return 0;
}

static void stop_loop(void *arg)
{
	berth_loop_stop(loop);
}

static int stop(void **state)
{
	if (loop)
		berth_loop_post(loop, stop_loop, NULL);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&started);
	int r = access(socket_path, F_OK) == 0; /* it is removed at the end */
	free(socket_path);
	if (berth_rm_tree(AT_FDCWD, dir) < 0)
		r = -1;
	return r;
}

static struct berth_grpc_client *client(void)
{
	struct berth_error *err = NULL;
	struct berth_grpc_client *c = berth_grpc_client_connect(socket_path, &err);
	if (!c)
		fail_msg("%s", err->msg);
	return c;
}

static Response *call_ms(struct berth_grpc_client *c, const char *method, const char *text,
        uint64_t ms, struct berth_error **err)
{
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;
	_cleanup_free_ char *path = berth_asprintf("/berth.test.Test/%s", method);
	r.version = (char *)(uintptr_t)text;
	return (Response *)berth_grpc_client_call(
	        c, path, &r.base, &runtime__v1__version_response__descriptor, ms, err);
}

static void expect(
        struct berth_grpc_client *c, const char *method, const char *text, const char *want)
{
	struct berth_error *err = NULL;
	Response *r = call_ms(c, method, text, 0, &err);
	if (!r)
		fail_msg("%s: %s", method, err->msg);
	assert_string_equal(r->runtime_name, want);
	runtime__v1__version_response__free_unpacked(r, NULL);
}

static void expect_failure(struct berth_grpc_client *c, const char *method, const char *text,
        uint64_t ms, enum berth_code code, const char *msg)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	assert_null(call_ms(c, method, text, ms, &err));
	if (err->code != code || !strstr(err->msg, msg))
		fail_msg("%s: %s '%s'", method, berth_code_name(err->code), err->msg);
}

static void eventually(atomic_int *v, int want)
{
	for (int i = 0; i < 500 && atomic_load(v) != want; i++)
		usleep(10000);
	assert_int_equal(atomic_load(v), want);
}

static void unary_calls(void **state)
{
	struct berth_grpc_client *c = client();
	for (int i = 0; i < 50; i++)
		expect(c, "Echo", "hello", "hello");
	expect(c, "Echo", "", "");
	expect(c, "Later", "20", "later");
	expect_failure(c, "Fail", "p1", 0, BERTH_FAILED_PRECONDITION,
	        "pod 'p1' is 100% not\nready \xc3\xa9");
	expect_failure(
	        c, "Nope", "", 0, BERTH_UNIMPLEMENTED, "unknown method in /berth.test.Test/Nope");
	expect_failure(c, "Absent", "", 0, BERTH_UNIMPLEMENTED, "unknown method");
	expect_failure(c, "x/y", "", 0, BERTH_UNIMPLEMENTED, "unknown service");
	expect_failure(c, "Echo", "\xff", 0, BERTH_INVALID_ARGUMENT,
	        "field version of runtime.v1.VersionRequest is not valid UTF-8");
	expect(c, "Echo", "\xf0\x9f\x90\xb3", "\xf0\x9f\x90\xb3");
	berth_grpc_client_free(c);
	assert_int_equal(atomic_load(&observed), 58);
}

static void messages_are_limited_both_ways(void **state)
{
	struct berth_grpc_client *c = client();
	_cleanup_free_ char *text = berth_zalloc(2 * LIMIT);
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;

	/* The largest that fits, exactly, and one byte more. */
	memset(text, 'a', LIMIT - 4);
	r.version = text;
	assert_int_equal(protobuf_c_message_get_packed_size(&r.base), LIMIT);
	expect(c, "Echo", text, text);
	text[LIMIT - 4] = 'a';
	expect_failure(c, "Echo", text, 0, BERTH_RESOURCE_EXHAUSTED,
	        "message of 100001 bytes is larger than the limit of 100000");
	memset(text, 'a', 2 * LIMIT - 1);
	expect_failure(c, "Echo", text, 0, BERTH_RESOURCE_EXHAUSTED, "larger than the limit");
	expect_failure(c, "Big", "200000", 0, BERTH_RESOURCE_EXHAUSTED,
	        "the response of 200004 bytes is larger than the limit of 100000");
	berth_grpc_client_set_limit(c, 1000);
	expect_failure(c, "Big", "2000", 0, BERTH_RESOURCE_EXHAUSTED,
	        "message of 2003 bytes is larger than the limit of 1000");
	berth_grpc_client_set_limit(c, LIMIT);
	expect(c, "Echo", "still there", "still there");
	berth_grpc_client_free(c);
}

static void deadlines_end_calls(void **state)
{
	struct berth_grpc_client *c = client();
	uint64_t before = berth_now_ns();
	expect_failure(c, "Hang", "", 50, BERTH_DEADLINE_EXCEEDED, "deadline of the call");
	uint64_t took = berth_now_ns() - before;
	assert_in_range(took, 50000000, 500000000);
	eventually(&cancelled, 1);
	/* A handler that answers too late is ignored. */
	expect_failure(c, "Later", "150", 30, BERTH_DEADLINE_EXCEEDED, "deadline of the call");
	usleep(200000);
	expect(c, "Echo", "on", "on");
	assert_int_equal(atomic_load(&cancelled), 1);
	berth_grpc_client_free(c);
}

static void get_counts(void *arg)
{
	size_t *out = arg;
	berth_grpc_server_counts(server, &out[0], &out[1]);
	pthread_barrier_wait(&started);
}

static void expect_counts(size_t connections, size_t calls)
{
	size_t now[2] = {0, 0};
	for (int i = 0; i < 300; i++) {
		berth_loop_post(loop, get_counts, now);
		pthread_barrier_wait(&started);
		if (now[0] == connections && now[1] == calls)
			return;
		usleep(10000);
	}
	fail_msg("%zu connections and %zu calls, not %zu and %zu", now[0], now[1], connections,
	        calls);
}

struct seen {
	int n, stop_at;
};

static int see(const ProtobufCMessage *m, void *arg)
{
	struct seen *s = arg;
	assert_int_equal(strtol(((const Response *)m)->version, NULL, 10), s->n);
	return ++s->n == s->stop_at;
}

static int run_stream(struct berth_grpc_client *c, const char *method, const char *count,
        struct seen *s, uint64_t ms, struct berth_error **err)
{
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;
	_cleanup_free_ char *path = berth_asprintf("/berth.test.Test/%s", method);
	r.version = (char *)(uintptr_t)count;
	return berth_grpc_client_stream(
	        c, path, &r.base, &runtime__v1__version_response__descriptor, ms, see, s, err);
}

static void streams_flow(void **state)
{
	struct berth_grpc_client *c = client();
	struct berth_error *err = NULL;
	struct seen s = {0};

	assert_int_equal(run_stream(c, "Stream", "2000", &s, 0, &err), 0);
	assert_int_equal(s.n, 2000);
	assert_in_range(atomic_load(&flow_peak), 50000, 52000);
	s.n = 0;
	assert_int_equal(run_stream(c, "Stream", "0", &s, 0, &err), 0);
	assert_int_equal(s.n, 0);

	/* The client has enough: the handler learns of it. */
	s.stop_at = 3;
	assert_int_equal(run_stream(c, "Stream", "100000", &s, 0, &err), 0);
	assert_int_equal(s.n, 3);
	eventually(&cancelled, 1);
	expect(c, "Echo", "a", "a");

	s = (struct seen){0};
	assert_int_equal(run_stream(c, "StreamFails", "", &s, 0, &err), -1);
	assert_int_equal(s.n, 1);
	assert_int_equal(err->code, BERTH_ABORTED);
	assert_string_equal(err->msg, "in the middle");
	err = berth_error_free(err);
	expect_counts(1, 0);
	berth_grpc_client_free(c);
	expect_counts(0, 0);
}

static void a_client_that_leaves_cancels(void **state)
{
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;
	struct berth_grpc_client *c = client();
	struct berth_error *err = NULL;
	/* Gives up by its own clock; then the connection goes with more calls on it. */
	assert_null(berth_grpc_client_call(c, "/berth.test.Test/Hang", &r.base,
	        &runtime__v1__version_response__descriptor, 1, &err));
	err = berth_error_free(err);
	eventually(&cancelled, 1);
	berth_grpc_client_free(c);
	expect_counts(0, 0);
}

/* Raw HTTP/2, for what no decent client does. */
static int raw_connect(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	memcpy(addr.sun_path, socket_path, strlen(socket_path));
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
	expect_counts(0, 0);
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

	_cleanup_free_ char *zeros = berth_zalloc(2 * LIMIT);
	n = gzip(zeros, 2 * LIMIT, out + 5, sizeof(out) - 5);
	out[3] = (uint8_t)(n >> 8);
	out[4] = (uint8_t)n;
	assert_int_equal(
	        raw_call("grpc-encoding", "gzip", out, n + 5, 1), BERTH_RESOURCE_EXHAUSTED);
}

static void pings_are_answered_and_garbage_is_not(void **state)
{
	struct berth_grpc_client *other = client();
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
	expect(other, "Echo", "x", "x");
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
	expect(other, "Echo", "x", "x");
	berth_grpc_client_free(other);
	expect_counts(0, 0);
}

static void rapid_resets_are_stopped(void **state)
{
	struct berth_grpc_client *other = client();
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
	expect(other, "Echo", "x", "x");
	berth_grpc_client_free(other);
	expect_counts(0, 0);
}

/* A client that asks and never reads: the server neither grows without bound nor stops serving. */
static void an_unread_client_is_bounded(void **state)
{
	struct berth_grpc_client *other = client();
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
		expect(other, "Echo", "x", "x");
		usleep(2000);
	}
	/* 18 MB are asked for; what is not sent waits as requests, not as responses. */
	assert_in_range(atomic_load(&observed), 60, 180);
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
	expect_counts(0, 0);
}

static void many_idle_connections(void **state)
{
	int fds[900];
	struct berth_grpc_client *c = client();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(fds); i++) {
		struct berth_buf b = {0};
		fds[i] = raw_connect();
		greet(&b);
		raw_write(fds[i], &b);
		berth_buf_finish(&b);
	}
	expect_counts(BERTH_ARRAY_LEN(fds) + 1, 0);
	expect(c, "Echo", "x", "x");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(fds); i++)
		close(fds[i]);
	expect_counts(1, 0);
	berth_grpc_client_free(c);
}

static void drained(void *arg)
{
	atomic_store((atomic_int *)arg, 1);
}

static atomic_int is_drained;

static void drain_gently(void *arg)
{
	berth_grpc_server_drain(server, 3000, drained, &is_drained);
}

static void drain_at_once(void *arg)
{
	berth_grpc_server_drain(server, 20, drained, &is_drained);
}

static void *slow_caller(void *arg)
{
	struct berth_grpc_client *c = arg;
	expect(c, "Later", "300", "later");
	return NULL;
}

static void draining_lets_calls_end(void **state)
{
	pthread_t t;
	struct berth_grpc_client *c = client(), *idle = client();
	expect(idle, "Echo", "x", "x");
	is_drained = 0;
	pthread_create(&t, NULL, slow_caller, c);
	expect_counts(2, 1);
	berth_loop_post(loop, drain_gently, NULL);
	usleep(50000);
	assert_int_equal(atomic_load(&is_drained), 0);
	assert_int_equal(access(socket_path, F_OK), -1);
	pthread_join(t, NULL);
	eventually(&is_drained, 1);
	expect_failure(idle, "Echo", "x", 0, BERTH_UNAVAILABLE, socket_path);
	expect_failure(c, "Echo", "x", 0, BERTH_UNAVAILABLE, socket_path);
	berth_grpc_client_free(c);
	berth_grpc_client_free(idle);
}

static void *hung_caller(void *arg)
{
	expect_failure(arg, "Hang", "", 0, BERTH_UNAVAILABLE, "the server is stopping");
	return NULL;
}

static void draining_ends_the_rest(void **state)
{
	pthread_t t;
	struct berth_grpc_client *c = client();
	is_drained = 0;
	pthread_create(&t, NULL, hung_caller, c);
	expect_counts(1, 1);
	berth_loop_post(loop, drain_at_once, NULL);
	pthread_join(t, NULL);
	eventually(&is_drained, 1);
	eventually(&cancelled, 1);
	berth_grpc_client_free(c);
}

static struct berth_error *listen_error;
static void listen_again(void *arg)
{
	if (berth_grpc_server_listen(server, arg, 0640, &listen_error) == 0)
		listen_error = NULL;
	pthread_barrier_wait(&started);
}

static void try_listen(const char *path)
{
	listen_error = NULL;
	berth_loop_post(loop, listen_again, (void *)(uintptr_t)path);
	pthread_barrier_wait(&started);
}

static void sockets_are_replaced_only_when_stale(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	_cleanup_free_ char *stale = berth_asprintf("%s/stale", dir);
	_cleanup_free_ char *file = berth_asprintf("%s/file", dir);
	_cleanup_free_ char *missing = berth_asprintf("%s/none/s", dir);

	try_listen(socket_path);
	assert_int_equal(listen_error->code, BERTH_ALREADY_EXISTS);
	assert_non_null(strstr(listen_error->msg, "another process listens there"));
	berth_error_free(listen_error);

	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	memcpy(addr.sun_path, stale, strlen(stale));
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	try_listen(stale);
	assert_null(listen_error);
	assert_int_equal(stat(stale, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);

	fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	try_listen(file);
	assert_int_equal(listen_error->code, BERTH_ALREADY_EXISTS);
	berth_error_free(listen_error);
	try_listen(missing);
	assert_int_equal(listen_error->code, BERTH_NOT_FOUND);
	berth_error_free(listen_error);

	struct berth_error *err = NULL;
	assert_null(berth_grpc_client_connect(missing, &err));
	assert_int_equal(err->code, BERTH_UNAVAILABLE);
	assert_non_null(strstr(err->msg, missing));
	err = berth_error_free(err);
	assert_null(berth_grpc_client_connect("tcp://1.2.3.4:5", &err));
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	berth_error_free(err);
}

static void status_texts(void **state)
{
	struct berth_buf b = {0};
	for (int i = 0; i < 3000; i++)
		berth_buf_adds(&b, "\xc3\xa9");
	char *e = berth_grpc_percent_encode(b.data);
	assert_int_equal(strlen(e), BERTH_LIMIT_GRPC_STATUS_TEXT / 6 * 6);
	char *d = berth_grpc_percent_decode(e, strlen(e));
	assert_memory_equal(d, b.data, strlen(d));
	assert_int_equal(strlen(d) % 2, 0);
	free(d);
	free(e);
	berth_buf_finish(&b);
	d = berth_grpc_percent_decode("a%zz%4", 6);
	assert_string_equal(d, "a%zz%4");
	free(d);

	uint64_t ns = 0;
	char t[16];
	berth_grpc_format_timeout(t, 1500);
	assert_string_equal(t, "1500m");
	assert_int_equal(berth_grpc_parse_timeout(t, &ns), 0);
	assert_int_equal(ns, 1500000000);
	berth_grpc_format_timeout(t, 1000000000);
	assert_string_equal(t, "1000001S");
	assert_int_equal(berth_grpc_parse_timeout("123456789S", &ns), -EINVAL);
	assert_int_equal(berth_grpc_parse_timeout("-1S", &ns), -EINVAL);
	assert_int_equal(berth_grpc_parse_timeout("1SS", &ns), -EINVAL);
	assert_int_equal(berth_grpc_parse_timeout("", &ns), -EINVAL);
}

#define WITH_SERVER(f) cmocka_unit_test_setup_teardown(f, start, stop)
int main(void)
{
	const struct CMUnitTest tests[] = {
	        WITH_SERVER(unary_calls),
	        WITH_SERVER(messages_are_limited_both_ways),
	        WITH_SERVER(deadlines_end_calls),
	        WITH_SERVER(streams_flow),
	        WITH_SERVER(a_client_that_leaves_cancels),
	        WITH_SERVER(bad_requests_are_told),
	        WITH_SERVER(gzip_is_taken_and_bounded),
	        WITH_SERVER(pings_are_answered_and_garbage_is_not),
	        WITH_SERVER(rapid_resets_are_stopped),
	        WITH_SERVER(an_unread_client_is_bounded),
	        WITH_SERVER(many_idle_connections),
	        WITH_SERVER(draining_lets_calls_end),
	        WITH_SERVER(draining_ends_the_rest),
	        WITH_SERVER(sockets_are_replaced_only_when_stale),
	        cmocka_unit_test(status_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
