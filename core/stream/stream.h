/* The streaming server: Exec, Attach and PortForward over SPDY/3.1 and WebSocket. A CRI call leaves
 * a request here and gets a URL that is good for one connection within a minute. [loop] */
#ifndef BERTH_STREAM_STREAM_H
#define BERTH_STREAM_STREAM_H

#include "container/container.h"

struct berth_streams;

/* Listens at cri.stream_address and cri.stream_port and sets d->streams. */
int berth_streams_start(struct berth_daemon *d, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Reads the certificate again if it has changed. */
void berth_streams_reload(struct berth_daemon *d);
/* Whether TLS would start: *ret_what (caller frees) tells of it, NULL where it is not configured;
 * *ret_warning is static or NULL. Blocks. [any] */
int berth_streams_check_tls(const struct berth_config *c, const char *helpers, char **ret_what,
        const char **ret_warning, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* New connections are refused, those that are there go on. */
void berth_streams_drain(struct berth_daemon *d);
/* Ends all connections; commands that run for them are killed. Before the flows' pool is freed.
 * NULL-safe. */
void berth_streams_stop(struct berth_daemon *d);

struct berth_stream_term {
	size_t argc;
	char *const *argv; /* exec alone; copied */
	bool tty, in, out, err;
};
/* The URL (caller frees), or NULL: RESOURCE_EXHAUSTED where too many requests wait for their
 * client. */
char *berth_stream_exec(
        struct berth_container *c, const struct berth_stream_term *t, struct berth_error **ret_err);
char *berth_stream_attach(
        struct berth_container *c, const struct berth_stream_term *t, struct berth_error **ret_err);
/* `ports` are served over WebSocket, whose client cannot name them later; SPDY clients name their
 * own. */
char *berth_stream_forward(
        struct berth_pod *p, const int32_t *ports, size_t n_ports, struct berth_error **ret_err);

#endif
