/* What a pod brings to the attach() of its network. */
#ifndef BERTH_POD_NETARGS_H
#define BERTH_POD_NETARGS_H

#include "berth/plugin.h"
#include "pod/pod.h"

#define POD_IFNAME "eth0"
#define POD_CAPS 6 /* dns, annotations, cgroupPath, bandwidth, ips, mac */

struct pod_netargs {
	struct berth_net_args args;
	struct berth_port_mapping *mappings;
	size_t n_mappings;
	struct berth_port *ports;
	struct berth_kv caps[POD_CAPS];
	char *netns, *texts[POD_CAPS];
};

/* [worker] What it points to is the pod's or its own. INVALID_ARGUMENT for what the pod's
 * configuration says wrongly; pod_netargs_finish() then, too. */
int pod_netargs_fill(
        struct berth_pod *p, struct pod_netargs *in, struct berth_error **ret_err) BERTH_MUST_CHECK;
void pod_netargs_finish(struct pod_netargs *in);

#endif
