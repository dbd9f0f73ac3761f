/* One place that has an image: its URL, its credentials, and requests with all that can go wrong:
 * challenges, plain HTTP, pauses and new tries. */
#ifndef BERTH_PULL_ENDPOINT_H
#define BERTH_PULL_ENDPOINT_H

#include "base/error.h"
#include "pull/http.h"
#include "pull/registries.h"
#include "pull/token.h"

struct pull_endpoint;

/* Moves what is in place and creds. */
struct pull_endpoint *pull_endpoint_new(struct pull_place_of *place, struct pull_creds *creds);
struct pull_endpoint *pull_endpoint_free(struct pull_endpoint *e);
const char *pull_endpoint_name(const struct pull_endpoint *e); /* HOST/PATH */
const char *pull_endpoint_host(const struct pull_endpoint *e);
/* Did all tries of the last request, of this process or as berthd knows of others, come to nothing?
 * Then others are asked before it. */
bool pull_endpoint_is_down(const struct pull_endpoint *e);
/* True where that is news: a change, or the first word on it. */
bool pull_endpoint_set_down(struct pull_endpoint *e, bool down);

struct pull_ask {
	const char *what; /* "manifests/latest" */
	const char *accept;
	size_t max_body;
	/* A body that goes on where an earlier try has ended: how much has come so far. */
	const uint64_t *done;
	uint64_t size; /* all of it; 0: not known */
	bool hurry;    /* there are others to ask: fewer tries */
	int (*body)(void *arg, const struct pull_http_answer *a, bool first, const void *p,
	        size_t n); /* NULL: it is kept in the answer */
	void *arg;
};
/* [any] 0: a 200 or 206, all of it. NOT_FOUND, UNAUTHENTICATED, PERMISSION_DENIED, UNAVAILABLE, or
 * CANCELLED where `body` ended it. The answer is to be finished in each case. */
int pull_endpoint_get(struct pull_endpoint *e, struct pull_http *h, const struct pull_ask *ask,
        struct pull_http_answer *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
