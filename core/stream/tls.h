/* TLS, for the streaming server and for berthctl. OpenSSL lies in a module of its own,
 * berth-tls.so, which is loaded once TLS is configured: its libraries cost more than berthd without
 * them. */
#ifndef BERTH_STREAM_TLS_H
#define BERTH_STREAM_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BERTH_TLS_MODULE "berth-tls.so"
#define BERTH_TLS_API 1

struct berth_tls_ctx; /* certificates and rules; may be used by any number of connections */
struct berth_tls;     /* a connection */

struct berth_tls_files {
	const char *cert, *key; /* PEM; cert with its chain. A client may have NULL for both */
	const char *ca;         /* PEM: who signs the other side's certificate. NULL: a server asks
	                           for none, a client takes the system's */
	bool no_1_2;            /* version 1.3 alone */
	bool no_verify;         /* clients: whatever the server shows is taken */
};

/* What read and write return where they moved nothing. */
enum {
	BERTH_TLS_END = 0, /* of what the other side sends */
	BERTH_TLS_WANT_READ = -1,
	BERTH_TLS_WANT_WRITE = -2,
	BERTH_TLS_PLAIN = -3, /* the other side speaks HTTP without TLS; the fd is still good */
	BERTH_TLS_FAILED = -4,
};

struct berth_tls_api {
	uint32_t version; /* BERTH_TLS_API */
	/* Reads the files (blocks). NULL and the reason in `why`, which names the file.
	 * *ret_not_after (may be NULL): when the certificate ends, seconds of the epoch. [any] */
	struct berth_tls_ctx *(*ctx_new)(const struct berth_tls_files *f, bool server,
	        int64_t *ret_not_after, char *why, size_t why_size);
	void (*ctx_free)(
	        struct berth_tls_ctx *ctx); /* NULL-safe. Connections keep what they need */
	/* Over a socket that does not block, which stays the caller's. `server_name`: a client's:
	 * the name or address that the certificate must have; NULL for a server. NULL without
	 * memory. */
	struct berth_tls *(*open)(struct berth_tls_ctx *ctx, int fd, const char *server_name);
	/* Both shake hands where that is to be done. n > 0 bytes, or one of the values above. After
	 * WANT_* of a write it is called again with the same bytes, and perhaps more of them. */
	ssize_t (*read)(struct berth_tls *t, void *buf, size_t n);
	ssize_t (*write)(struct berth_tls *t, const void *p, size_t n);
	void (*end)(struct berth_tls *t); /* tells the other side that no more is sent */
	const char *(*why)(const struct berth_tls *t); /* after BERTH_TLS_FAILED */
	void (*free)(struct berth_tls *t);             /* NULL-safe */
};

#endif
