/* Seccomp profiles of containers, as OCI linux.seccomp. (The name seccomp.h would hide
 * libseccomp's.) [any] */
#ifndef BERTH_SECURITY_PROFILE_H
#define BERTH_SECURITY_PROFILE_H

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "security/caps.h"

#define BERTH_LIMIT_SECCOMP_PROFILE (1024 * 1024)
#define BERTH_LIMIT_SECCOMP_RULES 4096
#define BERTH_LIMIT_SECCOMP_NAMES 65536 /* over all rules */

/* The built-in profile for a container with these capabilities on this machine's architecture. One
 * reference. */
json_t *berth_seccomp_default(berth_capset caps);

/* A profile in the JSON form of Docker and Kubernetes (archMap, includes, excludes) or of OCI,
 * reduced to OCI for a container with `caps` on this kernel and architecture. Names that
 * libseccomp does not know are left out. `what` names the profile in messages. INVALID_ARGUMENT
 * where it is not one. */
int berth_seccomp_parse(const char *what, const char *text, size_t len, berth_capset caps,
        json_t **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same from a file. A relative path is below `root`. NOT_FOUND, INVALID_ARGUMENT. [worker] */
int berth_seccomp_load(const char *root, const char *path, berth_capset caps, json_t **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* For profile_default.c: one rule of the built-in profile. */
struct berth_seccomp_rule {
	const char *names;   /* separated by spaces */
	const char *caps;    /* any of these, separated by spaces; NULL = always */
	const char *without; /* only where this capability is absent */
	const char *arches;  /* any of these libseccomp names; NULL = all */
	const char *action;  /* NULL = SCMP_ACT_ALLOW */
	int errno_ret;       /* with SCMP_ACT_ERRNO */
	const char *op;      /* one argument check; NULL = none */
	unsigned index;      /* its argument */
	unsigned long long value, value_two;
};
extern const struct berth_seccomp_rule berth_seccomp_rules[];
extern const size_t berth_seccomp_n_rules;

#endif
