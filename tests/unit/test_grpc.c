/* core/grpc: the client and the server with each other. */
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

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "grpc/wire.h"

static void unary_calls(void **state)
{
	struct berth_grpc_client *c = gt_client();
	for (int i = 0; i < 50; i++)
		gt_expect(c, "Echo", "hello", "hello");
	gt_expect(c, "Echo", "", "");
	gt_expect(c, "Later", "20", "later");
	gt_expect_failure(c, "Fail", "p1", 0, BERTH_FAILED_PRECONDITION,
	        "pod 'p1' is 100% not\nready \xc3\xa9");
	gt_expect_failure(
	        c, "Nope", "", 0, BERTH_UNIMPLEMENTED, "unknown method in /berth.test.Test/Nope");
	gt_expect_failure(c, "Absent", "", 0, BERTH_UNIMPLEMENTED, "unknown method");
	gt_expect_failure(c, "x/y", "", 0, BERTH_UNIMPLEMENTED, "unknown service");
	gt_expect_failure(c, "Echo", "\xff", 0, BERTH_INVALID_ARGUMENT,
	        "field version of runtime.v1.VersionRequest is not valid UTF-8");
	gt_expect(c, "Echo", "\xf0\x9f\x90\xb3", "\xf0\x9f\x90\xb3");
	berth_grpc_client_free(c);
	assert_int_equal(atomic_load(&gt_observed), 58);
}

static void messages_are_limited_both_ways(void **state)
{
	struct berth_grpc_client *c = gt_client();
	_cleanup_free_ char *text = berth_zalloc(2 * GT_LIMIT);
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;

	/* The largest that fits, exactly, and one byte more. */
	memset(text, 'a', GT_LIMIT - 4);
	r.version = text;
	assert_int_equal(protobuf_c_message_get_packed_size(&r.base), GT_LIMIT);
	gt_expect(c, "Echo", text, text);
	text[GT_LIMIT - 4] = 'a';
	gt_expect_failure(c, "Echo", text, 0, BERTH_RESOURCE_EXHAUSTED,
	        "message of 100001 bytes is larger than the limit of 100000");
	memset(text, 'a', 2 * GT_LIMIT - 1);
	gt_expect_failure(c, "Echo", text, 0, BERTH_RESOURCE_EXHAUSTED, "larger than the limit");
	gt_expect_failure(c, "Big", "200000", 0, BERTH_RESOURCE_EXHAUSTED,
	        "the response of 200004 bytes is larger than the limit of 100000");
	berth_grpc_client_set_limit(c, 1000);
	gt_expect_failure(c, "Big", "2000", 0, BERTH_RESOURCE_EXHAUSTED,
	        "message of 2003 bytes is larger than the limit of 1000");
	berth_grpc_client_set_limit(c, GT_LIMIT);
	gt_expect(c, "Echo", "still there", "still there");
	berth_grpc_client_free(c);
}

static void deadlines_end_calls(void **state)
{
	struct berth_grpc_client *c = gt_client();
	uint64_t before = berth_now_ns();
	gt_expect_failure(c, "Hang", "", 50, BERTH_DEADLINE_EXCEEDED, "deadline of the call");
	uint64_t took = berth_now_ns() - before;
	assert_in_range(took, 50000000, 500000000);
	gt_eventually(&gt_cancelled, 1);
	/* A handler that answers too late is ignored. */
	gt_expect_failure(c, "Later", "150", 30, BERTH_DEADLINE_EXCEEDED, "deadline of the call");
	usleep(200000);
	gt_expect(c, "Echo", "on", "on");
	assert_int_equal(atomic_load(&gt_cancelled), 1);
	berth_grpc_client_free(c);
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
	struct berth_grpc_client *c = gt_client();
	struct berth_error *err = NULL;
	struct seen s = {0};

	assert_int_equal(run_stream(c, "Stream", "2000", &s, 0, &err), 0);
	assert_int_equal(s.n, 2000);
	assert_in_range(atomic_load(&gt_flow_peak), 50000, 52000);
	s.n = 0;
	assert_int_equal(run_stream(c, "Stream", "0", &s, 0, &err), 0);
	assert_int_equal(s.n, 0);

	/* The client has enough: the handler learns of it. */
	s.stop_at = 3;
	assert_int_equal(run_stream(c, "Stream", "100000", &s, 0, &err), 0);
	assert_int_equal(s.n, 3);
	gt_eventually(&gt_cancelled, 1);
	gt_expect(c, "Echo", "a", "a");

	s = (struct seen){0};
	assert_int_equal(run_stream(c, "StreamFails", "", &s, 0, &err), -1);
	assert_int_equal(s.n, 1);
	assert_int_equal(err->code, BERTH_ABORTED);
	assert_string_equal(err->msg, "in the middle");
	err = berth_error_free(err);
	gt_expect_counts(1, 0);
	berth_grpc_client_free(c);
	gt_expect_counts(0, 0);
}

