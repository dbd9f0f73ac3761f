/* How fast a counter of CPU time grows. What is told does not depend on who asks how often: it is
 * that of the last ten seconds or so, as far as there were samples. Asked every 10 s or less often
 * it is that since the sample before; asked more often, that of 9.5 to 10.5 s; at its begin that
 * since the first sample, once that is a second ago. */
#ifndef BERTH_STATS_RATE_H
#define BERTH_STATS_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* A client that asks again after a second, or every ten, may come a little too early. */
#define BERTH_RATE_MIN_NS 900000000ull
#define BERTH_RATE_WINDOW_NS 9500000000ull
/* The rate of an hour in which nobody asked says nothing of now. */
#define BERTH_RATE_MAX_NS 300000000000ull
/* One a second is remembered: together longer than the window. */
#define BERTH_RATE_SAMPLES 12

struct berth_rate {
	struct berth_rate_sample {
		uint64_t at_ns, cpu_ns;
	} samples[BERTH_RATE_SAMPLES]; /* a ring; the first is at `begin` */
	unsigned int begin, n;
};

/* at_ns: CLOCK_MONOTONIC. False where it cannot be told yet. */
bool berth_rate_add(
        struct berth_rate *r, uint64_t at_ns, uint64_t cpu_ns, uint64_t *ret_nano_cores);

#endif
