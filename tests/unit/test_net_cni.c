/* net-cni through the ABI: against scripts that write down how they were called, and against the
 * real bridge, host-local and portmap where they and root are there. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cni_fixture.h"

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

struct attaching {
	struct berth_op *op;
	berth_status st;
};

static void *attach_slowly(void *arg)
{
	struct attaching *t = arg;
	struct berth_net_args a = pod("sb1");
	struct berth_net_result r = {.size = sizeof(r)};

	t->st = ops()->attach(t->op, testhost_self(h), &a, &r);
	return NULL;
}

static void plugins_collect_while_nothing_is_attached(void **s)
{
	static const struct berth_net_gc_args none = {.size = sizeof(none)};
	struct attaching t = {0};
	pthread_t thread;

	two_plugins("1.1.0");
	put("bin/one", "#!/bin/sh\n"
	               "[ $CNI_COMMAND != ADD ] || { echo > ${0%/*}/adds; sleep 2; }\n"
	               "cat > ${0%/*}/conf.$CNI_COMMAND.one\n"
	               "[ $CNI_COMMAND != ADD ] || cat ${0%/*}/result.one\n");
	start_with("");
	t.op = testop_new(h);
	assert_int_equal(pthread_create(&thread, NULL, attach_slowly, &t), 0);
	for (_cleanup_free_ char *begun = at("bin/adds"); access(begun, F_OK) < 0;)
		usleep(1000);
	_cleanup_op_ struct berth_op *op = testop_new(h);
	FAILS(op, ops()->gc(op, testhost_self(h), &none), BERTH_E_UNAVAILABLE, "not collected");
	pthread_join(thread, NULL);
	OK(t.op, t.st);
	testop_free(t.op);
	OK(op, ops()->gc(op, testhost_self(h), &none));
	json_t *c = get_json("bin/conf.GC.one");
	assert_int_equal(json_array_size(json_object_get(c, "cni.dev/valid-attachments")), 1);
	json_decref(c);
}

static void gc_begins_with_what_did_not_fail(void **s)
{
	static const struct berth_net_gc_args none = {.size = sizeof(none)};

	two_plugins("1.0.0");
	start_with("");
	attach_ok("sb1");
	attach_ok("sb2");
	attach_ok("sb3");
	h = testhost_kill(h);
	/* Whose turn is first hangs. */
	put("bin/two", "#!/bin/sh\n"
	               "d=${0%/*}\n"
	               "[ -e $d/hangs ] || echo $CNI_CONTAINERID > $d/hangs\n"
	               "[ $(cat $d/hangs) != $CNI_CONTAINERID ] || exec sleep 30\n");
	start_with("");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	testop_set_deadline_ms(op, 500);
	assert_int_not_equal(ops()->gc(op, testhost_self(h), &none), BERTH_OK);
	assert_int_equal(records(), 3);
	op = testop_free(op);
	op = testop_new(h);
	testop_set_deadline_ms(op, 5000);
	assert_int_not_equal(ops()->gc(op, testhost_self(h), &none), BERTH_OK);
	assert_int_equal(records(), 1);
	put("bin/two", script);
	op = testop_free(op);
	op = testop_new(h);
	OK(op, ops()->gc(op, testhost_self(h), &none));
	assert_int_equal(records(), 0);
}

static void what_a_plugin_does_not_know_is_released(void **s)
{
	two_plugins("1.0.0");
	start_with("");
	attach_ok("sb1");
	gone("bin/calls");
	put("bin/fail.DEL.two", "{\"code\":3,\"msg\":\"no such container\"}");
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod("sb1");
	OK(op, ops()->detach(op, testhost_self(h), &a));
	assert_calls("DEL two;DEL one;");
	assert_int_equal(records(), 0);
	/* The others' failures count. */
	attach_ok("sb1");
	put("bin/fail.DEL.one", "{\"code\":11,\"msg\":\"not now\"}");
	FAILS(op, ops()->detach(op, testhost_self(h), &a), BERTH_E_UNAVAILABLE, "not now");
	assert_int_equal(records(), 1);
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
	static const struct berth_port port[] = {{28080, 80, IPPROTO_TCP, NULL}};
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(a_chain_is_added_and_deleted),
	        T(a_lost_namespace_is_an_empty_name),
	        T(a_failing_add_is_undone_and_told),
	        T(answers_that_are_none_are_refused),
	        T(bad_arguments_are_named),
	        T(check_asks_all_with_the_kept_result),
	        T(gc_releases_what_is_not_valid),
	        T(plugins_collect_while_nothing_is_attached),
	        T(gc_begins_with_what_did_not_fail),
	        T(what_a_plugin_does_not_know_is_released),
	        T(a_cancelled_attach_leaves_its_intent),
	        T(the_real_bridge_attaches_a_namespace),
	};
	return cmocka_run_group_tests_name("net-cni", tests, NULL, NULL);
}
