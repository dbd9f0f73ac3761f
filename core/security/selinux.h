/* SELinux: the contexts that the node's policy has for containers, the labels that are made of
 * them, and the pairs of categories that keep pods apart. [any], unless said otherwise. */
#ifndef BERTH_SECURITY_SELINUX_H
#define BERTH_SECURITY_SELINUX_H

#include <stdbool.h>

#include "base/error.h"
#include "base/macros.h"

#define BERTH_LIMIT_SELINUX_LABEL 255 /* what fsconfig(2) takes as context= */
#define BERTH_LIMIT_SELINUX_CONTEXTS (64 * 1024)

struct berth_selinux {
	bool on;                 /* the kernel has a policy, enforcing or not */
	char *process, *file;    /* of containers' processes and files; NULL: there are none */
	char *why;               /* where there are none */
	unsigned int categories; /* that the policy has; 0 = it knows no levels */
	/* The context as the kernel writes it, which the caller frees; a negative errno where the
	 * loaded policy has no such context. May be slow. */
	int (*canonical)(const char *context, char **ret);
};
/* Of this node, once. Never fails. */
void berth_selinux_probe(struct berth_selinux *ret);
/* Fills process, file, why and categories from a file of lines KEY = "CONTEXT" (lxc_contexts(5)),
 * of which only what canonical() knows counts. */
void berth_selinux_read(struct berth_selinux *s, const char *path);
void berth_selinux_finish(struct berth_selinux *s);

/* What a request says of a label; NULL or "" = nothing. */
struct berth_selinux_options {
	const char *user, *role, *type, *level;
};
bool berth_selinux_asked(const struct berth_selinux_options *o);
/* Labels made of others: all that is said goes into the process's, user and level also into the
 * files'. The caller frees both. INVALID_ARGUMENT names the option. */
int berth_selinux_compose(const char *process, const char *file,
        const struct berth_selinux_options *o, char **ret_process, char **ret_file,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] The label as the kernel writes it; the caller frees. INVALID_ARGUMENT where the policy
 * does not know it. */
int berth_selinux_check(const struct berth_selinux *s, const char *label, char **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
bool berth_selinux_is_type(const char *label, const char *type);
/* Have both the same level, word for word? */
bool berth_selinux_same_level(const char *a, const char *b);
/* The label without its categories: whoever has some may use what has none. The caller frees. */
char *berth_selinux_shared(const char *label);

/* mcs.c: two categories, low < high. */
struct berth_mcs {
	unsigned int low, high;
};
/* Would a process with this pair alone reach what the label's categories, if it has any, protect?
 */
bool berth_mcs_covers(const struct berth_mcs *pair, const char *label);
/* "s0:c1,c2", with the sensitivity of `context`. The caller frees. */
char *berth_mcs_level(const struct berth_mcs *pair, const char *context);
/* A random pair that is not taken; RESOURCE_EXHAUSTED where all are. */
int berth_mcs_pick(unsigned int categories,
        bool (*taken)(const struct berth_mcs *pair, const void *arg), const void *arg,
        struct berth_mcs *ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
