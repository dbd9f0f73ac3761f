/* The structures of the ABI in guarded memory: what a plugin is given, and where it answers.
 *
 * A structure ends where its page does, so that a member behind its `size` is not there to be read
 * or written. FIRST: the members of the first version alone, as an older host gives them. LARGER:
 * members that no plugin knows yet, which hold garbage in arguments and must stay zero in results.
 */
#include <string.h>

#include "check.h"

#define MORE 64
#define GARBAGE 0xa5

/* The last member that the first version has. */
#define FIRST(type, last) (offsetof(type, last) + sizeof(((type *)0)->last))
struct shape {
	size_t first, whole;
};
#define SHAPE(type, last)                       \
	{                                       \
		FIRST(type, last), sizeof(type) \
	}

static const struct shape snap_args = SHAPE(struct berth_snap_args, inode_limit);
static const struct shape sandbox_args = SHAPE(struct berth_sandbox_args, state_json);
static const struct shape ctr_args = SHAPE(struct berth_ctr_args, sandbox_state_json);
static const struct shape checkpoint_args = SHAPE(struct berth_checkpoint_args, work_dir);
static const struct shape net_args = SHAPE(struct berth_net_args, n_caps);
static const struct shape gc_args = SHAPE(struct berth_net_gc_args, valid);

static const struct shape *in_shape(enum berth_opcode op)
{
	switch ((int)op) {
	case BERTH_OP_STORAGE_LIST:
	case BERTH_OP_STORAGE_CLEANUP:
	case BERTH_OP_RUNTIME_INFO:
	case BERTH_OP_RUNTIME_LIST:
	case BERTH_OP_NETWORK_STATUS:
		return NULL;
	case BERTH_OP_RUNTIME_CHECKPOINT:
		return &checkpoint_args;
	case BERTH_OP_NETWORK_GC:
		return &gc_args;
	case BERTH_OP_RUNTIME_SANDBOX_CREATE:
	case BERTH_OP_RUNTIME_SANDBOX_REMOVE:
		return &sandbox_args;
	default:
		return op <= BERTH_OP_STORAGE_CLEANUP ? &snap_args
		       : op <= BERTH_OP_RUNTIME_STATS ? &ctr_args
		                                      : &net_args;
	}
}

static const struct shape *out_shape(enum berth_opcode op)
{
	static const struct shape mounts = SHAPE(struct berth_mounts_result, mounts),
	                          info = SHAPE(struct berth_snap_info, inodes),
	                          snaps = SHAPE(struct berth_snap_list, snaps),
	                          features = SHAPE(struct berth_runtime_info, features_json),
	                          sandbox = SHAPE(struct berth_sandbox_result, state_json),
	                          state = SHAPE(struct berth_ctr_state, finished_ns),
	                          ctrs = SHAPE(struct berth_ctr_list, ctrs),
	                          stdio = {FIRST(struct berth_stdio, err_fd),
	                                  sizeof(struct berth_stdio)},
	                          stats = SHAPE(struct berth_ctr_stats, when_ns),
	                          net = SHAPE(struct berth_net_result, result_json);
	switch ((int)op) {
	case BERTH_OP_STORAGE_PREPARE:
	case BERTH_OP_STORAGE_VIEW:
	case BERTH_OP_STORAGE_MOUNTS:
		return &mounts;
	case BERTH_OP_STORAGE_STAT:
		return &info;
	case BERTH_OP_STORAGE_LIST:
		return &snaps;
	case BERTH_OP_RUNTIME_INFO:
		return &features;
	case BERTH_OP_RUNTIME_SANDBOX_CREATE:
		return &sandbox;
	case BERTH_OP_RUNTIME_STATE:
		return &state;
	case BERTH_OP_RUNTIME_LIST:
		return &ctrs;
	case BERTH_OP_RUNTIME_EXEC:
	case BERTH_OP_RUNTIME_ATTACH:
		return &stdio;
	case BERTH_OP_RUNTIME_STATS:
		return &stats;
	case BERTH_OP_NETWORK_ATTACH:
		return &net;
	default:
		return NULL;
	}
}

static size_t size_of(const struct shape *s, enum sizes how)
{
	return how == SIZES_FIRST ? s->first : how == SIZES_LARGER ? s->whole + MORE : s->whole;
}

/* As long as `n` says, up to the very end of its page; 8-aligned, as every structure's size is. */
static char *at_the_end(struct guard *g, size_t n)
{
	size_t room = (n + 15) & ~(size_t)15;

	return (char *)guard_alloc(g, room) + (room - n) / 8 * 8;
}

static const char *text(struct guard *g, const char *s)
{
	return s ? memcpy(guard_alloc(g, strlen(s) + 1), s, strlen(s) + 1) : NULL;
}

static const void *array(struct guard *g, const void *p, size_t n, size_t size)
{
	return n ? memcpy(guard_alloc(g, n * size), p, n * size) : NULL;
}

static const struct berth_kv *pairs(struct guard *g, const struct berth_kv *v, uint32_t n)
{
	struct berth_kv *to = n ? guard_alloc(g, n * sizeof(*to)) : NULL;

	for (uint32_t i = 0; i < n; i++)
		to[i] = (struct berth_kv){text(g, v[i].key), text(g, v[i].value)};
	return to;
}

