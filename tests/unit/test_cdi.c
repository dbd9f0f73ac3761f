/* core/spec/cdi: which device a name means, and what it does to a configuration. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/cdi.h"
#include "spec_fixture.h"

#define S(text) ((char *)(uintptr_t)(text))

static const char *dirs[3];
static char low[96], high[96];

static int setup(void **state)
{
	struct fixture *f = fixture_new();
	*state = f;
	snprintf(low, sizeof(low), "%s/low", f->dir);
	snprintf(high, sizeof(high), "%s/high", f->dir);
	dirs[0] = low;
	dirs[1] = high;
	f->in.cdi_dirs = dirs;
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

static void ask(struct fixture *f, const char *name)
{
	static Runtime__V1__CDIDevice dev;
	static Runtime__V1__CDIDevice *list[] = {&dev};

	runtime__v1__cdidevice__init(&dev);
	dev.name = S(name);
	f->c.cdi_devices = list;
	f->c.n_cdi_devices = 1;
}

static void must_build(struct fixture *f)
{
	if (fixture_build(f) < 0)
		fail_msg("%s", f->err->msg);
}

static void must_fail(struct fixture *f, enum berth_code code, const char *part)
{
	assert_int_equal(fixture_build(f), -1);
	if (f->err->code != code || !strstr(f->err->msg, part))
		fail_msg("%s: %s (expected %s)", berth_code_name(f->err->code), f->err->msg, part);
}

static const char whole[] =
        "{\"cdiVersion\": \"0.6.0\", \"kind\": \"acme.com/gpu\", \"annotations\": {\"a\": \"b\"},\n"
        " \"containerEdits\": {\"env\": [\"ALL=1\"]},\n"
        " \"devices\": [\n"
        "  {\"name\": \"0\", \"containerEdits\": {\n"
        "   \"env\": [\"GPU=zero\", \"PATH=/gpu\"],\n"
        "   \"deviceNodes\": [{\"path\": \"/dev/gpu0\", \"hostPath\": \"/dev/null\", "
        "\"permissions\": \"rw\"},\n"
        "     {\"path\": \"/dev/gpuctl\", \"type\": \"c\", \"major\": 195, \"minor\": 255, "
        "\"fileMode\": 438, \"uid\": 5, \"gid\": 6}],\n"
        "   \"mounts\": [{\"hostPath\": \"/usr/lib/gpu\", \"containerPath\": \"/usr/lib//gpu\", "
        "\"options\": [\"ro\", \"nosuid\"]},\n"
        "     {\"hostPath\": \"tmpfs\", \"type\": \"tmpfs\", \"containerPath\": \"/scratch\"}],\n"
        "   \"hooks\": [{\"hookName\": \"createContainer\", \"path\": \"/bin/ldconfig\", "
        "\"args\": [\"ldconfig\", \"-r\"], \"env\": [\"X=y\"], \"timeout\": 3}],\n"
        "   \"additionalGids\": [44, 0, 44],\n"
        "   \"intelRdt\": {\"closID\": \"gold\", \"enableCMT\": true}}},\n"
        "  {\"name\": \"1\", \"containerEdits\": {\"env\": [\"GPU=one\"]}}]}\n";

static const char *env(const struct fixture *f, const char *name)
{
	const char *v = fixture_env(f, name);
	return v ? v : "(unset)";
}

static json_t *node(const struct fixture *f, const char *path)
{
	json_t *v;
	size_t i;
	json_array_foreach (fixture_get(f, "linux.devices"), i, v) {
		if (strcmp(json_string_value(json_object_get(v, "path")), path) == 0)
			return v;
	}
	return NULL;
}

static json_int_t number(const json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);
	return v ? json_integer_value(v) : -1;
}

static void test_everything_a_device_wants(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__Int64Value uid = RUNTIME__V1__INT64_VALUE__INIT;

	fixture_write(f, "low/acme.json", whole);
	uid.value = 1000;
	f->sec.run_as_user = &uid;
	ask(f, "acme.com/gpu=0");
	must_build(f);
	assert_string_equal(env(f, "ALL"), "1");
	assert_string_equal(env(f, "GPU"), "zero");
	assert_string_equal(env(f, "PATH"), "/gpu");
	json_t *own = node(f, "/dev/gpu0"), *told = node(f, "/dev/gpuctl");
	assert_string_equal(json_string_value(json_object_get(own, "type")), "c");
	assert_int_equal(number(own, "major"), 1);
	assert_int_equal(number(own, "minor"), 3);
	assert_int_equal(number(own, "uid"), 1000);
	assert_int_equal(number(told, "major"), 195);
	assert_int_equal(number(told, "uid"), 5);
	assert_int_equal(number(told, "fileMode"), 0666);
	json_t *rules = fixture_get(f, "linux.resources.devices");
	json_t *last = json_array_get(rules, json_array_size(rules) - 1);
	json_t *before = json_array_get(rules, json_array_size(rules) - 2);
	assert_int_equal(number(last, "major"), 195);
	assert_string_equal(json_string_value(json_object_get(last, "access")), "rwm");
	assert_string_equal(json_string_value(json_object_get(before, "access")), "rw");
	json_t *m = fixture_mount(f, "/usr/lib/gpu");
	assert_string_equal(json_string_value(json_object_get(m, "type")), "bind");
	assert_true(fixture_has(json_object_get(m, "options"), "rbind"));
	assert_true(fixture_has(json_object_get(m, "options"), "ro"));
	m = fixture_mount(f, "/scratch");
	assert_string_equal(json_string_value(json_object_get(m, "type")), "tmpfs");
	assert_false(fixture_has(json_object_get(m, "options"), "rbind"));
	assert_string_equal(fixture_str(f, "hooks.createContainer.0.path"), "/bin/ldconfig");
	assert_string_equal(fixture_str(f, "hooks.createContainer.0.args.1"), "-r");
	assert_int_equal(json_integer_value(fixture_get(f, "hooks.createContainer.0.timeout")), 3);
	assert_string_equal(fixture_str(f, "linux.intelRdt.closID"), "gold");
	bool has44 = false;
	for (size_t i = 0; i < f->out.n_groups; i++) {
		has44 = has44 || f->out.groups[i] == 44;
		assert_int_not_equal(f->out.groups[i], 0);
	}
	assert_true(has44);
	f->sec.run_as_user = NULL;

	/* The other one: nothing of its neighbour. */
	ask(f, "acme.com/gpu=1");
	must_build(f);
	assert_string_equal(env(f, "GPU"), "one");
	assert_string_equal(env(f, "ALL"), "1");
	assert_null(node(f, "/dev/gpu0"));
	assert_null(fixture_get(f, "hooks"));
}

