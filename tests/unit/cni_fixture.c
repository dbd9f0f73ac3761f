#include "cni_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

char dir[64];
struct testhost *h;

/* Notes its call and its configuration; fails where it finds a reason to, else gives its result. */
const char script[] =
        "#!/bin/sh\n"
        "me=${0##*/}; d=${0%/*}\n"
        "echo \"$CNI_COMMAND $me id=$CNI_CONTAINERID ns=$CNI_NETNS if=$CNI_IFNAME "
        "args=$CNI_ARGS path=$CNI_PATH\" >> $d/calls\n"
        "cat > $d/conf.$CNI_COMMAND.$me\n"
        "if [ -e $d/fail.$CNI_COMMAND.$me ]; then cat $d/fail.$CNI_COMMAND.$me; exit 3; fi\n"
        "if [ $CNI_COMMAND = ADD ]; then cat $d/result.$me; fi\n";

char *at(const char *name)
{
	return berth_asprintf("%s/%s", dir, name);
}

void put(const char *name, const char *text)
{
	_cleanup_free_ char *p = at(name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

void gone(const char *name)
{
	_cleanup_free_ char *p = at(name);
	assert_int_equal(unlink(p), 0);
}

char *get(const char *name)
{
	_cleanup_free_ char *p = at(name);
	char *text = NULL;
	int r = berth_read_file(AT_FDCWD, p, 1 << 20, &text, NULL);
	return r == -ENOENT ? berth_strdup("") : r == 0 ? text : NULL;
}

json_t *get_json(const char *name)
{
	_cleanup_free_ char *text = get(name);
	json_t *j = json_loads(text, 0, NULL);
	assert_non_null(j);
	return j;
}

size_t records(void)
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

void start_with(const char *more)
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

int setup(void **s)
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

int teardown(void **s)
{
	h = testhost_free(h);
	return berth_rm_tree(AT_FDCWD, dir);
}

void two_plugins(const char *version)
{
	_cleanup_free_ char *t = berth_asprintf(
	        "{\"cniVersion\":\"%s\",\"name\":\"net1\",\"plugins\":[{\"type\":\"one\",\"mtu\":9,"
	        "\"capabilities\":{\"dns\":true,\"ips\":false}},{\"type\":\"two\",\"capabilities\":"
	        "{\"portMappings\":true}}]}",
	        version);
	put("conf/net.d/10-x.conflist", t);
}

const struct berth_network_ops *ops(void)
{
	return testhost_plugin(h)->network;
}

static const struct berth_port ports[] = {{8080, 80, IPPROTO_TCP, "127.0.0.1"},
        {0, 81, IPPROTO_TCP, NULL}, {53, 53, IPPROTO_UDP, NULL}};
static const struct berth_kv caps[] = {{"dns", "{\"servers\":[\"1.2.3.4\"]}"},
        {"ips", "[\"10.0.0.9/24\"]"}, {"mac", "\"02:00:00:00:00:01\""}};

struct berth_net_args pod(const char *id)
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

void attach_ok(const char *id)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_net_args a = pod(id);
	struct berth_net_result r = {.size = sizeof(r)};
	OK(op, ops()->attach(op, testhost_self(h), &a, &r));
}

void assert_calls(const char *want)
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

static berth_status status(char **ret_msg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	berth_status st = ops()->status(op, testhost_self(h));
	*ret_msg = berth_strdup(testop_error(op));
	return st;
}

void assert_status(berth_status want, const char *part)
{
	_cleanup_free_ char *msg = NULL;
	berth_status st = status(&msg);
	if (st != want || !strstr(msg, part))
		fail_msg("%d %s", (int)st, msg);
}
