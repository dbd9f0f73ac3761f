/* Which sysctls belong to which namespace. No library but libc. [any] */
#ifndef BERTH_MONITOR_SYSCTL_H
#define BERTH_MONITOR_SYSCTL_H

#include <stddef.h>

#define BERTH_SYSCTL_NET 1u
#define BERTH_SYSCTL_IPC 2u
#define BERTH_SYSCTL_PATH_MAX 512

/* The file under /proc/sys for a key in either form (net.ipv4.ip_forward, net/ipv4/conf/eth0.1/x).
 * `own` says which namespaces the pod has for itself. Returns NULL and fills path, or the reason
 * why the key is refused (static). */
const char *berth_sysctl_path(const char *key, unsigned int own, char path[BERTH_SYSCTL_PATH_MAX]);

#endif
