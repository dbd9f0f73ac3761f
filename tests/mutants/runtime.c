/* The example runtime, wrong on purpose in one way, -DMUTANT=NAME. */
enum {
	NONE,
	REMOVES_ONCE,
	FORGETS,
	LOSES_EXIT,
	KILLS_NOTHING,
	TAKES_FLAGS,
	LEAVES_FAILED,
	LEAKS_STDIO,
	CHECKPOINTS_NOTHING,
	CHECKPOINTS_STOPPED
};
#define IS(name) (MUTANT == (name))

#define berth_plugin_v0 original
#include "../../sdk/example/runtime-oci.c"
#undef berth_plugin_v0

static berth_status m_create(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct berth_ctr_args copy = *a;

	if (IS(TAKES_FLAGS))
		copy.flags = 0;
	berth_status st = op_create(op, self, &copy);
	if (IS(LEAVES_FAILED) && st != BERTH_OK && a->id && a->bundle)
		(void)symlink(a->bundle, file(self, op, a->id, SUFFIX));
	return st;
}

static berth_status m_kill(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	return IS(KILLS_NOTHING) && a->signal == 15 ? BERTH_OK : op_kill(op, self, a);
}

static berth_status m_remove(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct oci *o = self;

	if (IS(REMOVES_ONCE) && a->id && !there(file(o, op, a->id, SUFFIX)))
		return berth_fail(
		        o->host, op, BERTH_E_NOT_FOUND, "container '%s' is not there", a->id);
	return op_remove(op, self, a);
}

static berth_status m_state(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_state *res)
{
	berth_status st = op_state(op, self, a, res);

	if (IS(LOSES_EXIT))
		res->exit.flags = 0;
	return st;
}

static berth_status m_list(struct berth_op *op, void *self, struct berth_ctr_list *res)
{
	berth_status st = op_list(op, self, res);

	if (IS(FORGETS))
		res->n = 0;
	return st;
}

static berth_status m_exec(
        struct berth_op *op, void *self, const struct berth_ctr_args *a, struct berth_stdio *stdio)
{
	berth_status st = op_exec(op, self, a, stdio);

	if (IS(LEAKS_STDIO) && st == BERTH_OK)
		(void)!fcntl(stdio->out_fd, F_DUPFD_CLOEXEC, 3);
	return st;
}

/* The example has none: an image of a container is a directory. */
static berth_status m_checkpoint(
        struct berth_op *op, void *self, const struct berth_checkpoint_args *a)
{
	struct oci *o = self;
	struct berth_ctr_args args = {.size = sizeof(args), .id = a->id, .bundle = a->bundle};
	struct berth_ctr_state s = {.size = sizeof(s)};
	char image[4096];

	if (a->flags)
		return berth_fail(
		        o->host, op, BERTH_E_INVALID, "container '%s': unknown flags", a->id);
	berth_status st = op_state(op, self, &args, &s);
	if (st != BERTH_OK)
		return st;
	if (s.status != BERTH_ST_RUNNING && !IS(CHECKPOINTS_STOPPED))
		return berth_fail(
		        o->host, op, BERTH_E_PRECONDITION, "container '%s' is not running", a->id);
	snprintf(image, sizeof(image), "%s/image", a->image_dir);
	if (!IS(CHECKPOINTS_NOTHING) && mkdir(image, 0700) < 0)
		return berth_fail(
		        o->host, op, BERTH_E_INTERNAL, "container '%s': its image", a->id);
	return BERTH_OK;
}

static struct berth_runtime_ops mutant_ops;
static struct berth_plugin mutant;

BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	mutant = *original(host_minor);
	mutant_ops = ops;
	mutant_ops.create = m_create;
	mutant_ops.kill = m_kill;
	mutant_ops.remove = m_remove;
	mutant_ops.state = m_state;
	mutant_ops.list = m_list;
	mutant_ops.exec = m_exec;
	mutant_ops.checkpoint = m_checkpoint;
	mutant.features |= BERTH_F_CHECKPOINT;
	mutant.runtime = &mutant_ops;
	return &mutant;
}
