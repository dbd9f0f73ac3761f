/* net-cni through the ABI: which file is the network, and what a change of the directory does. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "cni_fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(the_first_valid_file_is_the_network),
	        T(plugins_come_from_a_directory_of_the_networks_name),
	        T(status_follows_the_directory),
	};
	return cmocka_run_group_tests_name("net-cni-conf", tests, NULL, NULL);
}
