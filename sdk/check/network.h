/* How tests speak to a network plugin: pods are network namespaces, and the test has one of its own
 * in the place of the host's. */
#ifndef BERTH_CHECK_NETWORK_H
#define BERTH_CHECK_NETWORK_H

#include "check.h"

struct pod {
	char id[32], netns[4096];
};
void pod_make(struct session *s, struct pod *p, const char *id); /* with a namespace */
void pod_gone(struct pod *p);                                    /* the namespace */
struct berth_net_args pod_args(const struct pod *p);
/* A berth_code; ret (may be NULL) is good until the next op. */
int pod_attach(struct session *s, const struct pod *p, struct berth_net_result *ret);
int pod_detach(struct session *s, const struct pod *p);
int pod_check(struct session *s, const struct pod *p);
int pods_gc(struct session *s, const char *const *valid, uint32_t n);
/* attach, or the test fails; what was answered is looked at. */
void must_attach(struct session *s, const struct pod *p, char address[64]);
void must_detach(struct session *s, const struct pod *p);
void network_sweep(struct session *s);

#endif
