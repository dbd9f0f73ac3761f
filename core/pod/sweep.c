/* What the network holds for no pod is released: after a reboot that of all the old ones. It may
 * need what runs in pods, so nothing waits for it; it is tried until all is released. */
#include <stdlib.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "plugin/cancel.h"
#include "pod/pod.h"

/* As long as it lasts pods may have to wait for their turn. */
#define DEADLINE_S 60
#define PAUSE_MS 5000
#define PAUSE_MAX_MS 600000

struct berth_net_sweep {
	struct berth_daemon *d;
	struct berth_timer *timer; /* NULL: it is under way */
	struct berth_cancel *cancel;
	uint64_t pause_ms;
	char **valid;
	struct berth_net_gc_args args;
};

/* Those that are being made, too. A pod that comes after this the plugin spares by itself. */
static char **valid_ids(struct berth_daemon *d, uint32_t *ret_n)
{
	char **ids = berth_new_array(char *, HASH_CNT(hh_id, d->pods->by_id) + 1);
	struct berth_pod *p, *tmp;
	uint32_t n = 0;

	HASH_ITER (hh_id, d->pods->by_id, p, tmp) {
		if (!p->host_network)
			ids[n++] = berth_strdup(p->id);
	}
	*ret_n = n;
	return ids;
}

static struct berth_net_sweep *sweep_new(struct berth_daemon *d)
{
	struct berth_net_sweep *s = berth_new(struct berth_net_sweep);
	s->d = d;
	s->cancel = berth_cancel_new();
	s->pause_ms = PAUSE_MS;
	return s;
}

static void sweep_free(struct berth_net_sweep *s)
{
	berth_timer_free(s->timer);
	berth_cancel_unref(s->cancel);
	berth_strv_free(s->valid);
	free(s);
}

static struct berth_call *ask(struct berth_net_sweep *s)
{
	berth_strv_free(s->valid);
	s->valid = valid_ids(s->d, &s->args.n_valid);
	s->args.size = sizeof(s->args);
	s->args.valid = (const char *const *)(void *)s->valid;
	struct berth_call *c = berth_call_new(s->d->network, BERTH_OP_NETWORK_GC, NULL);
	berth_call_set_cancel(c, s->cancel);
	berth_call_set_deadline(c, berth_now_ns() + DEADLINE_S * 1000000000ull);
	return c;
}

/* True where nothing is left that could be released. */
static bool over(const struct berth_error *err)
{
	if (!err || err->code == BERTH_UNIMPLEMENTED)
		return true;
	berth_log_warn("networks of nobody may be left", "error", err->msg);
	return false;
}

static void try_again(void *arg);

static void swept(struct berth_call *c, void *arg)
{
	struct berth_net_sweep *s = arg;
	struct berth_daemon *d = s->d;

	if (d->draining || over(berth_call_error(c))) {
		d->network_sweep = NULL;
		sweep_free(s);
	} else {
		s->timer = berth_timer_start(d->loop, s->pause_ms, try_again, s);
		s->pause_ms = s->pause_ms < PAUSE_MAX_MS / 2 ? s->pause_ms * 2 : PAUSE_MAX_MS;
	}
	berth_call_free(c);
}

static void try_again(void *arg)
{
	struct berth_net_sweep *s = arg;

	s->timer = berth_timer_free(s->timer);
	berth_call_start(ask(s), &s->args, NULL, swept, s);
}

void berth_network_sweep(struct berth_daemon *d)
{
	if (!d->network || d->network_sweep)
		return;
	d->network_sweep = sweep_new(d);
	try_again(d->network_sweep);
}

void berth_network_sweep_soon(struct berth_daemon *d)
{
	struct berth_net_sweep *s = d->network_sweep;

	if (!s || !s->timer)
		return;
	s->pause_ms = PAUSE_MS;
	try_again(s);
}

void berth_network_sweep_now(struct berth_daemon *d)
{
	struct berth_error *err = NULL;

	if (!d->network)
		return;
	struct berth_net_sweep *s = sweep_new(d);
	_cleanup_(berth_call_freep) struct berth_call *c = ask(s);
	if (berth_call_run(c, &s->args, NULL, &err) < 0)
		(void)over(err);
	berth_error_free(err);
	sweep_free(s);
}

void berth_network_sweep_finish(struct berth_daemon *d)
{
	struct berth_net_sweep *s = d->network_sweep;

	if (!s)
		return;
	if (!s->timer) {
		berth_cancel_set(s->cancel); /* its answer ends it */
		return;
	}
	d->network_sweep = NULL;
	sweep_free(s);
}
