/* core/spec: the names of signals, the merge of resource limits. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "spec/cpuset.h"
#include "spec/resources.h"
#include "spec/validate.h"
#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))
static int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

static void test_signals(void **state)
{
	static const struct {
		const char *name;
		int number;
	} v[] = {{"SIGTERM", SIGTERM}, {"term", SIGTERM}, {"9", 9}, {"SIGRTMIN", 34},
	        {"RTMIN+3", 37}, {"SIGRTMAX-14", 50}, {"rtmax", 64}, {"64", 64}, {"SIGPWR", SIGPWR},
	        {"SIGIOT", SIGABRT}, {"0", -1}, {"65", -1}, {"999999999999", -1}, {"", -1},
	        {"SIG", -1}, {"RTMIN-1", -1}, {"RTMAX+1", -1}, {"RTMIN+31", -1}, {"RTMIN+", -1},
	        {"SIGFOO", -1}, {"-9", -1}, {"9x", -1}};
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++)
		if (berth_signal_parse(v[i].name) != v[i].number)
			fail_msg("%s: %d", v[i].name, berth_signal_parse(v[i].name));
	assert_int_equal(berth_signal_from_cri(0), 0);
	assert_int_equal(berth_signal_from_cri((Runtime__V1__Signal)66), -1);
	assert_int_equal(berth_signal_from_cri((Runtime__V1__Signal)-1), -1);
	assert_int_equal(berth_signal_from_cri(RUNTIME__V1__SIGNAL__SIGXFSZ), SIGXFSZ);
	assert_int_equal(berth_signal_from_cri(RUNTIME__V1__SIGNAL__SIGRTMAX), 64);
	assert_int_equal(berth_signal_from_cri(RUNTIME__V1__SIGNAL__SIGRTMINPLUS15), 49);
	assert_int_equal(berth_signal_from_cri(RUNTIME__V1__SIGNAL__SIGRTMAXMINUS14), 50);
	/* The name in CRI's enum and the number agree, all the way through. */
	for (int n = 1; n <= 65; n++) {
		const ProtobufCEnumValue *e =
		        protobuf_c_enum_descriptor_get_value(&runtime__v1__signal__descriptor, n);
		char name[32];
		snprintf(name, sizeof(name), "%s", e->name);
		char *sign = strstr(name, "PLUS");
		if (sign)
			memmove(sign + 1, sign + 4, strlen(sign + 4) + 1), *sign = '+';
		sign = strstr(name, "MINUS");
		if (sign)
			memmove(sign + 1, sign + 5, strlen(sign + 5) + 1), *sign = '-';
		int number = berth_signal_from_cri((Runtime__V1__Signal)n);
		assert_int_equal(number, berth_signal_parse(name));
		assert_int_equal(berth_signal_from_cri(berth_signal_to_cri(number)), number);
	}
	assert_int_equal(berth_signal_to_cri(0), 0);
	assert_int_equal(berth_signal_to_cri(33), 0);
	assert_int_equal(berth_signal_to_cri(SIGTERM), RUNTIME__V1__SIGNAL__SIGTERM);
}

