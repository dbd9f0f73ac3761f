/* Frames on their way to nghttp2.
 *
 * A call that is given up between the choice of its stream id and the write of its HEADERS makes
 * grpc-core send a lone RST_STREAM. RFC 9113, 5.1 calls that a connection error, and nghttp2 ends
 * the connection with all its other calls; other gRPC servers shrug. Such a frame is left out here.
 */
#include <string.h>

#include "grpc/internal.h"

#define FRAME_HEAD 9
#define HEADERS_FRAME 1
#define RST_STREAM_FRAME 3
#define RST_STREAM_BYTES 4

static int pass(struct grpc_conn *c, const uint8_t *p, size_t n)
{
	ssize_t r = n ? nghttp2_session_mem_recv(c->session, p, n) : 0;
	return r < 0 ? (int)r : 0;
}

/* A frame begins: is it to be left out? */
static bool begin_frame(struct grpc_filter *f)
{
	const uint8_t *h = f->head;
	size_t len = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];
	uint32_t id =
	        (uint32_t)(h[5] & 0x7f) << 24 | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 8 | h[8];

	f->head_len = 0;
	f->payload_left = len;
	if (h[3] == HEADERS_FRAME && id > f->last_stream)
		f->last_stream = id;
	return h[3] == RST_STREAM_FRAME && len == RST_STREAM_BYTES && (id & 1) &&
	       id > f->last_stream;
}

/* Bytes from `from` on wait to be passed in one piece; a head that the input ends in is kept. */
int grpc_filter_feed(struct grpc_conn *c, const uint8_t *p, size_t n)
{
	struct grpc_filter *f = &c->filter;
	const uint8_t *from = p, *end = p + n;
	int r = 0;

	while (p < end && r == 0) {
		size_t left = (size_t)(end - p);
		if (f->preface_left > 0 || f->payload_left > 0) {
			size_t *counter = f->preface_left > 0 ? &f->preface_left : &f->payload_left;
			size_t m = left < *counter ? left : *counter;
			*counter -= m;
			p += m;
			if (f->dropping) {
				from = p;
				f->dropping = f->payload_left > 0;
			}
			continue;
		}
		size_t had = f->head_len, m = FRAME_HEAD - had < left ? FRAME_HEAD - had : left;
		memcpy(f->head + had, p, m);
		f->head_len += m;
		if (had == 0)
			r = pass(c, from, (size_t)(p - from));
		p += m;
		from = p;
		if (r == 0 && f->head_len == FRAME_HEAD) {
			f->dropping = begin_frame(f);
			if (f->dropping)
				grpc_count_reset(c);
			else
				r = pass(c, f->head, FRAME_HEAD);
		}
	}
	return r == 0 ? pass(c, from, (size_t)(p - from)) : r;
}
