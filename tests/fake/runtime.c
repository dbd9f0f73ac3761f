#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "berth/util.h"

#define TABLE "ctrs"

/* A container that ends by itself. */
struct ending {
	struct ending *next;
	struct fake *f;
	struct berth_watch *watch;
	char id[];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void set_number(struct row *r, const char *key, uint64_t n)
{
	char v[32];

	snprintf(v, sizeof(v), "%llu", (unsigned long long)n);
	row_set(r, key, v);
}

static uint64_t get_number(const struct row *r, const char *key)
{
	char v[VALUE_LIMIT];

	return strtoull(row_get(r, key, v), NULL, 10);
}

static bool is(const struct row *r, const char *status)
{
	char v[VALUE_LIMIT];

	return strcmp(row_get(r, "status", v), status) == 0;
}

/* A line as the CRI wants them: time, stream, tag, text. */
static void write_log(const struct row *r, const char *text)
{
	char path[VALUE_LIMIT], line[1024], when[64];
	struct timespec t;
	struct tm tm;

	row_get(r, "log", path);
	int fd = *path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640) : -1;
	if (fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &t);
	gmtime_r(&t.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	int n = snprintf(line, sizeof(line), "%s.%09ldZ stdout F %s\n", when, t.tv_nsec, text);
	if (n > 0 && (size_t)n < sizeof(line)) {
		ssize_t w = write(fd, line, (size_t)n);
		(void)w; /* a log on a full disk is no reason to fail */
	}
	close(fd);
}

static berth_status load(struct fake *f, struct berth_op *op, const char *id, struct row *r)
{
	int e = row_load(f->run, TABLE, id, r);

	if (e == -ENOENT)
		return berth_fail(
		        f->host, op, BERTH_E_NOT_FOUND, "fake container '%s' is not there", id);
	return e < 0 ? fake_fail(f, op, e, "read container", id) : BERTH_OK;
}

static berth_status save(struct fake *f, struct berth_op *op, const char *id, const struct row *r)
{
	int e = row_save(f->run, TABLE, id, r);

	return e < 0 ? fake_fail(f, op, e, "keep container", id) : BERTH_OK;
}

/* Ends a container and tells the host; nothing where it has ended already. */
static void end(struct fake *f, const char *id, uint32_t flags, int32_t code)
{
	struct row *r = calloc(1, sizeof(*r));
	char text[64];

	if (!r)
		abort();
	pthread_mutex_lock(&f->lock);
	bool ends = row_load(f->run, TABLE, id, r) == 0 && !is(r, "stopped");
	if (ends) {
		row_set(r, "status", "stopped");
		set_number(r, "exit_flags", flags);
		set_number(r, "exit_code", (uint64_t)code);
		set_number(r, "finished", now_ns());
		(void)row_save(f->run, TABLE, id, r);
		snprintf(text, sizeof(text), "ended by %s %d",
		        flags & BERTH_EXIT_SIGNALLED ? "signal" : "exit", code);
		write_log(r, text);
	}
	pthread_mutex_unlock(&f->lock);
	free(r);
	if (!ends)
		return;
	struct berth_event ev = {.size = sizeof(ev),
	        .type = BERTH_EV_EXIT,
	        .object_id = id,
	        .exit = {flags, code},
	        .when_ns = now_ns()};
	f->host->emit(f->host, &ev);
}

/* Takes it off the list; false where runtime_stop() has it. */
static bool take(struct fake *f, struct ending *e)
{
	bool found = false;

	pthread_mutex_lock(&f->lock);
	for (struct ending **p = &f->endings; *p && !found; p = &(*p)->next) {
		if (*p == e) {
			*p = e->next;
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&f->lock);
	return found;
}

static void its_time(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	struct ending *e = arg;
	struct fake *f = e->f;

	(void)op;
	(void)events;
	if (!take(f, e))
		return;
	end(f, e->id, BERTH_EXIT_KNOWN, (int32_t)inject_number(f, "exit_code"));
	f->host->unwatch(w);
	free(e);
}

static void plan_end(struct fake *f, const char *id)
{
	int64_t ms = inject_number(f, "exit_after_ms");
	size_t n = strlen(id) + 1;

	if (ms <= 0)
		return;
	struct ending *e = calloc(1, sizeof(*e) + n);
	if (!e)
		abort();
	e->f = f;
	memcpy(e->id, id, n);
	pthread_mutex_lock(&f->lock);
	e->next = f->endings;
	f->endings = e;
	pthread_mutex_unlock(&f->lock);
	if (f->host->watch_after(f->host, (uint64_t)ms * 1000000, its_time, e, &e->watch) !=
	                BERTH_OK &&
	        take(f, e))
		free(e);
}

void runtime_stop(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	struct ending *all = f->endings;
	f->endings = NULL;
	pthread_mutex_unlock(&f->lock);
	while (all) {
		struct ending *e = all;
		all = e->next;
		if (e->watch)
			f->host->unwatch(e->watch);
		free(e);
	}
}

static berth_status op_info(struct berth_op *op, void *self, struct berth_runtime_info *res)
{
	berth_status st = inject_before(self, op, "runtime.info");

	res->features_json =
	        "{\"ociVersionMin\":\"1.0.0\",\"ociVersionMax\":\"1.1.0\",\"hooks\":[],"
	        "\"mountOptions\":[\"ro\",\"rbind\"],\"linux\":{\"namespaces\":[\"pid\","
	        "\"network\",\"ipc\",\"uts\",\"mount\"]}}";
	return st;
}

static berth_status create(struct fake *f, struct berth_op *op, const struct berth_ctr_args *a)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	char path[4096];
	berth_status st = fake_flags(
	        f, op, a->id, a->flags, BERTH_IO_TTY | BERTH_IO_STDIN | BERTH_IO_STDIN_ONCE);

	if (st != BERTH_OK)
		return st;
	if (row_load(f->run, TABLE, a->id, r) == 0)
		return berth_fail(f->host, op, BERTH_E_EXISTS, "fake container '%s' exists", a->id);
	snprintf(path, sizeof(path), "%s/config.json", a->bundle);
	json_t *config = json_load_file(path, 0, NULL);
	bool whole =
	        json_array_size(json_object_get(json_object_get(config, "process"), "args")) > 0;
	json_decref(config);
	errno = 0;
	if (!whole)
		return berth_fail(f->host, op, BERTH_E_INVALID,
		        "fake container '%s': '%s' has no process", a->id, path);
	r->text[0] = '\0';
	row_set(r, "status", "created");
	row_set(r, "log", a->log_path ? a->log_path : "");
	row_set(r, "bundle", a->bundle);
	return save(f, op, a->id, r);
}

static berth_status op_create(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	berth_status st = inject_before(self, op, "runtime.create");
	if (st == BERTH_OK)
		st = sandbox_state(self, op, a->sandbox_id, a->sandbox_state_json);
	if (st == BERTH_OK)
		st = create(self, op, a);
	inject_after(self, "runtime.create");
	return st;
}

/* From one state to another, under the lock. */
static berth_status change(struct fake *f, struct berth_op *op, const char *id, const char *from,
        const char *to, const char *log)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));

	pthread_mutex_lock(&f->lock);
	berth_status st = load(f, op, id, r);
	if (st == BERTH_OK && !is(r, from))
		st = berth_fail(f->host, op, BERTH_E_PRECONDITION, "fake container '%s' is not %s",
		        id, from);
	if (st == BERTH_OK) {
		row_set(r, "status", to);
		if (strcmp(from, "created") == 0)
			set_number(r, "started", now_ns());
		st = save(f, op, id, r);
	}
	if (st == BERTH_OK && log)
		write_log(r, log);
	pthread_mutex_unlock(&f->lock);
	return st;
}

