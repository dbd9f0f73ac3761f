/* berth-pull's end of the socket to berthd: protocol.h. [any] once started. */
#ifndef BERTH_PULL_WIRE_H
#define BERTH_PULL_WIRE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

struct pull_wire;

struct pull_wire *pull_wire_new(int fd);               /* owns fd; never NULL */
struct pull_wire *pull_wire_free(struct pull_wire *w); /* after the other side has closed */

/* The first packet, before pull_wire_start(). The caller owns the object and the fd (-1: none). */
int pull_wire_recv(struct pull_wire *w, json_t **ret, int *ret_fd,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Starts the thread that reads all further packets. It ends the process at once where berthd
 * closes the socket or aborts. */
int pull_wire_start(struct pull_wire *w, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Steals `packet`; `fd` stays the caller's, -1 for none. */
int pull_wire_send(
        struct pull_wire *w, json_t *packet, int fd, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same with `text` beside it in a memfd. */
int pull_wire_send_memfd(struct pull_wire *w, json_t *packet, const char *name, const void *text,
        size_t n, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Sends `error`; nothing can be done where that fails. */
void pull_wire_send_error(struct pull_wire *w, const struct berth_error *err);

/* The answers, each waited for by at most one thread. `have` holds n flags, the caller frees it. */
int pull_wire_wait_have(
        struct pull_wire *w, size_t n, bool **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
int pull_wire_wait_dir(struct pull_wire *w, size_t layer); /* the caller owns the fd */
/* True with the file that a blob is kept in (the caller owns it), false where there is none. */
bool pull_wire_wait_fetch(struct pull_wire *w, size_t layer, int *ret_fd);
/* A copy's layer as the other driver has it (pull/emit.h); -1 where there is none. The caller owns
 * the fds. */
struct pull_layer_source {
	int top, below, opaque;
};
void pull_wire_wait_source(struct pull_wire *w, size_t layer, struct pull_layer_source *ret);
int pull_wire_wait_record(struct pull_wire *w); /* of an export; the caller owns the fd */
void pull_wire_wait_stored(struct pull_wire *w);

#endif
