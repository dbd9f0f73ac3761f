#include "spec/validate.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "spec/build.h"
#include "spec/podfiles.h"

#define BERTH_LIMIT_DNS_SERVERS 32
#define BERTH_LIMIT_DNS_SEARCHES 64
#define BERTH_LIMIT_DNS_OPTIONS 64
#define BERTH_LIMIT_DNS_TEXT 2048
#define BERTH_LIMIT_LABELS 4096
#define BERTH_LIMIT_LABEL_BYTES (1024 * 1024) /* keys and values of one map together */
#define BERTH_LIMIT_PORTS 4096

static int bad(struct berth_error **ret_err, const char *what, const char *field, const char *why)
{
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "%s: %s: %s", what, field, why);
}

/* Names become parts of file names and of log lines. */
static int check_name(const char *what, const char *field, const char *s, size_t max,
        struct berth_error **ret_err)
{
	if (!spec_is_set(s))
		return bad(ret_err, what, field, "is empty");
	if (strnlen(s, max + 1) > max)
		return bad(ret_err, what, field, "is too long");
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 127 || *p == '/')
			return bad(ret_err, what, field,
			        "has a slash, a space or a character that is not ASCII");
	if (strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
		return bad(ret_err, what, field, "is no name");
	return 0;
}

static bool is_utf8(const char *s)
{
	json_t *v = json_string(s);
	json_decref(v);
	return v != NULL;
}

struct map_check {
	const char *what, *field;
	size_t n, bytes;
};

static int check_pair(
        struct map_check *m, const char *key, const char *value, struct berth_error **ret_err)
{
	m->bytes += strlen(key) + strlen(value);
	if (!key[0])
		return bad(ret_err, m->what, m->field, "has an empty key");
	if (++m->n > BERTH_LIMIT_LABELS || m->bytes > BERTH_LIMIT_LABEL_BYTES)
		return bad(ret_err, m->what, m->field, "are too many or too large");
	if (!is_utf8(key) || !is_utf8(value))
		return bad(ret_err, m->what, m->field, "are not UTF-8");
	return 0;
}

static int check_path(
        const char *what, const char *field, const char *s, struct berth_error **ret_err)
{
	if (strnlen(s, BERTH_LIMIT_SPEC_PATH) >= BERTH_LIMIT_SPEC_PATH)
		return bad(ret_err, what, field, "is too long");
	if (!is_utf8(s))
		return bad(ret_err, what, field, "is not UTF-8");
	for (const char *p = s; *p; p += strcspn(p, "/"), p += *p == '/')
		if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || !p[2]))
			return bad(ret_err, what, field, "has \"..\" in it");
	return 0;
}

static int check_hostname(const char *what, const char *s, struct berth_error **ret_err)
{
	/* The kernel keeps 64 bytes. */
	if (strnlen(s, 65) > 64)
		return bad(ret_err, what, "hostname", "is longer than 64 bytes");
	for (const char *p = s; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr(".-_", *p))
			return bad(ret_err, what, "hostname",
			        "has a character other than letters, digits and .-_");
	return 0;
}

/* One word of resolv.conf: without spaces, line ends and other control characters. */
static int check_words(const char *what, const char *field, char *const *v, size_t n, size_t max,
        struct berth_error **ret_err)
{
	if (n > max)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "%s: %s: more than %zu", what, field, max);
	for (size_t i = 0; i < n; i++) {
		if (!v[i][0] || strnlen(v[i], BERTH_LIMIT_DNS_TEXT) >= BERTH_LIMIT_DNS_TEXT)
			return bad(ret_err, what, field, "has an empty or too long entry");
		for (const char *p = v[i]; *p; p++)
			if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 127)
				return bad(ret_err, what, field,
				        "has an entry with a space or a character that is not "
				        "ASCII");
	}
	return 0;
}

static bool is_address(const char *s)
{
	unsigned char raw[16];
	char plain[INET6_ADDRSTRLEN + 1];
	const char *scope = strchr(s, '%');
	size_t n = scope ? (size_t)(scope - s) : strlen(s);

	if (n >= sizeof(plain) || (scope && !scope[1]))
		return false;
	memcpy(plain, s, n);
	plain[n] = '\0';
	return (!scope && inet_pton(AF_INET, plain, raw) == 1) ||
	       inet_pton(AF_INET6, plain, raw) == 1;
}

static int check_dns(
        const char *what, const Runtime__V1__DNSConfig *d, struct berth_error **ret_err)
{
	if (!d)
		return 0;
	if (check_words(what, "dns_config.servers", d->servers, d->n_servers,
	            BERTH_LIMIT_DNS_SERVERS, ret_err) < 0 ||
	        check_words(what, "dns_config.searches", d->searches, d->n_searches,
	                BERTH_LIMIT_DNS_SEARCHES, ret_err) < 0 ||
	        check_words(what, "dns_config.options", d->options, d->n_options,
	                BERTH_LIMIT_DNS_OPTIONS, ret_err) < 0)
		return -1;
	for (size_t i = 0; i < d->n_servers; i++)
		if (!is_address(d->servers[i]))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: dns_config.servers[%zu]: \"%.64s\" is no address", what, i,
			        d->servers[i]);
	return 0;
}