static void test_annotations_name_devices_too(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__ContainerConfig__AnnotationsEntry
	        e = RUNTIME__V1__CONTAINER_CONFIG__ANNOTATIONS_ENTRY__INIT,
	        *list[] = {&e};

	fixture_write(f, "low/acme.json", whole);
	e.key = S("cdi.k8s.io/some-plugin");
	e.value = S("acme.com/gpu=0,acme.com/gpu=1");
	f->c.annotations = list;
	f->c.n_annotations = 1;
	must_build(f);
	assert_string_equal(env(f, "GPU"), "one");
	assert_non_null(node(f, "/dev/gpu0"));
	e.value = S("acme.com/gpu=0,nonsense");
	must_fail(f, BERTH_INVALID_ARGUMENT, "cdi.k8s.io/some-plugin: \"nonsense\"");
}

static void test_yaml_and_order_of_directories(void **state)
{
	struct fixture *f = *state;

	fixture_write(f, "low/x.yaml",
	        "cdiVersion: 0.5.0\nkind: acme.com/net\ndevices:\n- name: a\n  containerEdits:\n"
	        "    env: [WHERE=low]\n- name: b\n  containerEdits: {env: [B=low]}\n");
	fixture_write(f, "high/y.yml",
	        "cdiVersion: \"1.0.0\"\nkind: acme.com/net\ndevices:\n- name: a\n"
	        "  containerEdits:\n    env:\n    - \"WHERE=high\"\n");
	ask(f, "acme.com/net=a");
	must_build(f);
	assert_string_equal(env(f, "WHERE"), "high");
	ask(f, "acme.com/net=b");
	must_build(f);
	assert_string_equal(env(f, "B"), "low");
	/* Twice in one directory: which is meant? */
	fixture_write(f, "high/z.yaml",
	        "cdiVersion: 1.0.0\nkind: acme.com/net\ndevices: [{name: a, containerEdits: "
	        "{}}]\n");
	ask(f, "acme.com/net=a");
	must_fail(f, BERTH_FAILED_PRECONDITION, "high/y.yml and in ");
	ask(f, "acme.com/net=b");
	must_build(f);
	/* A file is read anew; one that is gone is gone. */
	_cleanup_free_ char *z = berth_asprintf("%s/z.yaml", high);
	assert_int_equal(unlink(z), 0);
	ask(f, "acme.com/net=a");
	must_build(f);
}

