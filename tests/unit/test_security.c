/* core/security: capability sets, seccomp profiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/capability.h>
#include <seccomp.h>

#include "base/fd.h"
#include "base/mem.h"
#include "security/apparmor.h"
#include "security/caps.h"
#include "security/profile.h"

#define S(s) ((char *)(uintptr_t)(s))
#define ALL ((berth_capset)(BERTH_CAP(CAP_LAST_CAP + 1) - 1))

static bool has(const json_t *list, const char *word)
{
	json_t *v;
	size_t i;
	json_array_foreach (list, i, v) {
		if (strcmp(json_string_value(v), word) == 0)
			return true;
	}
	return false;
}

static void test_names(void **state)
{
	(void)state;
	assert_int_equal(berth_cap_number("NET_ADMIN"), CAP_NET_ADMIN);
	assert_int_equal(berth_cap_number("CAP_NET_ADMIN"), CAP_NET_ADMIN);
	assert_int_equal(berth_cap_number("cap_sys_admin"), CAP_SYS_ADMIN);
	assert_int_equal(berth_cap_number("CHOWN"), 0);
	assert_int_equal(berth_cap_number(""), -1);
	assert_int_equal(berth_cap_number("CAP_"), -1);
	assert_int_equal(berth_cap_number("CAP_CAP_CHOWN"), -1);
	assert_int_equal(berth_cap_number("FLY"), -1);
	assert_int_equal(berth_cap_number("12"), -1);
	char *longer = berth_zalloc(100000);
	memset(longer, 'A', 99999);
	assert_int_equal(berth_cap_number(longer), -1);
	free(longer);
}

static struct berth_caps resolve(const struct berth_caps_request *req)
{
	struct berth_caps caps;
	struct berth_error *err = NULL;
	if (berth_caps_resolve(req, &caps, &err) < 0)
		fail_msg("%s", err->msg);
	assert_int_equal(caps.ambient & ~caps.set, 0);
	return caps;
}

static void test_sets(void **state)
{
	char *all[] = {S("ALL")}, *two[] = {S("NET_ADMIN"), S("CAP_SYS_TIME")},
	     *chown[] = {S("chown")};
	struct berth_caps_request req = {.bounding = ALL};
	berth_capset net_time = BERTH_CAP(CAP_NET_ADMIN) | BERTH_CAP(CAP_SYS_TIME);

	(void)state;
	assert_int_equal(__builtin_popcountll(berth_caps_default()), 14);
	assert_true(resolve(&req).set == berth_caps_default());
	req.add = two;
	req.n_add = 2;
	assert_true(resolve(&req).set == (berth_caps_default() | net_time));
	req.drop = all;
	req.n_drop = 1;
	assert_true(resolve(&req).set == net_time);
	req.n_add = 0;
	assert_true(resolve(&req).set == 0);
	req.add = all;
	req.n_add = 1;
	req.drop = chown;
	assert_true(resolve(&req).set == (ALL & ~BERTH_CAP(CAP_CHOWN)));
	req.privileged = true;
	assert_true(resolve(&req).set == ALL);
	/* Nobody gives what he has not. */
	req.bounding = ALL & ~BERTH_CAP(CAP_SYS_RESOURCE);
	assert_true(resolve(&req).set == req.bounding);
	req.privileged = false;
	assert_true(resolve(&req).set == (req.bounding & ~BERTH_CAP(CAP_CHOWN)));
	req.add = two;
	req.n_add = 2;
	req.bounding = ALL & ~BERTH_CAP(CAP_SYS_TIME);
	assert_false(resolve(&req).set & BERTH_CAP(CAP_SYS_TIME));
	assert_true(resolve(&req).set & BERTH_CAP(CAP_NET_ADMIN));
}

static void test_ambient(void **state)
{
	char *bind[] = {S("NET_BIND_SERVICE")}, *all[] = {S("ALL")};
	struct berth_caps_request req = {
	        .bounding = ALL, .drop = all, .n_drop = 1, .ambient = bind, .n_ambient = 1};

	(void)state;
	struct berth_caps caps = resolve(&req);
	assert_true(caps.set == BERTH_CAP(CAP_NET_BIND_SERVICE));
	json_t *o = berth_caps_json(&caps);
	static const char *const sets[] = {
	        "bounding", "effective", "permitted", "inheritable", "ambient"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(sets); i++) {
		json_t *list = json_object_get(o, sets[i]);
		assert_int_equal(json_array_size(list), 1);
		assert_true(has(list, "CAP_NET_BIND_SERVICE"));
	}
	json_decref(o);
	req.n_ambient = 0;
	caps = resolve(&req);
	o = berth_caps_json(&caps);
	assert_int_equal(json_array_size(json_object_get(o, "bounding")), 0);
	assert_null(json_object_get(o, "inheritable"));
	json_decref(o);
}

