/* The example network, wrong on purpose in one way, -DMUTANT=NAME. */
#define _GNU_SOURCE
#include <unistd.h>

enum {
	NONE,
	DETACHES_ONCE,
	GIVES_ONE_ADDRESS,
	GIVES_NO_ADDRESS,
	GIVES_WORDS,
	TAKES_FLAGS,
	IS_NEVER_READY,
	WAITS
};
#define IS(name) (MUTANT == (name))

#define berth_plugin_v0 original
#include "../../sdk/example/net-loopback.c"
#undef berth_plugin_v0

static berth_status m_attach(
        struct berth_op *op, void *self, const struct berth_net_args *a, struct berth_net_result *r)
{
	static const char *const one[] = {"10.0.0.1"}, *const words[] = {"localhost"};
	struct berth_net_args copy = *a;

	if (IS(WAITS) && a->sandbox_id && *a->sandbox_id)
		sleep(3);
	if (IS(TAKES_FLAGS))
		copy.flags = 0;
	berth_status st = attach(op, self, &copy, r);
	if (IS(GIVES_ONE_ADDRESS))
		r->ips = one;
	if (IS(GIVES_WORDS))
		r->ips = words;
	if (IS(GIVES_NO_ADDRESS))
		r->n_ips = 0;
	return st;
}

static berth_status m_detach(struct berth_op *op, void *self, const struct berth_net_args *a)
{
	struct loopback *l = self;

	if (IS(DETACHES_ONCE) && (!a->netns || !*a->netns || access(a->netns, F_OK) < 0))
		return berth_fail(l->host, op, BERTH_E_NOT_FOUND, "pod '%s' has no namespace '%s'",
		        a->sandbox_id ? a->sandbox_id : "", a->netns ? a->netns : "");
	return detach(op, self, a);
}

static berth_status m_status(struct berth_op *op, void *self)
{
	struct loopback *l = self;

	return IS(IS_NEVER_READY) ? berth_fail(l->host, op, BERTH_E_UNAVAILABLE, "not yet")
	                          : status(op, self);
}

static struct berth_network_ops mutant_ops;
static struct berth_plugin mutant;

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	mutant = *original(host_minor);
	mutant_ops = ops;
	mutant_ops.attach = m_attach;
	mutant_ops.detach = m_detach;
	mutant_ops.status = m_status;
	mutant.network = &mutant_ops;
	return &mutant;
}
