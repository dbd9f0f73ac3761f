/* Image references: "busybox" -> "docker.io/library/busybox:latest". [any] */
#ifndef BERTH_IMAGE_REF_H
#define BERTH_IMAGE_REF_H

#include <stdbool.h>

#include "base/error.h"

struct berth_ref {
	char *repository; /* "docker.io/library/busybox": registry and path */
	char *tag;        /* NULL where a digest alone was given */
	char *digest;     /* "sha256:..." or NULL */
};

/* The grammar of the distribution project: a registry host is recognised by '.', ':' or
 * "localhost"; without one docker.io is meant, without tag and digest :latest. INVALID_ARGUMENT
 * names the reference and what is wrong. */
int berth_ref_parse(
        const char *text, struct berth_ref *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* "sha256:" and 64 hex digits? NULL is not. */
bool berth_digest_ok(const char *digest);
void berth_ref_finish(struct berth_ref *r);
/* REPOSITORY:TAG, or REPOSITORY@DIGEST where there is one. Caller frees. */
char *berth_ref_name(const struct berth_ref *r);

#endif
