/* core/spec: a pod's files, port mappings, sysctls; checks of requests. */
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
#include "spec/podfiles.h"
#include "spec/validate.h"
#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))
#define POD_ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

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

static char *read_file(struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", f->dir, name);
	char *text = NULL;
	assert_int_equal(berth_read_file(-1, path, 1 << 20, &text, NULL), 0);
	return text;
}

static void test_hostname(void **state)
{
	struct fixture *f = *state;
	char node[65] = "";

	assert_int_equal(gethostname(node, 64), 0);
	_cleanup_free_ char *on_host = berth_pod_hostname(&f->pod, POD_ID);
	assert_string_equal(on_host, node);
	f->pod_ns.network = RUNTIME__V1__NAMESPACE_MODE__POD;
	_cleanup_free_ char *own = berth_pod_hostname(&f->pod, POD_ID);
	assert_string_equal(own, "0123456789ab");
	f->pod.hostname = S("web-1");
	_cleanup_free_ char *named = berth_pod_hostname(&f->pod, POD_ID);
	assert_string_equal(named, "web-1");
}

static void write_files(struct fixture *f, const char *const *ips, size_t n)
{
	if (berth_pod_files_write(f->dir, &f->pod, POD_ID, "web-1", ips, n, &f->err) < 0)
		fail_msg("%s", f->err->msg);
}

static void test_files(void **state)
{
	struct fixture *f = *state;
	const char *const ips[] = {"10.1.2.3", "fd00::3"};
	char *servers[] = {S("10.0.0.10"), S("fd00::53")};
	char *searches[] = {S("a.svc.cluster.local"), S("cluster.local")};
	char *options[] = {S("ndots:5"), S("edns0")};
	Runtime__V1__DNSConfig dns = RUNTIME__V1__DNSCONFIG__INIT;
	struct stat before, after;

	f->pod_ns.network = RUNTIME__V1__NAMESPACE_MODE__POD;
	dns.servers = servers;
	dns.searches = searches;
	dns.options = options;
	dns.n_servers = dns.n_searches = dns.n_options = 2;
	f->pod.dns_config = &dns;
	write_files(f, NULL, 0);
	_cleanup_free_ char *resolv = read_file(f, "resolv.conf");
	assert_string_equal(resolv, "nameserver 10.0.0.10\nnameserver fd00::53\n"
	                            "search a.svc.cluster.local cluster.local\n"
	                            "options ndots:5 edns0\n");
	_cleanup_free_ char *hostname = read_file(f, "hostname");
	assert_string_equal(hostname, "web-1\n");
	_cleanup_free_ char *hosts = read_file(f, "hosts");
	assert_non_null(strstr(hosts, "127.0.0.1\tlocalhost\n"));
	assert_null(strstr(hosts, "web-1"));

	/* The same files again: containers have them mounted. */
	_cleanup_free_ char *path = berth_asprintf("%s/hosts", f->dir);
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(before.st_mode & 07777, 0644);
	write_files(f, ips, 2);
	assert_int_equal(stat(path, &after), 0);
	assert_true(before.st_ino == after.st_ino);
	_cleanup_free_ char *again = read_file(f, "hosts");
	assert_non_null(strstr(again, "10.1.2.3\tweb-1\nfd00::3\tweb-1\n"));

	/* Host network: the host's own. */
	f->pod_ns.network = RUNTIME__V1__NAMESPACE_MODE__NODE;
	f->pod.dns_config = NULL;
	write_files(f, ips, 2);
	static const char *const names[] = {"hosts", "resolv.conf"};
	for (size_t i = 0; i < 2; i++) {
		_cleanup_free_ char *host = berth_asprintf("/etc/%s", names[i]);
		_cleanup_free_ char *want = NULL, *have = read_file(f, names[i]);
		if (berth_read_file(-1, host, 1 << 20, &want, NULL) < 0)
			want = berth_strdup("");
		assert_string_equal(have, want);
	}
	_cleanup_free_ char *absent = berth_asprintf("%s/absent/dir", f->dir);
	assert_int_equal(
	        berth_pod_files_write(absent, &f->pod, POD_ID, "web-1", NULL, 0, &f->err), -1);
	assert_int_equal(f->err->code, BERTH_NOT_FOUND);
	assert_non_null(strstr(f->err->msg, POD_ID));
	assert_non_null(strstr(f->err->msg, absent));
}

