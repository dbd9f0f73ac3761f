/* A server with a few methods in a thread of its own. */
#include "grpc_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

char gt_dir[] = "/tmp/berth-grpc-XXXXXX";
char *gt_path;
struct berth_loop *gt_loop;
struct berth_grpc_server *gt_server;
static pthread_t thread;
pthread_barrier_t gt_barrier;
atomic_int gt_cancelled, gt_observed, last_code;

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
	l->timer = berth_timer_start(gt_loop, strtoul(argument(m), NULL, 10), later_fire, l);
}

static void hang_cancelled(void *arg)
{
	assert_true(berth_grpc_cancelled(arg));
	atomic_fetch_add(&gt_cancelled, 1);
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
atomic_size_t gt_flow_peak;

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
		atomic_store(&gt_flow_peak, f->peak);
		berth_grpc_finish(f->call);
	}
}

static void flow_cancelled(void *arg)
{
	struct flow *f = arg;
	atomic_fetch_add(&gt_cancelled, 1);
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
	atomic_fetch_add(&gt_observed, 1);
}

static void *serve(void *arg)
{
	const struct berth_grpc_opts opts = {GT_LIMIT, GT_LIMIT, observe, NULL};
	struct berth_error *err = NULL;
	gt_loop = berth_loop_new();
	gt_server = berth_grpc_server_new(gt_loop, &opts);
	berth_grpc_server_add(
	        gt_server, "berth.test.Test", methods, (void *)(uintptr_t) "argument");
	if (berth_grpc_server_listen(gt_server, gt_path, 0600, &err))
		fail_msg("%s", err->msg);
	pthread_barrier_wait(&gt_barrier);
	berth_loop_run(gt_loop);
	gt_server = berth_grpc_server_free(gt_server);
	gt_loop = berth_loop_free(gt_loop);
	return NULL;
}

int gt_start(void **state)
{
	memcpy(gt_dir, "/tmp/berth-grpc-XXXXXX", sizeof(gt_dir));
	if (!mkdtemp(gt_dir))
		return -1;
	gt_path = berth_asprintf("%s/s", gt_dir);
	gt_cancelled = gt_observed = last_code = 0;
	pthread_barrier_init(&gt_barrier, NULL, 2);
	pthread_create(&thread, NULL, serve, NULL);
	pthread_barrier_wait(&gt_barrier);
	return 0;
}

static void stop_loop(void *arg)
{
	berth_loop_stop(gt_loop);
}

int gt_stop(void **state)
{
	if (gt_loop)
		berth_loop_post(gt_loop, stop_loop, NULL);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&gt_barrier);
	int r = access(gt_path, F_OK) == 0; /* it is removed at the end */
	free(gt_path);
	if (berth_rm_tree(AT_FDCWD, gt_dir) < 0)
		r = -1;
	return r;
}

struct berth_grpc_client *gt_client(void)
{
	struct berth_error *err = NULL;
	struct berth_grpc_client *c = berth_grpc_client_connect(gt_path, &err);
	if (!c)
		fail_msg("%s", err->msg);
	return c;
}

Response *gt_call(struct berth_grpc_client *c, const char *method, const char *text, uint64_t ms,
        struct berth_error **err)
{
	Request r = RUNTIME__V1__VERSION_REQUEST__INIT;
	_cleanup_free_ char *path = berth_asprintf("/berth.test.Test/%s", method);
	r.version = (char *)(uintptr_t)text;
	return (Response *)berth_grpc_client_call(
	        c, path, &r.base, &runtime__v1__version_response__descriptor, ms, err);
}

void gt_expect(struct berth_grpc_client *c, const char *method, const char *text, const char *want)
{
	struct berth_error *err = NULL;
	Response *r = gt_call(c, method, text, 0, &err);
	if (!r)
		fail_msg("%s: %s", method, err->msg);
	assert_string_equal(r->runtime_name, want);
	runtime__v1__version_response__free_unpacked(r, NULL);
}

void gt_expect_failure(struct berth_grpc_client *c, const char *method, const char *text,
        uint64_t ms, enum berth_code code, const char *msg)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	assert_null(gt_call(c, method, text, ms, &err));
	if (err->code != code || !strstr(err->msg, msg))
		fail_msg("%s: %s '%s'", method, berth_code_name(err->code), err->msg);
}

void gt_eventually(atomic_int *v, int want)
{
	for (int i = 0; i < 500 && atomic_load(v) != want; i++)
		usleep(10000);
	assert_int_equal(atomic_load(v), want);
}

static void get_counts(void *arg)
{
	size_t *out = arg;
	berth_grpc_server_counts(gt_server, &out[0], &out[1]);
	pthread_barrier_wait(&gt_barrier);
}

void gt_expect_counts(size_t connections, size_t calls)
{
	size_t now[2] = {0, 0};
	for (int i = 0; i < 300; i++) {
		berth_loop_post(gt_loop, get_counts, now);
		pthread_barrier_wait(&gt_barrier);
		if (now[0] == connections && now[1] == calls)
			return;
		usleep(10000);
	}
	fail_msg("%zu connections and %zu calls, not %zu and %zu", now[0], now[1], connections,
	        calls);
}
