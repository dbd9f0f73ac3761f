/* What a pod brings to a call: CNI_ARGS, capability arguments; and which pods came lately. */
#include "cni.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "berth/util.h"

/* gc() gets the ids that were valid when it was asked for. What was attached here since may be
 * missing among them without being a leftover. */
#define RECENT_NS (300ull * 1000000000ull)

struct recent {
	struct recent *next;
	uint64_t when_ns;
	char id[];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void recent_add(struct cni *c, const char *id)
{
	size_t n = strlen(id) + 1;
	struct recent *r = malloc(sizeof(*r) + n);

	if (!r)
		abort();
	r->when_ns = now_ns();
	memcpy(r->id, id, n);
	pthread_mutex_lock(&c->lock);
	r->next = c->recent;
	c->recent = r;
	for (struct recent **p = &r->next; *p;) {
		struct recent *old = *p;
		if (r->when_ns - old->when_ns < RECENT_NS && strcmp(old->id, id) != 0) {
			p = &old->next;
			continue;
		}
		*p = old->next;
		free(old);
	}
	pthread_mutex_unlock(&c->lock);
}

bool recent_has(struct cni *c, const char *id)
{
	bool found = false;

	pthread_mutex_lock(&c->lock);
	for (struct recent *r = c->recent; r && !found; r = r->next)
		found = strcmp(r->id, id) == 0 && now_ns() - r->when_ns < RECENT_NS;
	pthread_mutex_unlock(&c->lock);
	return found;
}

void recent_free(struct cni *c)
{
	while (c->recent) {
		struct recent *r = c->recent;
		c->recent = r->next;
		free(r);
	}
}

/* ---- what a call is made of ---- */

static bool add_arg(char *out, size_t size, const char *key, const char *value)
{
	size_t n = strlen(out);

	if (!value || !*value)
		return true;
	/* These would begin another argument. */
	if (strpbrk(value, ";=\n"))
		return false;
	int w = snprintf(out + n, size - n, ";%s=%s", key, value);
	return w > 0 && (size_t)w < size - n;
}

bool call_args(const struct berth_net_args *a, char *out, size_t size)
{
	snprintf(out, size, "IgnoreUnknown=1");
	return add_arg(out, size, "K8S_POD_NAMESPACE", a->pod_namespace) &&
	       add_arg(out, size, "K8S_POD_NAME", a->pod_name) &&
	       add_arg(out, size, "K8S_POD_INFRA_CONTAINER_ID", a->sandbox_id) &&
	       add_arg(out, size, "K8S_POD_UID", a->pod_uid);
}

static const char *protocol(uint32_t proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return "tcp";
	case IPPROTO_UDP:
		return "udp";
	case IPPROTO_SCTP:
		return "sctp";
	default:
		return NULL;
	}
}

berth_status call_caps(
        struct cni *c, struct berth_op *op, const struct berth_net_args *a, json_t *caps)
{
	json_t *ports = json_array();

	for (uint32_t i = 0; i < a->n_ports; i++) {
		const struct berth_port *p = &a->ports[i];
		const char *proto = protocol(p->proto);
		if (!p->host_port)
			continue;
		if (!proto) {
			json_decref(ports);
			return berth_fail(c->host, op, BERTH_E_INVALID,
			        "pod '%s': port %u has the unknown protocol %u", a->sandbox_id,
			        p->ctr_port, p->proto);
		}
		json_t *j = json_pack("{sisiss}", "hostPort", (int)p->host_port, "containerPort",
		        (int)p->ctr_port, "protocol", proto);
		if (p->host_ip && *p->host_ip)
			json_object_set_new(j, "hostIP", json_string(p->host_ip));
		json_array_append_new(ports, j);
	}
	if (json_array_size(ports) > 0)
		json_object_set(caps, "portMappings", ports);
	json_decref(ports);
	for (uint32_t i = 0; i < a->n_caps; i++) {
		json_t *v =
		        json_loads(a->caps[i].value ? a->caps[i].value : "", JSON_DECODE_ANY, NULL);
		if (!v)
			return berth_fail(c->host, op, BERTH_E_INVALID,
			        "pod '%s': the argument of network capability '%s' is not JSON",
			        a->sandbox_id, a->caps[i].key);
		json_object_set_new(caps, a->caps[i].key, v);
	}
	return BERTH_OK;
}
