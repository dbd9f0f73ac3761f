/* Version, Status, RuntimeConfig, UpdateRuntimeConfig. */
#include "cri/service.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "berth-config.h"

#define POD_CIDR_MAX 256 /* two networks */

HANDLER(berth_cri_version)
{
	(void)request;
	(void)arg;
	Runtime__V1__VersionResponse r = RUNTIME__V1__VERSION_RESPONSE__INIT;
	r.version = (char *)BERTH_KUBE_API_VERSION;
	r.runtime_name = (char *)BERTH_RUNTIME_NAME;
	r.runtime_version = (char *)BERTH_VERSION;
	r.runtime_api_version = (char *)BERTH_CRI_VERSION;
	berth_grpc_reply(call, &r.base);
}

static void condition(Runtime__V1__RuntimeCondition *c, const char *type, bool ok,
        const char *reason, const char *message)
{
	runtime__v1__runtime_condition__init(c);
	c->type = (char *)type;
	c->status = ok;
	c->reason = (char *)(ok ? "" : reason);
	c->message = (char *)(ok || !message ? "" : message);
}

/* What an instance cannot do any more, or NULL. */
static const char *sick_plugin(struct berth_daemon *d)
{
	const char *why = NULL;
	for (size_t i = 0; i < berth_plugin_host_count(d->plugins); i++) {
		if (!berth_instance_healthy(berth_plugin_host_at(d->plugins, i), &why))
			return why;
	}
	return NULL;
}

static void handler(struct berth_grpc_call *call, Runtime__V1__RuntimeHandler **to,
        const char *name, const struct berth_handler *h)
{
	struct berth_arena *a = berth_grpc_arena(call);
	Runtime__V1__RuntimeHandler *r = berth_arena_alloc(a, sizeof(*r));
	Runtime__V1__RuntimeHandlerFeatures *f = berth_arena_alloc(a, sizeof(*f));
	runtime__v1__runtime_handler__init(r);
	runtime__v1__runtime_handler_features__init(f);
	r->name = (char *)name;
	r->features = f;
	/* What the runtime cannot do of it is done for it. */
	f->recursive_read_only_mounts = true;
	f->user_namespaces = h->userns;
	*to = r;
}

static char *verbose_config(struct berth_daemon *d)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	if (f) {
		berth_config_print(f, d->config);
		fclose(f);
	}
	json_t *j = json_pack("{s:s, s:s?, s:s, s:s?}", "runtime",
	        BERTH_RUNTIME_NAME " " BERTH_VERSION, "effectiveConfig", text, "socket",
	        d->config->cri.listen, "podCIDR", d->pod_cidr);
	char *json = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	free(text);
	return json;
}

HANDLER(berth_cri_status)
{
	const Runtime__V1__StatusRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	Runtime__V1__StatusResponse r = RUNTIME__V1__STATUS_RESPONSE__INIT;
	Runtime__V1__RuntimeStatus status = RUNTIME__V1__RUNTIME_STATUS__INIT;
	Runtime__V1__RuntimeFeatures features = RUNTIME__V1__RUNTIME_FEATURES__INIT;
	Runtime__V1__RuntimeCondition c[2], *conditions[2] = {&c[0], &c[1]};
	const char *sick = sick_plugin(d);
	struct berth_arena *a = berth_grpc_arena(call);

	condition(&c[0], "RuntimeReady", !sick, "PluginUnhealthy", sick);
	condition(&c[1], "NetworkReady", d->network_ready || !d->network, "NetworkPluginNotReady",
	        d->network_why ? d->network_why : "the network plugin was not asked yet");
	status.conditions = conditions;
	status.n_conditions = 2;
	r.status = &status;
	r.features = &features;
	features.supplemental_groups_policy = true;
	features.user_namespaces_host_network = !berth_daemon_handler(d, "")->userns_why;
	r.runtime_handlers =
	        berth_arena_alloc(a, (d->n_handlers + 1) * sizeof(*r.runtime_handlers));
	handler(call, &r.runtime_handlers[r.n_runtime_handlers++], "", berth_daemon_handler(d, ""));
	for (size_t i = 0; i < d->n_handlers; i++)
		handler(call, &r.runtime_handlers[r.n_runtime_handlers++], d->handlers[i].name,
		        &d->handlers[i]);
	void *info[1];
	if (q->verbose) {
		_cleanup_free_ char *text = verbose_config(d);
		info[0] = berth_map_entry(call,
		        &runtime__v1__status_response__info_entry__descriptor, "config", text);
		r.info = (void *)info;
		r.n_info = 1;
	}
	berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_runtime_config)
{
	struct berth_daemon *d = arg;
	(void)request;
	Runtime__V1__RuntimeConfigResponse r = RUNTIME__V1__RUNTIME_CONFIG_RESPONSE__INIT;
	Runtime__V1__LinuxRuntimeConfiguration l = RUNTIME__V1__LINUX_RUNTIME_CONFIGURATION__INIT;
	l.cgroup_driver = d->config->cri.cgroup_driver == BERTH_CGROUP_SYSTEMD
	                          ? RUNTIME__V1__CGROUP_DRIVER__SYSTEMD
	                          : RUNTIME__V1__CGROUP_DRIVER__CGROUPFS;
	r.linux = &l;
	berth_grpc_reply(call, &r.base);
}

