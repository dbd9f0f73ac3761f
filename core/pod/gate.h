/* One request at a time on one object. Everything is [loop]. */
#ifndef BERTH_POD_GATE_H
#define BERTH_POD_GATE_H

#include <stdbool.h>

#include "loop/loop.h"

struct berth_gate_wait;
struct berth_gate {
	bool held;
	struct berth_gate_wait *first, *last;
};

/* fn(arg) runs once it is this request's turn: before the return where nobody holds the gate. Who
 * got in must leave. The object of the gate must live as long as somebody waits: take a reference.
 */
void berth_gate_enter(struct berth_gate *g, berth_fn fn, void *arg);
/* The next one in line runs before the return. */
void berth_gate_leave(struct berth_gate *g);

#endif
