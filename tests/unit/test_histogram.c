/* core/base: histograms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/histogram.h"

static const struct berth_bounds *const all[] = {&berth_bounds_latency, &berth_bounds_size};

static void bounds_rise(void **state)
{
	(void)state;
	for (size_t b = 0; b < 2; b++)
		for (size_t i = 1; i < BERTH_HISTOGRAM_BOUNDS; i++)
			assert_true(all[b]->at[i - 1] < all[b]->at[i]);
}

static void each_has_its_place(void **state)
{
	(void)state;
	for (size_t b = 0; b < 2; b++) {
		struct berth_histogram h = {0};
		uint64_t sum = 0;
		for (size_t i = 0; i < BERTH_HISTOGRAM_BOUNDS; i++) {
			/* A bound is inclusive: one more is the next one's. */
			berth_histogram_add(&h, all[b], all[b]->at[i]);
			berth_histogram_add(&h, all[b], all[b]->at[i] + 1);
			sum += 2 * all[b]->at[i] + 1;
		}
		assert_int_equal(h.in[0], 1);
		for (size_t i = 1; i < BERTH_HISTOGRAM_BOUNDS; i++)
			assert_int_equal(h.in[i], 2);
		assert_int_equal(h.in[BERTH_HISTOGRAM_BOUNDS], 1);
		assert_int_equal(berth_histogram_count(&h), 2 * BERTH_HISTOGRAM_BOUNDS);
		assert_true(h.sum == sum);
	}
}

static void extremes(void **state)
{
	struct berth_histogram h = {0};
	(void)state;
	assert_int_equal(berth_histogram_count(&h), 0);
	berth_histogram_add(&h, &berth_bounds_latency, 0);
	berth_histogram_add(&h, &berth_bounds_latency, UINT64_MAX);
	assert_int_equal(h.in[0], 1);
	assert_int_equal(h.in[BERTH_HISTOGRAM_BOUNDS], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(bounds_rise),
	        cmocka_unit_test(each_has_its_place),
	        cmocka_unit_test(extremes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
