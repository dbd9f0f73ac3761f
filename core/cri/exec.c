/* ExecSync. */
#include "cri/service.h"

#include <stdlib.h>

#include "base/limits.h"
#include "container/exec.h"

#define REPLY_OVERHEAD BERTH_KIB(64)
#define MAX_TIMEOUT_S (7ll * 24 * 3600) /* what is longer is as good as this */

static void over(const struct berth_exec_result *res, const struct berth_error *err, void *arg)
{
	struct berth_grpc_call *call = arg;
	Runtime__V1__ExecSyncResponse r = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;

	berth_grpc_on_cancel(call, NULL, NULL);
	if (err) {
		berth_grpc_fail(call, err);
		return;
	}
	r.stdout.data = (uint8_t *)res->out.data;
	r.stdout.len = res->out.len;
	r.stderr.data = (uint8_t *)res->err.data;
	r.stderr.len = res->err.len;
	r.exit_code =
	        (res->exit.flags & BERTH_EXIT_SIGNALLED) ? 128 + res->exit.code : res->exit.code;
	berth_grpc_reply(call, &r.base);
}

static void abandoned(void *arg)
{
	berth_exec_abandon(arg);
}

HANDLER(berth_cri_exec_sync)
{
	const Runtime__V1__ExecSyncRequest *q = (const void *)request;
	struct berth_daemon *d = arg;
	struct berth_error *err = NULL;
	struct berth_container *c = berth_container_find(d, q->container_id, &err);

	if (c && q->n_cmd == 0)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "container %s: cmd is empty", c->id);
	else if (c && q->timeout < 0)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT,
		        "container %s: timeout %lld is out of range", c->id, (long long)q->timeout);
	else if (c && c->phase != BERTH_CTR_RUNNING)
		berth_error_set(&err, BERTH_FAILED_PRECONDITION,
		        "container %s is not running: nothing can be run in it", c->id);
	if (err) {
		berth_grpc_fail(call, err);
		berth_error_free(err);
		return;
	}
	uint64_t max = d->config->cri.max_send_bytes;
	int64_t timeout = q->timeout < MAX_TIMEOUT_S ? q->timeout : MAX_TIMEOUT_S;
	struct berth_exec *e = berth_exec_sync(c, q->n_cmd, q->cmd, (uint64_t)timeout,
	        max > REPLY_OVERHEAD ? (size_t)max - REPLY_OVERHEAD : (size_t)max, over, call);
	berth_grpc_on_cancel(call, abandoned, e);
}
