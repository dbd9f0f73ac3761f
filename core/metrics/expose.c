/* The text of a scrape. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "berth-config.h"
#include "container/container.h"
#include "image/image.h"
#include "metrics/internal.h"

static void head(struct berth_buf *b, const char *name, const char *type, const char *help)
{
	berth_buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void plain(
        struct berth_buf *b, const char *name, const char *type, const char *help, uint64_t value)
{
	head(b, name, type, help);
	berth_buf_addf(b, "%s %" PRIu64 "\n", name, value);
}

/* labels: NAME="VALUE",... or "". */
static void histogram(struct berth_buf *b, const char *name, const char *labels,
        const struct berth_bounds *bounds, const struct berth_histogram *h)
{
	uint64_t n = 0;
	const char *comma = *labels ? "," : "";

	for (size_t i = 0; i < BERTH_HISTOGRAM_BOUNDS; i++) {
		n += h->in[i];
		berth_buf_addf(b, "%s_bucket{%s%sle=\"%.15g\"} %" PRIu64 "\n", name, labels, comma,
		        (double)bounds->at[i] / bounds->unit, n);
	}
	n += h->in[BERTH_HISTOGRAM_BOUNDS];
	berth_buf_addf(b, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma, n);
	const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
	berth_buf_addf(b, "%s_sum%s%s%s %.15g\n%s_count%s%s%s %" PRIu64 "\n", name, open, labels,
	        close, (double)h->sum / bounds->unit, name, open, labels, close, n);
}

/* A label's value out of the configuration. */
static char *escaped(const char *s)
{
	struct berth_buf b = {0};
	for (; *s; s++) {
		if (*s == '\n')
			berth_buf_adds(&b, "\\n");
		else if (*s == '"' || *s == '\\')
			berth_buf_addf(&b, "\\%c", *s);
		else
			berth_buf_add(&b, s, 1);
	}
	return berth_buf_steal(&b);
}

static void rpcs(const struct berth_metrics *m, struct berth_buf *b)
{
	head(b, "berth_rpc_total", "counter", "Calls that ended, by gRPC code.");
	for (size_t i = 0; i < m->n_rpcs; i++) {
		const struct metrics_rpc *r = &m->rpcs[i];
		for (unsigned int code = 0; code < BERTH_CODES; code++)
			if (r->codes[code])
				berth_buf_addf(b,
				        "berth_rpc_total{service=\"%s\",method=\"%s\",code=\"%s\"} "
				        "%" PRIu64 "\n",
				        r->service, r->method, berth_code_name(code),
				        r->codes[code]);
	}
	head(b, "berth_rpc_duration_seconds", "histogram", "How long calls took.");
	for (size_t i = 0; i < m->n_rpcs; i++) {
		const struct metrics_rpc *r = &m->rpcs[i];
		if (!berth_histogram_count(&r->took))
			continue;
		_cleanup_free_ char *labels =
		        berth_asprintf("service=\"%s\",method=\"%s\"", r->service, r->method);
		histogram(b, "berth_rpc_duration_seconds", labels, &berth_bounds_latency, &r->took);
	}
}

static void ops(const struct berth_metrics *m, struct berth_buf *b)
{
	struct berth_buf failed = {0};

	head(b, "berth_plugin_op_duration_seconds", "histogram",
	        "How long ops took in the plugin, without the wait for their lane.");
	head(&failed, "berth_plugin_op_failures_total", "counter", "Ops of plugins that failed.");
	for (size_t i = 0; i < berth_plugin_host_count(m->d->plugins); i++) {
		struct berth_instance *p = berth_plugin_host_at(m->d->plugins, i);
		_cleanup_free_ char *name = escaped(berth_instance_name(p));
		for (unsigned int op = 0; op < BERTH_OP_COUNT; op++) {
			struct berth_op_usage u;
			berth_instance_op_usage(p, op, &u);
			if (!berth_histogram_count(&u.took))
				continue;
			_cleanup_free_ char *labels =
			        berth_asprintf("plugin=\"%s\",op=\"%s\"", name, berth_op_name(op));
			histogram(b, "berth_plugin_op_duration_seconds", labels,
			        &berth_bounds_latency, &u.took);
			berth_buf_addf(&failed, "berth_plugin_op_failures_total{%s} %" PRIu64 "\n",
			        labels, u.failed);
		}
	}
	berth_buf_add(b, failed.data, failed.len);
	berth_buf_finish(&failed);
}

static void lane(struct berth_buf to[static 3], const char *plugin, const char *name, size_t queued,
        unsigned int busy, unsigned int stuck)
{
	static const char *const names[] = {
	        "berth_lane_queued", "berth_lane_busy_threads", "berth_lane_stuck_ops"};
	const size_t values[] = {queued, busy, stuck};
	for (size_t i = 0; i < 3; i++)
		berth_buf_addf(&to[i], "%s{plugin=\"%s\",lane=\"%s\"} %zu\n", names[i], plugin,
		        name, values[i]);
}

