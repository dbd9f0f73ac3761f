/* A plugin that does what a test asks of it, by the container id of the op. */
#include <berth/plugin.h>
#include <berth/util.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct self {
	const struct berth_host *h;
	const struct berth_conf *conf;
	int running, most; /* under no lock: the test looks at one object, or takes the sum */
	struct berth_watch *timer;
};

static void tick(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	struct self *s = arg;
	(void)op;
	(void)w;
	(void)events;
	struct berth_event ev = {.size = sizeof(ev), .type = BERTH_EV_HEALTH, .message = "tick"};
	s->h->emit(s->h, &ev);
}

static berth_status create(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	(void)h->conf_i64(c, "nested.number", 0);
	(void)h->conf_str(c, "text", NULL);
	(void)h->conf_str(c, "either", NULL);
	(void)h->conf_bool(c, "either", 0);
	(void)h->conf_json(c, "any");
	(void)h->conf_str(c, "any.b", NULL);
	if (h->conf_bool(c, "refuse", 0))
		return berth_fail(h, op, BERTH_E_PRECONDITION, "told to refuse");
	struct self *s = calloc(1, sizeof(*s));
	s->h = h;
	s->conf = c;
	*self = s;
	return BERTH_OK;
}

static berth_status start(struct berth_op *op, void *self)
{
	struct self *s = self;
	(void)op;
	(void)s->h->conf_str(s->conf, "late", NULL);
	return s->h->watch_after(s->h, 1000000, tick, s, &s->timer);
}

static berth_status stop(struct berth_op *op, void *self)
{
	struct self *s = self;
	(void)op;
	s->h->unwatch(s->timer);
	return BERTH_OK;
}

static void destroy(void *self)
{
	free(self);
}

/* start: sleeps a little and notes how many are inside at once; signal carries the milliseconds */
static berth_status op_start(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct self *s = self;
	int now = __atomic_add_fetch(&s->running, 1, __ATOMIC_SEQ_CST);
	if (now > __atomic_load_n(&s->most, __ATOMIC_SEQ_CST))
		__atomic_store_n(&s->most, now, __ATOMIC_SEQ_CST);
	poll(NULL, 0, a->signal);
	__atomic_sub_fetch(&s->running, 1, __ATOMIC_SEQ_CST);
	if (strcmp(a->id, "fails") == 0)
		return berth_fail(
		        s->h, op, BERTH_E_NOT_FOUND, "container %s: no such thing", a->id);
	if (strcmp(a->id, "mute") == 0)
		return BERTH_E_UNAVAILABLE;
	return BERTH_OK;
}

/* kill: waits for the op's cancel */
static berth_status op_kill(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct self *s = self;
	struct pollfd p = {.fd = s->h->op_cancel_fd(op), .events = POLLIN};
	(void)a;
	if (poll(&p, 1, 5000) != 1 || !s->h->op_cancelled(op))
		return berth_fail(s->h, op, BERTH_E_INTERNAL, "nothing came");
	return berth_fail(s->h, op, BERTH_E_CANCELLED, "stopped as asked");
}

static berth_status op_state(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_state *res)
{
	struct self *s = self;
	(void)a;
	res->pid = __atomic_load_n(&s->most, __ATOMIC_SEQ_CST);
	res->id = berth_dup(s->h, op, "from the arena");
	return BERTH_OK;
}

/* update: runs /bin/sh -c JSON with "input" on stdin; its output comes back as the error's text */
static berth_status op_update(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct self *s = self;
	const char *argv[] = {"/bin/sh", "-c", a->json, NULL};
	struct berth_run run = {.size = sizeof(run),
	        .argv = argv,
	        .in = "input",
	        .in_len = 5,
	        .out_max = 20,
	        .term_grace_ms = 100};
	struct berth_run_result res = {.size = sizeof(res)};
	berth_status st = s->h->run(op, &run, &res);
	if (st != BERTH_OK)
		return st;
	return berth_fail(
	        s->h, op, BERTH_E_UNKNOWN, "%d|%s|%s", res.wait_status >> 8, res.out, res.err);
}

static berth_status op_exec(
        struct berth_op *op, void *self, const struct berth_ctr_args *a, struct berth_stdio *io)
{
	struct self *s = self;
	const char *argv[] = {"/bin/sh", "-c", a->json, NULL};
	struct berth_run run = {.size = sizeof(run), .flags = a->flags, .argv = argv};
	return s->h->spawn(op, &run, a->id, a->exec_id, io);
}

static void never(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	(void)op;
	(void)w;
	(void)events;
	(void)arg;
}

/* resume: timers that are taken away about when their time comes */
static berth_status op_resume(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct self *s = self;
	struct berth_watch *w[8] = {NULL};
	(void)a;
	for (unsigned int n = 0; n < 4000; n++) {
		struct berth_watch **at = &w[n % 8];
		s->h->unwatch(*at);
		*at = NULL;
		berth_status st = s->h->watch_after(s->h, 1000 * (n * 7919 % 100), never, s, at);
		if (st != BERTH_OK)
			return berth_fail(s->h, op, st, "watch %u", n);
		if (n % 3 == 0)
			s->h->rearm(w[n * 5 % 8] ? w[n * 5 % 8] : *at, 0, 1000 * (n % 50));
	}
	for (unsigned int n = 0; n < 8; n++)
		s->h->unwatch(w[n]);
	return BERTH_OK;
}

struct share {
	const struct berth_host *h;
	struct berth_op *op;
	unsigned char mark, *blocks[2000];
	int32_t fd;
};

static void *take_share(void *arg)
{
	struct share *x = arg;
	x->fd = x->h->op_cancel_fd(x->op);
	for (int n = 0; n < 2000; n++) {
		x->blocks[n] = x->h->op_alloc(x->op, 24);
		memset(x->blocks[n], x->mark, 24);
	}
	x->h->fail(x->op, BERTH_E_NOT_FOUND, 0, "all is well");
	return NULL;
}

/* remove: two threads of its own work for one op */
static berth_status op_remove(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct self *s = self;
	struct share x[2] = {{s->h, op, 1, {NULL}, -1}, {s->h, op, 2, {NULL}, -1}};
	pthread_t t[2];
	(void)a;
	for (int i = 0; i < 2; i++)
		if (pthread_create(&t[i], NULL, take_share, &x[i]))
			abort();
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 2; i++)
		for (int n = 0; n < 2000; n++)
			for (int b = 0; b < 24; b++)
				if (x[i].blocks[n][b] != x[i].mark || x[0].fd != x[1].fd)
					abort();
	return BERTH_E_NOT_FOUND;
}

static berth_status op_create(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	(void)op;
	(void)self;
	(void)a;
	return BERTH_OK;
}

static berth_status op_list(struct berth_op *op, void *self, struct berth_ctr_list *res)
{
	(void)op;
	(void)self;
	(void)res;
	return BERTH_OK;
}

static const struct berth_runtime_ops runtime = {
        .size = sizeof(runtime),
        .create = op_create,
        .list = op_list,
        .start = op_start,
        .kill = op_kill,
        .state = op_state,
        .update = op_update,
        .exec = op_exec,
        .resume = op_resume,
        .remove = op_remove,
};

static const struct berth_plugin plugin = {
        .size = sizeof(plugin),
        .name = "probe",
        .version = "1",
        .runtime = &runtime,
        .create = create,
        .start = start,
        .stop = stop,
        .destroy = destroy,
};

BERTH_PLUGIN_NEEDS(0)

const struct berth_plugin *berth_plugin_v0(uint32_t host_minor)
{
	(void)host_minor;
	return &plugin;
}
