/* Connections to a URL of the streaming server: exec, attach and port-forward. Internal to ctl/.
 *
 * A wire is a socket that does not block, perhaps under TLS, after its HTTP upgrade, with a queue
 * of what is to be sent. Everything is driven by poll(): events, then ctl_wire_ready(). */
#ifndef BERTH_CTL_WIRE_H
#define BERTH_CTL_WIRE_H

#include <poll.h>
#include <wslay/wslay.h>

#include "ctl/ctl.h"
#include "stream/tls.h"

#define CTL_WIRE_READ 32768
#define CTL_WIRE_OUT 65536 /* more waiting output stops the reading of its source */

/* The options of commands that make streams. */
#define CTL_STREAM_OPTIONS                                                                \
	{0, "tls-ca", CTL_TEXT, "FILE", "who signed the streaming server's certificate"}, \
	        {0, "tls-cert", CTL_TEXT, "FILE", "a certificate to show to the server"}, \
	{                                                                                 \
		0, "tls-key", CTL_TEXT, "FILE", "its key"                                 \
	}

struct ctl_wire {
	int fd;
	char *host; /* HOST:PORT, for messages */
	const struct berth_tls_api *tls_api;
	struct berth_tls_ctx *tls_ctx;
	struct berth_tls *tls;
	bool read_wants_write;
	struct berth_buf out; /* to send, from out_off on */
	size_t out_off;
	struct berth_buf in; /* what came behind the answer to the upgrade */
	char *protocol;      /* that the server has chosen, or NULL */
};

/* Connects to `url` and asks for the upgrade ("websocket", "SPDY/3.1") with these subprotocols, the
 * best first. UNAVAILABLE, INVALID_ARGUMENT, FAILED_PRECONDITION. ctl_wire_close() in any case. */
int ctl_wire_open(struct ctl *c, struct ctl_wire *w, const char *url, const char *upgrade,
        const char *const *protocols, struct berth_error **err) BERTH_MUST_CHECK;
void ctl_wire_close(struct ctl_wire *w);
static inline size_t ctl_wire_waits(const struct ctl_wire *w)
{
	return w->out.len - w->out_off;
}
short ctl_wire_events(const struct ctl_wire *w, bool read);
/* Sends what it can, and reads where `revents` has POLLIN: the number of bytes in `buf`, 0 for none
 * now, -1 at the end of the connection (no error) or with an error. */
ssize_t ctl_wire_ready(struct ctl_wire *w, short revents, char *buf, size_t size,
        struct berth_error **err) BERTH_MUST_CHECK;

/* ws.c: messages [channel, data...] over a wire. */
struct ctl_ws {
	struct ctl_wire *wire;
	wslay_event_context_ptr ctx;
	const char *p; /* what is being fed */
	size_t left;
	int version; /* 5, 4; 0 for servers that choose none */
	bool data_frame, first, ended;
	unsigned int channel;
	void (*got)(void *arg, unsigned int channel, const char *p, size_t n);
	void *arg;
};
int ctl_ws_open(struct ctl *c, struct ctl_ws *ws, struct ctl_wire *w, const char *url,
        struct berth_error **err) BERTH_MUST_CHECK;
/* INTERNAL where the peer breaks the protocol. `ended` tells that it said goodbye. */
int ctl_ws_feed(
        struct ctl_ws *ws, const char *p, size_t n, struct berth_error **err) BERTH_MUST_CHECK;
void ctl_ws_send(struct ctl_ws *ws, unsigned int channel, const void *p, size_t n);
/* Ends the channel in our direction; false where the server does not know how (before version 5).
 */
bool ctl_ws_end(struct ctl_ws *ws, unsigned int channel);
void ctl_ws_bye(struct ctl_ws *ws);
void ctl_ws_free(struct ctl_ws *ws);

#endif