static void test_ports(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__PortMapping a, b, c, *list[] = {&a, &b, &c};
	struct berth_port_mapping *m;
	size_t n;

	runtime__v1__port_mapping__init(&a);
	runtime__v1__port_mapping__init(&b);
	runtime__v1__port_mapping__init(&c);
	a.container_port = 80;
	b.container_port = 53;
	b.host_port = 5353;
	b.protocol = RUNTIME__V1__PROTOCOL__UDP;
	b.host_ip = S("::1");
	c.container_port = 80;
	c.host_port = 8080;
	f->pod.port_mappings = list;
	f->pod.n_port_mappings = 3;
	assert_int_equal(berth_pod_port_mappings(&f->pod, &m, &n, &f->err), 0);
	json_t *have = berth_port_mappings_json(m, n);
	json_t *want = json_pack("[{s:i,s:i,s:s,s:s},{s:i,s:i,s:s}]", "hostPort", 5353,
	        "containerPort", 53, "protocol", "udp", "hostIP", "::1", "hostPort", 8080,
	        "containerPort", 80, "protocol", "tcp");
	assert_true(json_equal(have, want));
	json_decref(have);
	json_decref(want);
	berth_port_mappings_free(m, n);
	c.host_port = 70000;
	assert_int_equal(berth_pod_port_mappings(&f->pod, &m, &n, &f->err), -1);
	assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
}

static const char *sysctl_path(struct fixture *f, const char *name, int *ns)
{
	static char path[256];
	Runtime__V1__LinuxPodSandboxConfig__SysctlsEntry e, *list[] = {&e};
	struct berth_sysctl *s;
	size_t n;

	runtime__v1__linux_pod_sandbox_config__sysctls_entry__init(&e);
	e.key = S(name);
	e.value = S("1");
	f->pod_linux.sysctls = list;
	f->pod_linux.n_sysctls = 1;
	f->err = berth_error_free(f->err);
	int r = berth_pod_sysctls(&f->pod, &s, &n, &f->err);
	f->pod_linux.n_sysctls = 0;
	if (r < 0) {
		assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
		return NULL;
	}
	assert_int_equal(n, 1);
	assert_string_equal(s[0].value, "1");
	snprintf(path, sizeof(path), "%s", s[0].path);
	*ns = (int)s[0].ns;
	berth_sysctls_free(s, n);
	return path;
}

