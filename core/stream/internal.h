/* Between the files of the streaming server. All of it belongs to the loop.
 *
 * A connection carries channels, by way of a transport (SPDY, WebSocket); a session (a terminal's,
 * a port forward's) owns them. A channel has a bounded buffer for each direction. What a session
 * cannot take now stops the reading of the connection, what the client does not take stops the
 * reading of the session's source. */
#ifndef BERTH_STREAM_INTERNAL_H
#define BERTH_STREAM_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream/spdy_wire.h"
#include "stream/stream.h"
#include "stream/tls.h"
#include "stream/token.h"
#include "stream/upgrade.h"

#define STREAM_HEAD_MAX 16384 /* of the HTTP request */
#define STREAM_READ 32768     /* of the socket, in one go */
#define STREAM_CHAN_IN 65536  /* more waiting input stops the connection's reading */
#define STREAM_CHAN_OUT 65536 /* waiting output of a channel */
#define STREAM_CONN_OUT 65536 /* waiting output of a connection, beyond which no frame is made */
#define STREAM_FRAME 16384    /* data in one frame of ours */
#define STREAM_SOCKET_OUT (256 * 1024) /* in the kernel; it doubles it for its own needs */
#define STREAM_CONNECTIONS 1024
#define STREAM_CHANNELS 512 /* of one connection */
#define STREAM_TOKENS 1000
#define STREAM_TOKEN_MS 60000
#define STREAM_HANDSHAKE_MS 10000
#define STREAM_CREATION_MS 30000 /* until the client has opened its channels */
#define STREAM_IDLE_MS (4u * 3600 * 1000)
#define STREAM_LINGER_MS 10000 /* for the client to read the end and to close */

/* A queue of bytes; its memory goes when it is empty. */
struct strm_queue {
	struct berth_buf b;
	size_t off;
};
static inline size_t strm_queue_len(const struct strm_queue *q)
{
	return q->b.len - q->off;
}
static inline const char *strm_queue_data(const struct strm_queue *q)
{
	return q->b.data + q->off;
}
void strm_queue_add(struct strm_queue *q, const void *p, size_t n);
void strm_queue_drop(struct strm_queue *q, size_t n);
void strm_queue_finish(struct strm_queue *q);

enum strm_kind {
	STRM_STDIN, /* the first five are the numbers of WebSocket channels, too */
	STRM_STDOUT,
	STRM_STDERR,
	STRM_ERROR,
	STRM_RESIZE,
	STRM_TERM_KINDS,
	STRM_DATA = STRM_TERM_KINDS, /* of a forwarded port; its errors are STRM_ERROR */
};

struct strm_conn;
struct strm_term_ops;
struct spdy;
struct ws;

struct strm_chan {
	struct strm_conn *conn;
	struct strm_chan *prev, *next;
	uint32_t id;
	enum strm_kind kind;
	struct strm_queue in, out;
	bool in_fin;             /* the client sends no more */
	bool out_fin, out_ended; /* so do we: asked for, said */
	bool reset;              /* neither direction lives */
	bool full;               /* counted in conn->n_full */
	int64_t send_window;     /* SPDY */
	uint32_t unacked;        /* consumed, not yet given back to the client's window */
	/* The owner's. in: there is something in `in`, or in_fin or reset is new. room: after a
	 * full channel. */
	void (*on_in)(struct strm_chan *ch);
	void (*on_room)(struct strm_chan *ch);
	bool want_room;
	void *in_owner, *room_owner;
};

/* A request that waits for its client. */
struct strm_request {
	enum berth_stream_kind kind;
	struct berth_daemon *d;
	struct berth_container *c; /* exec, attach */
	struct berth_pod *pod;     /* forward */
	char **argv;
	bool tty, want[STRM_TERM_KINDS];
	uint16_t *ports;
	size_t n_ports;
};
void strm_request_free(void *request);

struct strm_transport {
	int (*start)(struct strm_conn *c);
	int (*feed)(
	        struct strm_conn *c, const char *p, size_t n); /* -1: the connection is closed */
	/* Moves channels' output into the connection's; false where there was none to move. */
	bool (*flush)(struct strm_conn *c);
	void (*consumed)(struct strm_chan *ch, size_t n);
	void (*reset)(struct strm_chan *ch, uint32_t status);
	void (*finish)(struct strm_conn *c); /* says goodbye */
	void (*free)(struct strm_conn *c);
};
extern const struct strm_transport strm_spdy, strm_ws;

struct strm_session_ops {
	int (*start)(struct strm_conn *c);
	/* The client opened a channel with these headers (SPDY). False refuses it. */
	bool (*opened)(struct strm_chan *ch, const struct berth_spdy_headers *h);
	void (*ready)(struct strm_conn *c); /* the client was told that its channel is open */
	void (*sweep)(struct strm_conn
	                *c); /* after bytes have moved; frees nothing itself; may be NULL */
	void (*gone)(struct strm_conn
	                *c); /* frees the session; the channels are there until it returns */
};
extern const struct strm_session_ops strm_term, strm_forward;

enum strm_state { STRM_HEAD, STRM_OPEN, STRM_LINGER };

