#include "stats/rate.h"

#include "base/macros.h"

static const struct berth_rate_sample *sample(const struct berth_rate *r, unsigned int i)
{
	return &r->samples[(r->begin + i) % BERTH_RATE_SAMPLES];
}

static void drop_first(struct berth_rate *r)
{
	r->begin = (r->begin + 1) % BERTH_RATE_SAMPLES;
	r->n--;
}

/* The newest that is a window ago, else the first, where that is long enough ago. */
static const struct berth_rate_sample *base(const struct berth_rate *r, uint64_t at_ns)
{
	for (unsigned int i = r->n; i-- > 0;)
		if (at_ns - sample(r, i)->at_ns >= BERTH_RATE_WINDOW_NS)
			return sample(r, i);
	return r->n && at_ns - sample(r, 0)->at_ns >= BERTH_RATE_MIN_NS ? sample(r, 0) : NULL;
}

bool berth_rate_add(struct berth_rate *r, uint64_t at_ns, uint64_t cpu_ns, uint64_t *ret_nano_cores)
{
	const struct berth_rate_sample *last = r->n ? sample(r, r->n - 1) : NULL;

	if (last && (at_ns < last->at_ns || cpu_ns < last->cpu_ns))
		r->n = 0; /* another cgroup of the same name */
	while (r->n && at_ns - sample(r, 0)->at_ns > BERTH_RATE_MAX_NS)
		drop_first(r);
	const struct berth_rate_sample *from = base(r, at_ns);
	if (from)
		*ret_nano_cores = (uint64_t)((double)(cpu_ns - from->cpu_ns) /
		                             (double)(at_ns - from->at_ns) * 1e9);
	if (r->n && at_ns - sample(r, r->n - 1)->at_ns < BERTH_RATE_MIN_NS)
		return from != NULL;
	if (r->n == BERTH_RATE_SAMPLES)
		drop_first(r);
	r->samples[(r->begin + r->n++) % BERTH_RATE_SAMPLES] =
	        (struct berth_rate_sample){.at_ns = at_ns, .cpu_ns = cpu_ns};
	return from != NULL;
}
