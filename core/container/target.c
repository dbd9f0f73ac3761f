/* The container whose processes a container sees (NamespaceMode TARGET). */
#include <string.h>

#include "container/container.h"

int berth_container_resolve_target(struct berth_container *c, struct berth_error **ret_err)
{
	const Runtime__V1__NamespaceOption *o =
	        c->config->linux && c->config->linux->security_context
	                ? c->config->linux->security_context->namespace_options
	                : NULL;

	if (!o || o->pid != RUNTIME__V1__NAMESPACE_MODE__TARGET)
		return 0;
	struct berth_container *t = berth_container_find(c->d, o->target_id, ret_err);
	if (!t)
		return berth_error_wrap(
		        ret_err, "container %s: namespace_options.target_id", c->name);
	/* The pod is the boundary: who may create in it says nothing of others. */
	if (t->pod != c->pod)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "container %s: namespace_options.target_id: container %s is of pod sandbox "
		        "%s, not of %s",
		        c->name, t->id, t->pod->id, c->pod->id);
	if (t->phase != BERTH_CTR_RUNNING)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "container %s: namespace_options.target_id: container %s does not run",
		        c->name, t->id);
	memcpy(c->target_id, t->id, sizeof(c->target_id));
	return 0;
}
