/* Labels, and the categories of pods. SELinux itself is not needed: what the policy knows is told
 * by a stand-in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "security/selinux.h"

#define PROCESS "system_u:system_r:container_t:s0"
#define FILES "system_u:object_r:container_file_t:s0"

/* ---- a policy ---- */

static unsigned long known_categories = 1024;

static int canonical(const char *context, char **ret)
{
	*ret = NULL;
	if (strstr(context, "strange"))
		return -EINVAL;
	const char *last = strrchr(context, 'c');
	if (strstr(context, ":s0:c") && strtoul(last + 1, NULL, 10) >= known_categories)
		return -EINVAL;
	*ret = berth_strdup(context);
	return 0;
}

static char dir[64];

static void contexts_are(struct berth_selinux *s, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/contexts", dir);

	*s = (struct berth_selinux){.on = true, .canonical = canonical};
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0644, false), 0);
	berth_selinux_read(s, path);
}

static void test_contexts_of_the_policy(void **state)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
	        {"", "no context \"process\""},
	        {"process = \"a:b:c:s0\"\n", "no context \"file\""},
	        {"process = \"a:b:strange:s0\"\nfile = \"a:b:c:s0\"\n", "\"a:b:strange:s0\""},
	        {"process = \"a:b:c:s0\"\nfile = \"a:b:strange:s0\"\n", "\"a:b:strange:s0\""},
	};
	struct berth_selinux s;
	(void)state;

	contexts_are(&s, "# process = \"no\"\n\ncontent = \"x\"\nprocess = \"" PROCESS
	                 "\"\n  file=\"" FILES "\"  \nro_file = \"y\"\n");
	assert_null(s.why);
	assert_string_equal(s.process, PROCESS);
	assert_string_equal(s.file, FILES);
	assert_int_equal(s.categories, 1024);
	berth_selinux_finish(&s);
	known_categories = 200;
	contexts_are(&s, "process=" PROCESS "\nfile=" FILES);
	assert_int_equal(s.categories, 128);
	berth_selinux_finish(&s);
	known_categories = 1024;
	contexts_are(&s, "process=a:b:c\nfile=a:b:d");
	assert_non_null(s.process);
	assert_int_equal(s.categories, 0);
	berth_selinux_finish(&s);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		contexts_are(&s, bad[i].text);
		assert_null(s.process);
		assert_non_null(strstr(s.why, bad[i].why));
		berth_selinux_finish(&s);
	}
	s = (struct berth_selinux){.on = true, .canonical = canonical};
	berth_selinux_read(&s, "/no/such/file");
	assert_non_null(strstr(s.why, "/no/such/file"));
	berth_selinux_finish(&s);
}

/* ---- labels ---- */

static void composed(const struct berth_selinux_options o, const char *process, const char *file)
{
	_cleanup_free_ char *p = NULL, *f = NULL;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	if (berth_selinux_compose(PROCESS, FILES, &o, &p, &f, &err) < 0)
		fail_msg("%s", err->msg);
	assert_string_equal(p, process);
	assert_string_equal(f, file);
}

static void not_composed(const struct berth_selinux_options o, const char *text)
{
	char *p = NULL, *f = NULL;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	assert_int_equal(berth_selinux_compose(PROCESS, FILES, &o, &p, &f, &err), -1);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	assert_non_null(strstr(err->msg, text));
	assert_null(p);
	assert_null(f);
}

