/* Connections into a pod's network namespace. [loop] */
#ifndef BERTH_STREAM_FORWARD_H
#define BERTH_STREAM_FORWARD_H

#include "pod/pod.h"

struct forward_dial;
/* Connects to the port at 127.0.0.1, then at ::1, of the pod. done(fd, why, arg) once and never
 * inside this call; the fd is the callee's, -1 with words where there is none. */
struct forward_dial *forward_dial(struct berth_pod *pod, uint16_t port,
        void (*done)(int fd, const char *why, void *arg), void *arg);
void forward_dial_drop(struct forward_dial *d); /* `done` does not run; NULL-safe */

#endif
