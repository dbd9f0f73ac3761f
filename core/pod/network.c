/* Is the network ready? The plugin is asked now and then and when it says that something changed;
 * pods that came too early wait here, on the loop. */
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon.h"

#define POLL_READY_MS 30000
#define POLL_NOT_READY_MS 2000
#define WAIT_MAX_NS 120000000000ull
#define WAIT_MARGIN_NS 500000000ull /* so that the client gets our reason before its deadline */

struct berth_net_wait {
	struct berth_net_wait *next;
	struct berth_daemon *d;
	struct berth_timer *timer;
	void (*fn)(bool ready, void *arg);
	void *arg;
};

static void wait_end(struct berth_net_wait *w, bool ready)
{
	for (struct berth_net_wait **p = &w->d->network_waiters; *p; p = &(*p)->next) {
		if (*p == w) {
			*p = w->next;
			break;
		}
	}
	berth_timer_free(w->timer);
	void (*fn)(bool, void *) = w->fn;
	void *arg = w->arg;
	free(w);
	fn(ready, arg);
}

static void too_late(void *arg)
{
	wait_end(arg, false);
}

void berth_network_wait(
        struct berth_daemon *d, uint64_t deadline_ns, void (*fn)(bool ready, void *arg), void *arg)
{
	uint64_t now = berth_now_ns(), until = now + WAIT_MAX_NS;

	if (d->network_ready || !d->network) {
		fn(d->network_ready, arg);
		return;
	}
	if (deadline_ns && deadline_ns - WAIT_MARGIN_NS < until)
		until = deadline_ns > now + WAIT_MARGIN_NS ? deadline_ns - WAIT_MARGIN_NS : now;
	struct berth_net_wait *w = berth_new(struct berth_net_wait);
	w->d = d;
	w->fn = fn;
	w->arg = arg;
	w->next = d->network_waiters;
	d->network_waiters = w;
	w->timer = berth_timer_start(d->loop, (until - now) / 1000000u, too_late, w);
	berth_network_watch(d);
}

static void ask_again(void *arg)
{
	berth_network_watch(arg);
}

static void answered(struct berth_call *c, void *arg)
{
	struct berth_daemon *d = arg;
	const struct berth_error *err = berth_call_error(c);
	bool was = d->network_ready;

	d->network_asking = false;
	d->network_ready = !err || err->code == BERTH_UNIMPLEMENTED;
	free(d->network_why);
	d->network_why = d->network_ready ? NULL : berth_strdup(err->msg);
	berth_call_free(c);
	if (was != d->network_ready)
		berth_log_info(d->network_ready ? "network ready" : "network not ready", "why",
		        d->network_why);
	if (d->draining)
		return;
	if (d->network_ready && !was)
		berth_network_sweep_soon(d);
	while (d->network_ready && d->network_waiters)
		wait_end(d->network_waiters, true);
	d->network_timer = berth_timer_free(d->network_timer);
	if (d->network_ask_again)
		berth_network_watch(d);
	else
		d->network_timer = berth_timer_start(d->loop,
		        d->network_ready ? POLL_READY_MS : POLL_NOT_READY_MS, ask_again, d);
}

void berth_network_watch(struct berth_daemon *d)
{
	if (!d->network || d->draining)
		return;
	d->network_ask_again = d->network_asking;
	if (d->network_asking)
		return;
	d->network_asking = true;
	d->network_timer = berth_timer_free(d->network_timer);
	struct berth_call *c = berth_call_new(d->network, BERTH_OP_NETWORK_STATUS, NULL);
	berth_call_start(c, NULL, NULL, answered, d);
}

void berth_network_finish(struct berth_daemon *d)
{
	d->network_timer = berth_timer_free(d->network_timer);
	berth_network_sweep_finish(d);
	while (d->network_waiters)
		wait_end(d->network_waiters, false);
	free(d->network_why);
	d->network_why = NULL;
}
