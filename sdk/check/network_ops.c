#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

/* The namespace stays as long as it is mounted. A helper makes it: this process keeps its own. */
void pod_make(struct session *s, struct pod *p, const char *id)
{
	_cleanup_free_ char *dir = berth_asprintf("%s/netns", s->dir);
	int status = 1;

	snprintf(p->id, sizeof(p->id), "%s", id);
	int n = snprintf(p->netns, sizeof(p->netns), "%s/%s", dir, id);
	expect(n > 0 && (size_t)n < sizeof(p->netns), "the path is too long");
	pod_gone(p);
	int r = berth_mkdir_p(dir, 0711);
	_cleanup_close_ int fd = r < 0 ? -1 : open(p->netns, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	expect(fd >= 0, "%s: %s", p->netns, strerror(errno));
	pid_t pid = fork();
	if (pid == 0)
		_exit(unshare(CLONE_NEWNET) == 0 && mount("/proc/self/ns/net", p->netns, NULL,
		                                            MS_BIND, NULL) == 0
		                ? 0
		                : 1);
	expect(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0,
	        "a network namespace cannot be made");
}

void pod_gone(struct pod *p)
{
	(void)umount2(p->netns, MNT_DETACH);
	(void)unlink(p->netns);
}

struct berth_net_args pod_args(const struct pod *p)
{
	return (struct berth_net_args){.size = sizeof(struct berth_net_args),
	        .sandbox_id = p->id,
	        .pod_name = "pod",
	        .pod_namespace = "default",
	        .pod_uid = "0a1b",
	        .netns = p->netns,
	        .ifname = "eth0"};
}

int pod_attach(struct session *s, const struct pod *p, struct berth_net_result *ret)
{
	const struct berth_net_args a = pod_args(p);
	struct berth_net_result own = {.size = sizeof(own)};

	return op(s, BERTH_OP_NETWORK_ATTACH, p->id, &a, ret ? ret : &own);
}

int pod_detach(struct session *s, const struct pod *p)
{
	const struct berth_net_args a = pod_args(p);
	return op(s, BERTH_OP_NETWORK_DETACH, p->id, &a, NULL);
}

int pod_check(struct session *s, const struct pod *p)
{
	const struct berth_net_args a = pod_args(p);
	return op(s, BERTH_OP_NETWORK_CHECK, p->id, &a, NULL);
}

int pods_gc(struct session *s, const char *const *valid, uint32_t n)
{
	const struct berth_net_gc_args a = {.size = sizeof(a), .n_valid = n, .valid = valid};
	return op(s, BERTH_OP_NETWORK_GC, "network", &a, NULL);
}

void must_attach(struct session *s, const struct pod *p, char address[64])
{
	struct berth_net_result r = {.size = sizeof(r)};
	unsigned char bytes[16];

	ended(s, pod_attach(s, p, &r), OK, p->id, "attach");
	expect(r.n_ips > 0 && r.ips, "attach gave no address");
	for (uint32_t i = 0; i < r.n_ips; i++)
		expect(r.ips[i] && (inet_pton(AF_INET, r.ips[i], bytes) == 1 ||
		                           inet_pton(AF_INET6, r.ips[i], bytes) == 1),
		        "attach: \"%s\" is no address", r.ips[i] ? r.ips[i] : "");
	if (r.result_json) {
		json_t *j = json_loads(r.result_json, 0, NULL);
		expect(json_is_object(j), "attach: its result is no JSON object");
		json_decref(j);
	}
	if (address)
		snprintf(address, 64, "%s", r.ips[0]);
}

void must_detach(struct session *s, const struct pod *p)
{
	ended(s, pod_detach(s, p), OK, p->id, "detach");
}

/* A plugin may spare what it attached a moment ago: tests detach what they made. */
void network_sweep(struct session *s)
{
	if (has(s, BERTH_OP_NETWORK_GC))
		ended(s, pods_gc(s, NULL, 0), OK, NULL, "gc");
}