static berth_status op_start(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	berth_status st = inject_before(self, op, "runtime.start");
	if (st == BERTH_OK)
		st = change(self, op, a->id, "created", "running", "started");
	if (st == BERTH_OK)
		plan_end(self, a->id);
	inject_after(self, "runtime.start");
	return st;
}

static berth_status op_kill(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	char text[64];
	berth_status st = inject_before(f, op, "runtime.kill");

	if (st == BERTH_OK)
		st = load(f, op, a->id, r);
	if (st != BERTH_OK)
		return st;
	if (is(r, "stopped"))
		return BERTH_OK;
	snprintf(text, sizeof(text), "got signal %d", a->signal);
	write_log(r, text);
	bool ends = a->signal == SIGKILL || ((a->signal == SIGTERM || a->signal == SIGINT ||
	                                             a->signal == SIGQUIT || a->signal == SIGHUP) &&
	                                            !inject_number(f, "ignore_term"));
	if (ends)
		end(f, a->id, BERTH_EXIT_KNOWN | BERTH_EXIT_SIGNALLED, a->signal);
	inject_after(f, "runtime.kill");
	return BERTH_OK;
}

static berth_status op_remove(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = inject_before(f, op, "runtime.remove");

	if (st != BERTH_OK)
		return st;
	if (row_load(f->run, TABLE, a->id, r) == 0) {
		if (is(r, "running") || is(r, "paused"))
			return berth_fail(f->host, op, BERTH_E_PRECONDITION,
			        "fake container '%s' is running", a->id);
		int e = row_remove(f->run, TABLE, a->id);
		if (e < 0)
			st = fake_fail(f, op, e, "remove container", a->id);
	}
	inject_after(f, "runtime.remove");
	return st;
}

static void tell(struct fake *f, struct berth_op *op, const char *id, const struct row *r,
        struct berth_ctr_state *s)
{
	s->id = berth_dup(f->host, op, id);
	s->status = is(r, "created")   ? BERTH_ST_CREATED
	            : is(r, "running") ? BERTH_ST_RUNNING
	            : is(r, "paused")  ? BERTH_ST_PAUSED
	            : is(r, "stopped") ? BERTH_ST_STOPPED
	                               : BERTH_ST_UNKNOWN;
	s->exit.flags = (uint32_t)get_number(r, "exit_flags");
	s->exit.code = (int32_t)get_number(r, "exit_code");
	s->started_ns = get_number(r, "started");
	s->finished_ns = get_number(r, "finished");
}

