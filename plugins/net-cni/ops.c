#include "cni.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "berth/util.h"

static bool record_network(const struct record *r, struct network *ret)
{
	*ret = (struct network){.version = V_NONE};
	json_t *list = json_object_get(r->json, "network");
	char *why = network_check(list, &ret->version);

	if (why) {
		free(why);
		return false;
	}
	ret->list = json_incref(list);
	return true;
}

static const char *ifname_of(const struct berth_net_args *a)
{
	return a->ifname && *a->ifname ? a->ifname : "eth0";
}

static berth_status save(struct cni *c, struct berth_op *op, const struct record *r)
{
	int e = record_save(c, r);

	if (e == 0)
		return BERTH_OK;
	errno = -e;
	return berth_fail(c->host, op,
	        e == -EINVAL                   ? BERTH_E_INVALID
	        : e == -ENOSPC || e == -EDQUOT ? BERTH_E_EXHAUSTED
	                                       : BERTH_E_INTERNAL,
	        "pod '%s': keep its network attachment '%s' in '%s': %s",
	        record_str(r, "sandbox_id"), record_str(r, "ifname"), c->host->state_dir,
	        strerror(-e));
}

/* ---- DEL ---- */

/* The file stays where a namespace was unmounted from it: after a reboot, for one. */
static bool is_namespace(const char *path)
{
	struct statfs s;
	return *path && statfs(path, &s) == 0 && s.f_type == NSFS_MAGIC;
}

/* In reverse order, all of it even where one fails. The first failure is what is reported. */
static berth_status release(struct cni *c, struct berth_op *op, const struct record *r)
{
	struct network n;
	berth_status first = BERTH_OK;
	const char *netns = record_str(r, "netns");

	errno = 0;
	if (!record_network(r, &n))
		return berth_fail(c->host, op, BERTH_E_INTERNAL,
		        "pod '%s': the network kept for it cannot be read",
		        record_str(r, "sandbox_id"));
	struct call call = {.command = "DEL",
	        .sandbox_id = record_str(r, "sandbox_id"),
	        /* A namespace that is gone is told by an empty name. */
	        .netns = is_namespace(netns) ? netns : "",
	        .ifname = record_str(r, "ifname"),
	        .args = record_str(r, "args"),
	        .caps = json_object_get(r->json, "caps"),
	        .prev = n.version >= V040 ? json_object_get(r->json, "result") : NULL};
	for (size_t i = network_size(&n); i-- > 0;) {
		berth_status st = plugin_run(c, op, &n, i, &call, NULL);
		if (st != BERTH_OK && first == BERTH_OK)
			first = st;
	}
	network_finish(&n);
	return first;
}

/* What becomes a file name must be one. */
static berth_status check_names(struct cni *c, struct berth_op *op, const struct berth_net_args *a)
{
	char name[256];

	errno = 0;
	if (record_name(a->sandbox_id, ifname_of(a), name, sizeof(name)) < 0)
		return berth_fail(c->host, op, BERTH_E_INVALID,
		        "sandbox id '%s' or interface '%s' is not a name",
		        a->sandbox_id ? a->sandbox_id : "", ifname_of(a));
	return BERTH_OK;
}

static berth_status detach(struct cni *c, struct berth_op *op, const struct berth_net_args *a)
{
	struct record r;
	berth_status st = check_names(c, op, a);

	if (st != BERTH_OK)
		return st;
	int e = record_load(c, a->sandbox_id, ifname_of(a), &r);
	if (e == -ENOENT)
		return BERTH_OK; /* the intent is the first thing that attach writes */
	if (e < 0) {
		errno = -e;
		return berth_fail(c->host, op,
		        e == -EINVAL ? BERTH_E_PRECONDITION : BERTH_E_INTERNAL,
		        "pod '%s': read its network attachment '%s' in '%s': %s", a->sandbox_id,
		        ifname_of(a), c->host->state_dir, strerror(-e));
	}
	st = release(c, op, &r);
	record_finish(&r);
	if (st != BERTH_OK)
		return st;
	e = record_remove(c, a->sandbox_id, ifname_of(a));
	if (e < 0) {
		errno = -e;
		return berth_fail(c->host, op, BERTH_E_INTERNAL,
		        "pod '%s': forget its network attachment: %s", a->sandbox_id, strerror(-e));
	}
	return BERTH_OK;
}

