/* core/image: references and policy.json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "image/policy.h"

static void ref_is(const char *text, const char *want)
{
	struct berth_ref r = {0};
	struct berth_error *err = NULL;
	if (berth_ref_parse(text, &r, &err) < 0)
		fail_msg("%s", err->msg);
	_cleanup_free_ char *name = berth_ref_name(&r);
	assert_string_equal(name, want);
	berth_ref_finish(&r);
}

static void ref_bad(const char *text)
{
	struct berth_ref r = {0};
	struct berth_error *err = NULL;
	assert_int_equal(berth_ref_parse(text, &r, &err), -1);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	assert_null(r.repository);
	berth_error_free(err);
}

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void references(void **state)
{
	(void)state;
	ref_is("busybox", "docker.io/library/busybox:latest");
	ref_is("busybox:1.36", "docker.io/library/busybox:1.36");
	ref_is("user/app", "docker.io/user/app:latest");
	ref_is("index.docker.io/user/app", "docker.io/user/app:latest");
	ref_is("localhost/app:x", "localhost/app:x");
	ref_is("127.0.0.1:5000/a/b__c/d-e.f", "127.0.0.1:5000/a/b__c/d-e.f:latest");
	ref_is("quay.io/x@sha256:" HEX64, "quay.io/x@sha256:" HEX64);
	ref_is("quay.io/x:tag@sha256:" HEX64, "quay.io/x@sha256:" HEX64);
	ref_is("[fd00::1]:5000/x:y", "[fd00::1]:5000/x:y");
	static const char *const wrong[] = {"", "UPPER", "a//b", "a/", "/a", "a:", "a:b c",
	        "a@sha256:12", "a@md5:" HEX64, "a..b", "a___b", "-a", "a-", "quay.io/", "quay.io/A",
	        "a:-x", "é", "a b", "host_x.io:5/A"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(wrong); i++)
		ref_bad(wrong[i]);
	char *text = berth_zalloc(3000);
	memset(text, 'a', 2999);
	ref_bad(text);
	free(text);
}

static char path[] = "/tmp/berth-policy-XXXXXX";

static struct berth_policy *load(const char *text, struct berth_error **err)
{
	FILE *f = fopen(path, "w");
	struct berth_policy *p = NULL;
	fputs(text, f);
	fclose(f);
	assert_int_equal(berth_policy_load(path, &p, err), *err ? -1 : 0);
	return p;
}

static bool accepts(const struct berth_policy *p, const char *transport, const char *image)
{
	struct berth_ref r = {0};
	struct berth_error *err = NULL;
	assert_int_equal(berth_ref_parse(image, &r, &err), 0);
	int result = berth_policy_check(p, transport, &r, &err);
	if (result < 0) {
		assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
		assert_memory_equal(err->msg, "SignatureValidationFailed", 25);
		berth_error_free(err);
	}
	berth_ref_finish(&r);
	return result == 0;
}

static void the_most_specific_scope_decides(void **state)
{
	struct berth_error *err = NULL;
	(void)state;
	struct berth_policy *p =
	        load("{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":{"
	             "\"quay.io\":[{\"type\":\"insecureAcceptAnything\"}],"
	             "\"quay.io/bad\":[{\"type\":\"reject\"}],"
	             "\"quay.io/bad/but:good\":[{\"type\":\"insecureAcceptAnything\"}],"
	             "\"*.example.com\":[{\"type\":\"insecureAcceptAnything\"}],"
	             "\"signed.io\":[{\"type\":\"signedBy\",\"keyType\":\"GPGKeys\"}]},"
	             "\"oci-archive\":{\"\":[{\"type\":\"insecureAcceptAnything\"}]}}}",
	                &err);
	assert_non_null(p);
	assert_true(accepts(p, "docker", "quay.io/ok/x"));
	assert_false(accepts(p, "docker", "quay.io/bad/x"));
	assert_false(accepts(p, "docker", "quay.io/bad/but:worse"));
	assert_true(accepts(p, "docker", "quay.io/bad/but:good"));
	assert_true(accepts(p, "docker", "a.b.example.com/x"));
	assert_false(accepts(p, "docker", "busybox"));
	assert_false(accepts(p, "docker", "signed.io/x"));
	assert_true(accepts(p, "oci-archive", "busybox"));
	assert_int_equal(berth_policy_check(p, "oci-archive", NULL, &err), 0);
	assert_int_equal(berth_policy_check(p, "docker", NULL, &err), -1);
	berth_error_free(err);
	berth_policy_free(p);
}

static void mistakes_in_the_policy_are_named(void **state)
{
	static const char *const wrong[] = {"", "[]", "{}", "{\"default\":[]}",
	        "{\"default\":[{}]}", "{\"default\":[{\"type\":\"reject\"}],\"transport\":{}}",
	        "{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":[]}}",
	        "{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":{\"x\":{}}}}"};
	struct berth_policy *p = NULL;
	struct berth_error *err = NULL;
	(void)state;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(wrong); i++) {
		FILE *f = fopen(path, "w");
		fputs(wrong[i], f);
		fclose(f);
		assert_int_equal(berth_policy_load(path, &p, &err), -1);
		assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
		assert_non_null(strstr(err->msg, path));
		err = berth_error_free(err);
	}
	unlink(path);
	assert_int_equal(berth_policy_load(path, &p, &err), 0);
	assert_null(p);
	assert_true(accepts(NULL, "docker", "busybox"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(references),
	        cmocka_unit_test(the_most_specific_scope_decides),
	        cmocka_unit_test(mistakes_in_the_policy_are_named),
	};
	close(mkstemp(path));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