static berth_status op_state(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_state *res)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = inject_before(f, op, "runtime.state");

	if (st == BERTH_OK)
		st = load(f, op, a->id, r);
	if (st == BERTH_OK)
		tell(f, op, a->id, r, res);
	return st;
}

struct listing {
	struct fake *f;
	struct berth_op *op;
	const struct berth_ctr_state *v[4096];
	uint32_t n;
};

static void list_one(const char *id, const struct row *r, void *arg)
{
	struct listing *l = arg;
	struct berth_ctr_state *s = l->f->host->op_alloc(l->op, sizeof(*s));

	s->size = sizeof(*s);
	tell(l->f, l->op, id, r, s);
	if (l->n < sizeof(l->v) / sizeof(l->v[0]))
		l->v[l->n++] = s;
}

static berth_status op_list(struct berth_op *op, void *self, struct berth_ctr_list *res)
{
	struct fake *f = self;
	struct listing *l = f->host->op_alloc(op, sizeof(*l));
	berth_status st = inject_before(f, op, "runtime.list");

	if (st != BERTH_OK)
		return st;
	l->f = f;
	l->op = op;
	row_each(f->run, TABLE, list_one, l);
	res->ctrs = l->v;
	res->n = l->n;
	return BERTH_OK;
}

static berth_status exec(struct fake *f, struct berth_op *op, const struct berth_ctr_args *a,
        struct berth_stdio *stdio)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = load(f, op, a->id, r);

	if (st != BERTH_OK)
		return st;
	errno = 0;
	if (!is(r, "running"))
		return berth_fail(f->host, op, BERTH_E_PRECONDITION,
		        "fake container '%s' is not running", a->id);
	return exec_process(f, op, a, stdio);
}

static berth_status op_exec(
        struct berth_op *op, void *self, const struct berth_ctr_args *a, struct berth_stdio *stdio)
{
	berth_status st = inject_before(self, op, "runtime.exec");
	if (st == BERTH_OK)
		st = exec(self, op, a, stdio);
	inject_after(self, "runtime.exec");
	return st;
}

static berth_status known(
        struct fake *f, struct berth_op *op, const struct berth_ctr_args *a, const char *name)
{
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = inject_before(f, op, name);

	return st == BERTH_OK ? load(f, op, a->id, r) : st;
}

static berth_status op_close_stdin(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	return known(self, op, a, "runtime.close_stdin");
}

static berth_status op_resize(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	return known(self, op, a, "runtime.resize");
}

static berth_status op_update(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = known(f, op, a, "runtime.update");

	pthread_mutex_lock(&f->lock);
	if (st == BERTH_OK && row_load(f->run, TABLE, a->id, r) == 0) {
		row_set(r, "update", a->json);
		st = save(f, op, a->id, r);
	}
	pthread_mutex_unlock(&f->lock);
	return st;
}

/* The log is opened for each line: after a rotation the next line is in the new file. */
static berth_status op_reopen_log(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = known(f, op, a, "runtime.reopen_log");

	if (st == BERTH_OK && row_load(f->run, TABLE, a->id, r) == 0)
		write_log(r, "reopened");
	return st;
}

static berth_status op_pause(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	berth_status st = inject_before(self, op, "runtime.pause");
	return st == BERTH_OK ? change(self, op, a->id, "running", "paused", NULL) : st;
}

static berth_status op_resume(struct berth_op *op, void *self, const struct berth_ctr_args *a)
{
	berth_status st = inject_before(self, op, "runtime.resume");
	return st == BERTH_OK ? change(self, op, a->id, "paused", "running", NULL) : st;
}

static berth_status op_stats(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_stats *res)
{
	struct fake *f = self;
	struct row *r = f->host->op_alloc(op, sizeof(*r));
	berth_status st = inject_before(f, op, "runtime.stats");

	if (st == BERTH_OK)
		st = load(f, op, a->id, r);
	if (st != BERTH_OK)
		return st;
	res->when_ns = now_ns();
	res->cpu_ns = (res->when_ns - get_number(r, "started")) / 100;
	res->mem_usage = 8u << 20;
	res->mem_working_set = 4u << 20;
	res->pids = 1;
	return BERTH_OK;
}

const struct berth_runtime_ops fake_runtime = {
        .size = sizeof(fake_runtime),
        .info = op_info,
        .sandbox_create = sandbox_create,
        .sandbox_remove = sandbox_remove,
        .create = op_create,
        .start = op_start,
        .kill = op_kill,
        .remove = op_remove,
        .state = op_state,
        .list = op_list,
        .exec = op_exec,
        .close_stdin = op_close_stdin,
        .resize = op_resize,
        .update = op_update,
        .pause = op_pause,
        .resume = op_resume,
        .reopen_log = op_reopen_log,
        .stats = op_stats,
        .checkpoint = fake_checkpoint,
};