static berth_status op_detach(struct berth_op *op, void *self, const struct berth_net_args *a)
{
	struct cni *c = self;

	pthread_rwlock_rdlock(&c->changing);
	berth_status st = detach(c, op, a);
	pthread_rwlock_unlock(&c->changing);
	return st;
}

/* ---- ADD ---- */

static berth_status add_all(struct cni *c, struct berth_op *op, const struct network *n,
        const struct record *r, json_t **ret_result)
{
	json_t *prev = NULL;
	berth_status st = BERTH_OK;

	for (size_t i = 0; st == BERTH_OK && i < network_size(n); i++) {
		json_t *result = NULL;
		struct call call = {.command = "ADD",
		        .sandbox_id = record_str(r, "sandbox_id"),
		        .netns = record_str(r, "netns"),
		        .ifname = record_str(r, "ifname"),
		        .args = record_str(r, "args"),
		        .caps = json_object_get(r->json, "caps"),
		        .prev = prev};
		st = plugin_run(c, op, n, i, &call, &result);
		if (st == BERTH_OK) {
			json_decref(prev);
			prev = result;
		}
	}
	*ret_result = prev;
	return st;
}

static berth_status fill_result(struct cni *c, struct berth_op *op, const char *id,
        const json_t *result, struct berth_net_result *res)
{
	const char *why = "";
	size_t n = 0;
	char **ips = result_ips(result, &n, &why);

	errno = 0;
	if (!ips)
		return berth_fail(c->host, op, BERTH_E_UNAVAILABLE,
		        "pod '%s': the network's result cannot be used: %s", id, why);
	const char **v = c->host->op_alloc(op, (n + 1) * sizeof(*v));
	for (size_t i = 0; i < n; i++)
		v[i] = berth_dup(c->host, op, ips[i]);
	ips_free(ips);
	char *text = json_dumps(result, JSON_COMPACT);
	res->ips = v;
	res->n_ips = (uint32_t)n;
	res->result_json = text ? berth_dup(c->host, op, text) : NULL;
	free(text);
	return BERTH_OK;
}

/* Undoes what a failing ADD did. The host keeps the first failure of an op: that of the ADD. */
static berth_status undo(
        struct cni *c, struct berth_op *op, struct record *r, json_t *partial, berth_status st)
{
	const char *id = record_str(r, "sandbox_id"), *ifname = record_str(r, "ifname");

	if (partial)
		json_object_set(r->json, "result", partial);
	if (release(c, op, r) == BERTH_OK)
		(void)record_remove(c, id, ifname);
	else
		(void)record_save(c, r); /* for detach() and gc() */
	return st;
}

static berth_status attach_to(struct cni *c, struct berth_op *op, const struct network *n,
        struct record *r, struct berth_net_result *res)
{
	json_t *result = NULL;
	const char *id = record_str(r, "sandbox_id");

	berth_status st = save(c, op, r);
	if (st != BERTH_OK)
		return st;
	st = add_all(c, op, n, r, &result);
	if (st == BERTH_OK && !result)
		st = BERTH_E_INTERNAL;
	if (st == BERTH_OK)
		st = fill_result(c, op, id, result, res);
	if (st == BERTH_OK) {
		json_object_set(r->json, "result", result);
		st = save(c, op, r);
	}
	if (st != BERTH_OK)
		st = undo(c, op, r, result, st);
	json_decref(result);
	return st;
}

static berth_status attach(struct cni *c, struct berth_op *op, const struct berth_net_args *a,
        struct berth_net_result *res)
{
	struct network n;
	struct record r = {0};
	char args[2048], *why = NULL;
	berth_status st = check_names(c, op, a);