static void test_unknown_capability(void **state)
{
	char *names[] = {S("CHOWN"), S("FLY")};
	struct berth_caps_request req = {.bounding = ALL, .drop = names, .n_drop = 2};
	struct berth_error *err = NULL;
	struct berth_caps caps;

	(void)state;
	assert_int_equal(berth_caps_resolve(&req, &caps, &err), -1);
	assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
	assert_string_equal(err->msg, "capabilities.drop_capabilities: no capability \"FLY\"");
	berth_error_free(err);
}

static void test_bounding(void **state)
{
	(void)state;
	FILE *f = fopen("/proc/thread-self/status", "re");
	char line[256];
	unsigned long long want = 0;
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, "CapBnd:", 7) == 0)
			want = strtoull(line + 7, NULL, 16);
	fclose(f);
	assert_true(berth_caps_bounding() == want);
}

/* The rule that names a system call, NULL where none does. */
static json_t *rule_of(const json_t *profile, const char *name)
{
	json_t *v;
	size_t i;
	json_array_foreach (json_object_get(profile, "syscalls"), i, v) {
		if (has(json_object_get(v, "names"), name))
			return v;
	}
	return NULL;
}

static const char *action_of(const json_t *profile, const char *name)
{
	const char *s = json_string_value(json_object_get(rule_of(profile, name), "action"));
	return s ? s : "default";
}

static void test_default_profile(void **state)
{
	(void)state;
	json_t *p = berth_seccomp_default(berth_caps_default()), *v, *n;
	size_t i, k, names = 0;

	assert_string_equal(
	        json_string_value(json_object_get(p, "defaultAction")), "SCMP_ACT_ERRNO");
	assert_int_equal(json_integer_value(json_object_get(p, "defaultErrnoRet")), 1);
	assert_true(json_array_size(json_object_get(p, "architectures")) >= 1);
	/* Every name is one that libseccomp knows. */
	json_array_foreach (json_object_get(p, "syscalls"), i, v) {
		json_array_foreach (json_object_get(v, "names"), k, n) {
			assert_int_not_equal(seccomp_syscall_resolve_name(json_string_value(n)),
			        __NR_SCMP_ERROR);
			names++;
		}
	}
	assert_true(names > 300);
	assert_string_equal(action_of(p, "read"), "SCMP_ACT_ALLOW");
	assert_string_equal(action_of(p, "execve"), "SCMP_ACT_ALLOW");
	assert_string_equal(action_of(p, "chroot"), "SCMP_ACT_ALLOW"); /* CAP_SYS_CHROOT */
	assert_string_equal(action_of(p, "clone3"), "SCMP_ACT_ERRNO");
	assert_int_equal(json_integer_value(json_object_get(rule_of(p, "clone3"), "errnoRet")), 38);
	json_t *arg = json_array_get(json_object_get(rule_of(p, "clone"), "args"), 0);
	assert_string_equal(json_string_value(json_object_get(arg, "op")), "SCMP_CMP_MASKED_EQ");
	assert_int_equal(json_integer_value(json_object_get(arg, "value")), 0x7E020000);
	static const char *const refused[] = {"mount", "unshare", "setns", "bpf", "keyctl",
	        "add_key", "kexec_load", "init_module", "reboot", "swapon", "io_uring_setup",
	        "userfaultfd", "open_by_handle_at", "pivot_root", "settimeofday"};
	for (i = 0; i < BERTH_ARRAY_LEN(refused); i++)
		assert_string_equal(action_of(p, refused[i]), "default");
	json_decref(p);

	p = berth_seccomp_default(ALL);
	static const char *const allowed[] = {"mount", "unshare", "setns", "bpf", "init_module",
	        "reboot", "open_by_handle_at", "settimeofday", "clone3", "clone"};
	for (i = 0; i < BERTH_ARRAY_LEN(allowed); i++) {
		assert_string_equal(action_of(p, allowed[i]), "SCMP_ACT_ALLOW");
		assert_null(json_object_get(rule_of(p, allowed[i]), "args"));
	}
	assert_string_equal(action_of(p, "kexec_load"), "default");
	json_decref(p);
}