static void test_sysctls(void **state)
{
	struct fixture *f = *state;
	int ns;

	f->pod_ns.network = f->pod_ns.ipc = RUNTIME__V1__NAMESPACE_MODE__POD;
	assert_string_equal(sysctl_path(f, "net.ipv4.ip_forward", &ns), "net/ipv4/ip_forward");
	assert_int_equal(ns, BERTH_SYSCTL_NET);
	assert_string_equal(sysctl_path(f, "net/ipv4/conf/eth0.1/forwarding", &ns),
	        "net/ipv4/conf/eth0.1/forwarding");
	assert_string_equal(sysctl_path(f, "net.ipv4.conf.eth0/1.forwarding", &ns),
	        "net/ipv4/conf/eth0.1/forwarding");
	assert_string_equal(
	        sysctl_path(f, "kernel.shm_rmid_forced", &ns), "kernel/shm_rmid_forced");
	assert_int_equal(ns, BERTH_SYSCTL_IPC);
	assert_string_equal(sysctl_path(f, "fs.mqueue.msg_max", &ns), "fs/mqueue/msg_max");
	assert_string_equal(sysctl_path(f, "kernel.domainname", &ns), "kernel/domainname");
	assert_int_equal(ns, BERTH_SYSCTL_UTS);
	static const char *const bad[] = {"vm.swappiness", "kernel.panic", "net", "", "net..x",
	        "net/../kernel/panic", "net.ipv4.", "/net/ipv4/x", "net.a b", "kernel.hostname",
	        "kernel.semaphore", "net./././kernel.panic"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		if (sysctl_path(f, bad[i], &ns))
			fail_msg("accepted: %s", bad[i]);
	f->pod_ns.network = RUNTIME__V1__NAMESPACE_MODE__NODE;
	assert_null(sysctl_path(f, "net.ipv4.ip_forward", &ns));
	assert_non_null(strstr(f->err->msg, "network namespace"));
	assert_non_null(sysctl_path(f, "kernel.sem", &ns));
	f->pod_ns.ipc = RUNTIME__V1__NAMESPACE_MODE__NODE;
	assert_null(sysctl_path(f, "kernel.sem", &ns));
}

static void pod_ok(struct fixture *f, enum berth_cgroup_driver driver)
{
	f->err = berth_error_free(f->err);
	if (berth_validate_pod(&f->pod, driver, &f->err) < 0)
		fail_msg("%s", f->err->msg);
}

static void pod_bad_code(struct fixture *f, enum berth_code code, const char *field)
{
	f->err = berth_error_free(f->err);
	if (berth_validate_pod(&f->pod, BERTH_CGROUPFS, &f->err) == 0)
		fail_msg("accepted, expected: %s", field);
	if (f->err->code != code || !strstr(f->err->msg, field))
		fail_msg("%s: %s (expected %s)", berth_code_name(f->err->code), f->err->msg, field);
}

static void pod_bad(struct fixture *f, const char *field)
{
	pod_bad_code(f, BERTH_INVALID_ARGUMENT, field);
}

static void test_validate_pod(void **state)
{
	struct fixture *f = *state;
	char longer[300];
	Runtime__V1__Int64Value id = RUNTIME__V1__INT64_VALUE__INIT;

	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	pod_ok(f, BERTH_CGROUPFS);
	f->pod.metadata = NULL;
	pod_bad(f, "metadata: is missing");
	f->pod.metadata = &f->pod_meta;
	f->pod_meta.name = S("");
	pod_bad(f, "metadata.name: is empty");
	f->pod_meta.name = S("a/b");
	pod_bad(f, "metadata.name");
	f->pod_meta.name = longer;
	pod_bad(f, "metadata.name: is too long");
	f->pod_meta.name = S("pod");
	f->pod_meta.namespace_ = f->pod_meta.uid = S("");
	pod_ok(f, BERTH_CGROUPFS);
	f->pod_meta.uid = S("..");
	pod_bad(f, "metadata.uid");
	f->pod_meta.uid = S("u");

	f->pod.hostname = S("bad name");
	pod_bad(f, "hostname");
	f->pod.hostname = longer;
	pod_bad(f, "hostname");
	f->pod.hostname = S("");
	f->pod.log_directory = S("var/log");
	pod_bad(f, "log_directory: is not an absolute path");
	f->pod.log_directory = S("/var/log/../..");
	pod_bad(f, "log_directory");
	f->pod.log_directory = S("/var/log/pods/..x");
	pod_ok(f, BERTH_CGROUPFS);

	Runtime__V1__DNSConfig dns = RUNTIME__V1__DNSCONFIG__INIT;
	char *words[100];
	for (size_t i = 0; i < 100; i++)
		words[i] = S("10.0.0.1");
	f->pod.dns_config = &dns;
	dns.servers = dns.searches = dns.options = words;
	dns.n_servers = 3;
	pod_ok(f, BERTH_CGROUPFS);
	dns.n_servers = 100;
	pod_bad(f, "dns_config.servers: more than 32");
	dns.n_servers = 1;
	words[0] = S("fe80::1%eth0");
	pod_ok(f, BERTH_CGROUPFS);
	words[0] = S("example.com");
	pod_bad(f, "dns_config.servers[0]");
	words[0] = S("1.1.1.1\nnameserver 6.6.6.6");
	pod_bad(f, "dns_config.servers");
	dns.n_servers = 0;
	dns.n_searches = 1;
	words[0] = S("two words");
	pod_bad(f, "dns_config.searches");
	dns.n_searches = 0;
	dns.n_options = 1;
	words[0] = S("");
	pod_bad(f, "dns_config.options");
	f->pod.dns_config = NULL;

	f->pod_linux.cgroup_parent = S("kubepods");
	pod_bad(f, "linux.cgroup_parent");
	f->pod_linux.cgroup_parent = S("/kubepods/../system");
	pod_bad(f, "linux.cgroup_parent");
	f->pod_linux.cgroup_parent = S("/test.slice");
	pod_ok(f, BERTH_CGROUPFS);
	pod_ok(f, BERTH_CGROUP_SYSTEMD);
	f->pod_linux.cgroup_parent = S("/kubepods/burstable");
	assert_int_equal(berth_validate_pod(&f->pod, BERTH_CGROUP_SYSTEMD, &f->err), -1);
	f->pod_linux.cgroup_parent = S("");

	id.value = 5;
	f->pod_sec.run_as_group = &id;
	pod_bad(f, "run_as_group");
	f->pod_sec.run_as_user = &id;
	pod_ok(f, BERTH_CGROUPFS);
	id.value = -2;
	pod_bad(f, "run_as_user");
	f->pod_sec.run_as_user = f->pod_sec.run_as_group = NULL;

	f->pod_ns.pid = RUNTIME__V1__NAMESPACE_MODE__TARGET;
	pod_bad(f, "namespace_options.pid");
	f->pod_ns.pid = 0;
	f->pod_ns.network = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	pod_bad(f, "namespace_options.network");
	f->pod_ns.network = 0;
	Runtime__V1__UserNamespace u = RUNTIME__V1__USER_NAMESPACE__INIT;
	Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps[] = {&map};
	f->pod_ns.userns_options = &u;
	pod_ok(f, BERTH_CGROUPFS);
	f->pod_ns.ipc = RUNTIME__V1__NAMESPACE_MODE__POD;
	u.n_uids = 1;
	u.uids = maps;
	pod_bad(f, "userns_options.uids: the range is empty");
	map.length = 65536;
	pod_bad(f, "userns_options.gids: there must be exactly one");
	u.n_gids = 1;
	u.gids = maps;
	pod_ok(f, BERTH_CGROUPFS);
	map.host_id = 0xffff0001;
	pod_bad(f, "ends beyond the last id");
	map.host_id = 0xffff0000 - 1;
	pod_ok(f, BERTH_CGROUPFS);
	map.container_id = 1;
	pod_bad(f, "container id 0");
	map.container_id = 0;
	f->pod_ns.pid = RUNTIME__V1__NAMESPACE_MODE__NODE;
	pod_bad(f, "the node's processes");
	f->pod_ns.pid = RUNTIME__V1__NAMESPACE_MODE__POD;
	u.mode = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	pod_bad(f, "neither POD nor NODE");
	u.mode = RUNTIME__V1__NAMESPACE_MODE__NODE;
	pod_bad(f, "userns_options");
	f->pod_ns.userns_options = NULL;

	Runtime__V1__PortMapping port, *ports[] = {&port};
	runtime__v1__port_mapping__init(&port);
	f->pod.port_mappings = ports;
	f->pod.n_port_mappings = 1;
	port.host_port = 80;
	pod_bad(f, "port_mappings[0]");
	port.container_port = 80;
	port.host_ip = S("localhost");
	pod_bad(f, "port_mappings[0]: host_ip");
	port.host_ip = S("::1");
	pod_ok(f, BERTH_CGROUPFS);

	Runtime__V1__PodSandboxConfig__LabelsEntry e, *labels[] = {&e};
	runtime__v1__pod_sandbox_config__labels_entry__init(&e);
	f->pod.labels = labels;
	f->pod.n_labels = 1;
	pod_bad(f, "labels: has an empty key");
	e.key = S("k");
	e.value = S("\xff");
	pod_bad(f, "labels: are not UTF-8");
	char *big = berth_zalloc(2 << 20);
	memset(big, 'x', (2 << 20) - 1);
	e.value = big;
	pod_bad(f, "labels: are too many or too large");
	free(big);
}

static void container_bad(struct fixture *f, const char *field)
{
	f->err = berth_error_free(f->err);
	if (berth_validate_container(&f->c, &f->err) == 0)
		fail_msg("accepted, expected: %s", field);
	if (f->err->code != BERTH_INVALID_ARGUMENT || !strstr(f->err->msg, field))
		fail_msg("%s: %s (expected %s)", berth_code_name(f->err->code), f->err->msg, field);
}

static void test_validate_container(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(berth_validate_container(&f->c, &f->err), 0);
	f->c.log_path = S("ctr/0.log");
	assert_int_equal(berth_validate_container(&f->c, &f->err), 0);
	f->c.log_path = S("/abs.log");
	container_bad(f, "container ctr: log_path");
	f->c.log_path = S("../x.log");
	container_bad(f, "log_path");
	f->c.log_path = S("");
	f->image_spec.image = S("");
	container_bad(f, "image: is missing");
	f->c.image = NULL;
	container_bad(f, "image: is missing");
	f->c.image = &f->image_spec;
	f->image_spec.image = S("x");
	f->meta.name = S("");
	container_bad(f, "metadata.name");
	f->c.metadata = NULL;
	container_bad(f, "metadata: is missing");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_hostname), T(test_files), T(test_ports),
	        T(test_sysctls), T(test_validate_pod), T(test_validate_container)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
