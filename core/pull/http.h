/* One HTTP exchange with a registry or its token server, by libcurl. A client belongs to one thread
 * at a time; it keeps its connection. */
#ifndef BERTH_PULL_HTTP_H
#define BERTH_PULL_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"

#define BERTH_LIMIT_HTTP_HEADERS (64 * 1024) /* all headers of one answer */
#define BERTH_LIMIT_HTTP_ERROR_BODY (64 * 1024)
#define BERTH_LIMIT_HTTP_REDIRECTS 10

struct pull_http_config {
	char *const
	        *certs_dirs;   /* with HOST[:PORT]/ beneath: .crt, .cert and .key files; borrowed */
	unsigned int stall_ms; /* without a byte for so long a transfer counts as broken */
};

struct pull_http;
/* Once, before any thread. */
int pull_http_global_init(struct berth_error **ret_err) BERTH_MUST_CHECK;
void pull_http_global_finish(void);
struct pull_http *pull_http_new(const struct pull_http_config *c); /* c is borrowed; never NULL */
struct pull_http *pull_http_free(struct pull_http *h);

struct pull_http_answer {
	long status;
	char *content_type, *location, *etag, *content_range; /* NULL where absent */
	char **challenges;                                    /* each WWW-Authenticate header */
	uint64_t retry_after_ms;                              /* 0 where absent */
	struct berth_buf body;                                /* of what the sink did not take */
	bool body_cut;                                        /* it was longer than the limit */
};
void pull_http_answer_finish(struct pull_http_answer *a);

struct pull_http_request {
	const char *url;
	const char *authorization; /* the header's value, or NULL; never follows to another host */
	char *const *headers;      /* further ones, "Name: value" */
	const char *form;          /* a POST of such a body; NULL: GET */
	bool insecure;             /* certificates are not checked, redirects may lead to http */
	size_t max_body;           /* of what is kept in the answer */
	/* The body of a 200 or 206, once the headers are known; -1 ends the transfer. `first` at
	 * the body's start. */
	int (*body)(
	        void *arg, const struct pull_http_answer *a, bool first, const void *p, size_t n);
	void *arg;
};

enum pull_http_fault {
	PULL_HTTP_NONE,
	PULL_HTTP_CONNECT, /* no connection: name, route, refused */
	PULL_HTTP_TLS,     /* no TLS on the other side, or a certificate that does not hold */
	PULL_HTTP_BROKEN,  /* ended in the middle, or stalled */
	PULL_HTTP_ENDED,   /* by `body` */
	PULL_HTTP_REFUSED, /* an answer that is not to be followed */
};

/* Any status is an answer. -1: there was none or it broke off; *ret_fault says how. The answer is
 * to be finished in each case. */
int pull_http_run(struct pull_http *h, const struct pull_http_request *r,
        struct pull_http_answer *ret, enum pull_http_fault *ret_fault,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
