/* Histograms of a fixed set of bounds, for metrics. Not thread-safe: the owner locks. [any] */
#ifndef BERTH_BASE_HISTOGRAM_H
#define BERTH_BASE_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

enum berth_histogram_size { BERTH_HISTOGRAM_BOUNDS = 14 };

/* Inclusive upper bounds, rising. */
struct berth_bounds {
	uint64_t at[BERTH_HISTOGRAM_BOUNDS];
	double unit; /* how many of them make one of what is told: 1e9 for seconds out of ns */
};
extern const struct berth_bounds berth_bounds_latency; /* ns: 1 ms to 120 s */
extern const struct berth_bounds berth_bounds_size;    /* bytes: 64 KiB to 16 GiB */

/* Zeroed = empty. */
struct berth_histogram {
	uint64_t in[BERTH_HISTOGRAM_BOUNDS + 1]; /* each its own, not those below; the last: more */
	uint64_t sum;
};

void berth_histogram_add(struct berth_histogram *h, const struct berth_bounds *b, uint64_t value);
uint64_t berth_histogram_count(const struct berth_histogram *h);

#endif
