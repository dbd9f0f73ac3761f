/* core/stats: rates of CPU time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "stats/rate.h"

#define S 1000000000ull

static void a_rate_is_that_of_the_last_ten_seconds(void **state)
{
	struct berth_rate r = {0};
	uint64_t cores = 77;
	(void)state;

	assert_false(berth_rate_add(&r, 100 * S, 5 * S, &cores));
	assert_false(berth_rate_add(&r, 100 * S + S / 2, 5 * S + S / 2, &cores));
	assert_int_equal(cores, 77);
	/* one that asks again after a second, with a clock that is not exact */
	assert_true(berth_rate_add(&r, 101 * S - S / 50, 6 * S - S / 50, &cores));
	assert_in_range(cores, S - 2, S + 2);
	assert_true(berth_rate_add(&r, 101 * S, 6 * S, &cores)); /* at once again */
	assert_in_range(cores, S - 2, S + 2);
	/* idle from now on: the busy second is seen for ten, then it is not any more */
	assert_true(berth_rate_add(&r, 105 * S, 6 * S, &cores));
	assert_in_range(cores, S / 5 - 2, S / 5 + 2);
	assert_true(berth_rate_add(&r, 115 * S, 6 * S, &cores));
	assert_int_equal(cores, 0);
	/* nobody asked for long: what was then says nothing of now */
	assert_false(berth_rate_add(&r, 1000 * S, 20 * S, &cores));
	/* another cgroup of that name */
	assert_true(berth_rate_add(&r, 1010 * S, 21 * S, &cores));
	assert_false(berth_rate_add(&r, 1020 * S, 1 * S, &cores));
	assert_true(berth_rate_add(&r, 1030 * S, 3 * S, &cores));
	assert_in_range(cores, S / 5 - 2, S / 5 + 2);
}

/* Busy in every fourth second. */
static uint64_t used(uint64_t at_ns)
{
	uint64_t rest = at_ns % (4 * S);
	return at_ns / (4 * S) * S + (rest < S ? rest : S);
}

static void who_asks_more_often_changes_no_rate(void **state)
{
	struct berth_rate alone = {0}, both = {0};
	(void)state;

	for (unsigned int i = 1; i < 1000; i++) {
		uint64_t at = 1000 * S + i * (S / 10), of_alone = 0, of_both = 0;
		bool known = berth_rate_add(&both, at, used(at), &of_both);
		if (i % 100)
			continue;
		bool known_alone = berth_rate_add(&alone, at, used(at), &of_alone);
		assert_int_equal(known_alone, i > 100);
		assert_true(known);
		if (i > 100)
			assert_in_range(of_both, of_alone - S / 20, of_alone + S / 20);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_rate_is_that_of_the_last_ten_seconds),
	        cmocka_unit_test(who_asks_more_often_changes_no_rate),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