struct strm_conn {
	struct berth_streams *server;
	struct berth_daemon *d;
	struct strm_conn *prev, *next;
	int fd;
	struct berth_fdwatch *watch;
	int events;
	enum strm_state state;
	bool closed;  /* to be freed as soon as the stack is unwound */
	bool eof;     /* nothing more can be read */
	bool hung_up; /* the client has gone, what it sent is still being read */
	bool shut, kicking;
	const struct berth_tls_api *tls_api;
	struct berth_tls *tls; /* NULL: bytes go as they are */
	bool read_wants_write; /* the handshake */
	struct berth_buf head;
	struct strm_queue out;
	struct berth_timer *timer; /* handshake, idle, linger */
	uint64_t active_ns;
	struct strm_request *req;
	struct berth_upgrade up;
	const struct strm_transport *transport;
	struct spdy *spdy; /* the transports' */
	struct ws *ws;
	struct strm_queue tunnel; /* SPDY inside of WebSocket: frames to be wrapped */
	const struct strm_session_ops *session;
	void *own; /* the session's */
	struct strm_chan *chans;
	size_t n_chans, n_full;
};

struct strm_tls;

struct berth_streams {
	struct berth_daemon *d;
	int fd;
	struct berth_fdwatch *watch;
	struct berth_tokens *tokens;
	struct berth_timer *breath;
	char *url; /* http://ADDR:PORT or https:// */
	struct strm_tls *tls;
	struct strm_conn *conns;
	size_t n_conns;
};

/* cert.c. *ret is NULL where TLS is not configured. */
int strm_tls_start(struct berth_streams *s, struct strm_tls **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
void strm_tls_look(struct strm_tls *t);             /* NULL-safe */
struct strm_tls *strm_tls_free(struct strm_tls *t); /* NULL-safe, returns NULL */
/* *ret is NULL without memory. */
const struct berth_tls_api *strm_tls_open(struct strm_tls *t, int fd, struct berth_tls **ret);

void strm_conn_accept(struct berth_streams *s, int fd);
/* The client has said that it goes, or its end of the socket is closed. */
void strm_conn_client_gone(struct strm_conn *c);
/* Ends it at once; it is freed after the present callback. */
void strm_conn_close(struct strm_conn *c, const char *why);
/* Sends all that waits, tells the client that this was all, and closes once it has read it. */
void strm_conn_finish(struct strm_conn *c);
/* Moves bytes on. */
void strm_conn_kick(struct strm_conn *c);
void strm_conn_free(struct strm_conn *c);

/* NULL where the connection has too many. The session sets on_in, on_room and their owners. */
struct strm_chan *strm_chan_new(struct strm_conn *c, uint32_t id, enum strm_kind kind);
void strm_chan_free(struct strm_chan *ch);
struct strm_chan *strm_chan_find(struct strm_conn *c, uint32_t id);
/* The next round begins with `ch`. */
void strm_chan_rotate(struct strm_conn *c, struct strm_chan *ch);
size_t strm_chan_room(const struct strm_chan *ch);
/* At most strm_chan_room() bytes. A reset channel swallows them. */
void strm_chan_write(struct strm_chan *ch, const void *p, size_t n);
void strm_chan_end(struct strm_chan *ch);                /* after all that was written */
void strm_chan_consumed(struct strm_chan *ch, size_t n); /* n bytes of `in` were taken out */
/* For transports. */
void strm_chan_received(struct strm_chan *ch, const char *p, size_t n, bool fin);
void strm_chan_was_reset(struct strm_chan *ch);

/* A pump moves bytes between a channel and an fd of its own. */
struct strm_pump {
	struct strm_chan *chan;  /* NULL: out of the fd into nothing */
	struct strm_chan *chan2; /* packets: stderr */
	struct berth_loop *loop;
	int fd;
	struct berth_fdwatch *watch;
	int events;
	bool packets;                                  /* of the monitor's attach socket */
	bool moved;                                    /* since it was last set to false */
	bool failed;                                   /* the fd's other end was cut off */
	void (*ended)(struct strm_pump *p, void *arg); /* the fd is closed already; once */
	void *arg;
};
/* Takes the fd. */
void strm_pump_from_fd(struct strm_pump *p, struct berth_loop *l, int fd, struct strm_chan *chan,
        void (*ended)(struct strm_pump *p, void *arg), void *arg);
void strm_pump_to_fd(struct strm_pump *p, struct berth_loop *l, int fd, struct strm_chan *chan,
        void (*ended)(struct strm_pump *p, void *arg), void *arg);
void strm_pump_stop(struct strm_pump *p); /* idempotent; `ended` does not run */
static inline bool strm_pump_runs(const struct strm_pump *p)
{
	return p->fd >= 0;
}
/* An fd that is waiting for the client, not for its own other end. */
bool strm_pump_is_held(const struct strm_pump *p);

/* ---- terminals: what exec and attach have in common ---- */

struct strm_term {
	struct strm_conn *conn;
	struct strm_request *req;
	const struct strm_term_ops *ops;
	struct strm_chan *chan[STRM_TERM_KINDS];
	struct berth_timer *creation;
	bool begun, over;
	uint16_t width, height; /* 0 = not said */
	struct strm_pump in, out, err;
	struct berth_timer *drain;
	/* exec */
	struct berth_session *exec;
	struct berth_timer *watch;
	struct berth_exit exit;
	bool ended;
	/* attach */
	struct strm_resize *resize;
	int waits;
};
struct strm_term_ops {
	void (*begin)(struct strm_term *t);
	void (*resize)(struct strm_term *t);
	void (*stop)(struct strm_term *t);
};
extern const struct strm_term_ops strm_exec_ops, strm_attach_ops;

/* The end: the status goes to the error channel. err NULL: by the exit code. */
void strm_term_over(struct strm_term *t, const struct berth_error *err, int exit_code);

#endif
