/* How tests speak to a runtime: containers of busybox, from a bundle of the least that OCI wants.
 */
#ifndef BERTH_CHECK_RUNTIME_H
#define BERTH_CHECK_RUNTIME_H

#include "check.h"

#define SLEEPS "exec sleep 1000"

void runtime_files(struct session *s); /* the root file system; skips without busybox */
/* A bundle whose process is sh -c SCRIPT. */
void ctr_bundle(struct session *s, const char *id, const char *script);
/* Arguments for the container; strings live in the session's arena. */
struct berth_ctr_args ctr_args(struct session *s, const char *id);
/* What the host does about a create that it was killed in, before it removes the container. */
void ctr_abort(struct session *s, const char *id);
int ctr_op(struct session *s, enum berth_opcode opcode, const char *id); /* a berth_code */
int ctr_kill(struct session *s, const char *id, int signum);
int ctr_state(struct session *s, const char *id, struct berth_ctr_state *ret);
uint32_t ctr_status(struct session *s, const char *id); /* 0: not there */
bool ctr_listed(struct session *s, const char *id);
/* create and start, or the test fails. */
void ctr_run(struct session *s, const char *id, const char *script);
void ctr_end(struct session *s, const char *id); /* SIGKILL, and waits until it has stopped */
/* Until state() says so. */
bool ctr_wait(struct session *s, const char *id, uint32_t status, unsigned int ms);
/* Has it a process? The ones of a fake have none. */
bool ctr_real(struct session *s, const char *id);
void runtime_sweep(struct session *s);
/* A session with an instance that has no containers, and the end of it. */
void runtime_begin(struct session *s);
void runtime_end(struct session *s);

#endif
