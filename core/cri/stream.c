/* Exec, Attach, PortForward: each leaves a request with the streaming server and answers its URL.
 */
#include "cri/service.h"
#include "stream/stream.h"

#define PORTS_MAX 64

static void fail(struct berth_grpc_call *call, struct berth_error *err)
{
	berth_grpc_fail(call, err);
	berth_error_free(err);
}

/* The container, running; the streams make sense. */
static struct berth_container *check(struct berth_daemon *d, const char *id,
        const struct berth_stream_term *t, struct berth_error **ret_err)
{
	struct berth_container *c = berth_container_find(d, id, ret_err);

	if (!c)
		return NULL;
	if (!t->in && !t->out && !t->err)
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "container %s: one of stdin, stdout and stderr must be wanted", c->id);
	else if (t->tty && t->err)
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "container %s: a terminal has no stderr of its own: tty and stderr exclude "
		        "one "
		        "another",
		        c->id);
	else if (c->phase != BERTH_CTR_RUNNING)
		berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "container %s is not running", c->id);
	else
		return c;
	return NULL;
}

HANDLER(berth_cri_exec)
{
	const Runtime__V1__ExecRequest *q = (const void *)request;
	struct berth_stream_term t = {.argc = q->n_cmd,
	        .argv = q->cmd,
	        .tty = q->tty,
	        .in = q->stdin,
	        .out = q->stdout,
	        .err = q->stderr};
	struct berth_error *err = NULL;
	struct berth_container *c = check(arg, q->container_id, &t, &err);
	_cleanup_free_ char *url = NULL;

	if (c && q->n_cmd == 0)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "container %s: cmd is empty", c->id);
	else if (c)
		url = berth_stream_exec(c, &t, &err);
	if (!url) {
		fail(call, err);
		return;
	}
	Runtime__V1__ExecResponse r = RUNTIME__V1__EXEC_RESPONSE__INIT;
	r.url = url;
	berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_attach)
{
	const Runtime__V1__AttachRequest *q = (const void *)request;
	struct berth_stream_term t = {
	        .tty = q->tty, .in = q->stdin, .out = q->stdout, .err = q->stderr};
	struct berth_error *err = NULL;
	struct berth_container *c = check(arg, q->container_id, &t, &err);
	_cleanup_free_ char *url = NULL;

	if (c && q->tty != c->config->tty)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "container %s: it has %s terminal",
		        c->id, c->config->tty ? "a" : "no");
	else if (c)
		url = berth_stream_attach(c, &t, &err);
	if (!url) {
		fail(call, err);
		return;
	}
	Runtime__V1__AttachResponse r = RUNTIME__V1__ATTACH_RESPONSE__INIT;
	r.url = url;
	berth_grpc_reply(call, &r.base);
}

HANDLER(berth_cri_port_forward)
{
	const Runtime__V1__PortForwardRequest *q = (const void *)request;
	struct berth_error *err = NULL;
	struct berth_pod *p = berth_pod_find(arg, q->pod_sandbox_id, &err);
	_cleanup_free_ char *url = NULL;

	if (p && p->phase != BERTH_POD_READY)
		berth_error_set(&err, BERTH_FAILED_PRECONDITION, "pod %s is not ready", p->id);
	else if (p && q->n_port > PORTS_MAX)
		berth_error_set(&err, BERTH_INVALID_ARGUMENT, "pod %s: more than %d ports", p->id,
		        PORTS_MAX);
	for (size_t i = 0; !err && i < q->n_port; i++)
		if (q->port[i] < 1 || q->port[i] > UINT16_MAX)
			berth_error_set(&err, BERTH_INVALID_ARGUMENT,
			        "pod %s: port %d is out of range", p->id, q->port[i]);
	if (!err)
		url = berth_stream_forward(p, q->port, q->n_port, &err);
	if (!url) {
		fail(call, err);
		return;
	}
	Runtime__V1__PortForwardResponse r = RUNTIME__V1__PORT_FORWARD_RESPONSE__INIT;
	r.url = url;
	berth_grpc_reply(call, &r.base);
}
