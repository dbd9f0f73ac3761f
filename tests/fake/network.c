#include "fake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "berth/util.h"

#define TABLE "net"

static berth_status answer(struct fake *f, struct berth_op *op, const char *v4, const char *v6,
        struct berth_net_result *res)
{
	const char **ips = f->host->op_alloc(op, 3 * sizeof(*ips));
	char *json = f->host->op_alloc(op, 256);

	ips[0] = berth_dup(f->host, op, v4);
	ips[1] = berth_dup(f->host, op, v6);
	snprintf(json, 256,
	        "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"%s/16\"},{\"address\":\"%s/"
	        "64\"}]}",
	        v4, v6);
	res->ips = ips;
	res->n_ips = 2;
	res->result_json = json;
	return BERTH_OK;
}

struct highest {
	uint64_t n;
};

static void look_at(const char *id, const struct row *r, void *arg)
{
	struct highest *h = arg;
	char v[VALUE_LIMIT];
	uint64_t n = strtoull(row_get(r, "n", v), NULL, 10);

	(void)id;
	if (n > h->n)
		h->n = n;
}

static berth_status attach(struct fake *f, struct berth_op *op, const struct berth_net_args *a,
        struct berth_net_result *res)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	struct highest h = {0};
	char v4[64], v6[64], n[32];
	berth_status st = fake_flags(f, op, a->sandbox_id, a->flags, 0);

	if (st != BERTH_OK)
		return st;
	pthread_mutex_lock(&f->lock);
	row_each(f->state, TABLE, look_at, &h);
	f->addresses = (h.n > f->addresses ? h.n : f->addresses) + 1;
	uint64_t mine = f->addresses;
	pthread_mutex_unlock(&f->lock);
	snprintf(n, sizeof(n), "%llu", (unsigned long long)mine);
	snprintf(v4, sizeof(v4), "10.200.%u.%u", (unsigned int)(mine / 250 % 250),
	        (unsigned int)(mine % 250 + 1));
	snprintf(v6, sizeof(v6), "fd00:200::%x", (unsigned int)mine);
	row_set(r, "n", n);
	row_set(r, "ip4", v4);
	row_set(r, "ip6", v6);
	snprintf(n, sizeof(n), "%llu", (unsigned long long)f->born);
	row_set(r, "born", n);
	int e = row_save(f->state, TABLE, a->sandbox_id, r);
	if (e < 0)
		return fake_fail(f, op, e, "keep the address of pod", a->sandbox_id);
	return answer(f, op, v4, v6, res);
}

static berth_status op_attach(struct berth_op *op, void *self, const struct berth_net_args *a,
        struct berth_net_result *res)
{
	berth_status st = inject_before(self, op, "network.attach");
	if (st == BERTH_OK)
		st = attach(self, op, a, res);
	inject_after(self, "network.attach");
	return st;
}

static berth_status op_detach(struct berth_op *op, void *self, const struct berth_net_args *a)
{
	struct fake *f = self;
	berth_status st = inject_before(self, op, "network.detach");

	if (st != BERTH_OK)
		return st;
	int e = row_remove(f->state, TABLE, a->sandbox_id);
	if (e < 0)
		st = fake_fail(f, op, e, "forget the address of pod", a->sandbox_id);
	inject_after(self, "network.detach");
	return st;
}

static berth_status op_check(struct berth_op *op, void *self, const struct berth_net_args *a)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = inject_before(self, op, "network.check");

	if (st == BERTH_OK && row_load(f->state, TABLE, a->sandbox_id, r) < 0)
		st = berth_fail(f->host, op, BERTH_E_NOT_FOUND,
		        "fake network: pod '%s' is not attached", a->sandbox_id);
	return st;
}

static berth_status op_status(struct berth_op *op, void *self)
{
	struct fake *f = self;
	char why[VALUE_LIMIT];
	berth_status st = inject_before(self, op, "network.status");

	if (st == BERTH_OK && *inject_get(f, "not_ready", why))
		st = berth_fail(f->host, op, BERTH_E_UNAVAILABLE, "%s", why);
	return st;
}

struct gc {
	struct fake *f;
	const char *const *valid;
	uint32_t n;
};

static void gc_one(const char *id, const struct row *r, void *arg)
{
	struct gc *g = arg;
	char v[VALUE_LIMIT];

	/* Who asked may not have known of it yet. */
	if (strtoull(row_get(r, "born", v), NULL, 10) == g->f->born)
		return;
	for (uint32_t i = 0; i < g->n; i++)
		if (strcmp(g->valid[i], id) == 0)
			return;
	(void)row_remove(g->f->state, TABLE, id);
}

static berth_status op_gc(struct berth_op *op, void *self, const struct berth_net_gc_args *a)
{
	struct gc g = {self, a->valid, a->n_valid};
	berth_status st = inject_before(self, op, "network.gc");

	if (st == BERTH_OK)
		row_each(g.f->state, TABLE, gc_one, &g);
	return st;
}

const struct berth_network_ops fake_network = {
        .size = sizeof(fake_network),
        .attach = op_attach,
        .detach = op_detach,
        .check = op_check,
        .status = op_status,
        .gc = op_gc,
};
