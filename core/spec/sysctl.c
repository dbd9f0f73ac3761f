#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/build.h"
#include "spec/podfiles.h"

#define BERTH_LIMIT_SYSCTLS 1024
#define BERTH_LIMIT_SYSCTL_NAME 256
#define BERTH_LIMIT_SYSCTL_VALUE 4096

/* As sysctl(8) reads names: the separator that comes first is the one; in a name with dots a slash
 * stands for a dot ("net.ipv4.conf.eth0/1.forwarding"). NULL for what is no name. */
static char *to_path(const char *name)
{
	size_t n = strnlen(name, BERTH_LIMIT_SYSCTL_NAME);
	const char *first = strpbrk(name, "./");

	if (!first || n == BERTH_LIMIT_SYSCTL_NAME)
		return NULL;
	char *path = berth_strdup(name);
	for (char *p = path; *first == '.' && *p; p++)
		*p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
	for (const char *p = path; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 127)
			goto bad;
	for (const char *p = path;; p++) {
		size_t len = strcspn(p, "/");
		if (!len || (len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
			goto bad;
		p += len;
		if (!*p)
			return path;
	}
bad:
	free(path);
	return NULL;
}

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static int find_namespace(const Runtime__V1__PodSandboxConfig *pod, struct berth_sysctl *s,
        const char *name, struct berth_error **ret_err)
{
	const char *p = s->path;
	bool host = false;

	if (starts(p, "net/")) {
		s->ns = BERTH_SYSCTL_NET;
		host = berth_pod_host_network(pod);
	} else if (starts(p, "kernel/shm") || starts(p, "kernel/msg") ||
	           strcmp(p, "kernel/sem") == 0 || starts(p, "fs/mqueue/")) {
		s->ns = BERTH_SYSCTL_IPC;
		host = berth_pod_ipc_mode(pod) == RUNTIME__V1__NAMESPACE_MODE__NODE;
	} else if (strcmp(p, "kernel/domainname") == 0) {
		s->ns = BERTH_SYSCTL_UTS;
		host = berth_pod_host_network(pod);
	} else {
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "linux.sysctls: %.256s does not belong to a namespace of pods", name);
	}
	if (host)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "linux.sysctls: %.256s would change the node: the pod uses the node's %s "
		        "namespace",
		        name, s->ns == BERTH_SYSCTL_IPC ? "ipc" : "network");
	return 0;
}

static int convert(const Runtime__V1__PodSandboxConfig *pod, const char *name, const char *value,
        struct berth_sysctl *s, struct berth_error **ret_err)
{
	s->path = to_path(name);
	if (!s->path)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "linux.sysctls: \"%.256s\" is no name of a sysctl", name);
	if (!value[0] || strnlen(value, BERTH_LIMIT_SYSCTL_VALUE) == BERTH_LIMIT_SYSCTL_VALUE ||
	        strpbrk(value, "\n\r"))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "linux.sysctls: the value of %.256s is empty, too long or of several lines",
		        name);
	s->value = value;
	return find_namespace(pod, s, name, ret_err);
}

int berth_pod_sysctls(const Runtime__V1__PodSandboxConfig *pod, struct berth_sysctl **ret,
        size_t *ret_n, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxPodSandboxConfig *l = pod->linux;
	size_t n = l ? l->n_sysctls : 0;

	if (n > BERTH_LIMIT_SYSCTLS)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "linux.sysctls: more than %d", BERTH_LIMIT_SYSCTLS);
	struct berth_sysctl *v = berth_new_array(struct berth_sysctl, n + 1);
	for (size_t i = 0; i < n; i++)
		if (convert(pod, l->sysctls[i]->key, l->sysctls[i]->value, &v[i], ret_err) < 0) {
			berth_sysctls_free(v, i + 1);
			return -1;
		}
	*ret = v;
	*ret_n = n;
	return 0;
}

struct berth_sysctl *berth_sysctls_free(struct berth_sysctl *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(s[i].path);
	free(s);
	return NULL;
}