static void test_names(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {"", "x", "a/b", "a/b=", "=c", "/b=c", "a/=c", "a/b=c ",
	        "-a/b=c", "a/b/c=d", "a/b=-c", "a.b/c=d=e", "1a/b=c", "a/b=\xff"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		ask(f, bad[i]);
		must_fail(f, BERTH_INVALID_ARGUMENT, "CDI_devices");
	}
	ask(f, "acme.com/gpu=none");
	must_fail(f, BERTH_NOT_FOUND, "\"acme.com/gpu=none\" is in no specification of");
	must_fail(f, BERTH_NOT_FOUND, high);
	fixture_write(f, "low/acme.json", whole);
	must_fail(f, BERTH_NOT_FOUND, "acme.com/gpu=none");
	fixture_write(f, "low/broken.json", "{\"cdiVersion\": ");
	must_fail(f, BERTH_NOT_FOUND, "broken.json:1:");
	ask(f, "acme.com/gpu=1");
	must_build(f);
	f->in.cdi_dirs = NULL;
	must_fail(f, BERTH_NOT_FOUND, "cdi_spec_dirs");
}

static void test_files_that_are_none(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *text, *why;
	} bad[] = {
	        {"[]", "not an object"},
	        {"{}", "cdiVersion: it is missing"},
	        {"{\"cdiVersion\": \"2.0.0\", \"kind\": \"a/b\", \"devices\": []}", "neither 0.x"},
	        {"{\"cdiVersion\": \"0.6.0\", \"devices\": []}", "kind: it is missing"},
	        {"{\"cdiVersion\": \"0.6.0\", \"kind\": 1, \"devices\": []}",
	                "kind: it is not text"},
	        {"{\"cdiVersion\": \"0.6.0\", \"kind\": \"a/b\"}", "devices: it is missing"},
	        {"{\"cdiVersion\": \"0.6.0\", \"kind\": \"a/b\", \"devices\": [1]}",
	                "not a list of objects"},
	        {"{\"cdiVersion\": \"0.6.0\", \"kind\": \"a/b\", \"devices\": [], \"more\": 1}",
	                "more: this is not known"},
	        {"{\"cdiVersion\": \"0.6.0\", \"kind\": \"a/b\", \"devices\": [{\"name\": \"x\"}]}",
	                "devices[0].containerEdits: it is missing"},
#define EDITS(e)                                                                          \
	"{\"cdiVersion\": \"0.6.0\", \"kind\": \"a/b\", \"devices\": [{\"name\": \"x\", " \
	"\"containerEdits\": " e "}]}"
	        {EDITS("{\"env\": [\"x\"]}"), "not NAME=VALUE"},
	        {EDITS("{\"env\": [\"=x\"]}"), "not NAME=VALUE"},
	        {EDITS("{\"netDevices\": []}"), "netDevices: this is not known"},
	        {EDITS("{\"deviceNodes\": [{\"path\": \"dev\"}]}"), "path: it is not an absolute"},
	        {EDITS("{\"deviceNodes\": [{}]}"), "deviceNodes[0].path: it is missing"},
	        {EDITS("{\"deviceNodes\": [{\"path\": \"/d\", \"major\": -1}]}"), "not a number"},
	        {EDITS("{\"deviceNodes\": [{\"path\": \"/d\", \"type\": \"x\"}]}"),
	                "b, c, u and p"},
	        {EDITS("{\"deviceNodes\": [{\"path\": \"/d\", \"permissions\": \"x\"}]}"),
	                "r, w and m"},
	        {EDITS("{\"mounts\": [{\"hostPath\": \"/x\"}]}"), "containerPath: it is missing"},
	        {EDITS("{\"mounts\": [{\"hostPath\": \"/x\", \"containerPath\": \"y\"}]}"),
	                "absolute path"},
	        {EDITS("{\"hooks\": [{\"hookName\": \"never\", \"path\": \"/x\"}]}"), "unknown"},
	        {EDITS("{\"hooks\": [{\"hookName\": \"poststop\", \"path\": \"x\"}]}"), "absolute"},
	        {EDITS("{\"additionalGids\": [4294967296]}"), "not a list of numbers"},
	        {EDITS("{\"intelRdt\": {\"x\": 1}}"), "intelRdt.x: this is not known"},
	};

	(void)f;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		_cleanup_(berth_error_freep) struct berth_error *err = NULL;
		assert_null(berth_cdi_parse("f.json", bad[i].text, strlen(bad[i].text), &err));
		if (err->code != BERTH_INVALID_ARGUMENT || !strstr(err->msg, bad[i].why) ||
		        !strstr(err->msg, "f.json"))
			fail_msg("%s (expected %s)", err->msg, bad[i].why);
	}
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	assert_null(berth_cdi_parse("f.yaml", "", 0, &err));
}

