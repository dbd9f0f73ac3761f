/* SPDY/3.1 on the wire: frames and header blocks. No connection, no loop: bytes in, calls out.
 * [any] */
#ifndef BERTH_STREAM_SPDY_WIRE_H
#define BERTH_STREAM_SPDY_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

#include "base/mem.h"

#define BERTH_SPDY_DICTIONARY 1423
extern const unsigned char berth_spdy_dictionary[BERTH_SPDY_DICTIONARY];

#define BERTH_SPDY_CONTROL_MAX 16384 /* payload of a control frame */
#define BERTH_SPDY_HEADERS_MAX 16384 /* a header block, inflated */
#define BERTH_SPDY_PAIRS_MAX 64
#define BERTH_SPDY_WINDOW 65536
#define BERTH_SPDY_DATA_MAX 0xffffffu

enum berth_spdy_type {
	BERTH_SPDY_SYN_STREAM = 1,
	BERTH_SPDY_SYN_REPLY = 2,
	BERTH_SPDY_RST_STREAM = 3,
	BERTH_SPDY_SETTINGS = 4,
	BERTH_SPDY_PING = 6,
	BERTH_SPDY_GOAWAY = 7,
	BERTH_SPDY_HEADERS = 8,
	BERTH_SPDY_WINDOW_UPDATE = 9,
};
enum berth_spdy_rst {
	BERTH_SPDY_PROTOCOL_ERROR = 1,
	BERTH_SPDY_INVALID_STREAM = 2,
	BERTH_SPDY_REFUSED_STREAM = 3,
	BERTH_SPDY_CANCEL = 5,
	BERTH_SPDY_FLOW_CONTROL_ERROR = 7,
	BERTH_SPDY_STREAM_IN_USE = 8,
	BERTH_SPDY_STREAM_ALREADY_CLOSED = 9,
};
#define BERTH_SPDY_SETTING_WINDOW 7

struct berth_spdy_headers {
	size_t n;
	struct {
		const char *name, *value;
		size_t name_len, value_len;
	} pair[BERTH_SPDY_PAIRS_MAX];
};
/* The value of a header, or NULL. `name` in lower case; the comparison ignores case. */
const char *berth_spdy_header(
        const struct berth_spdy_headers *h, const char *name, size_t *ret_len);
/* 0, or -1 for a block that is none. The pairs point into `p`. */
int berth_spdy_headers_parse(const char *p, size_t n, struct berth_spdy_headers *ret);

/* What a frame says; -1 ends the connection. */
struct berth_spdy_events {
	int (*syn_stream)(
	        void *arg, uint32_t id, bool fin, bool one_way, const struct berth_spdy_headers *h);
	/* In pieces; `fin` with the last one of the frame, which may be empty. */
	int (*data)(void *arg, uint32_t id, const char *p, size_t n, bool fin);
	int (*fin)(void *arg, uint32_t id); /* of a HEADERS frame */
	int (*rst)(void *arg, uint32_t id, uint32_t status);
	int (*setting)(void *arg, uint32_t id, uint32_t value);
	int (*ping)(void *arg, uint32_t id);
	int (*goaway)(void *arg);
	int (*window)(void *arg, uint32_t id, uint32_t delta);
};

struct berth_spdy_in {
	const struct berth_spdy_events *events;
	void *arg;
	z_stream z;
	bool z_ready;
	unsigned char head[8];
	size_t head_len;
	bool control, fin;
	uint32_t id, left; /* of the frame under way */
	char *payload;     /* of a control frame */
	size_t payload_len;
	const char *why; /* after a -1: static, NULL where an event said it */
};
void berth_spdy_in_init(
        struct berth_spdy_in *in, const struct berth_spdy_events *events, void *arg);
int berth_spdy_in_feed(struct berth_spdy_in *in, const char *p, size_t n);
void berth_spdy_in_finish(struct berth_spdy_in *in);

/* Frames to send are appended to `b`. */
struct berth_spdy_out {
	z_stream z;
	bool z_ready;
};
struct berth_spdy_pair {
	const char *name, *value;
};
void berth_spdy_out_finish(struct berth_spdy_out *out);
/* SYN_STREAM (a client's) or SYN_REPLY. -1 where zlib has no memory. */
int berth_spdy_put_headers(struct berth_spdy_out *out, struct berth_buf *b,
        enum berth_spdy_type type, uint32_t id, const struct berth_spdy_pair *pairs, size_t n);
void berth_spdy_put_data_head(struct berth_buf *b, uint32_t id, size_t n, bool fin);
/* RST_STREAM, GOAWAY, WINDOW_UPDATE: two words. */
void berth_spdy_put_words(struct berth_buf *b, enum berth_spdy_type type, uint32_t id, uint32_t v);
void berth_spdy_put_ping(struct berth_buf *b, uint32_t id);

#endif
