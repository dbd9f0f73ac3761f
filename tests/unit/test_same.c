/* core/cri/same: a retry is known by what it says, not by its bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "cri.pb-c.h"
#include "cri/same.h"

#define LABEL(k, v) "\x32\x06\x0a\x01" k "\x12\x01" v
#define MOUNT(path) "\x3a\x03\x0a\x01" path
#define COMMAND(word) "\x1a\x01" word
#define ENV(k) "\x32\x03\x0a\x01" k
#define UNIFIED(k, v) "\x0a\x0a\x4a\x08\x0a\x03" k "\x12\x01" v

static Runtime__V1__PodSandboxConfig *pod(const char *bytes, size_t n)
{
	Runtime__V1__PodSandboxConfig *c =
	        runtime__v1__pod_sandbox_config__unpack(NULL, n, (const uint8_t *)bytes);
	assert_non_null(c);
	return c;
}

static bool same_pods(const char *x, size_t n, const char *y, size_t m)
{
	Runtime__V1__PodSandboxConfig *a = pod(x, n), *b = pod(y, m);
	bool r = berth_cri_same(&a->base, &b->base);
	assert_int_equal(r, berth_cri_same(&b->base, &a->base));
	runtime__v1__pod_sandbox_config__free_unpacked(a, NULL);
	runtime__v1__pod_sandbox_config__free_unpacked(b, NULL);
	return r;
}

static bool same_ctrs(const char *x, size_t n, const char *y, size_t m)
{
	Runtime__V1__ContainerConfig *a = runtime__v1__container_config__unpack(
	                                     NULL, n, (const void *)x),
	                             *b = runtime__v1__container_config__unpack(
	                                     NULL, m, (const void *)y);
	assert_non_null(a);
	assert_non_null(b);
	bool r = berth_cri_same(&a->base, &b->base);
	assert_int_equal(r, berth_cri_same(&b->base, &a->base));
	runtime__v1__container_config__free_unpacked(a, NULL);
	runtime__v1__container_config__free_unpacked(b, NULL);
	return r;
}

#define PODS(x, y) same_pods(x, sizeof(x) - 1, y, sizeof(y) - 1)
#define CTRS(x, y) same_ctrs(x, sizeof(x) - 1, y, sizeof(y) - 1)

static void maps_have_no_order(void **state)
{
	(void)state;
	assert_true(PODS("", ""));
	assert_true(PODS(LABEL("a", "1") LABEL("b", "2") LABEL("c", "3"),
	        LABEL("c", "3") LABEL("a", "1") LABEL("b", "2")));
	assert_false(PODS(LABEL("a", "1") LABEL("b", "2"), LABEL("a", "2") LABEL("b", "1")));
	assert_false(PODS(LABEL("a", "1"), LABEL("a", "1") LABEL("b", "2")));
	assert_false(PODS(LABEL("a", "1"), LABEL("b", "1")));
	/* a key twice: the last one is the value */
	assert_false(PODS(LABEL("a", "1") LABEL("a", "2"), LABEL("a", "2") LABEL("a", "1")));
	assert_true(PODS(LABEL("a", "1") LABEL("b", "3") LABEL("a", "2"),
	        LABEL("b", "3") LABEL("a", "1") LABEL("a", "2")));
	/* linux.resources.unified, two messages down */
	assert_true(CTRS("\x7a\x18" UNIFIED("x.a", "1") UNIFIED("x.b", "2"),
	        "\x7a\x18" UNIFIED("x.b", "2") UNIFIED("x.a", "1")));
	assert_false(CTRS("\x7a\x18" UNIFIED("x.a", "1") UNIFIED("x.b", "2"),
	        "\x7a\x18" UNIFIED("x.b", "1") UNIFIED("x.a", "2")));
}

static void lists_have_one(void **state)
{
	(void)state;
	assert_true(CTRS(COMMAND("a") COMMAND("b"), COMMAND("a") COMMAND("b")));
	assert_false(CTRS(COMMAND("a") COMMAND("b"), COMMAND("b") COMMAND("a")));
	assert_false(CTRS(ENV("a") ENV("b"), ENV("b") ENV("a"))); /* key and value, and no map */
	assert_false(CTRS(MOUNT("a") MOUNT("b"), MOUNT("b") MOUNT("a")));
	/* devices are field 8; groups, numbers in linux.security_context */
	assert_true(CTRS("\x7a\x06\x1a\x04\x42\x02\x05\x06", "\x7a\x06\x1a\x04\x42\x02\x05\x06"));
	assert_false(CTRS("\x7a\x06\x1a\x04\x42\x02\x05\x06", "\x7a\x06\x1a\x04\x42\x02\x06\x05"));
}

static void what_is_left_out_is_something(void **state)
{
	(void)state;
	assert_true(PODS("\x12\x01h", "\x12\x01h"));
	assert_false(PODS("\x12\x01h", ""));
	assert_false(PODS("\x42\x00", ""));                         /* linux, empty, and none */
	assert_false(PODS("\x0a\x02\x20\x01", "\x0a\x02\x20\x02")); /* metadata.attempt */
	assert_true(PODS("\x0a\x02\x20\x01", "\x0a\x02\x20\x01"));
	assert_false(CTRS("\x68\x01", "\x70\x01")); /* stdin_once, tty */
}

/* Of a newer client: field 99 may be a map. */
static void unknown_fields_count(void **state)
{
	(void)state;
	assert_false(PODS("\x9a\x06\x01x", ""));
	assert_false(PODS("\x9a\x06\x01x", "\x9a\x06\x01y"));
	assert_true(PODS("\x9a\x06\x01x\x9a\x06\x01y", "\x9a\x06\x01y\x9a\x06\x01x"));
}

static void types_differ(void **state)
{
	Runtime__V1__PodSandboxConfig p = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__ContainerConfig c = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	(void)state;
	assert_false(berth_cri_same(&p.base, &c.base));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(maps_have_no_order),
	        cmocka_unit_test(lists_have_one),
	        cmocka_unit_test(what_is_left_out_is_something),
	        cmocka_unit_test(unknown_fields_count),
	        cmocka_unit_test(types_differ),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
