/* Is there room in the pool? Asked before each snapshot is made, and now and then. */
#include "devmapper.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "berth/util.h"

#define NEAR 10 /* percent below a limit from which it is asked more often */
#define NEAR_NS 1000000000ull

static bool over(uint64_t used, uint64_t total, uint32_t percent)
{
	return used >= total || used * 100 >= total * percent;
}

static unsigned int percent_of(uint64_t used, uint64_t total)
{
	return (unsigned int)(used * 100 / total);
}

bool pool_sick(struct dm *d, const struct pool_status *s, char why[REASON_LIMIT])
{
	const char *pool = d->pool;
	uint64_t left;

	why[0] = '\0';
	if (s->mode == POOL_FAILED)
		snprintf(why, REASON_LIMIT,
		        "thin pool '%s' has failed: its devices had errors, see the kernel's log",
		        pool);
	else if (s->mode == POOL_RO || s->needs_check)
		snprintf(why, REASON_LIMIT,
		        "thin pool '%s' is read-only%s: its metadata device is full or had errors",
		        pool, s->needs_check ? " and asks for a check of its metadata" : "");
	else if (s->mode == POOL_NO_SPACE)
		snprintf(why, REASON_LIMIT, "thin pool '%s' is full: it has no data space left",
		        pool);
	else if (over(s->data_used, s->data_total, d->data_limit))
		snprintf(why, REASON_LIMIT,
		        "thin pool '%s' is nearly full: %u %% of its data space is used, and "
		        "data_limit is %u",
		        pool, percent_of(s->data_used, s->data_total), d->data_limit);
	else if (over(s->meta_used, s->meta_total, d->metadata_limit))
		snprintf(why, REASON_LIMIT,
		        "thin pool '%s' is nearly out of metadata: %u %% of the space for it is "
		        "used, and metadata_limit is %u",
		        pool, percent_of(s->meta_used, s->meta_total), d->metadata_limit);
	else if (pool_files_full(d, s, &left))
		snprintf(why, REASON_LIMIT,
		        "thin pool '%s' is nearly full: the file system of its files has %" PRIu64
		        " MiB left",
		        pool, left >> 20);
	return why[0];
}

berth_status pool_has_room(struct store *st, struct berth_op *op, const char *key)
{
	struct dm *d = st->self;
	struct pool_status s;
	char why[REASON_LIMIT];
	int r = pool_status(d, &s);

	if (r < 0)
		return store_fail(st, op, r, "ask for the status of its thin pool", key);
	if (!pool_sick(d, &s, why))
		return BERTH_OK;
	bool full = s.mode == POOL_RW || s.mode == POOL_NO_SPACE;
	return berth_fail(st->host, op, full ? BERTH_E_EXHAUSTED : BERTH_E_UNAVAILABLE,
	        "snapshot '%s': %s", key, why);
}

static void tell(struct store *st, struct berth_op *op, const char *why)
{
	struct dm *d = st->self;
	const struct berth_event ev = {
	        .size = sizeof(ev), .type = BERTH_EV_HEALTH, .message = *why ? why : NULL};
	char msg[REASON_LIMIT + 64];
	bool changed = !*why != !*d->sick;

	if (changed) {
		snprintf(msg, sizeof(msg), "%s: %s", st->host->plugin_name,
		        *why ? why : "there is room in the thin pool again");
		st->host->log(st->host, op, *why ? BERTH_LOG_WARN : BERTH_LOG_INFO, msg);
	}
	/* An event may get lost: what is wrong is told again and again. */
	if (changed || *why)
		st->host->emit(st->host, &ev);
	snprintf(d->sick, sizeof(d->sick), "%s", why);
}

static void look(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	struct store *st = arg;
	struct dm *d = st->self;
	struct pool_status s;
	char why[REASON_LIMIT];
	uint64_t next = d->interval_ns;

	(void)events;
	int r = pool_status(d, &s);
	if (r < 0) {
		snprintf(why, sizeof(why), "thin pool '%s' does not tell its status: %s", d->pool,
		        strerror(-r));
	} else {
		(void)pool_sick(d, &s, why);
		bool near =
		        s.mode == POOL_RW && (over(s.data_used + s.data_total * NEAR / 100,
		                                      s.data_total, d->data_limit) ||
		                                     over(s.meta_used + s.meta_total * NEAR / 100,
		                                             s.meta_total, d->metadata_limit));
		if ((near || *why) && next > NEAR_NS)
			next = NEAR_NS;
	}
	tell(st, op, why);
	st->host->rearm(w, 0, next);
}

berth_status health_start(struct store *st, struct berth_op *op)
{
	struct dm *d = st->self;
	struct pool_status s;
	char why[REASON_LIMIT];

	if (pool_status(d, &s) == 0 && pool_sick(d, &s, why))
		tell(st, op, why);
	return st->host->watch_after(st->host, d->interval_ns, look, st, &d->watch);
}

void health_stop(struct store *st)
{
	struct dm *d = st->self;

	if (d->watch)
		st->host->unwatch(d->watch);
	d->watch = NULL;
}
