/* GetContainerEvents: each change with the statuses of the pod and its containers, to every client
 * that listens. Nothing is dropped for a client that reads; one that does not is told so and let
 * go. */
#include "cri/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"

#define MAX_QUEUED_BYTES BERTH_MIB(8)
#define MAX_CLIENTS 64

struct berth_event_client {
	struct berth_event_client *next;
	struct berth_daemon *d;
	struct berth_grpc_call *call;
};

static void forget(struct berth_event_client *c)
{
	for (struct berth_event_client **p = &c->d->event_clients; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	free(c);
}

static void client_left(void *arg)
{
	struct berth_event_client *c = arg;
	struct berth_grpc_call *call = c->call;
	forget(c);
	berth_grpc_finish(call);
}

void berth_cri_on_change(
        struct berth_daemon *d, enum berth_change change, const char *id, struct berth_pod *pod)
{
	Runtime__V1__ContainerEventResponse r = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;

	if (!d->event_clients)
		return;
	struct berth_arena *a = berth_arena_new();
	r.container_id = (char *)id;
	r.container_event_type = (Runtime__V1__ContainerEventType)change;
	r.created_at = (int64_t)berth_realtime_ns();
	/* The last status of a pod that is gone, too: the kubelet passes over an event without one.
	 */
	if (pod->phase != BERTH_POD_CREATING) {
		r.pod_sandbox_status = berth_cri_pod_status_of(a, pod);
		r.n_containers_statuses =
		        berth_cri_container_statuses_of(a, pod, &r.containers_statuses);
	}
	for (struct berth_event_client *c = d->event_clients, *next; c; c = next) {
		next = c->next;
		if (berth_grpc_send(c->call, &r.base) == 0 &&
		        berth_grpc_queued(c->call) <= MAX_QUEUED_BYTES)
			continue;
		struct berth_grpc_call *call = c->call;
		berth_grpc_on_cancel(call, NULL, NULL);
		forget(c);
		berth_grpc_failf(call, BERTH_RESOURCE_EXHAUSTED,
		        "the client does not read its events: list again and begin anew");
	}
	berth_arena_free(a);
}

void berth_cri_end_events(struct berth_daemon *d)
{
	while (d->event_clients) {
		berth_grpc_on_cancel(d->event_clients->call, NULL, NULL);
		client_left(d->event_clients);
	}
}

HANDLER(berth_cri_get_container_events)
{
	struct berth_daemon *d = arg;
	unsigned int n = 0;

	(void)request;
	for (struct berth_event_client *c = d->event_clients; c; c = c->next)
		n++;
	if (n >= MAX_CLIENTS) {
		berth_grpc_failf(
		        call, BERTH_RESOURCE_EXHAUSTED, "%u clients listen for events already", n);
		return;
	}
	struct berth_event_client *c = berth_new(struct berth_event_client);
	c->d = d;
	c->call = call;
	c->next = d->event_clients;
	d->event_clients = c;
	berth_grpc_on_cancel(call, client_left, c);
}