static void test_resources_merge(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__LinuxContainerResources back, change = f->res;
	Runtime__V1__HugepageLimit p1 = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, p2 = p1,
	                           *pages[] = {&p1, &p2};
	Runtime__V1__LinuxContainerResources__UnifiedEntry e, *unified[] = {&e};
	json_t *first, *second, *oci;

	f->res.cpu_shares = 100;
	f->res.memory_limit_in_bytes = 1 << 24;
	f->res.cpuset_cpus = S("0");
	p1.page_size = S("2MB");
	p1.limit = 4096;
	f->res.hugepage_limits = pages;
	f->res.n_hugepage_limits = 1;
	assert_int_equal(berth_resources_merge("c", NULL, &f->res, &first, &f->err), 0);

	/* Zero and empty change nothing; what is named replaces. */
	change.cpu_shares = 200;
	change.cpu_quota = -1;
	change.hugepage_limits = pages;
	change.n_hugepage_limits = 2;
	p1.limit = 0;
	p2.page_size = S("1GB");
	p2.limit = UINT64_MAX;
	runtime__v1__linux_container_resources__unified_entry__init(&e);
	e.key = S("memory.high");
	e.value = S("1000");
	change.unified = unified;
	change.n_unified = 1;
	assert_int_equal(berth_resources_merge("c", first, &change, &second, &f->err), 0);
	struct berth_arena *arena = berth_arena_new();
	berth_resources_to_cri(arena, second, &back);
	assert_int_equal(back.cpu_shares, 200);
	assert_int_equal(back.cpu_quota, -1);
	assert_int_equal(back.memory_limit_in_bytes, 1 << 24);
	assert_string_equal(back.cpuset_cpus, "0");
	assert_string_equal(back.cpuset_mems, "");
	assert_int_equal(back.n_hugepage_limits, 2);
	assert_int_equal(back.hugepage_limits[0]->limit, 0);
	assert_string_equal(back.hugepage_limits[1]->page_size, "1GB");
	assert_int_equal(back.n_unified, 1);
	assert_string_equal(back.unified[0]->value, "1000");
	/* It survives the wire, so nothing in it is left out or dangling. */
	size_t n = runtime__v1__linux_container_resources__get_packed_size(&back);
	uint8_t *wire = berth_zalloc(n);
	assert_int_equal(runtime__v1__linux_container_resources__pack(&back, wire), n);
	free(wire);
	/* The first is as it was. */
	assert_int_equal(json_integer_value(json_object_get(first, "cpu_shares")), 100);
	assert_null(json_object_get(first, "unified"));

	f->host.cgroup_v2 = false;
	assert_int_equal(berth_resources_oci("c", second, &f->host, &oci, &f->err), -1);
	assert_int_equal(f->err->code, BERTH_FAILED_PRECONDITION);
	assert_non_null(strstr(f->err->msg, "resources.unified"));
	f->err = berth_error_free(f->err);
	f->host.cgroup_v2 = f->host.hugetlb = true;
	assert_int_equal(berth_resources_oci("c", second, &f->host, &oci, &f->err), 0);
	assert_string_equal(
	        json_string_value(json_object_get(json_object_get(oci, "unified"), "memory.high")),
	        "1000");
	assert_int_equal(json_array_size(json_object_get(oci, "hugepageLimits")), 2);
	json_decref(oci);

	static const char *const bad_keys[] = {
	        "", "memory", "../memory.max", "cgroup.procs", "a/b.c", "memory..x", ".x"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad_keys); i++) {
		json_t *r = NULL;
		e.key = S(bad_keys[i]);
		assert_int_equal(berth_resources_merge("c", first, &change, &r, &f->err), -1);
		assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
		f->err = berth_error_free(f->err);
	}
	change.n_unified = 0;
	change.memory_limit_in_bytes = -2;
	json_t *r = NULL;
	assert_int_equal(berth_resources_merge("c", first, &change, &r, &f->err), -1);
	assert_non_null(strstr(f->err->msg, "memory_limit_in_bytes: -2"));
	json_decref(first);
	json_decref(second);
	berth_arena_free(arena);
	f->err = berth_error_free(f->err);
}

static void test_resources_ranges(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *what;
		int64_t shares, period, quota;
		bool good;
	} cases[] = {{"cpu_shares", 262144, 1000, 1000, true}, {"", 2, 1000000, -1, true},
	        {"cpu_shares", 262145, 0, 0, false}, {"cpu_shares", 1, 0, 0, false},
	        {"cpu_shares", -1, 0, 0, false}, {"cpu_period", 0, 5, 0, false},
	        {"cpu_period", 0, 1000001, 0, false}, {"cpu_quota", 0, 0, 1, false},
	        {"cpu_quota", 0, 0, INT64_MAX, false}, {"cpu_quota", 0, 0, -2, false}};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		Runtime__V1__LinuxContainerResources change =
		        RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
		json_t *r = NULL;
		change.cpu_shares = cases[i].shares;
		change.cpu_period = cases[i].period;
		change.cpu_quota = cases[i].quota;
		assert_int_equal(berth_resources_merge("c", NULL, &change, &r, &f->err),
		        cases[i].good ? 0 : -1);
		if (!cases[i].good)
			assert_non_null(strstr(f->err->msg, cases[i].what));
		f->err = berth_error_free(f->err);
		json_decref(r);
	}
}

static void test_resources_before(void **state)
{
	struct fixture *f = *state;
	json_t *have = json_pack("{si}", "cpu_shares", 512),
	       *after = json_pack("{sisisi}", "cpu_shares", 700, "cpu_quota", 5000,
	               "memory_limit_in_bytes", 1 << 20),
	       *want = json_pack(
	               "{sisisi}", "cpu_shares", 512, "cpu_quota", -1, "memory_limit_in_bytes", -1);
	json_t *r = berth_resources_before(have, after, &f->host);
	assert_true(json_equal(r, want));
	json_decref(r);
	f->host.cgroup_v2 = true;
	r = berth_resources_before(NULL, have, &f->host);
	assert_int_equal(json_object_size(r), 0);
	json_decref(r);
	json_decref(have);
	json_decref(after);
	json_decref(want);
}

static void test_resources_cpuset(void **state)
{
	struct fixture *f = *state;
	static const char *const good[] = {"0", "0-3", "0,2-5,7", "65535", "00-01", "3-3"};
	static const char *const bad[] = {"99-", "-", "-1", ",", "1,", ",1", "1,,2", "1--2", "3-2",
	        "1-2-3", "65536", "99999999999999999999", "0-99999999999999999999", " 1", "1 ",
	        "1\n", "0x1", "+1", "1-+2", "a"};
	for (size_t way = 0; way < 2; way++) {
		Runtime__V1__LinuxContainerResources change =
		        RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
		char **member = way ? &change.cpuset_mems : &change.cpuset_cpus;
		for (size_t i = 0; i < BERTH_ARRAY_LEN(good); i++) {
			json_t *r = NULL;
			*member = S(good[i]);
			if (berth_resources_merge("c", NULL, &change, &r, &f->err) < 0)
				fail_msg("%s", f->err->msg);
			json_decref(r);
		}
		for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
			json_t *r = NULL;
			*member = S(bad[i]);
			if (berth_resources_merge("c", NULL, &change, &r, &f->err) == 0)
				fail_msg("\"%s\" is taken", bad[i]);
			assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
			assert_non_null(strstr(f->err->msg, way ? "cpuset_mems" : "cpuset_cpus"));
			f->err = berth_error_free(f->err);
		}
	}
}