static json_t *parse(const char *text, berth_capset caps)
{
	struct berth_error *err = NULL;
	json_t *p = NULL;
	if (berth_seccomp_parse("t.json", text, strlen(text), caps, &p, &err) < 0)
		fail_msg("%s", err->msg);
	return p;
}

static void test_docker_form(void **state)
{
	static const char text[] =
	        "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":38,"
	        "\"archMap\":[{\"architecture\":\"SCMP_ARCH_X86_64\","
	        "\"subArchitectures\":[\"SCMP_ARCH_X86\",\"SCMP_ARCH_FUTURE\"]},"
	        "{\"architecture\":\"SCMP_ARCH_AARCH64\",\"subArchitectures\":[\"SCMP_ARCH_ARM\"]}]"
	        ","
	        "\"syscalls\":["
	        "{\"names\":[\"read\",\"a_call_of_the_future\"],\"action\":\"SCMP_ACT_ALLOW\","
	        "\"args\":"
	        "null},"
	        "{\"names\":[\"a_call_of_the_future\"],\"action\":\"SCMP_ACT_ALLOW\"},"
	        "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_LOG\",\"comment\":\"x\"},"
	        "{\"names\":[\"mount\"],\"action\":\"SCMP_ACT_ALLOW\","
	        "\"includes\":{\"caps\":[\"CAP_SYS_ADMIN\"]}},"
	        "{\"names\":[\"clone\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,"
	        "\"value\":2114060288,\"valueTwo\":0,\"op\":\"SCMP_CMP_MASKED_EQ\"}],"
	        "\"excludes\":{\"caps\":[\"CAP_SYS_ADMIN\"]}},"
	        "{\"names\":[\"ptrace\"],\"action\":\"SCMP_ACT_ALLOW\",\"includes\":{\"minKernel\":"
	        "\"4.8\"}},"
	        "{\"names\":[\"kcmp\"],\"action\":\"SCMP_ACT_ALLOW\",\"includes\":{\"minKernel\":"
	        "\"99.1\"}},"
	        "{\"names\":[\"acct\"],\"action\":\"SCMP_ACT_ALLOW\",\"includes\":{\"arches\":["
	        "\"ppc\"]}},"
	        "{\"names\":[\"kill\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":5,\"includes\":{}"
	        ","
	        "\"excludes\":{}}]}";
	(void)state;
	json_t *p = parse(text, berth_caps_default());
	assert_string_equal(action_of(p, "read"), "SCMP_ACT_ALLOW");
	assert_int_equal(json_array_size(json_object_get(rule_of(p, "read"), "names")), 1);
	assert_string_equal(action_of(p, "chmod"), "SCMP_ACT_LOG");
	assert_string_equal(action_of(p, "mount"), "default");
	assert_string_equal(action_of(p, "clone"), "SCMP_ACT_ALLOW");
	assert_int_equal(json_array_size(json_object_get(rule_of(p, "clone"), "args")), 1);
	assert_string_equal(action_of(p, "ptrace"), "SCMP_ACT_ALLOW");
	assert_string_equal(action_of(p, "kcmp"), "default");
	assert_string_equal(action_of(p, "acct"), "default");
	assert_int_equal(json_integer_value(json_object_get(rule_of(p, "kill"), "errnoRet")), 5);
	assert_int_equal(json_integer_value(json_object_get(p, "defaultErrnoRet")), 38);
	assert_null(rule_of(p, "a_call_of_the_future"));
	assert_false(has(json_object_get(p, "architectures"), "SCMP_ARCH_FUTURE"));
#ifdef __x86_64__
	assert_int_equal(json_array_size(json_object_get(p, "architectures")), 2);
	assert_true(has(json_object_get(p, "architectures"), "SCMP_ARCH_X86_64"));
#endif
	json_decref(p);
	p = parse(text, ALL);
	assert_string_equal(action_of(p, "mount"), "SCMP_ACT_ALLOW");
	assert_string_equal(action_of(p, "clone"), "default");
	json_decref(p);
}

