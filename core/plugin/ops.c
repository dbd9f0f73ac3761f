/* The ABI's ops as a table: name, lane, deadline, and how each is invoked. */
#include "plugin/internal.h"

#define SECONDS(n) ((uint64_t)(n)*1000000000u)

static bool is_storage(enum berth_opcode op)
{
	return op <= BERTH_OP_STORAGE_CLEANUP;
}

#define LANE_storage LANE_ID_STORAGE
#define LANE_runtime LANE_ID_GENERAL
#define LANE_network LANE_ID_GENERAL
#define DEADLINE_storage SECONDS(OP_STORAGE_DEADLINE_S)
#define DEADLINE_runtime SECONDS(OP_DEADLINE_S)
#define DEADLINE_network SECONDS(OP_DEADLINE_S)

const struct op_impl berth_op_table[BERTH_OP_COUNT] = {
#define X(id, kind, op, in, out, conc)                          \
	[BERTH_OP_##id] = {.name = #kind "." #op,               \
	        .lane = (conc) ? LANE_ID_CONTROL : LANE_##kind, \
	        .concurrent = (conc),                           \
	        .deadline_ns = DEADLINE_##kind},
        BERTH_OPS_STORAGE(X) BERTH_OPS_RUNTIME(X) BERTH_OPS_NETWORK(X)
#undef X
};

static berth_status missing(struct berth_call *c)
{
	return berth_service_failf(op_of(c), BERTH_E_UNIMPLEMENTED, 0, "plugin %s has no op %s",
	        c->instance->file->name, c->name);
}

/* What a driver without the bit would not even see: it must not take zero for the answer. */
static berth_status lacks_feature(struct berth_call *c)
{
	const struct berth_snap_args *a = c->in;
	uint64_t has = c->instance->features;
	bool makes = c->opcode == BERTH_OP_STORAGE_PREPARE || c->opcode == BERTH_OP_STORAGE_VIEW;
	const char *external =
	        makes && BERTH_HAS(struct berth_snap_args, a, external) ? a->external : NULL;
	const char *what =
	        !makes                                                        ? NULL
	        : (a->n_uid_maps || a->n_gid_maps) && !(has & BERTH_F_IDMAP)  ? "maps no ids"
	        : (a->size_limit || a->inode_limit) && !(has & BERTH_F_QUOTA) ? "limits no sizes"
	        : external && !(has & BERTH_F_EXTERNAL_LAYERS) ? "takes no layers from elsewhere"
	                                                       : NULL;

	return what ? berth_service_failf(op_of(c), BERTH_E_UNIMPLEMENTED, 0,
	                      "snapshot '%s': plugin %s %s", a->key, c->instance->file->name, what)
	            : BERTH_OK;
}

static berth_status invoke_storage(struct berth_call *c, struct berth_op *op, void *self)
{
	const struct berth_storage_ops *t = &c->instance->file->storage;
	const struct berth_snap_args *a = c->in;
	berth_status st = lacks_feature(c);

	if (st != BERTH_OK)
		return st;
	switch (c->opcode) {
	case BERTH_OP_STORAGE_PREPARE:
		return t->prepare ? t->prepare(op, self, a, c->out) : missing(c);
	case BERTH_OP_STORAGE_VIEW:
		return t->view ? t->view(op, self, a, c->out) : missing(c);
	case BERTH_OP_STORAGE_MOUNTS:
		return t->mounts ? t->mounts(op, self, a, c->out) : missing(c);
	case BERTH_OP_STORAGE_COMMIT:
		return t->commit ? t->commit(op, self, a) : missing(c);
	case BERTH_OP_STORAGE_REMOVE:
		return t->remove ? t->remove(op, self, a) : missing(c);
	case BERTH_OP_STORAGE_STAT:
		return t->stat ? t->stat(op, self, a, c->out) : missing(c);
	case BERTH_OP_STORAGE_LIST:
		return t->list ? t->list(op, self, c->out) : missing(c);
	default:
		return t->cleanup ? t->cleanup(op, self) : missing(c);
	}
}

static berth_status checkpoint(struct berth_call *c, struct berth_op *op, void *self)
{
	const struct berth_runtime_ops *t = &c->instance->file->runtime;

	if (!t->checkpoint)
		return missing(c);
	if (!(c->instance->features & BERTH_F_CHECKPOINT))
		return berth_service_failf(op, BERTH_E_UNIMPLEMENTED, 0,
		        "container '%s': plugin %s makes no checkpoints", c->object,
		        c->instance->file->name);
	return t->checkpoint(op, self, c->in);
}

static berth_status invoke_runtime(struct berth_call *c, struct berth_op *op, void *self)
{
	const struct berth_runtime_ops *t = &c->instance->file->runtime;
	const struct berth_ctr_args *a = c->in;

	switch (c->opcode) {
	case BERTH_OP_RUNTIME_INFO:
		return t->info ? t->info(op, self, c->out) : missing(c);
	case BERTH_OP_RUNTIME_SANDBOX_CREATE:
		return t->sandbox_create ? t->sandbox_create(op, self, c->in, c->out) : missing(c);
	case BERTH_OP_RUNTIME_SANDBOX_REMOVE:
		return t->sandbox_remove ? t->sandbox_remove(op, self, c->in) : missing(c);
	case BERTH_OP_RUNTIME_CREATE:
		return t->create ? t->create(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_START:
		return t->start ? t->start(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_KILL:
		return t->kill ? t->kill(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_REMOVE:
		return t->remove ? t->remove(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_STATE:
		return t->state ? t->state(op, self, a, c->out) : missing(c);
	case BERTH_OP_RUNTIME_LIST:
		return t->list ? t->list(op, self, c->out) : missing(c);
	case BERTH_OP_RUNTIME_EXEC:
		return t->exec ? t->exec(op, self, a, c->out) : missing(c);
	case BERTH_OP_RUNTIME_CLOSE_STDIN:
		return t->close_stdin ? t->close_stdin(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_ATTACH:
		return t->attach ? t->attach(op, self, a, c->out) : missing(c);
	case BERTH_OP_RUNTIME_RESIZE:
		return t->resize ? t->resize(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_UPDATE:
		return t->update ? t->update(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_PAUSE:
		return t->pause ? t->pause(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_RESUME:
		return t->resume ? t->resume(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_REOPEN_LOG:
		return t->reopen_log ? t->reopen_log(op, self, a) : missing(c);
	case BERTH_OP_RUNTIME_STATS:
		return t->stats ? t->stats(op, self, a, c->out) : missing(c);
	default:
		return checkpoint(c, op, self);
	}
}

static berth_status invoke_network(struct berth_call *c, struct berth_op *op, void *self)
{
	const struct berth_network_ops *t = &c->instance->file->network;
	const struct berth_net_args *a = c->in;

	switch (c->opcode) {
	case BERTH_OP_NETWORK_ATTACH:
		return t->attach ? t->attach(op, self, a, c->out) : missing(c);
	case BERTH_OP_NETWORK_DETACH:
		return t->detach ? t->detach(op, self, a) : missing(c);
	case BERTH_OP_NETWORK_CHECK:
		return t->check ? t->check(op, self, a) : missing(c);
	case BERTH_OP_NETWORK_STATUS:
		return t->status ? t->status(op, self) : missing(c);
	default:
		return t->gc ? t->gc(op, self, c->in) : missing(c);
	}
}

berth_status berth_op_invoke(struct berth_call *c)
{
	struct berth_op *op = op_of(c);
	void *self = c->instance->self;

	if (c->custom)
		return c->custom(op, c->instance, c->custom_arg);
	if (is_storage((enum berth_opcode)c->opcode))
		return invoke_storage(c, op, self);
	if (c->opcode <= BERTH_OP_RUNTIME_CHECKPOINT)
		return invoke_runtime(c, op, self);
	return invoke_network(c, op, self);
}

static bool file_has_op(const struct plugin_file *f, enum berth_opcode op)
{
	switch (op) {
#define X(id, kind, op, in, out, conc) \
	case BERTH_OP_##id:            \
		return f->kind.op != NULL;
		BERTH_OPS_STORAGE(X)
		BERTH_OPS_RUNTIME(X)
		BERTH_OPS_NETWORK(X)
#undef X
	case BERTH_OP_COUNT:
		break;
	}
	return false;
}

bool berth_instance_has_op(const struct berth_instance *i, enum berth_opcode op)
{
	return file_has_op(i->file, op);
}

/* docs/plugins.md names them. */
static const enum berth_opcode needed[] = {BERTH_OP_STORAGE_PREPARE, BERTH_OP_STORAGE_VIEW,
        BERTH_OP_STORAGE_MOUNTS, BERTH_OP_STORAGE_COMMIT, BERTH_OP_STORAGE_REMOVE,
        BERTH_OP_STORAGE_STAT, BERTH_OP_STORAGE_LIST, BERTH_OP_RUNTIME_CREATE,
        BERTH_OP_RUNTIME_START, BERTH_OP_RUNTIME_KILL, BERTH_OP_RUNTIME_REMOVE,
        BERTH_OP_RUNTIME_STATE, BERTH_OP_RUNTIME_LIST, BERTH_OP_RUNTIME_EXEC,
        BERTH_OP_NETWORK_ATTACH, BERTH_OP_NETWORK_DETACH, BERTH_OP_NETWORK_STATUS};

const char *berth_plugin_lacks(const struct plugin_file *f)
{
	for (size_t n = 0; n < BERTH_ARRAY_LEN(needed); n++) {
		enum berth_opcode op = needed[n];
		bool serves = is_storage(op)                      ? f->desc.storage != NULL
		              : op <= BERTH_OP_RUNTIME_CHECKPOINT ? f->desc.runtime != NULL
		                                                  : f->desc.network != NULL;
		if (serves && !file_has_op(f, op))
			return berth_op_name(op);
	}
	return NULL;
}

/* ---- for metrics ---- */

const char *berth_op_name(enum berth_opcode op)
{
	return berth_op_table[op].name;
}

void berth_instance_op_usage(
        struct berth_instance *i, enum berth_opcode op, struct berth_op_usage *ret)
{
	pthread_mutex_lock(&i->lock);
	*ret = i->usage[op];
	pthread_mutex_unlock(&i->lock);
}

const char *berth_instance_lane(struct berth_instance *i, unsigned int lane, size_t *queued,
        unsigned int *busy, unsigned int *stuck)
{
	static const char *const names[LANE_COUNT] = {[LANE_ID_GENERAL] = "general",
	        [LANE_ID_CONTROL] = "control",
	        [LANE_ID_STORAGE] = "storage"};
	if (lane >= LANE_COUNT || !i->lanes[lane] || (lane > 0 && i->lanes[lane] == i->lanes[0]))
		return NULL;
	berth_pool_counts(i->lanes[lane], queued, busy, stuck);
	return names[lane];
}