static void a_client_that_leaves_cancels(void **state)
{
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;
	struct berth_grpc_client *c = gt_client();
	struct berth_error *err = NULL;
	/* Gives up by its own clock; then the connection goes with more calls on it. */
	assert_null(berth_grpc_client_call(c, "/berth.test.Test/Hang", &r.base,
	        &runtime__v1__version_response__descriptor, 1, &err));
	err = berth_error_free(err);
	gt_eventually(&gt_cancelled, 1);
	berth_grpc_client_free(c);
	gt_expect_counts(0, 0);
}

static void drained(void *arg)
{
	atomic_store((atomic_int *)arg, 1);
}

static atomic_int is_drained;

static void drain_gently(void *arg)
{
	berth_grpc_server_drain(gt_server, 3000, drained, &is_drained);
}

static void drain_at_once(void *arg)
{
	berth_grpc_server_drain(gt_server, 20, drained, &is_drained);
}

static void *slow_caller(void *arg)
{
	struct berth_grpc_client *c = arg;
	gt_expect(c, "Later", "300", "later");
	return NULL;
}

static void draining_lets_calls_end(void **state)
{
	pthread_t t;
	struct berth_grpc_client *c = gt_client(), *idle = gt_client();
	gt_expect(idle, "Echo", "x", "x");
	is_drained = 0;
	pthread_create(&t, NULL, slow_caller, c);
	gt_expect_counts(2, 1);
	berth_loop_post(gt_loop, drain_gently, NULL);
	usleep(50000);
	assert_int_equal(atomic_load(&is_drained), 0);
	assert_int_equal(access(gt_path, F_OK), -1);
	pthread_join(t, NULL);
	gt_eventually(&is_drained, 1);
	gt_expect_failure(idle, "Echo", "x", 0, BERTH_UNAVAILABLE, gt_path);
	gt_expect_failure(c, "Echo", "x", 0, BERTH_UNAVAILABLE, gt_path);
	berth_grpc_client_free(c);
	berth_grpc_client_free(idle);
}

static void *hung_caller(void *arg)
{
	gt_expect_failure(arg, "Hang", "", 0, BERTH_UNAVAILABLE, "the server is stopping");
	return NULL;
}

static void draining_ends_the_rest(void **state)
{
	pthread_t t;
	struct berth_grpc_client *c = gt_client();
	is_drained = 0;
	pthread_create(&t, NULL, hung_caller, c);
	gt_expect_counts(1, 1);
	berth_loop_post(gt_loop, drain_at_once, NULL);
	pthread_join(t, NULL);
	gt_eventually(&is_drained, 1);
	gt_eventually(&gt_cancelled, 1);
	berth_grpc_client_free(c);
}

static struct berth_error *listen_error;
static void listen_again(void *arg)
{
	if (berth_grpc_server_listen(gt_server, arg, 0640, &listen_error) == 0)
		listen_error = NULL;
	pthread_barrier_wait(&gt_barrier);
}

static void try_listen(const char *path)
{
	listen_error = NULL;
	berth_loop_post(gt_loop, listen_again, (void *)(uintptr_t)path);
	pthread_barrier_wait(&gt_barrier);
}

static void sockets_are_replaced_only_when_stale(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	_cleanup_free_ char *stale = berth_asprintf("%s/stale", gt_dir);
	_cleanup_free_ char *file = berth_asprintf("%s/file", gt_dir);
	_cleanup_free_ char *missing = berth_asprintf("%s/none/s", gt_dir);

	try_listen(gt_path);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WITH_SERVER(unary_calls),
	        WITH_SERVER(messages_are_limited_both_ways),
	        WITH_SERVER(deadlines_end_calls),
	        WITH_SERVER(streams_flow),
	        WITH_SERVER(a_client_that_leaves_cancels),
	        WITH_SERVER(draining_lets_calls_end),
	        WITH_SERVER(draining_ends_the_rest),
	        WITH_SERVER(sockets_are_replaced_only_when_stale),
	        cmocka_unit_test(status_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