static void deep_snap(struct guard *g, struct berth_snap_args *a)
{
	a->key = text(g, a->key);
	a->parent = text(g, a->parent);
	a->name = text(g, a->name);
	a->labels = pairs(g, a->labels, a->n_labels);
	a->uid_maps = array(g, a->uid_maps, a->n_uid_maps, sizeof(*a->uid_maps));
	a->gid_maps = array(g, a->gid_maps, a->n_gid_maps, sizeof(*a->gid_maps));
}

static void deep_sandbox(struct guard *g, struct berth_sandbox_args *a)
{
	a->id = text(g, a->id);
	a->netns = text(g, a->netns);
	a->cgroup_parent = text(g, a->cgroup_parent);
	a->oci_resources_json = text(g, a->oci_resources_json);
	a->annotations = pairs(g, a->annotations, a->n_annotations);
	a->state_json = text(g, a->state_json);
}

static void deep_ctr(struct guard *g, struct berth_ctr_args *a)
{
	a->id = text(g, a->id);
	a->sandbox_id = text(g, a->sandbox_id);
	a->exec_id = text(g, a->exec_id);
	a->bundle = text(g, a->bundle);
	a->log_path = text(g, a->log_path);
	a->json = text(g, a->json);
	a->sandbox_state_json = text(g, a->sandbox_state_json);
}

static void deep_checkpoint(struct guard *g, struct berth_checkpoint_args *a)
{
	a->id = text(g, a->id);
	a->bundle = text(g, a->bundle);
	a->image_dir = text(g, a->image_dir);
	a->work_dir = text(g, a->work_dir);
}

static void deep_net(struct guard *g, struct berth_net_args *a)
{
	struct berth_port *ports = a->n_ports ? guard_alloc(g, a->n_ports * sizeof(*ports)) : NULL;

	a->sandbox_id = text(g, a->sandbox_id);
	a->pod_name = text(g, a->pod_name);
	a->pod_namespace = text(g, a->pod_namespace);
	a->pod_uid = text(g, a->pod_uid);
	a->netns = text(g, a->netns);
	a->ifname = text(g, a->ifname);
	a->prev_result_json = text(g, a->prev_result_json);
	for (uint32_t i = 0; i < a->n_ports; i++) {
		ports[i] = a->ports[i];
		ports[i].host_ip = text(g, a->ports[i].host_ip);
	}
	a->ports = ports;
	a->caps = pairs(g, a->caps, a->n_caps);
}

static void deep_gc(struct guard *g, struct berth_net_gc_args *a)
{
	const char **v = guard_alloc(g, (a->n_valid + 1) * sizeof(*v));

	for (uint32_t i = 0; i < a->n_valid; i++)
		v[i] = text(g, a->valid[i]);
	a->valid = v;
}

const void *seal_in(struct guard *g, enum berth_opcode op, const void *in, enum sizes how)
{
	const struct shape *s = in_shape(op);

	if (!in)
		return NULL;
	size_t n = size_of(s, how);
	char *p = at_the_end(g, n);
	union {
		struct berth_snap_args snap;
		struct berth_sandbox_args sandbox;
		struct berth_ctr_args ctr;
		struct berth_net_args net;
		struct berth_net_gc_args gc;
		struct berth_checkpoint_args checkpoint;
	} copy;

	memcpy(&copy, in, s->whole);
	if (s == &snap_args)
		deep_snap(g, &copy.snap);
	else if (s == &sandbox_args)
		deep_sandbox(g, &copy.sandbox);
	else if (s == &ctr_args)
		deep_ctr(g, &copy.ctr);
	else if (s == &checkpoint_args)
		deep_checkpoint(g, &copy.checkpoint);
	else if (s == &gc_args)
		deep_gc(g, &copy.gc);
	else
		deep_net(g, &copy.net);
	memset(p, GARBAGE, n);
	memcpy(p, &copy, n < s->whole ? n : s->whole);
	*(uint32_t *)(void *)p = (uint32_t)n;
	guard_seal(g);
	return p;
}

void *seal_out(struct guard *g, enum berth_opcode op, enum sizes how)
{
	const struct shape *s = out_shape(op);

	if (!s)
		return NULL;
	size_t n = size_of(s, how);
	char *p = at_the_end(g, n);
	*(uint32_t *)(void *)p = (uint32_t)n;
	if (op == BERTH_OP_RUNTIME_EXEC || op == BERTH_OP_RUNTIME_ATTACH) {
		struct berth_stdio *io = (void *)p;
		io->in_fd = io->out_fd = io->err_fd = -1;
	}
	return p;
}

bool unseal_out(enum berth_opcode op, const void *guarded, void *out, enum sizes how)
{
	const struct shape *s = out_shape(op);
	const unsigned char *p = guarded;

	if (!s)
		return true;
	size_t n = size_of(s, how);
	bool clean = *(const uint32_t *)guarded == n;
	for (size_t i = s->whole; i < n; i++)
		clean = clean && p[i] == 0;
	memset(out, 0, s->whole);
	memcpy(out, guarded, n < s->whole ? n : s->whole);
	*(uint32_t *)out = (uint32_t)s->whole;
	return clean;
}
