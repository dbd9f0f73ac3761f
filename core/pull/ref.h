/* Image references: HOST[:PORT]/PATH[:TAG][@DIGEST]. */
#ifndef BERTH_PULL_REF_H
#define BERTH_PULL_REF_H

#include <stdbool.h>

#include "base/error.h"

/* With the terminating NUL. */
#define PULL_DIGEST_SIZE 72

/* True for sha256 in lower-case hex; no other algorithm is supported. NULL is not. */
bool pull_digest_valid(const char *s);

struct pull_ref {
	char *host;   /* "" where the reference names none */
	char *path;   /* without host, tag and digest */
	char *tag;    /* or NULL */
	char *digest; /* or NULL */
};

int pull_ref_parse(
        const char *text, struct pull_ref *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
void pull_ref_finish(struct pull_ref *r);
/* HOST/PATH, the form that prefixes are compared with. The caller frees it. */
char *pull_ref_name(const struct pull_ref *r);
/* localhost, 127.0.0.0/8, [::1], with or without a port. */
bool pull_host_is_loopback(const char *host);

#endif
