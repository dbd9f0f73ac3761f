/* What a pod's containers find in /etc, and the pieces of a PodSandboxConfig that others need in
 * another form. */
#ifndef BERTH_SPEC_PODFILES_H
#define BERTH_SPEC_PODFILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/macros.h"
#include "cri.pb-c.h"

/* [any] True where the pod uses the node's network (NamespaceMode NODE). `pid` and `ipc`: the pod
 * level mode of each; POD where nothing is said. */
bool berth_pod_host_network(const Runtime__V1__PodSandboxConfig *pod);
Runtime__V1__NamespaceMode berth_pod_pid_mode(const Runtime__V1__PodSandboxConfig *pod);
Runtime__V1__NamespaceMode berth_pod_ipc_mode(const Runtime__V1__PodSandboxConfig *pod);
bool berth_pod_privileged(const Runtime__V1__PodSandboxConfig *pod);
/* [any] The pod's own user namespace, with one range of each kind; NULL where it uses the node's.
 */
const Runtime__V1__UserNamespace *berth_pod_userns(const Runtime__V1__PodSandboxConfig *pod);

/* [any] The pod's host name: the request's, else the node's for host network, else the pod's id cut
 * to 12 digits. Caller frees. */
char *berth_pod_hostname(const Runtime__V1__PodSandboxConfig *pod, const char *pod_id);

/* [worker] Writes DIR/hostname, DIR/resolv.conf and DIR/hosts (0644). resolv.conf comes from
 * dns_config, without one from the host's /etc/resolv.conf; hosts is the host's for host network,
 * else localhost and the pod's addresses (n_ips, may be 0; call again when they are known). */
int berth_pod_files_write(const char *dir, const Runtime__V1__PodSandboxConfig *pod,
        const char *pod_id, const char *hostname, const char *const *ips, size_t n_ips,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* A host port to open. protocol: "tcp", "udp" or "sctp"; host_ip NULL = all addresses. */
struct berth_port_mapping {
	uint16_t host_port, container_port;
	const char *protocol; /* static */
	char *host_ip;
};
/* [any] The mappings that want a host port (host_port 0 wants none). Caller frees the array with
 * berth_port_mappings_free(). The same in the JSON form of CNI's portMappings capability. */
int berth_pod_port_mappings(const Runtime__V1__PodSandboxConfig *pod,
        struct berth_port_mapping **ret, size_t *ret_n,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_port_mapping *berth_port_mappings_free(struct berth_port_mapping *m, size_t n);
json_t *berth_port_mappings_json(const struct berth_port_mapping *m, size_t n);

/* Sysctls by the namespace they belong to; names with '/' or '.' come out with '/'. */
struct berth_sysctl {
	const char *value; /* borrowed from the pod's config */
	char *path;        /* "net/ipv4/ip_forward" */
	enum { BERTH_SYSCTL_NET, BERTH_SYSCTL_IPC, BERTH_SYSCTL_UTS } ns;
};
/* [any] INVALID_ARGUMENT for a sysctl that no pod namespace has, or whose namespace is the host's.
 * Caller frees with berth_sysctls_free(). */
int berth_pod_sysctls(const Runtime__V1__PodSandboxConfig *pod, struct berth_sysctl **ret,
        size_t *ret_n, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_sysctl *berth_sysctls_free(struct berth_sysctl *s, size_t n);

#endif