static bool cidr_ok(const char *text)
{
	_cleanup_free_ char *copy = berth_strdup(text);
	char *slash = strchr(copy, '/');
	unsigned char addr[16];
	if (!slash)
		return false;
	*slash = '\0';
	int bits = inet_pton(AF_INET, copy, addr) == 1    ? 32
	           : inet_pton(AF_INET6, copy, addr) == 1 ? 128
	                                                  : -1;
	char *end;
	long prefix = strtol(slash + 1, &end, 10);
	return bits > 0 && end != slash + 1 && !*end && prefix >= 0 && prefix <= bits;
}

/* One, or for a dual stack more, joined by commas. *ret_bad: the first that is none. */
static bool cidrs_ok(const char *text, char **ret_bad)
{
	_cleanup_free_ char *copy = berth_strdup(text);
	char *save = NULL;

	for (char *one = strtok_r(copy, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
		if (!cidr_ok(one)) {
			*ret_bad = berth_strdup(one);
			return false;
		}
	}
	return true;
}

/* It is the node's own, and a kubelet says it once: it does not say it again to another berthd. */
void berth_cri_load_pod_cidr(struct berth_daemon *d)
{
	_cleanup_free_ char *path = berth_path(d->config->run, "pod_cidr", NULL), *text = NULL,
	                    *bad = NULL;
	int r = berth_read_file(AT_FDCWD, path, POD_CIDR_MAX, &text, NULL);

	if (r == 0 && *text && cidrs_ok(text, &bad))
		d->pod_cidr = berth_take(text);
	else if (r != -ENOENT)
		berth_log_warn("what UpdateRuntimeConfig said last cannot be read", "path", path,
		        "error", r < 0 ? strerror(-r) : "not a CIDR");
}

struct pod_cidr {
	struct berth_daemon *d;
	struct berth_grpc_call *call;
	char *text;
	struct berth_error *err;
};

static void cidr_save(void *arg)
{
	struct pod_cidr *p = arg;
	_cleanup_free_ char *path = berth_path(p->d->config->run, "pod_cidr", NULL);
	int r = berth_write_file_atomic(AT_FDCWD, path, p->text, strlen(p->text), 0644, false);

	if (r < 0)
		berth_error_errno(&p->err, r, "%s", path);
}

static void cidr_over(void *arg)
{
	struct pod_cidr *p = arg;
	struct berth_daemon *d = p->d;
	Runtime__V1__UpdateRuntimeConfigResponse r =
	        RUNTIME__V1__UPDATE_RUNTIME_CONFIG_RESPONSE__INIT;

	if (p->err) {
		berth_grpc_fail(p->call, p->err);
	} else {
		free(d->pod_cidr);
		d->pod_cidr = berth_take(p->text);
		berth_grpc_reply(p->call, &r.base);
	}
	berth_error_free(p->err);
	free(p->text);
	free(p);
	berth_gate_leave(&d->pod_cidr_gate);
}

static void cidr_turn(void *arg)
{
	struct pod_cidr *p = arg;
	bool same = p->d->pod_cidr && strcmp(p->d->pod_cidr, p->text) == 0;

	if (!same && berth_work(p->d->flows, p->d->loop, cidr_save, cidr_over, p) == 0)
		return;
	if (!same)
		berth_error_set(
		        &p->err, BERTH_RESOURCE_EXHAUSTED, "too many requests are under way");
	cidr_over(p);
}

HANDLER(berth_cri_update_runtime_config)
{
	const Runtime__V1__UpdateRuntimeConfigRequest *q = (const void *)request;
	Runtime__V1__UpdateRuntimeConfigResponse r =
	        RUNTIME__V1__UPDATE_RUNTIME_CONFIG_RESPONSE__INIT;
	const char *cidr = q->runtime_config && q->runtime_config->network_config
	                           ? q->runtime_config->network_config->pod_cidr
	                           : "";
	_cleanup_free_ char *bad = NULL;

	if (strlen(cidr) > POD_CIDR_MAX || !cidrs_ok(cidr, &bad)) {
		berth_grpc_failf(call, BERTH_INVALID_ARGUMENT,
		        "runtime_config.network_config.pod_cidr: \"%.100s\" is no CIDR",
		        bad ? bad : cidr);
		return;
	}
	if (!*cidr) { /* nothing to change */
		berth_grpc_reply(call, &r.base);
		return;
	}
	struct pod_cidr *p = berth_new(struct pod_cidr);
	p->d = arg;
	p->call = call;
	p->text = berth_strdup(cidr);
	berth_gate_enter(&p->d->pod_cidr_gate, cidr_turn, p);
}