static void lanes(const struct berth_metrics *m, struct berth_buf *b)
{
	struct berth_buf to[3] = {0}, healthy = {0};
	size_t queued;
	unsigned int busy, stuck;

	head(&to[0], "berth_lane_queued", "gauge",
	        "What waits for a thread; the lane of requests themselves has no plugin.");
	head(&to[1], "berth_lane_busy_threads", "gauge", "Threads at work.");
	head(&to[2], "berth_lane_stuck_ops", "gauge",
	        "Ops that hang past their deadline and were given a thread more.");
	head(&healthy, "berth_plugin_healthy", "gauge",
	        "0 after too many ops that hang, or where the plugin says so.");
	berth_pool_counts(m->d->flows, &queued, &busy, &stuck);
	lane(to, "", "flow", queued, busy, stuck);
	for (size_t i = 0; i < berth_plugin_host_count(m->d->plugins); i++) {
		struct berth_instance *p = berth_plugin_host_at(m->d->plugins, i);
		_cleanup_free_ char *plugin = escaped(berth_instance_name(p));
		const char *name, *why;
		for (unsigned int l = 0; (name = berth_instance_lane(p, l, &queued, &busy, &stuck));
		        l++)
			lane(to, plugin, name, queued, busy, stuck);
		berth_buf_addf(&healthy, "berth_plugin_healthy{plugin=\"%s\"} %d\n", plugin,
		        berth_instance_healthy(p, &why));
	}
	for (size_t i = 0; i < 3; i++) {
		berth_buf_add(b, to[i].data, to[i].len);
		berth_buf_finish(&to[i]);
	}
	berth_buf_add(b, healthy.data, healthy.len);
	berth_buf_finish(&healthy);
}

static void states(struct berth_buf *b, const char *name, const char *help,
        const char *const *words, const uint64_t *n, size_t n_words)
{
	head(b, name, "gauge", help);
	for (size_t i = 0; i < n_words; i++)
		berth_buf_addf(b, "%s{state=\"%s\"} %" PRIu64 "\n", name, words[i], n[i]);
}

static void objects(const struct berth_metrics *m, struct berth_buf *b)
{
	static const char *const pod_words[] = {[BERTH_POD_CREATING] = "creating",
	        [BERTH_POD_READY] = "ready",
	        [BERTH_POD_STOPPED] = "stopped",
	        [BERTH_POD_REMOVING] = "removing"};
	static const char *const ctr_words[] = {[BERTH_CTR_CREATING] = "creating",
	        [BERTH_CTR_CREATED] = "created",
	        [BERTH_CTR_RUNNING] = "running",
	        [BERTH_CTR_EXITED] = "exited",
	        [BERTH_CTR_REMOVING] = "removing"};
	uint64_t pods[BERTH_ARRAY_LEN(pod_words)] = {0}, ctrs[BERTH_ARRAY_LEN(ctr_words)] = {0};

	for (const struct berth_pod *p = m->d->pods->by_id; p; p = p->hh_id.next)
		pods[p->phase]++;
	for (const struct berth_container *c = m->d->containers->by_id; c; c = c->hh.next)
		ctrs[c->phase]++;
	states(b, "berth_pods", "Pod sandboxes by state.", pod_words, pods, BERTH_ARRAY_LEN(pods));
	states(b, "berth_containers", "Containers by state.", ctr_words, ctrs,
	        BERTH_ARRAY_LEN(ctrs));
}

static void pulls(const struct berth_metrics *m, struct berth_buf *b)
{
	const struct berth_counts *n = &m->d->counts;

	head(b, "berth_image_pull_size_bytes", "histogram",
	        "Pulls and imports that succeeded, by the size of the image's layers.");
	histogram(b, "berth_image_pull_size_bytes", "", &berth_bounds_size, &n->pulls);
	head(b, "berth_image_pull_failures_total", "counter",
	        "Pulls and imports that failed, by gRPC code.");
	for (unsigned int code = 1; code < BERTH_CODES; code++)
		if (n->pulls_failed[code])
			berth_buf_addf(b,
			        "berth_image_pull_failures_total{code=\"%s\"} %" PRIu64 "\n",
			        berth_code_name(code), n->pulls_failed[code]);
}

static void process(const struct berth_metrics *m, struct berth_buf *b)
{
	char text[128];
	uint64_t pages, resident;
	ssize_t n = m->statm_fd < 0 ? -1 : pread(m->statm_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return;
	text[n] = '\0';
	if (sscanf(text, "%" SCNu64 " %" SCNu64, &pages, &resident) == 2)
		plain(b, "process_resident_memory_bytes", "gauge", "Resident memory of berthd.",
		        resident * (uint64_t)sysconf(_SC_PAGESIZE));
}

void metrics_expose(struct berth_metrics *m, struct berth_buf *b)
{
	head(b, "berth_build_info", "gauge", "Always 1.");
	berth_buf_adds(b, "berth_build_info{version=\"" BERTH_VERSION "\"} 1\n");
	rpcs(m, b);
	ops(m, b);
	lanes(m, b);
	objects(m, b);
	pulls(m, b);
	plain(b, "berth_container_ooms_total", "counter",
	        "Containers in which the kernel killed for want of memory.", m->d->counts.ooms);
	plain(b, "berth_container_unknown_exits_total", "counter",
	        "Containers whose end nobody saw: their monitor died or its record is lost.",
	        m->d->counts.unknown_exits);
	plain(b, "berth_metrics_scrapes_total", "counter", "Scrapes, this one included.",
	        ++m->scrapes);
	process(m, b);
}