static void test_compose(void **state)
{
	char many[600] = "s0";
	(void)state;

	composed((struct berth_selinux_options){0}, PROCESS, FILES);
	composed((struct berth_selinux_options){.type = "t", .role = ""}, "system_u:system_r:t:s0",
	        FILES);
	composed((struct berth_selinux_options){"u", "r", "t", "s0:c1,c2"}, "u:r:t:s0:c1,c2",
	        "u:object_r:container_file_t:s0:c1,c2");
	not_composed((struct berth_selinux_options){.type = "a:b"}, "selinux_options.type");
	not_composed((struct berth_selinux_options){.user = "a b"}, "selinux_options.user");
	not_composed((struct berth_selinux_options){.level = "s0:c1\n"}, "selinux_options.level");
	not_composed((struct berth_selinux_options){.role = "\xc3\xa4"}, "selinux_options.role");
	for (size_t n = strlen(many); n < 240; n = strlen(many))
		snprintf(many + n, sizeof(many) - n, "%sc%zu", n == 2 ? ":" : ",", n);
	not_composed((struct berth_selinux_options){.level = many}, "longer than 255");

	assert_true(berth_selinux_is_type("u:r:spc_t:s0", "spc_t"));
	assert_false(berth_selinux_is_type(PROCESS, "spc_t"));
	assert_false(berth_selinux_is_type(NULL, "spc_t"));
	assert_true(berth_selinux_same_level(PROCESS, FILES));
	assert_true(berth_selinux_same_level("a:b:c", "d:e:f"));
	assert_false(berth_selinux_same_level(PROCESS, "a:b:c:s0:c1"));
	assert_false(berth_selinux_same_level(PROCESS, "a:b:c"));
	_cleanup_free_ char *shared = berth_selinux_shared("a:b:c:s0:c1,c2");
	_cleanup_free_ char *range = berth_selinux_shared("a:b:c:s0-s0:c1,c2");
	_cleanup_free_ char *none = berth_selinux_shared("a:b:c");
	assert_string_equal(shared, "a:b:c:s0");
	assert_string_equal(range, "a:b:c:s0");
	assert_string_equal(none, "a:b:c");
}

/* ---- categories ---- */

static void test_what_a_pair_covers(void **state)
{
	static const char *const yes[] = {"s0:c3,c7", "s0:c7,c3", "s0:c3", "s0:c7", "s0-s0:c3,c7",
	        "s0:c3,c3.c3", "s1:c7.c7"},
	                         *const no[] = {"s0", "s0:c3,c8", "s0:c3.c7", "s0:c3,c7,c9",
	                                 "s0:c0.c1023", "s0-s0:c0.c1023", "s0:c", "s0:c3,",
	                                 "s0:3,7", "s0:c3.7", "s0:c7.c3", "s0:c3x", "s0:c3.c4"};
	const struct berth_mcs pair = {3, 7}, next = {3, 4};
	(void)state;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(yes); i++) {
		_cleanup_free_ char *label = berth_asprintf("u:r:t:%s", yes[i]);
		if (!berth_mcs_covers(&pair, label))
			fail_msg("%s", label);
	}
	for (size_t i = 0; i < BERTH_ARRAY_LEN(no); i++) {
		_cleanup_free_ char *label = berth_asprintf("u:r:t:%s", no[i]);
		if (berth_mcs_covers(&pair, label))
			fail_msg("%s", label);
	}
	assert_true(berth_mcs_covers(&next, "u:r:t:s0:c3.c4"));
	assert_false(berth_mcs_covers(&pair, NULL));
	assert_false(berth_mcs_covers(&pair, "u:r:t"));
	_cleanup_free_ char *level = berth_mcs_level(&pair, "u:r:t:s2-s4:c0.c9");
	assert_string_equal(level, "s2:c3,c7");
}

struct seen {
	bool pairs[8][8];
	unsigned int n;
};

static bool seen_before(const struct berth_mcs *pair, const void *arg)
{
	const struct seen *s = arg;
	assert_true(pair->low < pair->high && pair->high < 8);
	return s->pairs[pair->low][pair->high];
}

static void test_each_pair_once(void **state)
{
	struct seen s = {0};
	struct berth_mcs pair;
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	(void)state;

	while (berth_mcs_pick(8, seen_before, &s, &pair, &err) == 0) {
		s.pairs[pair.low][pair.high] = true;
		s.n++;
	}
	assert_int_equal(s.n, 8 * 7 / 2);
	assert_int_equal(err->code, BERTH_RESOURCE_EXHAUSTED);
}

static int start(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/berth-selinux-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	return berth_rm_tree(AT_FDCWD, dir);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, start, end)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_contexts_of_the_policy),
	        cmocka_unit_test(test_compose), cmocka_unit_test(test_what_a_pair_covers),
	        cmocka_unit_test(test_each_pair_once)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