	if (st != BERTH_OK)
		return st;
	if (a->flags)
		return berth_fail(c->host, op, BERTH_E_INVALID, "pod '%s': unknown flags 0x%x",
		        a->sandbox_id, (unsigned int)a->flags);
	if (!call_args(a, args, sizeof(args)))
		return berth_fail(c->host, op, BERTH_E_INVALID,
		        "pod '%s': its name, namespace or uid cannot be passed to network plugins",
		        a->sandbox_id);
	if (!a->netns || !*a->netns)
		return berth_fail(c->host, op, BERTH_E_INVALID,
		        "pod '%s' has no network namespace to attach", a->sandbox_id);
	if (!conf_get(c, &n, &why)) {
		st = berth_fail(
		        c->host, op, BERTH_E_UNAVAILABLE, "cni config uninitialized: %s", why);
		free(why);
		return st;
	}
	/* What an earlier try left is released first, with what it was made with. */
	if (record_load(c, a->sandbox_id, ifname_of(a), &r) == 0)
		st = detach(c, op, a);
	record_finish(&r);
	json_t *caps = json_object();
	if (st == BERTH_OK)
		st = call_caps(c, op, a, caps);
	if (st == BERTH_OK) {
		recent_add(c, a->sandbox_id);
		r.json = json_pack("{sisssssssssOsO}", "v", 1, "sandbox_id", a->sandbox_id,
		        "ifname", ifname_of(a), "netns", a->netns, "args", args, "caps", caps,
		        "network", n.list);
		st = r.json ? attach_to(c, op, &n, &r, res)
		            : berth_fail(c->host, op, BERTH_E_INVALID,
		                      "pod '%s': its arguments are not UTF-8", a->sandbox_id);
		record_finish(&r);
	}
	json_decref(caps);
	network_finish(&n);
	return st;
}

static berth_status op_attach(struct berth_op *op, void *self, const struct berth_net_args *a,
        struct berth_net_result *res)
{
	struct cni *c = self;

	pthread_rwlock_rdlock(&c->changing);
	berth_status st = attach(c, op, a, res);
	pthread_rwlock_unlock(&c->changing);
	return st;
}

/* ---- CHECK, STATUS ---- */

static berth_status op_check(struct berth_op *op, void *self, const struct berth_net_args *a)
{
	struct cni *c = self;
	struct record r;
	struct network n;
	berth_status st = BERTH_OK;
	int e = record_load(c, a->sandbox_id, ifname_of(a), &r);

	errno = e < 0 ? -e : 0;
	if (e < 0)
		return berth_fail(c->host, op,
		        e == -ENOENT ? BERTH_E_NOT_FOUND : BERTH_E_PRECONDITION,
		        "pod '%s' has no network attachment '%s'",
		        a->sandbox_id ? a->sandbox_id : "", ifname_of(a));
	if (!record_network(&r, &n)) {
		record_finish(&r);
		return berth_fail(c->host, op, BERTH_E_INTERNAL,
		        "pod '%s': the network kept for it cannot be read", a->sandbox_id);
	}
	struct call call = {.command = "CHECK",
	        .sandbox_id = record_str(&r, "sandbox_id"),
	        .netns = record_str(&r, "netns"),
	        .ifname = record_str(&r, "ifname"),
	        .args = record_str(&r, "args"),
	        .caps = json_object_get(r.json, "caps"),
	        .prev = json_object_get(r.json, "result")};
	bool skip = n.version < V040 || json_is_true(json_object_get(n.list, "disableCheck"));
	if (!skip && !call.prev)
		st = berth_fail(c->host, op, BERTH_E_PRECONDITION,
		        "pod '%s': its network attachment was never completed", a->sandbox_id);
	for (size_t i = 0; !skip && st == BERTH_OK && i < network_size(&n); i++)
		st = plugin_run(c, op, &n, i, &call, NULL);
	network_finish(&n);
	record_finish(&r);
	return st;
}

static berth_status op_status(struct berth_op *op, void *self)
{
	struct cni *c = self;
	struct network n;
	char *why = NULL;
	berth_status st = BERTH_OK;

	errno = 0;
	if (!conf_get(c, &n, &why)) {
		st = berth_fail(
		        c->host, op, BERTH_E_UNAVAILABLE, "cni config uninitialized: %s", why);
		free(why);
		return st;
	}
	const char *name = json_string_value(json_object_get(n.list, "name"));
	for (size_t i = 0; st == BERTH_OK && i < network_size(&n); i++) {
		char *path = plugin_find(c, plugin_type(&n, i));
		if (!path)
			st = berth_fail(c->host, op, BERTH_E_PRECONDITION,
			        "network '%s': plugin '%s' not found in %s", name,
			        plugin_type(&n, i), c->path);
		free(path);
	}
	struct call call = {.command = "STATUS"};
	for (size_t i = 0; st == BERTH_OK && n.version >= V110 && i < network_size(&n); i++)
		st = plugin_run(c, op, &n, i, &call, NULL);
	network_finish(&n);
	return st;
}

/* ---- GC ---- */

