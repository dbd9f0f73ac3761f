/* What berthd tells Prometheus about itself, over HTTP at metrics.listen. All of it is counters in
 * memory: a scrape asks nobody and waits for nothing. The series are those of the RPCs, plugins and
 * states that there are, whatever clients send. [loop] */
#ifndef BERTH_METRICS_METRICS_H
#define BERTH_METRICS_METRICS_H

#include "daemon.h"
#include "grpc/server.h"

/* Static; the list ends with a NULL name. */
struct berth_metrics_service {
	const char *name;
	const struct berth_grpc_method *methods;
};

/* Sets d->metrics, and leaves it NULL where metrics.listen is empty. A stale socket file is
 * replaced. INVALID_ARGUMENT for what is no address. */
int berth_metrics_start(struct berth_daemon *d, const struct berth_metrics_service *services,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Before the loop goes. NULL-safe, returns NULL. */
struct berth_metrics *berth_metrics_stop(struct berth_metrics *m);
/* One RPC has ended. NULL-safe. */
void berth_metrics_rpc(
        struct berth_metrics *m, const char *path, enum berth_code code, uint64_t ns);

#endif
