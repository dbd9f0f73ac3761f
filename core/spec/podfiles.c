#include "spec/podfiles.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/build.h"

#define BERTH_LIMIT_ETC_FILE (1024 * 1024)
enum { SHORT_ID = 12, HOSTNAME_MAX = 64 };

static const Runtime__V1__LinuxSandboxSecurityContext *security(
        const Runtime__V1__PodSandboxConfig *pod)
{
	return pod->linux ? pod->linux->security_context : NULL;
}

static const Runtime__V1__NamespaceOption *namespaces(const Runtime__V1__PodSandboxConfig *pod)
{
	const Runtime__V1__LinuxSandboxSecurityContext *sec = security(pod);
	return sec ? sec->namespace_options : NULL;
}

bool berth_pod_host_network(const Runtime__V1__PodSandboxConfig *pod)
{
	const Runtime__V1__NamespaceOption *ns = namespaces(pod);
	return ns && ns->network == RUNTIME__V1__NAMESPACE_MODE__NODE;
}

Runtime__V1__NamespaceMode berth_pod_pid_mode(const Runtime__V1__PodSandboxConfig *pod)
{
	const Runtime__V1__NamespaceOption *ns = namespaces(pod);
	return ns ? ns->pid : RUNTIME__V1__NAMESPACE_MODE__POD;
}

Runtime__V1__NamespaceMode berth_pod_ipc_mode(const Runtime__V1__PodSandboxConfig *pod)
{
	const Runtime__V1__NamespaceOption *ns = namespaces(pod);
	return ns ? ns->ipc : RUNTIME__V1__NAMESPACE_MODE__POD;
}

bool berth_pod_privileged(const Runtime__V1__PodSandboxConfig *pod)
{
	const Runtime__V1__LinuxSandboxSecurityContext *sec = security(pod);
	return sec && sec->privileged;
}

const Runtime__V1__UserNamespace *berth_pod_userns(const Runtime__V1__PodSandboxConfig *pod)
{
	const Runtime__V1__NamespaceOption *ns = namespaces(pod);
	const Runtime__V1__UserNamespace *u = ns ? ns->userns_options : NULL;
	return u && u->mode == RUNTIME__V1__NAMESPACE_MODE__POD && u->n_uids && u->n_gids ? u
	                                                                                  : NULL;
}

char *berth_pod_hostname(const Runtime__V1__PodSandboxConfig *pod, const char *pod_id)
{
	char node[HOSTNAME_MAX + 1] = "";

	if (spec_is_set(pod->hostname))
		return berth_strdup(pod->hostname);
	if (berth_pod_host_network(pod) && gethostname(node, sizeof(node) - 1) == 0 && node[0])
		return berth_strdup(node);
	return berth_strndup(pod_id, SHORT_ID);
}

static void add_line(struct berth_buf *b, const char *word, char *const *v, size_t n)
{
	if (!n)
		return;
	berth_buf_adds(b, word);
	for (size_t i = 0; i < n; i++)
		berth_buf_addf(b, " %s", v[i]);
	berth_buf_adds(b, "\n");
}

static char *resolv_conf(const Runtime__V1__DNSConfig *d)
{
	struct berth_buf b = {0};
	for (size_t i = 0; i < d->n_servers; i++)
		berth_buf_addf(&b, "nameserver %s\n", d->servers[i]);
	add_line(&b, "search", d->searches, d->n_searches);
	add_line(&b, "options", d->options, d->n_options);
	return berth_buf_steal(&b);
}

static char *hosts(const char *hostname, const char *const *ips, size_t n_ips)
{
	struct berth_buf b = {0};
	berth_buf_adds(&b, "127.0.0.1\tlocalhost\n"
	                   "::1\tlocalhost ip6-localhost ip6-loopback\n"
	                   "fe00::0\tip6-localnet\n"
	                   "ff00::0\tip6-mcastprefix\n"
	                   "ff02::1\tip6-allnodes\n"
	                   "ff02::2\tip6-allrouters\n");
	for (size_t i = 0; i < n_ips; i++)
		berth_buf_addf(&b, "%s\t%s\n", ips[i], hostname);
	return berth_buf_steal(&b);
}

