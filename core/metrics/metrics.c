#include "metrics/metrics.h"

#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "metrics/internal.h"

static void add_rpc(struct berth_metrics *m, const char *service, const char *method)
{
	m->rpcs = berth_reallocarray(m->rpcs, m->n_rpcs + 1, sizeof(*m->rpcs));
	m->rpcs[m->n_rpcs++] =
	        (struct metrics_rpc){.path = berth_asprintf("/%s/%s", service, method),
	                .service = berth_strdup(service),
	                .method = berth_strdup(method)};
}

int berth_metrics_start(struct berth_daemon *d, const struct berth_metrics_service *services,
        struct berth_error **ret_err)
{
	if (!*d->config->metrics.listen)
		return 0;
	struct berth_metrics *m = berth_new(struct berth_metrics);
	m->d = d;
	m->fd = -1;
	m->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	add_rpc(m, "unknown", "unknown");
	for (const struct berth_metrics_service *s = services; s->name; s++)
		for (const struct berth_grpc_method *method = s->methods; method->name; method++)
			add_rpc(m, s->name, method->name);
	if (metrics_listen(m, d->config->metrics.listen, ret_err) < 0) {
		berth_metrics_stop(m);
		return -1;
	}
	d->metrics = m;
	berth_log_info("metrics are served", "address", d->config->metrics.listen);
	return 0;
}

struct berth_metrics *berth_metrics_stop(struct berth_metrics *m)
{
	if (!m)
		return NULL;
	metrics_unlisten(m);
	berth_close(m->statm_fd);
	for (size_t i = 0; i < m->n_rpcs; i++) {
		free(m->rpcs[i].path);
		free(m->rpcs[i].service);
		free(m->rpcs[i].method);
	}
	free(m->rpcs);
	free(m);
	return NULL;
}

void berth_metrics_rpc(struct berth_metrics *m, const char *path, enum berth_code code, uint64_t ns)
{
	if (!m)
		return;
	struct metrics_rpc *rpc = &m->rpcs[0];
	for (size_t i = 1; i < m->n_rpcs; i++) {
		if (strcmp(m->rpcs[i].path, path) == 0) {
			rpc = &m->rpcs[i];
			break;
		}
	}
	rpc->codes[code < BERTH_CODES ? code : BERTH_UNKNOWN]++;
	berth_histogram_add(&rpc->took, &berth_bounds_latency, ns);
}