static int check_ports(
        const char *what, const Runtime__V1__PodSandboxConfig *pod, struct berth_error **ret_err)
{
	if (pod->n_port_mappings > BERTH_LIMIT_PORTS)
		return bad(ret_err, what, "port_mappings", "are too many");
	for (size_t i = 0; i < pod->n_port_mappings; i++) {
		const Runtime__V1__PortMapping *m = pod->port_mappings[i];
		if (m->host_port < 0 || m->host_port > 65535 || m->container_port < 0 ||
		        m->container_port > 65535 || (m->host_port && !m->container_port))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: port_mappings[%zu]: host port %d, container port %d: out of "
			        "range",
			        what, i, m->host_port, m->container_port);
		if (m->protocol != RUNTIME__V1__PROTOCOL__TCP &&
		        m->protocol != RUNTIME__V1__PROTOCOL__UDP &&
		        m->protocol != RUNTIME__V1__PROTOCOL__SCTP)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: port_mappings[%zu]: protocol %d is unknown", what, i,
			        (int)m->protocol);
		if (spec_is_set(m->host_ip) && !is_address(m->host_ip))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: port_mappings[%zu]: host_ip \"%.64s\" is no address", what, i,
			        m->host_ip);
	}
	return 0;
}

static int check_cgroup_parent(const char *what, const char *s, enum berth_cgroup_driver driver,
        struct berth_error **ret_err)
{
	if (!spec_is_set(s))
		return 0;
	if (check_path(what, "linux.cgroup_parent", s, ret_err) < 0)
		return -1;
	if (driver == BERTH_CGROUPFS)
		return s[0] == '/' ? 0
		                   : bad(ret_err, what, "linux.cgroup_parent",
		                             "is not an absolute path");
	const char *slash = strrchr(s, '/'), *slice = slash ? slash + 1 : s;
	size_t n = strlen(slice);
	if (n <= 6 || n > 255 || strcmp(slice + n - 6, ".slice") != 0 || slice[0] == '-' ||
	        strchr(slice, ':') || strstr(slice, "--"))
		return bad(ret_err, what, "linux.cgroup_parent", "does not name a systemd slice");
	return 0;
}

static int check_id(const char *what, const char *field, int64_t id, struct berth_error **ret_err)
{
	if (id < 0 || id > INT32_MAX)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: %s: %" PRId64 " is out of range", what, field, id);
	return 0;
}

/* What clients may ask for: one range from root on, whose end the kernel can count. */
static int check_range(const char *what, const char *field, Runtime__V1__IDMapping *const *v,
        size_t n, struct berth_error **ret_err)
{
	const char *why = n != 1                    ? "there must be exactly one range"
	                  : v[0]->container_id != 0 ? "the range does not begin with container id 0"
	                  : v[0]->length == 0       ? "the range is empty"
	                  : v[0]->host_id > UINT32_MAX - v[0]->length
	                          ? "the range ends beyond the last id"
	                          : NULL;
	return why ? bad(ret_err, what, field, why) : 0;
}

static int check_userns(
        const char *what, const Runtime__V1__NamespaceOption *ns, struct berth_error **ret_err)
{
	const Runtime__V1__UserNamespace *u = ns->userns_options;

	if (!u)
		return 0;
	if (u->mode != RUNTIME__V1__NAMESPACE_MODE__POD &&
	        u->mode != RUNTIME__V1__NAMESPACE_MODE__NODE)
		return bad(ret_err, what, "namespace_options.userns_options",
		        "mode is neither POD nor NODE");
	if (u->mode == RUNTIME__V1__NAMESPACE_MODE__NODE && (u->n_uids || u->n_gids))
		return bad(
		        ret_err, what, "namespace_options.userns_options", "NODE with id mappings");
	/* POD without mappings is what clients without user namespaces send. */
	if (!u->n_uids && !u->n_gids)
		return 0;
	if (check_range(what, "namespace_options.userns_options.uids", u->uids, u->n_uids,
	            ret_err) < 0 ||
	        check_range(what, "namespace_options.userns_options.gids", u->gids, u->n_gids,
	                ret_err) < 0)
		return -1;
	/* The kernel lets nobody mount what belongs to namespaces that are not his own. */
	if (ns->pid == RUNTIME__V1__NAMESPACE_MODE__NODE ||
	        ns->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return bad(ret_err, what, "namespace_options.userns_options",
		        "a user namespace together with the node's processes or IPC");
	return 0;
}

static int check_pod_namespaces(
        const char *what, const Runtime__V1__NamespaceOption *ns, struct berth_error **ret_err)
{
	if (!ns)
		return 0;
	const struct {
		const char *field;
		Runtime__V1__NamespaceMode mode;
		bool own;
	} v[] = {
	        {"namespace_options.network", ns->network, false},
	        {"namespace_options.ipc", ns->ipc, false},
	        {"namespace_options.pid", ns->pid, true},
	};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++)
		if (v[i].mode != RUNTIME__V1__NAMESPACE_MODE__POD &&
		        v[i].mode != RUNTIME__V1__NAMESPACE_MODE__NODE &&
		        (v[i].mode != RUNTIME__V1__NAMESPACE_MODE__CONTAINER || !v[i].own))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "%s: %s: mode %d is not for pods", what, v[i].field,
			        (int)v[i].mode);
	return check_userns(what, ns, ret_err);
}

