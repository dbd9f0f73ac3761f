/* CheckpointContainer. */
#include "container/checkpoint.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "cri/service.h"

#define MAX_TIMEOUT_S (7ll * 24 * 3600) /* what is longer is as good as this */

static void over(const struct berth_error *err, void *arg)
{
	struct berth_grpc_call *call = arg;
	Runtime__V1__CheckpointContainerResponse r =
	        RUNTIME__V1__CHECKPOINT_CONTAINER_RESPONSE__INIT;

	berth_grpc_on_cancel(call, NULL, NULL);
	if (err)
		berth_grpc_fail(call, err);
	else
		berth_grpc_reply(call, &r.base);
}

static void left(void *arg)
{
	berth_checkpoint_abandon(arg);
}

/* What is no path of a file, whatever lies there. */
static const char *unusable(const char *location)
{
	const char *name = strrchr(location, '/');

	if (!*location)
		return "is missing";
	if (*location != '/')
		return "is not absolute";
	if (strlen(location) >= PATH_MAX)
		return "is too long";
	if (!name[1] || strcmp(name, "/.") == 0 || strcmp(name, "/..") == 0)
		return "names a directory";
	return NULL;
}

HANDLER(berth_cri_checkpoint_container)
{
	const Runtime__V1__CheckpointContainerRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(d, q->container_id, &err);
	const char *why = c ? unusable(q->location) : NULL;

	if (c && d->draining)
		berth_error_set(&err, BERTH_UNAVAILABLE, "berthd is shutting down");
	else if (why)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT,
		        "container %s: location \"%.200s\" %s", c->id, q->location, why);
	else if (c && q->timeout < 0)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT,
		        "container %s: timeout %lld is out of range", c->id, (long long)q->timeout);
	if (err) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	int64_t timeout = q->timeout < MAX_TIMEOUT_S ? q->timeout : MAX_TIMEOUT_S;
	struct berth_checkpoint *k =
	        berth_checkpoint_new(c, q->location, (uint64_t)timeout, over, call);
	berth_grpc_on_cancel(call, left, k);
	berth_checkpoint_start(k);
}
