/* A fixture for each test, and configurations that can be built or not. For one program each. */
#ifndef BERTH_TESTS_SPEC_CMOCKA_H
#define BERTH_TESTS_SPEC_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

static inline int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static inline int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

static inline void must_build(struct fixture *f)
{
	if (fixture_build(f) < 0)
		fail_msg("%s: %s", berth_code_name(f->err->code), f->err->msg);
}

static inline void must_fail(struct fixture *f, enum berth_code code, const char *word)
{
	assert_int_equal(fixture_build(f), -1);
	if (f->err->code != code || !strstr(f->err->msg, word))
		fail_msg("%s: %s (expected %s: %s)", berth_code_name(f->err->code), f->err->msg,
		        berth_code_name(code), word);
	assert_null(f->out.config);
}

#endif