static void test_page_sizes(void **state)
{
	static const struct {
		const char *name;
		uint64_t size;
	} v[] = {{"2MB", 2 << 20}, {"1GB", 1 << 30}, {"64KB", 64 << 10}, {"512MB", 512 << 20},
	        {"16GB", UINT64_C(16) << 30}, {"2048KB", 0}, {"1024MB", 0}, {"0MB", 0}, {"02MB", 0},
	        {"MB", 0}, {"", 0}, {"2mb", 0}, {"2M", 0}, {"2MBs", 0}, {"-2MB", 0},
	        {"99999999GB", 0}};
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++)
		if (berth_page_size(v[i].name) != v[i].size)
			fail_msg("%s", v[i].name);
}

/* The kernel counts whole pages, and that is what is told. */
static void test_whole_pages(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint64_t asked;
		int64_t told;
	} v[] = {{0, 0}, {1, 0}, {2 << 20, 2 << 20}, {(5 << 20) + 1, 4 << 20},
	        {UINT64_MAX, INT64_MAX}, {(uint64_t)INT64_MAX, INT64_MAX}};
	Runtime__V1__HugepageLimit page = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, *pages[] = {&page};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++) {
		json_t *r = NULL, *limit;
		page.page_size = S("2MB");
		page.limit = v[i].asked;
		f->res.hugepage_limits = pages;
		f->res.n_hugepage_limits = 1;
		assert_int_equal(berth_resources_merge("c", NULL, &f->res, &r, &f->err), 0);
		limit = json_array_get(json_object_get(r, "hugepage_limits"), 0);
		assert_int_equal(json_integer_value(json_object_get(limit, "limit")), v[i].told);
		json_decref(r);
	}
}

static void test_what_cannot_be_in_force(void **state)
{
	struct fixture *f = *state;
	json_t *res = json_pack("{s[{sssi}]sisisi}", "hugepage_limits", "page_size", "2MB", "limit",
	               0, "memory_limit_in_bytes", 1 << 20, "memory_swap_limit_in_bytes", 1 << 21,
	               "oom_score_adj", 5000),
	       *all = json_deep_copy(res), *oci = NULL;

	f->host.hugetlb = f->host.swap_accounting = f->host.can_lower_oom = true;
	berth_resources_settle(res, &f->host);
	json_object_set_new(all, "oom_score_adj", json_integer(1000));
	assert_true(json_equal(res, all));
	f->host.hugetlb = f->host.swap_accounting = false;
	berth_resources_settle(res, &f->host);
	json_object_del(all, "hugepage_limits");
	json_object_del(all, "memory_swap_limit_in_bytes");
	assert_true(json_equal(res, all));
	/* A score that nobody spoke of stays unspoken. */
	json_object_del(res, "oom_score_adj");
	berth_resources_settle(res, &f->host);
	assert_null(json_object_get(res, "oom_score_adj"));

	f->host.swap_accounting = true;
	json_object_set_new(res, "memory_swap_limit_in_bytes", json_integer(1 << 21));
	assert_int_equal(berth_resources_oci("c", res, &f->host, &oci, &f->err), 0);
	json_decref(oci);
	json_object_set_new(res, "memory_limit_in_bytes", json_integer(-1));
	assert_int_equal(berth_resources_oci("c", res, &f->host, &oci, &f->err), -1);
	assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
	assert_non_null(strstr(f->err->msg, "without a memory limit"));
	json_decref(res);
	json_decref(all);
}

static void test_sets_within_sets(void **state)
{
	static const struct {
		const char *part, *whole;
		bool yes;
	} v[] = {{"0", "0-3", true}, {"0-3", "0-3", true}, {"1,3", "0-3", true},
	        {"4", "0-3", false}, {"0-64", "0-63", false}, {"64", "0-63,65", false},
	        {"65535", "0-65535", true}};
	struct berth_cpuset part, whole;
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++) {
		assert_true(berth_cpuset_parse(v[i].part, &part));
		assert_true(berth_cpuset_parse(v[i].whole, &whole));
		if (berth_cpuset_within(&part, &whole) != v[i].yes)
			fail_msg("%s in %s", v[i].part, v[i].whole);
	}
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_signals), T(test_resources_merge),
	        T(test_resources_ranges), T(test_resources_before), T(test_resources_cpuset),
	        T(test_page_sizes), T(test_whole_pages), T(test_what_cannot_be_in_force),
	        T(test_sets_within_sets)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
