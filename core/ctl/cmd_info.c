/* version, status, plugins */
#include <string.h>

#include "berth-config.h"
#include "ctl/ctl.h"

int ctl_cmd_version(struct ctl *c, struct berth_error **err)
{
	Runtime__V1__VersionRequest req = RUNTIME__V1__VERSION_REQUEST__INIT;
	Runtime__V1__VersionResponse *res = ctl_call(c, "RuntimeService/Version", &req.base,
	        &runtime__v1__version_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	if (c->json)
		ctl_print_message(res);
	else
		printf("berthctl     %s\nruntime      %s %s\nCRI          %s\n", BERTH_VERSION,
		        res->runtime_name, res->runtime_version, res->runtime_api_version);
	ctl_free_message(res);
	return CTL_OK;
}

static void print_status(const Runtime__V1__StatusResponse *res)
{
	static const char *const heads[] = {"CONDITION", "STATUS", "REASON", "MESSAGE"};
	struct ctl_table t;

	ctl_table_init(&t, 4, heads);
	for (size_t i = 0; res->status && i < res->status->n_conditions; i++) {
		const Runtime__V1__RuntimeCondition *k = res->status->conditions[i];
		const char *cells[] = {k->type, k->status ? "yes" : "no", k->reason, k->message};
		ctl_table_add(&t, cells);
	}
	ctl_table_print(&t, stdout);
	if (res->n_runtime_handlers)
		fputs("\nRuntime handlers:", stdout);
	for (size_t i = 0; i < res->n_runtime_handlers; i++)
		printf(" %s", *res->runtime_handlers[i]->name ? res->runtime_handlers[i]->name
		                                              : "(default)");
	if (res->n_runtime_handlers)
		putchar('\n');
}

int ctl_cmd_status(struct ctl *c, struct berth_error **err)
{
	Runtime__V1__StatusRequest req = RUNTIME__V1__STATUS_REQUEST__INIT;
	req.verbose = c->json;
	Runtime__V1__StatusResponse *res = ctl_call(c, "RuntimeService/Status", &req.base,
	        &runtime__v1__status_response__descriptor, CTL_SHORT_MS, err);
	bool ready = true;
	if (!res)
		return -1;
	if (c->json)
		ctl_print_message(res);
	else
		print_status(res);
	for (size_t i = 0; res->status && i < res->status->n_conditions; i++)
		ready = ready && res->status->conditions[i]->status;
	ctl_free_message(res);
	return ready ? CTL_OK : CTL_FAILED;
}

int ctl_cmd_plugins(struct ctl *c, struct berth_error **err)
{
	static const char *const heads[] = {"INSTANCE", "PLUGIN", "VERSION", "KINDS", "STATE"};
	Berth__Admin__V1__PluginsRequest req = BERTH__ADMIN__V1__PLUGINS_REQUEST__INIT;
	struct ctl_table t;
	Berth__Admin__V1__PluginsResponse *res = ctl_admin_call(c, "Plugins", &req.base,
	        &berth__admin__v1__plugins_response__descriptor, CTL_SHORT_MS, err);
	if (!res)
		return -1;
	if (c->json) {
		ctl_print_message(res);
		ctl_free_message(res);
		return CTL_OK;
	}
	ctl_table_init(&t, 5, heads);
	for (size_t i = 0; i < res->n_plugins; i++) {
		const Berth__Admin__V1__Plugin *p = res->plugins[i];
		struct berth_buf kinds = {0};
		for (size_t j = 0; j < p->n_kinds; j++)
			berth_buf_addf(&kinds, "%s%s", j ? "," : "", p->kinds[j]);
		const char *cells[] = {p->instance, p->plugin, p->version,
		        berth_arena_strdup(c->arena, kinds.data),
		        p->healthy ? "healthy"
		                   : berth_arena_printf(c->arena, "failing: %s", p->message)};
		ctl_table_add(&t, cells);
		berth_buf_finish(&kinds);
	}
	ctl_table_print(&t, stdout);
	ctl_free_message(res);
	return CTL_OK;
}