struct gc {
	struct cni *c;
	struct berth_op *op;
	const char *const *valid;
	uint32_t n;
	bool again; /* it is the turn of those that failed before */
	json_t *before, *failed;
	const char *network; /* the one whose attachments are collected */
	json_t *attachments;
	berth_status first;
};

static bool is_valid(const struct gc *g, const char *id)
{
	for (uint32_t i = 0; i < g->n; i++)
		if (strcmp(g->valid[i], id) == 0)
			return true;
	return recent_has(g->c, id);
}

static void gc_release(struct record *r, void *arg)
{
	struct gc *g = arg;
	const char *id = record_str(r, "sandbox_id");
	berth_status st;

	if ((json_object_get(g->before, id) != NULL) != g->again || is_valid(g, id))
		return;
	errno = 0;
	if (g->c->host->op_cancelled(g->op)) {
		st = berth_fail(g->c->host, g->op, BERTH_E_UNAVAILABLE,
		        "pod '%s': there was no time to release its network", id);
	} else {
		st = release(g->c, g->op, r);
		if (st == BERTH_OK)
			(void)record_remove(g->c, id, record_str(r, "ifname"));
		else
			json_object_set_new(g->failed, id, json_true());
	}
	if (g->first == BERTH_OK)
		g->first = st;
}

/* One that hangs takes all the time there is: the next time the others come first. */
static void gc_release_all(struct gc *g)
{
	struct cni *c = g->c;

	g->failed = json_object();
	pthread_mutex_lock(&c->lock);
	g->before = json_incref(c->gc_failed);
	pthread_mutex_unlock(&c->lock);
	record_each(c, g->op, gc_release, g);
	if (c->host->op_cancelled(g->op)) {
		json_object_update(g->failed, g->before);
	} else {
		g->again = true;
		record_each(c, g->op, gc_release, g);
	}
	pthread_mutex_lock(&c->lock);
	json_decref(c->gc_failed);
	c->gc_failed = g->failed;
	pthread_mutex_unlock(&c->lock);
	json_decref(g->before);
}

static void gc_collect(struct record *r, void *arg)
{
	struct gc *g = arg;
	const char *name =
	        json_string_value(json_object_get(json_object_get(r->json, "network"), "name"));

	if (name && strcmp(name, g->network) == 0)
		json_array_append_new(g->attachments,
		        json_pack("{ssss}", "containerID", record_str(r, "sandbox_id"), "ifname",
		                record_str(r, "ifname")));
}

/* What is attached meanwhile would not be among the attachments, and be released. */
static berth_status gc_ask(struct gc *g, const struct network *net)
{
	struct cni *c = g->c;
	berth_status first = BERTH_OK;

	if (pthread_rwlock_trywrlock(&c->changing) != 0) {
		errno = 0;
		return berth_fail(c->host, g->op, BERTH_E_UNAVAILABLE,
		        "network '%s': not collected while pods are attached or detached",
		        g->network);
	}
	g->attachments = json_array();
	record_each(c, g->op, gc_collect, g);
	json_t *extra = json_pack("{so}", "cni.dev/valid-attachments", g->attachments);
	struct call call = {.command = "GC", .extra = extra};
	for (size_t i = 0; i < network_size(net); i++) {
		berth_status st = plugin_run(c, g->op, net, i, &call, NULL);
		if (st != BERTH_OK && first == BERTH_OK)
			first = st;
	}
	pthread_rwlock_unlock(&c->changing);
	json_decref(extra);
	return first;
}

static berth_status op_gc(struct berth_op *op, void *self, const struct berth_net_gc_args *a)
{
	struct cni *c = self;
	struct network net;
	char *why = NULL;
	struct gc g = {.c = c, .op = op, .valid = a->valid, .n = a->n_valid};

	gc_release_all(&g);
	bool have = conf_get(c, &net, &why);
	free(why);
	/* A plugin is not asked to collect while something it must forget could not be released. */
	if (have && net.version >= V110 && g.first == BERTH_OK &&
	        !json_is_true(json_object_get(net.list, "disableGC"))) {
		g.network = json_string_value(json_object_get(net.list, "name"));
		g.first = gc_ask(&g, &net);
	}
	network_finish(&net);
	return g.first;
}

const struct berth_network_ops cni_ops = {
        .size = sizeof(cni_ops),
        .attach = op_attach,
        .detach = op_detach,
        .check = op_check,
        .status = op_status,
        .gc = op_gc,
};