static int check_pod_linux(const char *what, const Runtime__V1__PodSandboxConfig *pod,
        enum berth_cgroup_driver driver, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxPodSandboxConfig *l = pod->linux;
	if (!l)
		return 0;
	if (check_cgroup_parent(what, l->cgroup_parent, driver, ret_err) < 0)
		return -1;
	const Runtime__V1__LinuxSandboxSecurityContext *sec = l->security_context;
	if (!sec)
		return 0;
	if (sec->run_as_group && !sec->run_as_user)
		return bad(ret_err, what, "run_as_group", "is set without run_as_user");
	if ((sec->run_as_user &&
	            check_id(what, "run_as_user", sec->run_as_user->value, ret_err) < 0) ||
	        (sec->run_as_group &&
	                check_id(what, "run_as_group", sec->run_as_group->value, ret_err) < 0))
		return -1;
	return check_pod_namespaces(what, sec->namespace_options, ret_err);
}

int berth_validate_pod(const Runtime__V1__PodSandboxConfig *pod, enum berth_cgroup_driver driver,
        struct berth_error **ret_err)
{
	const Runtime__V1__PodSandboxMetadata *m = pod->metadata;
	struct berth_sysctl *sysctls;
	size_t n;

	if (!m)
		return bad(ret_err, "pod", "metadata", "is missing");
	if (check_name("pod", "metadata.name", m->name, BERTH_LIMIT_NAME, ret_err) < 0 ||
	        (m->namespace_[0] && check_name("pod", "metadata.namespace", m->namespace_,
	                                     BERTH_LIMIT_NAME, ret_err) < 0) ||
	        (m->uid[0] &&
	                check_name("pod", "metadata.uid", m->uid, BERTH_LIMIT_NAME, ret_err) < 0))
		return -1;

	_cleanup_free_ char *what = berth_asprintf("pod %s/%s", m->namespace_, m->name);
	struct map_check labels = {what, "labels", 0, 0}, notes = {what, "annotations", 0, 0};
	for (size_t i = 0; i < pod->n_labels; i++)
		if (check_pair(&labels, pod->labels[i]->key, pod->labels[i]->value, ret_err) < 0)
			return -1;
	for (size_t i = 0; i < pod->n_annotations; i++)
		if (check_pair(&notes, pod->annotations[i]->key, pod->annotations[i]->value,
		            ret_err) < 0)
			return -1;
	if (check_hostname(what, pod->hostname, ret_err) < 0 ||
	        check_path(what, "log_directory", pod->log_directory, ret_err) < 0)
		return -1;
	if (spec_is_set(pod->log_directory) && pod->log_directory[0] != '/')
		return bad(ret_err, what, "log_directory", "is not an absolute path");
	if (check_dns(what, pod->dns_config, ret_err) < 0 || check_ports(what, pod, ret_err) < 0 ||
	        check_pod_linux(what, pod, driver, ret_err) < 0)
		return -1;
	if (berth_pod_sysctls(pod, &sysctls, &n, ret_err) < 0)
		return berth_error_wrap(ret_err, "%s", what);
	berth_sysctls_free(sysctls, n);
	return 0;
}

int berth_validate_container(const Runtime__V1__ContainerConfig *c, struct berth_error **ret_err)
{
	const Runtime__V1__ContainerMetadata *m = c->metadata;

	if (!m)
		return bad(ret_err, "container", "metadata", "is missing");
	if (check_name("container", "metadata.name", m->name, BERTH_LIMIT_NAME, ret_err) < 0)
		return -1;

	_cleanup_free_ char *what = berth_asprintf("container %s", m->name);
	struct map_check labels = {what, "labels", 0, 0}, notes = {what, "annotations", 0, 0};
	if (!c->image || !spec_is_set(c->image->image))
		return bad(ret_err, what, "image", "is missing");
	if (strnlen(c->image->image, BERTH_LIMIT_IMAGE_REF + 1) > BERTH_LIMIT_IMAGE_REF ||
	        !is_utf8(c->image->image))
		return bad(ret_err, what, "image", "is too long or not UTF-8");
	for (size_t i = 0; i < c->n_labels; i++)
		if (check_pair(&labels, c->labels[i]->key, c->labels[i]->value, ret_err) < 0)
			return -1;
	for (size_t i = 0; i < c->n_annotations; i++)
		if (check_pair(&notes, c->annotations[i]->key, c->annotations[i]->value, ret_err) <
		        0)
			return -1;
	if (check_path(what, "log_path", c->log_path, ret_err) < 0)
		return -1;
	if (c->log_path[0] == '/')
		return bad(ret_err, what, "log_path", "is not relative to the pod's log_directory");
	return 0;
}