static void test_bad_profiles(void **state)
{
	static const char *const bad[] = {
	        "",
	        "[]",
	        "{",
	        "{}",
	        "{\"defaultAction\":\"SCMP_ACT_FLY\"}",
	        "{\"defaultAction\":1}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"defaultErrnoRet\":-1}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":{}}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[1]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"read\"]}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_"
	        "ALLOW\"}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_"
	        "ALLOW\","
	        "\"names\":[1]}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_"
	        "ALLOW\","
	        "\"name\":\"read\",\"names\":[\"read\"]}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_"
	        "ALLOW\","
	        "\"names\":[\"read\"],\"args\":[{\"index\":6,\"value\":1,\"op\":\"SCMP_CMP_EQ\"}]}]"
	        "}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_"
	        "ALLOW\","
	        "\"names\":[\"read\"],\"args\":[{\"index\":0,\"value\":1,\"op\":\"EQ\"}]}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_"
	        "ALLOW\","
	        "\"names\":[\"read\"],\"includes\":{\"caps\":\"CAP_KILL\"}}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86\"],"
	        "\"archMap\":[{\"architecture\":\"SCMP_ARCH_X86\"}]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"archMap\":[1]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"flags\":[1]}",
	        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":1}",
	};
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		struct berth_error *err = NULL;
		json_t *p = NULL;
		if (berth_seccomp_parse("t.json", bad[i], strlen(bad[i]), 0, &p, &err) == 0)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(err->code, BERTH_INVALID_ARGUMENT);
		assert_non_null(strstr(err->msg, "t.json"));
		berth_error_free(err);
	}
}

static void load_fails(const char *root, const char *path, enum berth_code code)
{
	struct berth_error *err = NULL;
	json_t *p = NULL;
	assert_int_equal(berth_seccomp_load(root, path, 0, &p, &err), -1);
	if (err->code != code)
		fail_msg("%s: %s", berth_code_name(err->code), err->msg);
	assert_non_null(strstr(err->msg, path));
	berth_error_free(err);
}

static void test_load(void **state)
{
	char dir[] = "/tmp/berth-sec-XXXXXX";
	static const char text[] = "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}";
	struct berth_error *err = NULL;
	json_t *p = NULL;

	(void)state;
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *file = berth_asprintf("%s/ok.json", dir);
	_cleanup_free_ char *fifo = berth_asprintf("%s/fifo", dir);
	_cleanup_free_ char *big = berth_asprintf("%s/big", dir);
	assert_int_equal(berth_write_file_atomic(-1, file, text, strlen(text), 0644, false), 0);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(berth_write_file_atomic(-1, big, "", 0, 0644, false), 0);
	assert_int_equal(truncate(big, BERTH_LIMIT_SECCOMP_PROFILE + 1), 0);
	assert_int_equal(berth_seccomp_load(dir, "ok.json", 0, &p, &err), 0);
	json_decref(p);
	assert_int_equal(berth_seccomp_load("/nowhere", file, 0, &p, &err), 0);
	json_decref(p);
	load_fails(dir, "absent.json", BERTH_NOT_FOUND);
	load_fails(dir, "fifo", BERTH_INVALID_ARGUMENT);
	load_fails(dir, "big", BERTH_INVALID_ARGUMENT);
	load_fails(dir, "../etc/passwd", BERTH_INVALID_ARGUMENT);
	load_fails(dir, "a/../../x", BERTH_INVALID_ARGUMENT);
	assert_int_equal(berth_rm_tree(-1, dir), 0);
}

static void test_apparmor(void **state)
{
	(void)state;
	/* Whatever this kernel has: a name that nobody gives is never loaded. */
	assert_int_not_equal(berth_apparmor_loaded("berth-no-such-profile"), 1);
	if (!berth_apparmor_enabled())
		assert_true(berth_apparmor_loaded("unconfined") < 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_names),
	        cmocka_unit_test(test_sets), cmocka_unit_test(test_ambient),
	        cmocka_unit_test(test_unknown_capability), cmocka_unit_test(test_bounding),
	        cmocka_unit_test(test_default_profile), cmocka_unit_test(test_docker_form),
	        cmocka_unit_test(test_bad_profiles), cmocka_unit_test(test_load),
	        cmocka_unit_test(test_apparmor)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
