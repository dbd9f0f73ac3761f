#include "pod/gate.h"

#include <stdlib.h>

#include "base/mem.h"

struct berth_gate_wait {
	struct berth_gate_wait *next;
	berth_fn fn;
	void *arg;
};

void berth_gate_enter(struct berth_gate *g, berth_fn fn, void *arg)
{
	berth_assert_loop();
	if (!g->held) {
		g->held = true;
		fn(arg);
		return;
	}
	struct berth_gate_wait *w = berth_new(struct berth_gate_wait);
	w->fn = fn;
	w->arg = arg;
	if (g->last)
		g->last->next = w;
	else
		g->first = w;
	g->last = w;
}

void berth_gate_leave(struct berth_gate *g)
{
	struct berth_gate_wait *w = g->first;

	assert(g->held);
	if (!w) {
		g->held = false;
		return;
	}
	g->first = w->next;
	if (!g->first)
		g->last = NULL;
	berth_fn fn = w->fn;
	void *arg = w->arg;
	free(w);
	fn(arg);
}
