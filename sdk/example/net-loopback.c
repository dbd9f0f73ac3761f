/* A whole network plugin: pods get a network namespace with loopback alone, which the host has
 * already set up. For jobs that must not reach anything. One key of configuration: `ports`, whether
 * a pod that publishes ports is let in. */
#include <stdlib.h>

#include "berth/util.h"

struct loopback {
	const struct berth_host *host;
	int32_t ports;
};

static berth_status create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	struct loopback *l = calloc(1, sizeof *l);
	if (!l)
		return berth_fail(h, op, BERTH_E_EXHAUSTED, "no memory");
	l->host = h;
	l->ports = h->conf_bool(c, "ports", 0);
	*self = l;
	return BERTH_OK;
}

static void destroy(void *self)
{
	free(self);
}

static berth_status attach(
        struct berth_op *op, void *self, const struct berth_net_args *a, struct berth_net_result *r)
{
	struct loopback *l = self;
	const char **ips;

	/* What nobody could serve is refused; errno would be named as the cause. */
	errno = 0;
	if (!a->sandbox_id || !*a->sandbox_id || a->flags)
		return berth_fail(l->host, op, BERTH_E_INVALID,
		        "pod '%s': no id, or unknown flags 0x%x",
		        a->sandbox_id ? a->sandbox_id : "", (unsigned)a->flags);
	if (a->n_ports && !l->ports)
		return berth_fail(l->host, op, BERTH_E_PRECONDITION,
		        "pod %s/%s publishes port %u, and nothing can reach it there",
		        a->pod_namespace, a->pod_name, (unsigned)a->ports[0].host_port);
	ips = l->host->op_alloc(op, sizeof *ips); /* lives as long as the host needs the result */
	ips[0] = "127.0.0.1";
	r->ips = ips;
	r->n_ips = 1;
	return BERTH_OK;
}

/* Called twice, or for a pod that was never attached: still OK. */
static berth_status detach(struct berth_op *op, void *self, const struct berth_net_args *a)
{
	(void)op;
	(void)self;
	(void)a;
	return BERTH_OK;
}

static berth_status status(struct berth_op *op, void *self)
{
	(void)op;
	(void)self;
	return BERTH_OK;
}

static const struct berth_network_ops ops = {
        .size = sizeof ops, .attach = attach, .detach = detach, .status = status};
static const struct berth_plugin plugin = {
        .size = sizeof plugin,
        .abi_minor = BERTH_ABI_MINOR,
        .name = "net-loopback",
        .version = "1.0",
        .network = &ops,
        .create = create,
        .destroy = destroy,
};

BERTH_PLUGIN_NEEDS(0)

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
