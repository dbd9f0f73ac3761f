/* net-cni through the ABI: against scripts that write down how they were called, and against the
 * real bridge, host-local and portmap where they and root are there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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

#include "base/fd.h"
#include "base/mem.h"
#include "testhost.h"

#define PLUGIN BERTH_TEST_PLUGINS "/net-cni/net-cni.so"

static char dir[64];
static struct testhost *h;

/* Notes its call and its configuration; fails where it finds a reason to, else gives its result. */
static const char script[] =
        "#!/bin/sh\n"
        "me=${0##*/}; d=${0%/*}\n"
        "echo \"$CNI_COMMAND $me id=$CNI_CONTAINERID ns=$CNI_NETNS if=$CNI_IFNAME "
        "args=$CNI_ARGS path=$CNI_PATH\" >> $d/calls\n"
        "cat > $d/conf.$CNI_COMMAND.$me\n"
        "if [ -e $d/fail.$CNI_COMMAND.$me ]; then cat $d/fail.$CNI_COMMAND.$me; exit 3; fi\n"
        "if [ $CNI_COMMAND = ADD ]; then cat $d/result.$me; fi\n";

static char *at(const char *name)
{
	return berth_asprintf("%s/%s", dir, name);
}

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *p = at(name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

static void gone(const char *name)
{
	_cleanup_free_ char *p = at(name);
	assert_int_equal(unlink(p), 0);
}

static char *get(const char *name)
{
	_cleanup_free_ char *p = at(name);
	char *text = NULL;
	int r = berth_read_file(AT_FDCWD, p, 1 << 20, &text, NULL);
	return r == -ENOENT ? berth_strdup("") : r == 0 ? text : NULL;
}

static json_t *get_json(const char *name)
{
	_cleanup_free_ char *text = get(name);
	json_t *j = json_loads(text, 0, NULL);
	assert_non_null(j);
	return j;
}

static size_t records(void)
{
	_cleanup_free_ char *p = at("state/attachments");
	DIR *d = opendir(p);
	size_t n = 0;
	struct dirent *e;
	assert_non_null(d);
	while ((e = readdir(d)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static void start_with(const char *more)
{
	_cleanup_free_ char *state = at("state"), *msg = NULL,
	                    *config = berth_asprintf(
	                            "{\"conf_dir\": \"%s/conf/net.d\", \"bin_dirs\": "
	                            "[\"%s/none\", \"%s/bin\"]%s}",
	                            dir, dir, dir, more);
	h = testhost_new(PLUGIN, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

static int setup(void **s)
{
	snprintf(dir, sizeof(dir), "/tmp/berth-cni-XXXXXX");
	assert_non_null(mkdtemp(dir));
	static const char *const dirs[] = {"state", "bin", "conf/net.d"};
	for (size_t i = 0; i < 3; i++) {
		_cleanup_free_ char *p = at(dirs[i]);
		assert_int_equal(berth_mkdir_p(p, 0755), 0);
	}
	put("bin/one", script);
	put("bin/two", script);
	put("bin/result.one", "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"br\"},"
	                      "{\"name\":\"eth0\",\"sandbox\":\"/ns\"}],\"ips\":["
	                      "{\"address\":\"10.1.0.1/16\",\"interface\":0},"
	                      "{\"address\":\"10.1.2.3/16\",\"interface\":1},"
	                      "{\"address\":\"fd00::3/64\",\"interface\":1}]}");
	put("bin/result.two", "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.1.2.3/16\"},"
	                      "{\"address\":\"fd00::3/64\"}],\"dns\":{}}");
	h = NULL;
	return 0;
}

static int teardown(void **s)
{
	h = testhost_free(h);
	return berth_rm_tree(AT_FDCWD, dir);
}

static void two_plugins(const char *version)
{
	_cleanup_free_ char *t = berth_asprintf(
	        "{\"cniVersion\":\"%s\",\"name\":\"net1\",\"plugins\":[{\"type\":\"one\",\"mtu\":9,"
	        "\"capabilities\":{\"dns\":true,\"ips\":false}},{\"type\":\"two\",\"capabilities\":"
	        "{\"portMappings\":true}}]}",
	        version);
	put("conf/net.d/10-x.conflist", t);
}

static const struct berth_network_ops *ops(void)
{
	return testhost_plugin(h)->network;
}

static const struct berth_port ports[] = {
        {8080, 80, 0, "127.0.0.1"}, {0, 81, 0, NULL}, {53, 53, 1, NULL}};
static const struct berth_kv caps[] = {{"dns", "{\"servers\":[\"1.2.3.4\"]}"},
        {"ips", "[\"10.0.0.9/24\"]"}, {"mac", "\"02:00:00:00:00:01\""}};

static struct berth_net_args pod(const char *id)
{
	return (struct berth_net_args){.size = sizeof(struct berth_net_args),
	        .sandbox_id = id,
	        .pod_name = "web-0",
	        .pod_namespace = "default",
	        .pod_uid = "u-1",
	        .netns = "/proc/self/ns/net",
	        .ifname = "eth0",
	        .ports = ports,
	        .n_ports = 3,
	        .caps = caps,
	        .n_caps = 3};
}

static void attach_ok(const char *id)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod(id);
	struct berth_net_result r = {.size = sizeof(r)};
	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
}

static void assert_calls(const char *want)
{
	_cleanup_free_ char *calls = get("bin/calls");
	struct berth_buf got = {0};
	char *save = NULL;

	berth_buf_adds(&got, "");
	for (char *l = strtok_r(calls, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		char *second = strchr(l, ' ');
		berth_buf_addf(&got, "%.*s;", (int)(strchr(second + 1, ' ') - l), l);
	}
	assert_string_equal(got.data, want);
	berth_buf_finish(&got);
}

static void a_chain_is_added_and_deleted(void **s)
{
	two_plugins("1.0.0");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");
	struct berth_net_result r = {.size = sizeof(r)};

	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
	assert_int_equal(r.n_ips, 2);
	assert_string_equal(r.ips[0], "10.1.2.3");
	assert_string_equal(r.ips[1], "fd00::3");
	assert_non_null(strstr(r.result_json, "dns"));

	json_t *c = get_json("bin/conf.ADD.one");
	assert_string_equal(json_string_value(json_object_get(c, "name")), "net1");
	assert_string_equal(json_string_value(json_object_get(c, "cniVersion")), "1.0.0");
	assert_int_equal(json_integer_value(json_object_get(c, "mtu")), 9);
	assert_null(json_object_get(c, "capabilities"));
	assert_null(json_object_get(c, "prevResult"));
	json_t *rc = json_object_get(c, "runtimeConfig");
	assert_int_equal(json_object_size(rc), 1); /* declared and true, nothing else */
	assert_non_null(json_object_get(json_object_get(rc, "dns"), "servers"));
	json_decref(c);
	c = get_json("bin/conf.ADD.two");
	assert_non_null(json_object_get(json_object_get(c, "prevResult"), "interfaces"));
	json_t *pm = json_object_get(json_object_get(c, "runtimeConfig"), "portMappings");
	assert_int_equal(json_array_size(pm), 2); /* one has no host port */
	json_t *p0 = json_array_get(pm, 0), *p1 = json_array_get(pm, 1);
	assert_int_equal(json_integer_value(json_object_get(p0, "hostPort")), 8080);
	assert_int_equal(json_integer_value(json_object_get(p0, "containerPort")), 80);
	assert_string_equal(json_string_value(json_object_get(p0, "protocol")), "tcp");
	assert_string_equal(json_string_value(json_object_get(p0, "hostIP")), "127.0.0.1");
	assert_string_equal(json_string_value(json_object_get(p1, "protocol")), "udp");
	json_decref(c);
	_cleanup_free_ char *calls = get("bin/calls");
	_cleanup_free_ char *want = berth_asprintf(
	        "ADD one id=sb1 ns=/proc/self/ns/net if=eth0 args=IgnoreUnknown=1;"
	        "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=sb1;"
	        "K8S_POD_UID=u-1 path=%s/none:%s/bin\n",
	        dir, dir);
	assert_memory_equal(calls, want, strlen(want));

	/* The configuration goes, the daemon is killed, the namespace goes: DEL knows it all. */
	gone("conf/net.d/10-x.conflist");
	h = testhost_kill(h);
	start_with("");
	op = testop_free(op);
	op = testop_new(h);
	a.netns = NULL;
	a.pod_name = NULL;
	OK(op, ops()->detach(op, testhost_self(h), &a));
	assert_calls("ADD one;ADD two;DEL two;DEL one;");
	c = get_json("bin/conf.DEL.one");
	assert_non_null(json_object_get(json_object_get(c, "prevResult"), "dns"));
	assert_non_null(json_object_get(c, "runtimeConfig"));
	json_decref(c);
	assert_int_equal(records(), 0);
	OK(op, ops()->detach(op, testhost_self(h), &a)); /* again */
	assert_calls("ADD one;ADD two;DEL two;DEL one;");
}

static void a_lost_namespace_is_an_empty_name(void **s)
{
	two_plugins("0.3.1");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");
	struct berth_net_result r = {.size = sizeof(r)};

	a.netns = "/proc/1/no/such/netns";
	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
	gone("bin/calls");
	OK(op, ops()->detach(op, testhost_self(h), &a));
	_cleanup_free_ char *calls = get("bin/calls");
	assert_non_null(strstr(calls, "DEL two id=sb1 ns= if=eth0"));
	json_t *c = get_json("bin/conf.DEL.one"); /* no prevResult for DEL before 0.4.0 */
	assert_null(json_object_get(c, "prevResult"));
	json_decref(c);
}

static void a_failing_add_is_undone_and_told(void **s)
{
	two_plugins("1.0.0");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");
	struct berth_net_result r = {.size = sizeof(r)};

	put("bin/fail.ADD.two", "{\"cniVersion\":\"1.0.0\",\"code\":7,\"msg\":\"bad thing\","
	                        "\"details\":\"in\\ndetail\"}");
	FAILS(op, ops()->attach(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION,
	        "network plugin 'two' failed in ADD (code 7): bad thing: in detail");
	assert_calls("ADD one;ADD two;DEL two;DEL one;");
	assert_int_equal(records(), 0);

	/* What could not be undone is kept, and released by the next try. */
	put("bin/fail.DEL.one", "no json");
	FAILS(op, ops()->attach(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, "bad thing");
	assert_int_equal(records(), 1);
	FAILS(op, ops()->detach(op, testhost_self(h), &a), BERTH_E_UNAVAILABLE,
	        "'one' failed in DEL (exit status 3): no json");
	gone("bin/fail.DEL.one");
	gone("bin/fail.ADD.two");
	gone("bin/calls");
	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
	assert_calls("DEL two;DEL one;ADD one;ADD two;");
	assert_int_equal(records(), 1);
}

static void answers_that_are_none_are_refused(void **s)
{
	two_plugins("1.0.0");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");
	struct berth_net_result r = {.size = sizeof(r)};
	static const struct {
		const char *result, *said;
	} bad[] = {{"", "gave no JSON"}, {"[1]", "no JSON object"}, {"{\"ips\":1}", "not a list"},
	        {"{\"ips\":[1]}", "not an object"}, {"{\"ips\":[{\"address\":5}]}", "not a string"},
	        {"{\"ips\":[{\"address\":\"10.0.0.300/8\"}]}", "neither"},
	        {"{\"ip4\":{\"ip\":\"x\"}}", "neither"}};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		put("bin/result.two", bad[i].result);
		FAILS(op, ops()->attach(op, testhost_self(h), &a, &r), BERTH_E_UNAVAILABLE,
		        bad[i].said);
		assert_int_equal(records(), 0);
	}
	put("bin/result.two", "{\"ip4\":{\"ip\":\"10.9.9.9/8\"},\"ip6\":{\"ip\":\"fd00::9/64\"}}");
	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
	assert_int_equal(r.n_ips, 2);
	assert_string_equal(r.ips[0], "10.9.9.9");
	put("bin/result.two", "{\"cniVersion\":\"1.0.0\"}"); /* no address at all is allowed */
	a.sandbox_id = "sb2";
	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
	assert_int_equal(r.n_ips, 0);
}

static void bad_arguments_are_named(void **s)
{
	two_plugins("1.0.0");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_result r = {.size = sizeof(r)};
	struct berth_net_args a = pod("../x");
	const struct berth_network_ops *o = ops();
	void *self = testhost_self(h);

	FAILS(op, o->attach(op, self, &a, &r), BERTH_E_INVALID, "../x");
	a = pod("sb1");
	a.pod_name = "x;K8S_POD_UID=0";
	FAILS(op, o->attach(op, self, &a, &r), BERTH_E_INVALID, "sb1");
	a = pod("sb1");
	a.netns = NULL;
	FAILS(op, o->attach(op, self, &a, &r), BERTH_E_INVALID, "no network namespace");
	static const struct berth_kv bad[] = {{"dns", "{"}};
	a = pod("sb1");
	a.caps = bad;
	a.n_caps = 1;
	FAILS(op, o->attach(op, self, &a, &r), BERTH_E_INVALID, "'dns'");
	static const struct berth_port odd[] = {{1, 1, 99, NULL}};
	a = pod("sb1");
	a.ports = odd;
	a.n_ports = 1;
	FAILS(op, o->attach(op, self, &a, &r), BERTH_E_INVALID, "protocol 99");
	assert_int_equal(testhost_n_runs(h), 0);
	a = pod("nobody");
	FAILS(op, o->check(op, self, &a), BERTH_E_NOT_FOUND, "nobody");
}

static void check_asks_all_with_the_kept_result(void **s)
{
	two_plugins("0.4.0");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");

	attach_ok("sb1");
	gone("bin/calls");
	OK(op, ops()->check(op, testhost_self(h), &a));
	assert_calls("CHECK one;CHECK two;");
	json_t *c = get_json("bin/conf.CHECK.one");
	assert_non_null(json_object_get(json_object_get(c, "prevResult"), "ips"));
	json_decref(c);
	put("bin/fail.CHECK.two", "{\"code\":100,\"msg\":\"route is gone\"}");
	FAILS(op, ops()->check(op, testhost_self(h), &a), BERTH_E_UNAVAILABLE, "route is gone");
	OK(op, ops()->detach(op, testhost_self(h), &a));
	/* 0.3.1 knows no CHECK. */
	h = testhost_free(h);
	two_plugins("0.3.1");
	start_with("");
	attach_ok("sb1");
	gone("bin/calls");
	OK(op, ops()->check(op, testhost_self(h), &a));
	assert_calls("");
}

static void the_first_valid_file_is_the_network(void **s)
{
	put("conf/net.d/00-broken.conf", "{");
	put("conf/net.d/01-future.conflist",
	        "{\"cniVersion\":\"9.0.0\",\"name\":\"x\",\"plugins\":[{\"type\":\"one\"}]}");
	put("conf/net.d/02-path.conf",
	        "{\"cniVersion\":\"1.0.0\",\"name\":\"x\",\"type\":\"../one\"}");
	put("conf/net.d/03-empty.conflist",
	        "{\"cniVersion\":\"1.0.0\",\"name\":\"x\",\"plugins\":[]}");
	put("conf/net.d/04.txt", "{\"cniVersion\":\"1.0.0\",\"name\":\"txt\",\"type\":\"two\"}");
	put("conf/net.d/05-single.json",
	        "{\"cniVersion\":\"0.3.1\",\"name\":\"single\",\"type\":\"one\"}");
	put("conf/net.d/06-later.conf",
	        "{\"cniVersion\":\"0.3.1\",\"name\":\"later\",\"type\":\"two\"}");
	start_with("");
	attach_ok("sb1");
	assert_calls("ADD one;");
	json_t *c = get_json("bin/conf.ADD.one");
	assert_string_equal(json_string_value(json_object_get(c, "name")), "single");
	assert_string_equal(json_string_value(json_object_get(c, "cniVersion")), "0.3.1");
	json_decref(c);
	h = testhost_free(h);
	start_with(", \"network\": \"later\"");
	attach_ok("sb2");
	assert_calls("ADD one;ADD two;");
	h = testhost_free(h);

	put("conf/net.d/00-new.conflist",
	        "{\"cniVersion\":\"9.0.0\",\"cniVersions\":[\"0.4.0\",\"1.1.0\",\"9.0.0\"],"
	        "\"name\":\"n\",\"plugins\":[{\"type\":\"one\"}]}");
	start_with("");
	attach_ok("sb3");
	c = get_json("bin/conf.ADD.one");
	assert_string_equal(json_string_value(json_object_get(c, "cniVersion")), "1.1.0");
	json_decref(c);
}

static void plugins_come_from_a_directory_of_the_networks_name(void **s)
{
	_cleanup_free_ char *own = at("conf/net.d/net1");

	assert_int_equal(mkdir(own, 0755), 0);
	put("conf/net.d/10.conflist", "{\"cniVersion\":\"1.1.0\",\"name\":\"net1\"}");
	put("conf/net.d/net1/20-b.conf", "{\"type\":\"two\"}");
	put("conf/net.d/net1/10-a.conf", "{\"type\":\"one\"}");
	put("conf/net.d/net1/30-c.txt", "{\"type\":\"three\"}");
	start_with("");
	attach_ok("sb1");
	assert_calls("ADD one;ADD two;");
	gone("bin/calls");
	put("conf/net.d/net1/20-b.conf", "{");
	while (testhost_dispatch(h, 50) > 0)
		;
	_cleanup_op_ struct berth_op *op = testop_new(h);
	FAILS(op, ops()->status(op, testhost_self(h)), BERTH_E_UNAVAILABLE, "net1/20-b.conf");
	put("conf/net.d/10.conflist", "{\"cniVersion\":\"1.1.0\",\"name\":\"net1\","
	                              "\"loadOnlyInlinedPlugins\":true,"
	                              "\"plugins\":[{\"type\":\"one\"}]}");
	while (testhost_dispatch(h, 50) > 0)
		;
	attach_ok("sb2");
	assert_calls("ADD one;");
}

static berth_status status(char **ret_msg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	berth_status st = ops()->status(op, testhost_self(h));
	*ret_msg = berth_strdup(testop_error(op));
	return st;
}

static void assert_status(berth_status want, const char *part)
{
	_cleanup_free_ char *msg = NULL;
	berth_status st = status(&msg);
	if (st != want || !strstr(msg, part))
		fail_msg("%d %s", (int)st, msg);
}

/* Until nothing more happens; returns the events that came. */
static size_t settle(void)
{
	size_t before = testhost_n_events(h);
	while (testhost_dispatch(h, 50) > 0)
		;
	return testhost_n_events(h) - before;
}

static void status_follows_the_directory(void **s)
{
	_cleanup_free_ char *conf = at("conf"), *net_d = at("conf/net.d");

	assert_int_equal(berth_rm_tree(AT_FDCWD, conf), 0);
	start_with("");
	assert_status(BERTH_E_UNAVAILABLE, "cni config uninitialized");
	assert_status(BERTH_E_UNAVAILABLE, net_d);
	assert_int_equal(settle(), 0);
	/* The directory comes, in two steps, and then a file. */
	assert_int_equal(mkdir(conf, 0755), 0);
	settle();
	assert_int_equal(mkdir(net_d, 0755), 0);
	settle();
	put("conf/net.d/10-x.conf", "{\"cniVersion\":\"1.0.0\"");
	assert_true(settle() > 0);
	assert_status(BERTH_E_UNAVAILABLE, "10-x.conf");
	two_plugins("1.0.0");
	assert_true(settle() > 0);
	assert_int_equal(testhost_event(h, testhost_n_events(h) - 1)->type, BERTH_EV_HEALTH);
	assert_status(BERTH_OK, "");
	two_plugins("1.0.0"); /* the same again is no change */
	assert_int_equal(settle(), 0);
	gone("bin/two");
	assert_true(settle() > 0);
	assert_status(BERTH_E_PRECONDITION, "plugin 'two' not found in");
	put("bin/two", script);
	assert_true(settle() > 0);
	assert_status(BERTH_OK, "");
	gone("conf/net.d/10-x.conflist");
	assert_true(settle() > 0);
	assert_status(BERTH_E_UNAVAILABLE, "cni config uninitialized");
	/* The directory is replaced by another. */
	assert_int_equal(berth_rm_tree(AT_FDCWD, conf), 0);
	settle();
	assert_int_equal(berth_mkdir_p(net_d, 0755), 0);
	two_plugins("1.1.0");
	assert_true(settle() > 0);
	assert_status(BERTH_OK, "");
	assert_calls("STATUS one;STATUS two;");
	put("bin/fail.STATUS.two", "{\"code\":50,\"msg\":\"no uplink\"}");
	assert_status(BERTH_E_UNAVAILABLE, "no uplink");
}

static void gc_releases_what_is_not_valid(void **s)
{
	two_plugins("1.1.0");
	start_with("");
	attach_ok("sb1");
	attach_ok("sb2");
	attach_ok("sb3");
	/* A pod that came after the list of valid ones was made is spared. */
	_cleanup_op_ struct berth_op *op = testop_new(h);
	const char *valid[] = {"sb2"};
	struct berth_net_gc_args gc = {.size = sizeof(gc), .n_valid = 1, .valid = valid};
	OK(op, ops()->gc(op, testhost_self(h), &gc));
	assert_int_equal(records(), 3);
	h = testhost_kill(h);
	put("state/attachments/torn@eth0.json", "{");
	start_with("");
	op = testop_free(op);
	op = testop_new(h);
	gone("bin/calls");
	OK(op, ops()->gc(op, testhost_self(h), &gc));
	assert_int_equal(records(), 2); /* sb2, and the torn one, which is left alone */
	assert_non_null(strstr(testhost_logged(h), "torn@eth0.json"));
	_cleanup_free_ char *calls = get("bin/calls");
	assert_non_null(strstr(calls, "DEL one id=sb1"));
	assert_non_null(strstr(calls, "DEL one id=sb3"));
	assert_null(strstr(calls, "id=sb2"));
	assert_non_null(strstr(calls, "GC two id= ns="));
	json_t *c = get_json("bin/conf.GC.one"),
	       *v = json_object_get(c, "cni.dev/valid-attachments");
	assert_int_equal(json_array_size(v), 1);
	assert_string_equal(
	        json_string_value(json_object_get(json_array_get(v, 0), "containerID")), "sb2");
	assert_string_equal(
	        json_string_value(json_object_get(json_array_get(v, 0), "ifname")), "eth0");
	json_decref(c);
}

static void a_cancelled_attach_leaves_its_intent(void **s)
{
	two_plugins("1.0.0");
	put("bin/one", "#!/bin/sh\nexec sleep 30\n");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");
	struct berth_net_result r = {.size = sizeof(r)};
	testop_set_deadline_ms(op, 100);
	assert_int_equal(ops()->attach(op, testhost_self(h), &a, &r), BERTH_E_CANCELLED);
	assert_int_equal(records(), 1);
	put("bin/one", script);
	op = testop_free(op);
	op = testop_new(h);
	OK(op, ops()->detach(op, testhost_self(h), &a));
	assert_int_equal(records(), 0);
}

static int have_real_cni(void)
{
	return geteuid() == 0 && access("/usr/lib/cni/bridge", X_OK) == 0 &&
	       system("ip netns add berth-cni-probe 2>/dev/null && ip netns del berth-cni-probe") ==
	               0;
}

/* (disableCheck: portmap 1.1.1 looks for the rules of one family in the other's.) */
static void the_real_bridge_attaches_a_namespace(void **s)
{
	if (!have_real_cni())
		skip();
	_cleanup_free_ char *conf = berth_asprintf(
	        "{\"cniVersion\":\"1.0.0\",\"name\":\"berth-test\",\"disableCheck\":true,"
	        "\"plugins\":[{\"type\":"
	        "\"bridge\","
	        "\"bridge\":\"bt%d\",\"isGateway\":true,\"ipam\":{\"type\":\"host-local\","
	        "\"dataDir\":\"%s/ipam\",\"ranges\":[[{\"subnet\":\"10.234.56.0/28\"}],"
	        "[{\"subnet\":\"fd00:234:56::/64\"}]]}},{\"type\":\"portmap\",\"capabilities\":"
	        "{\"portMappings\":true}}]}",
	        (int)getpid(), dir);
	_cleanup_free_ char
	        *state = at("state"),
	        *config = berth_asprintf(
	                "{\"conf_dir\":\"%s/conf/net.d\",\"bin_dirs\":[\"/usr/lib/cni\"]}", dir),
	        *ns = berth_asprintf("berth-cni-%d", (int)getpid()), *msg = NULL;
	_cleanup_free_ char *add = berth_asprintf("ip netns add %s", ns),
	                    *del = berth_asprintf("ip netns del %s", ns),
	                    *path = berth_asprintf("/var/run/netns/%s", ns),
	                    *show = berth_asprintf(
	                            "ip -n %s addr show eth0 | grep -q 10.234.56.", ns);
	put("conf/net.d/10.conflist", conf);
	h = testhost_new(PLUGIN, state, NULL, config);
	assert_int_equal(testhost_start(h, &msg), BERTH_OK);
	assert_status(BERTH_OK, "");
	assert_int_equal(system(add), 0);

	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sbreal");
	static const struct berth_port port[] = {{28080, 80, 0, NULL}};
	a.netns = path;
	a.ports = port;
	a.n_ports = 1;
	a.n_caps = 0;
	struct berth_net_result r = {.size = sizeof(r)};
	berth_status st = ops()->attach(op, testhost_self(h), &a, &r);
	int shown = st == BERTH_OK ? system(show) : -1;
	berth_status check = st == BERTH_OK ? ops()->check(op, testhost_self(h), &a) : st;
	/* Whatever came of it, nothing stays. */
	int gone_ns = system(del);
	_cleanup_op_ struct berth_op *op2 = testop_new(h);
	berth_status dst = ops()->detach(op2, testhost_self(h), &a);
	_cleanup_free_ char *ipam = berth_asprintf("ls %s/ipam/berth-test | grep -q ^10.234", dir);
	int leased = system(ipam);
	_cleanup_free_ char *unbridge =
	        berth_asprintf("ip link del bt%d 2>/dev/null", (int)getpid());
	(void)!system(unbridge);
	if (st != BERTH_OK || check != BERTH_OK)
		fail_msg("%s", testop_error(op));
	if (dst != BERTH_OK)
		fail_msg("%s", testop_error(op2));
	assert_int_equal(shown, 0);
	assert_int_equal(gone_ns, 0);
	assert_int_equal(r.n_ips, 2);
	assert_non_null(strstr(r.ips[0], "10.234.56."));
	assert_non_null(strstr(r.ips[1], "fd00:234:56:"));
	assert_int_not_equal(leased, 0); /* the address was given back */
	assert_int_equal(records(), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(a_chain_is_added_and_deleted),
	        T(a_lost_namespace_is_an_empty_name),
	        T(a_failing_add_is_undone_and_told),
	        T(answers_that_are_none_are_refused),
	        T(bad_arguments_are_named),
	        T(check_asks_all_with_the_kept_result),
	        T(the_first_valid_file_is_the_network),
	        T(plugins_come_from_a_directory_of_the_networks_name),
	        T(status_follows_the_directory),
	        T(gc_releases_what_is_not_valid),
	        T(a_cancelled_attach_leaves_its_intent),
	        T(the_real_bridge_attaches_a_namespace),
	};
	return cmocka_run_group_tests_name("net-cni", tests, NULL, NULL);
}