static int host_file(const char *path, char **ret, struct berth_error **ret_err)
{
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_ETC_FILE, ret, NULL);
	if (r == -ENOENT)
		*ret = berth_strdup("");
	else if (r < 0)
		return berth_error_errno(ret_err, r, "the host's %s", path);
	return 0;
}

/* Written in place where it is there already: containers have the file itself mounted, and a new
 * one under its name would not reach them. */
static int write_file(
        const char *dir, const char *name, const char *text, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	_cleanup_close_ int fd =
	        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	int r = fd < 0 ? -errno : berth_write_all(fd, text, strlen(text));
	if (r == 0 && fchmod(fd, 0644) < 0)
		r = -errno;
	return r < 0 ? berth_error_errno(ret_err, r, "write %s", path) : 0;
}

int berth_pod_files_write(const char *dir, const Runtime__V1__PodSandboxConfig *pod,
        const char *pod_id, const char *hostname, const char *const *ips, size_t n_ips,
        struct berth_error **ret_err)
{
	const Runtime__V1__DNSConfig *d = pod->dns_config;
	_cleanup_free_ char *resolv = NULL, *hosts_text = NULL;
	_cleanup_free_ char *name = berth_asprintf("%s\n", hostname);
	int r = 0;

	if (d && (d->n_servers || d->n_searches || d->n_options))
		resolv = resolv_conf(d);
	else
		r = host_file("/etc/resolv.conf", &resolv, ret_err);
	if (r == 0 && berth_pod_host_network(pod))
		r = host_file("/etc/hosts", &hosts_text, ret_err);
	else if (r == 0)
		hosts_text = hosts(hostname, ips, n_ips);
	if (r < 0 || write_file(dir, "hostname", name, ret_err) < 0 ||
	        write_file(dir, "resolv.conf", resolv, ret_err) < 0 ||
	        write_file(dir, "hosts", hosts_text, ret_err) < 0)
		return berth_error_wrap(ret_err, "pod %.64s", pod_id);
	return 0;
}

static const char *protocol_name(Runtime__V1__Protocol p)
{
	switch (p) {
	case RUNTIME__V1__PROTOCOL__TCP:
		return "tcp";
	case RUNTIME__V1__PROTOCOL__UDP:
		return "udp";
	case RUNTIME__V1__PROTOCOL__SCTP:
		return "sctp";
	case _RUNTIME__V1__PROTOCOL_IS_INT_SIZE:
		break;
	}
	return NULL;
}

int berth_pod_port_mappings(const Runtime__V1__PodSandboxConfig *pod,
        struct berth_port_mapping **ret, size_t *ret_n, struct berth_error **ret_err)
{
	struct berth_port_mapping *v =
	        berth_new_array(struct berth_port_mapping, pod->n_port_mappings + 1);
	size_t n = 0;

	for (size_t i = 0; i < pod->n_port_mappings; i++) {
		const Runtime__V1__PortMapping *m = pod->port_mappings[i];
		const char *protocol = protocol_name(m->protocol);
		if (m->host_port == 0)
			continue;
		if (!protocol || m->host_port < 0 || m->host_port > 65535 ||
		        m->container_port <= 0 || m->container_port > 65535) {
			berth_port_mappings_free(v, n);
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "port_mappings[%zu]: out of range", i);
		}
		v[n].host_port = (uint16_t)m->host_port;
		v[n].container_port = (uint16_t)m->container_port;
		v[n].protocol = protocol;
		v[n++].host_ip = spec_is_set(m->host_ip) ? berth_strdup(m->host_ip) : NULL;
	}
	*ret = v;
	*ret_n = n;
	return 0;
}

struct berth_port_mapping *berth_port_mappings_free(struct berth_port_mapping *m, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(m[i].host_ip);
	free(m);
	return NULL;
}

json_t *berth_port_mappings_json(const struct berth_port_mapping *m, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *o = json_pack("{s:i,s:i,s:s}", "hostPort", m[i].host_port, "containerPort",
		        m[i].container_port, "protocol", m[i].protocol);
		if (m[i].host_ip)
			json_object_set_new(o, "hostIP", json_string(m[i].host_ip));
		json_array_append_new(list, o);
	}
	return list;
}
