/* The head of an HTTP/1.1 request that asks for an upgrade, and what it is answered. Pure functions
 * on bytes of a peer. [any] */
#ifndef BERTH_STREAM_UPGRADE_H
#define BERTH_STREAM_UPGRADE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"

enum berth_http_headers { BERTH_HTTP_HEADERS = 64 };

/* Slices of the head. */
struct berth_http_text {
	const char *p;
	size_t n;
};

struct berth_http_head {
	struct berth_http_text method, target;
	struct {
		struct berth_http_text name, value;
	} headers[BERTH_HTTP_HEADERS];
	size_t n_headers;
};

/* The head's length with its empty line; 0 where it is not complete; -1 for what is no HTTP/1.1
 * request (bare line feeds, folded lines, control bytes, more headers than BERTH_HTTP_HEADERS). */
int berth_http_parse(const char *p, size_t n, struct berth_http_head *ret);

enum berth_stream_kind { BERTH_STREAM_EXEC, BERTH_STREAM_ATTACH, BERTH_STREAM_FORWARD };
/* "/exec/TOKEN": -1 where it names nothing. A query is ignored. */
int berth_stream_path(const struct berth_http_text *target, enum berth_stream_kind *ret_kind,
        struct berth_http_text *ret_token);

enum berth_stream_wire {
	BERTH_WIRE_SPDY,
	BERTH_WIRE_WS,
	BERTH_WIRE_WS_SPDY, /* SPDY inside of WebSocket messages */
};

struct berth_upgrade {
	enum berth_stream_wire wire;
	int version; /* of the channel protocol: 1 to 5; 0 = that of Kubernetes before there were
	                numbers */
	bool base64; /* WebSocket messages are text */
	struct berth_buf answer; /* the whole 101 response */
};

/* 0 and the answer to send, or the HTTP status of a refusal with its reason (static); `extra` then
 * gets header lines of the refusal. */
int berth_upgrade(const struct berth_http_head *h, enum berth_stream_kind kind,
        struct berth_upgrade *ret, struct berth_buf *extra, const char **ret_why);

#endif
