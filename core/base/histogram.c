#include "base/histogram.h"

#define MS 1000000ull
#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

const struct berth_bounds berth_bounds_latency = {
        .at = {1 * MS, 2 * MS, 5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS,
                1000 * MS, 2500 * MS, 10000 * MS, 30000 * MS, 120000 * MS},
        .unit = 1e9};
const struct berth_bounds berth_bounds_size = {
        .at = {64 * KIB, 256 * KIB, 1 * MIB, 4 * MIB, 16 * MIB, 32 * MIB, 64 * MIB, 128 * MIB,
                256 * MIB, 512 * MIB, 1 * GIB, 2 * GIB, 4 * GIB, 16 * GIB},
        .unit = 1};

void berth_histogram_add(struct berth_histogram *h, const struct berth_bounds *b, uint64_t value)
{
	size_t i = 0;
	while (i < BERTH_HISTOGRAM_BOUNDS && value > b->at[i])
		i++;
	h->in[i]++;
	h->sum += value;
}

uint64_t berth_histogram_count(const struct berth_histogram *h)
{
	uint64_t n = 0;
	for (size_t i = 0; i <= BERTH_HISTOGRAM_BOUNDS; i++)
		n += h->in[i];
	return n;
}
