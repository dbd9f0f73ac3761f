/* Shared by the files of core/metrics. */
#ifndef BERTH_METRICS_INTERNAL_H
#define BERTH_METRICS_INTERNAL_H

#include "metrics/metrics.h"

struct metrics_rpc {
	char *path, *service, *method;
	uint64_t codes[BERTH_CODES];
	struct berth_histogram took;
};

struct metrics_client;

struct berth_metrics {
	struct berth_daemon *d;
	struct metrics_rpc *rpcs; /* the first is that of all paths that nobody serves */
	size_t n_rpcs;
	int statm_fd; /* kept open: a scrape opens no file */
	int fd;       /* listens */
	char *path;   /* of a unix socket, or NULL */
	struct berth_fdwatch *watch;
	struct berth_timer *breath;
	struct metrics_client *clients;
	size_t n_clients;
	uint64_t scrapes;
};

/* expose.c: everything in the text format 0.0.4, appended. */
void metrics_expose(struct berth_metrics *m, struct berth_buf *to);

/* http.c */
int metrics_listen(struct berth_metrics *m, const char *address, struct berth_error **ret_err);
void metrics_unlisten(struct berth_metrics *m);

#endif
