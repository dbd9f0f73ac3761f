/* A cancel token: set once, seen by polling or through an fd. Reference-counted. [any] */
#ifndef BERTH_PLUGIN_CANCEL_H
#define BERTH_PLUGIN_CANCEL_H

#include <stdbool.h>

struct berth_cancel;
struct berth_cancel *berth_cancel_new(void);
struct berth_cancel *berth_cancel_ref(struct berth_cancel *c);   /* NULL-safe */
struct berth_cancel *berth_cancel_unref(struct berth_cancel *c); /* NULL-safe, returns NULL */
void berth_cancel_set(struct berth_cancel *c);
bool berth_cancel_is_set(struct berth_cancel *c); /* NULL: false */
/* An eventfd that is readable once the token is set; made on first use; owned by the token; -1
 * where none could be made. */
int berth_cancel_fd(struct berth_cancel *c);

#endif
