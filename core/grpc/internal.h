/* The pieces of the server: a server has connections, a connection has calls. Internal to grpc/.
 * [loop]
 *
 * A call lives until its stream is closed and its handler has answered, whichever is later; it may
 * outlive its connection and hold the last reference to the server. Nothing here writes to a socket
 * while nghttp2 runs a callback or a handler answers: connections become dirty and are flushed
 * before the loop polls again. */
#ifndef BERTH_GRPC_INTERNAL_H
#define BERTH_GRPC_INTERNAL_H

#include <nghttp2/nghttp2.h>
#include <uv.h>

#include "grpc/server.h"
#include "grpc/wire.h"

#define GRPC_SCRATCH 65536
#define GRPC_PREFACE_TIMEOUT_MS 10000

struct grpc_service {
	struct grpc_service *next;
	char *name;
	const struct berth_grpc_method *methods;
	void *arg;
};

struct grpc_listener {
	struct grpc_listener *next;
	struct berth_grpc_server *server;
	uv_pipe_t pipe;
	char *path;
	uint64_t dev, ino; /* of the file, so that another's is never removed */
};

struct berth_grpc_server {
	size_t refs;
	struct berth_loop *loop;
	struct berth_grpc_opts opts;
	struct grpc_service *services;
	struct grpc_listener *listeners;
	nghttp2_session_callbacks *callbacks;
	nghttp2_option *option;
	struct grpc_conn *conns;
	struct grpc_conn *dirty, *flushing; /* by dirty_next: for the next turn, and in this one */
	size_t n_conns, n_calls;
	size_t body_bytes; /* memory of request bodies */
	uv_prepare_t prepare;
	uv_idle_t idle;
	bool draining;
	struct berth_timer *grace;
	berth_fn drained;
	void *drained_arg;
	char *read_buf, *write_buf; /* GRPC_SCRATCH each, for one callback at a time */
};

struct grpc_write {
	uv_write_t req;
	struct grpc_conn *conn;
	char data[];
};

struct grpc_filter {
	size_t preface_left, payload_left;
	uint8_t head[9];
	size_t head_len;
	bool dropping;
	uint32_t last_stream;
};

struct grpc_conn {
	struct grpc_conn *prev, *next, *dirty_next;
	struct berth_grpc_server *server;
	uv_pipe_t pipe;
	nghttp2_session *session;
	struct grpc_filter filter;
	struct berth_timer *preface;
	struct berth_grpc_call *calls;
	struct berth_grpc_call *ready, **ready_tail; /* complete requests, not yet dispatched */
	size_t n_handlers;
	size_t unread;     /* bytes of responses that nghttp2 did not take yet */
	size_t body_bytes; /* memory of request bodies */
	uint64_t reset_refill_ns;
	size_t resets_left;
	size_t writes; /* that wait for the socket */
	bool reading, closing, is_dirty, is_open, any_writable;
};

enum grpc_encoding { GRPC_IDENTITY, GRPC_GZIP, GRPC_ENCODING_OTHER };

struct grpc_chunk {
	struct grpc_chunk *next;
	size_t len, off;
	uint8_t data[];
};

struct berth_grpc_call {
	struct berth_grpc_call *prev, *next, *ready_next;
	struct berth_grpc_server *server;
	struct grpc_conn *conn; /* NULL once it is closed */
	bool stream_open;
	bool pinned; /* not to be freed: one of its functions runs */
	int32_t stream_id;
	struct berth_arena *arena;

	char *path, *content_type, *timeout; /* in the arena */
	bool is_post;
	enum grpc_encoding encoding;
	size_t header_bytes;
	const struct berth_grpc_method *method;
	void *method_arg;
	struct berth_grpc_reader reader;
	size_t body_bytes;
	bool have_message, end_of_request;

	uint64_t start_ns, deadline_ns;
	struct berth_timer *timer;
	berth_fn on_cancel, on_writable;
	void *cancel_arg, *writable_arg;

	bool queued;       /* in the connection's ready list */
	bool owes;         /* the handler has not answered yet */
	bool settled;      /* the status is known */
	bool cancelled;    /* settled by the client or the deadline, not by the handler */
	bool headers_sent; /* response headers were handed to nghttp2 */
	bool got_empty;    /* on_writable is due */
	enum berth_code code;
	char *status_text; /* percent-encoded, NULL = none */
	struct grpc_chunk *out, **out_tail;
	size_t out_bytes;
};

/* server.c */
void grpc_server_ref(struct berth_grpc_server *s);
void grpc_server_unref(struct berth_grpc_server *s);
const struct berth_grpc_method *grpc_server_find(
        const struct berth_grpc_server *s, const char *path, bool *ret_service, void **ret_arg);
void grpc_server_conn_gone(struct berth_grpc_server *s);

/* conn.c */
struct grpc_conn *grpc_conn_new(struct berth_grpc_server *s);
int grpc_conn_start(struct grpc_conn *c);
void grpc_conn_close(struct grpc_conn *c);
void grpc_conn_goaway(struct grpc_conn *c);
void grpc_conn_dirty(struct grpc_conn *c); /* something to flush */
void grpc_conn_flush(struct grpc_conn *c); /* may close it */

/* filter.c: bytes of the client to nghttp2; 0 or an error of nghttp2 */
int grpc_filter_feed(struct grpc_conn *c, const uint8_t *p, size_t n);

/* session.c: what nghttp2 calls */
void grpc_count_reset(struct grpc_conn *c);
nghttp2_session_callbacks *grpc_session_callbacks(void);
nghttp2_option *grpc_session_option(void);

/* call.c */
struct berth_grpc_call *grpc_call_new(struct grpc_conn *c, int32_t stream_id);
void grpc_call_header(struct berth_grpc_call *call, const uint8_t *name, size_t name_len,
        const uint8_t *value, size_t value_len);
void grpc_call_headers_done(struct berth_grpc_call *call);
void grpc_call_data(struct berth_grpc_call *call, const uint8_t *p, size_t n);
void grpc_call_end_of_request(struct berth_grpc_call *call);
void grpc_call_dispatch(struct berth_grpc_call *call);
void grpc_call_stream_closed(struct berth_grpc_call *call); /* may free it */
void grpc_call_detach(struct berth_grpc_call *call);        /* the connection closes; the same */
void grpc_call_try_free(struct berth_grpc_call *call);

/* reply.c */
/* Settles the call: `err` NULL = OK. Sends what is due where the stream is open. */
void grpc_call_settle(struct berth_grpc_call *call, const struct berth_error *err);
void grpc_call_settlef(struct berth_grpc_call *call, enum berth_code code, const char *fmt, ...)
        BERTH_PRINTF(3, 4);
/* Settles it for the handler, which still owes its answer. */
void grpc_call_cancel(struct berth_grpc_call *call, enum berth_code code, const char *why);
void grpc_call_reject_http(struct berth_grpc_call *call, const char *status, const char *why);
void grpc_call_drop_output(struct berth_grpc_call *call);

#endif