static void test_devices_of_the_host(void **state)
{
	struct fixture *f = *state;
	char text[512];

	fixture_write(f, "low/plain", "no device");
	snprintf(text, sizeof(text),
	        EDITS("{\"deviceNodes\": [{\"path\": \"/dev/nowhere-at-all\"}]}"));
	fixture_write(f, "low/a.json", text);
	ask(f, "a/b=x");
	must_fail(f, BERTH_NOT_FOUND, "CDI devices: host device /dev/nowhere-at-all");
	snprintf(text, sizeof(text),
	        EDITS("{\"deviceNodes\": [{\"path\": \"/dev/x\", \"hostPath\": \"%s/plain\"}]}"),
	        low);
	fixture_write(f, "low/a.json", text);
	must_fail(f, BERTH_FAILED_PRECONDITION, "is no device");
	fixture_write(f, "low/a.json",
	        EDITS("{\"deviceNodes\": [{\"path\": \"/dev/x\", \"hostPath\": \"/dev/null\", "
	              "\"type\": \"b\"}]}"));
	must_fail(f, BERTH_FAILED_PRECONDITION, "of type c, not b");
	/* A node takes the place of the request's on the same path, a mount likewise. */
	Runtime__V1__Device dev = RUNTIME__V1__DEVICE__INIT, *devs[] = {&dev};
	Runtime__V1__Mount m = RUNTIME__V1__MOUNT__INIT, *mounts[] = {&m};
	dev.container_path = S("/dev/x");
	dev.host_path = S("/dev/zero");
	dev.permissions = S("r");
	m.container_path = S("/data");
	m.host_path = S("/tmp");
	f->c.devices = devs;
	f->c.n_devices = 1;
	f->c.mounts = mounts;
	f->c.n_mounts = 1;
	fixture_write(f, "low/a.json",
	        EDITS("{\"deviceNodes\": [{\"path\": \"/dev/x\", \"hostPath\": \"/dev/null\"}], "
	              "\"mounts\": [{\"hostPath\": \"/usr\", \"containerPath\": \"/data\"}]}"));
	must_build(f);
	assert_int_equal(number(node(f, "/dev/x"), "minor"), 3);
	assert_string_equal(
	        json_string_value(json_object_get(fixture_mount(f, "/data"), "source")), "/usr");
}

#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_everything_a_device_wants),
	        T(test_annotations_name_devices_too), T(test_yaml_and_order_of_directories),
	        T(test_names), T(test_files_that_are_none), T(test_devices_of_the_host)};
	return cmocka_run_group_tests_name("cdi", tests, NULL, NULL);
}
