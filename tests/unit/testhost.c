#include "testhost.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define RUN_OUT_DEFAULT 65536
/* An assert that is there in release builds, too. */
#define CHECK(what)                                                                \
	do {                                                                       \
		if (!(what)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                   \
		}                                                                  \
	} while (0)

struct berth_conf {
	json_t *json;
	char **asked;
	char **texts; /* what conf_json() gave away */
};

struct berth_watch {
	struct berth_watch *next;
	struct testhost *h;
	int fd; /* -1: a timer */
	uint32_t events;
	uint64_t at_ns;
	bool armed, dead;
	berth_watch_fn fn;
	void *arg;
};

struct spawned {
	struct spawned *next;
	pid_t pid;
	char *object_id, *exec_id;
};

struct testhost {
	struct berth_host host;
	const struct berth_plugin *plugin;
	void *self;
	bool started;
	struct berth_conf conf;
	struct berth_watch *watches;
	struct spawned *children;
	struct testevent *events;
	size_t n_events, n_runs;
	struct berth_buf log;
	char *state_dir, *run_dir;
};

struct berth_op {
	struct testhost *h;
	struct berth_arena *arena;
	char *error;
	bool error_seen;
	int cancel_fd;
	bool cancelled;
	uint64_t deadline_ns;
};

static struct testhost *self_of(const struct berth_host *h)
{
	return h->impl;
}

static void host_log(
        const struct berth_host *h, struct berth_op *op, int32_t level, const char *msg)
{
	berth_buf_addf(&self_of(h)->log, "%s\n", msg);
}

static berth_status host_fail(struct berth_op *op, berth_status st, int32_t errnum, const char *msg)
{
	CHECK(st < 0);
	/* The first cause wins, until the test has seen it. */
	if (op->error && !op->error_seen)
		return st;
	free(op->error);
	op->error = berth_strdup(msg);
	op->error_seen = false;
	return st;
}

static int32_t host_cancelled(struct berth_op *op)
{
	return op->cancelled || (op->deadline_ns && berth_now_ns() > op->deadline_ns);
}

static int32_t host_cancel_fd(struct berth_op *op)
{
	return op->cancel_fd;
}

static uint64_t host_deadline(struct berth_op *op)
{
	return op->deadline_ns;
}

static void *host_alloc(struct berth_op *op, uint64_t n)
{
	return berth_arena_alloc(op->arena, n);
}

static void host_progress(struct berth_op *op, uint64_t done, uint64_t total)
{
}

/* ---- children ---- */

static char *const default_env[] = {(char *)(uintptr_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

static pid_t start_child(const struct berth_run *r, const int io[3])
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	for (int i = 0; i < 3; i++) {
		int fd = io[i] >= 0 ? io[i] : open("/dev/null", O_RDWR | O_CLOEXEC);
		if (dup2(fd, i) < 0)
			_exit(126);
	}
	setsid();
	if (chdir(r->cwd ? r->cwd : "/") < 0)
		_exit(126);
	char *const *argv = (char *const *)(uintptr_t)r->argv;
	execve(argv[0], argv,
	        r->envp ? (char *const *)(uintptr_t)r->envp : (char *const *)default_env);
	_exit(127);
}

static void pump_in(int *fd, const char *in, uint64_t len, uint64_t *done)
{
	ssize_t w = *done < len ? write(*fd, in + *done, len - *done) : 0;

	if (w > 0)
		*done += (uint64_t)w;
	if (*done == len || (w < 0 && errno != EAGAIN))
		*fd = berth_close(*fd);
}

static bool pump_out(int *fd, struct berth_buf *b, uint64_t max)
{
	char chunk[4096];
	ssize_t n = read(*fd, chunk, sizeof(chunk));

	if (n <= 0) {
		*fd = berth_close(*fd);
		return true;
	}
	if (b->len + (size_t)n > max)
		return false;
	berth_buf_add(b, chunk, (size_t)n);
	return true;
}

static berth_status host_run(
        struct berth_op *op, const struct berth_run *r, struct berth_run_result *res)
{
	int in[2], out[2], err[2];
	struct berth_buf bo = {0}, be = {0};
	uint64_t done = 0, max = r->out_max ? r->out_max : RUN_OUT_DEFAULT;
	bool fits = true;

	op->h->n_runs++;
	if (access(r->argv[0], X_OK) < 0)
		return host_fail(op, BERTH_E_NOT_FOUND, errno, r->argv[0]);
	CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 &&
	        pipe2(err, O_CLOEXEC) == 0);
	pid_t pid = start_child(r, (int[]){in[0], out[1], err[1]});
	CHECK(pid > 0);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	CHECK(berth_set_nonblock(in[1], true) == 0);
	while (out[0] >= 0 || err[0] >= 0) {
		struct pollfd p[4] = {{in[1], POLLOUT, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0},
		        {op->cancel_fd, POLLIN, 0}};
		CHECK(poll(p, 4, 100) >= 0 || errno == EINTR);
		if (host_cancelled(op) || !fits) {
			kill(-pid, SIGKILL);
			break;
		}
		if (p[0].revents)
			pump_in(&in[1], r->in, r->in_len, &done);
		if (p[1].revents)
			fits = pump_out(&out[0], &bo, max) && fits;
		if (p[2].revents)
			fits = pump_out(&err[0], &be, max) && fits;
	}
	berth_close(in[1]);
	berth_close(out[0]);
	berth_close(err[0]);
	CHECK(waitpid(pid, &res->wait_status, 0) == pid);
	_cleanup_free_ char *o = berth_buf_steal(&bo), *e = berth_buf_steal(&be);
	res->out = berth_arena_strdup(op->arena, o);
	res->err = berth_arena_strdup(op->arena, e);
	res->out_len = strlen(o);
	res->err_len = strlen(e);
	if (host_cancelled(op))
		return host_fail(op, BERTH_E_CANCELLED, 0, "cancelled");
	if (!fits)
		return host_fail(op, BERTH_E_EXHAUSTED, 0, "more output than allowed");
	return BERTH_OK;
}

static berth_status host_spawn(struct berth_op *op, const struct berth_run *r,
        const char *object_id, const char *exec_id, struct berth_stdio *stdio)
{
	int in[2], out[2], err[2];

	CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 &&
	        pipe2(err, O_CLOEXEC) == 0);
	struct spawned *s = berth_new(struct spawned);
	s->pid = start_child(r, (int[]){in[0], out[1], err[1]});
	CHECK(s->pid > 0);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	s->object_id = berth_strdup(object_id);
	s->exec_id = berth_strdup(exec_id);
	s->next = op->h->children;
	op->h->children = s;
	stdio->in_fd = in[1];
	stdio->out_fd = out[0];
	stdio->err_fd = err[0];
	return BERTH_OK;
}

/* ---- watches and events ---- */

static berth_status add_watch(const struct berth_host *h, int fd, uint32_t events, uint64_t at_ns,
        berth_watch_fn fn, void *arg, struct berth_watch **out)
{
	struct berth_watch *w = berth_new(struct berth_watch);

	w->h = self_of(h);
	w->fd = fd;
	w->events = events;
	w->at_ns = at_ns;
	w->armed = true;
	w->fn = fn;
	w->arg = arg;
	w->next = w->h->watches;
	w->h->watches = w;
	*out = w;
	return BERTH_OK;
}

static berth_status host_watch_fd(const struct berth_host *h, int32_t fd, uint32_t events,
        berth_watch_fn fn, void *arg, struct berth_watch **out)
{
	return add_watch(h, fd, events, 0, fn, arg, out);
}

static berth_status host_watch_after(const struct berth_host *h, uint64_t ns, berth_watch_fn fn,
        void *arg, struct berth_watch **out)
{
	return add_watch(h, -1, 0, berth_now_ns() + ns, fn, arg, out);
}

static void host_rearm(struct berth_watch *w, uint32_t events, uint64_t ns)
{
	w->events = events;
	w->at_ns = berth_now_ns() + ns;
	w->armed = true;
}

static void host_unwatch(struct berth_watch *w)
{
	w->dead = true; /* freed by the next dispatch, or at the end */
	w->armed = false;
}

static void bury(struct testhost *h)
{
	for (struct berth_watch **p = &h->watches; *p;) {
		struct berth_watch *w = *p;
		if (w->dead) {
			*p = w->next;
			free(w);
		} else {
			p = &w->next;
		}
	}
}

static void host_emit(const struct berth_host *h, const struct berth_event *ev)
{
	struct testhost *t = self_of(h);

	t->events = berth_reallocarray(t->events, t->n_events + 1, sizeof(*t->events));
	t->events[t->n_events++] = (struct testevent){ev->type, berth_strdup(ev->object_id),
	        berth_strdup(ev->exec_id), berth_strdup(ev->message), ev->exit};
}

static int reap(struct testhost *h)
{
	int n = 0, status;

	for (struct spawned **p = &h->children; *p;) {
		struct spawned *s = *p;
		if (waitpid(s->pid, &status, WNOHANG) != s->pid) {
			p = &s->next;
			continue;
		}
		struct berth_event ev = {.size = sizeof(ev),
		        .type = BERTH_EV_EXIT,
		        .object_id = s->object_id,
		        .exec_id = s->exec_id};
		ev.exit.flags =
		        BERTH_EXIT_KNOWN | (WIFSIGNALED(status) ? BERTH_EXIT_SIGNALLED : 0u);
		ev.exit.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
		host_emit(&h->host, &ev);
		*p = s->next;
		free(s->object_id);
		free(s->exec_id);
		free(s);
		n++;
	}
	return n;
}

static int run_ready(struct testhost *h)
{
	int n = 0;

	for (struct berth_watch *w = h->watches; w; w = w->next) {
		uint32_t got = 0;
		if (!w->armed)
			continue;
		if (w->fd < 0) {
			if (berth_now_ns() < w->at_ns)
				continue;
		} else {
			struct pollfd p = {w->fd, 0, 0};
			p.events = (short)((w->events & BERTH_WATCH_READ ? POLLIN : 0) |
			                   (w->events & BERTH_WATCH_WRITE ? POLLOUT : 0));
			if (poll(&p, 1, 0) <= 0)
				continue;
			got = (p.revents & POLLIN ? BERTH_WATCH_READ : 0u) |
			      (p.revents & POLLOUT ? BERTH_WATCH_WRITE : 0u) |
			      (p.revents & POLLHUP ? BERTH_WATCH_HUP : 0u);
		}
		w->armed = false;
		struct berth_op *op = testop_new(h);
		w->fn(op, w, got, w->arg);
		testop_free(op);
		n++;
	}
	return n;
}

int testhost_dispatch(struct testhost *h, int ms)
{
	uint64_t end = berth_now_ns() + (uint64_t)ms * 1000000;

	for (;;) {
		int n = run_ready(h) + reap(h);
		bury(h);
		if (n > 0 || berth_now_ns() >= end)
			return n;
		poll(NULL, 0, 2);
	}
}

/* ---- configuration ---- */

static json_t *lookup(const struct berth_conf *c, const char *path)
{
	struct berth_conf *conf = (struct berth_conf *)(uintptr_t)c;
	_cleanup_free_ char *copy = berth_strdup(path);
	json_t *j = conf->json;
	char *save = NULL;

	conf->asked = berth_strv_append(conf->asked, path);
	for (char *k = strtok_r(copy, ".", &save); k && j; k = strtok_r(NULL, ".", &save))
		j = json_object_get(j, k);
	return j;
}

static const char *conf_str(const struct berth_conf *c, const char *path, const char *dflt)
{
	json_t *j = lookup(c, path);
	return json_is_string(j) ? json_string_value(j) : dflt;
}

static int64_t conf_i64(const struct berth_conf *c, const char *path, int64_t dflt)
{
	json_t *j = lookup(c, path);
	return json_is_integer(j) ? json_integer_value(j) : dflt;
}

static int32_t conf_bool(const struct berth_conf *c, const char *path, int32_t dflt)
{
	json_t *j = lookup(c, path);
	return json_is_boolean(j) ? json_is_true(j) : dflt;
}

static const char *conf_json(const struct berth_conf *c, const char *path)
{
	struct berth_conf *conf = (struct berth_conf *)(uintptr_t)c;
	json_t *j = lookup(c, path);
	_cleanup_free_ char *text = j ? json_dumps(j, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;

	if (!text)
		return NULL;
	conf->texts = berth_strv_append(conf->texts, text);
	return conf->texts[berth_strv_len(conf->texts) - 1];
}

const char *testhost_unasked(const struct testhost *h)
{
	const char *key;
	json_t *value;

	json_object_foreach (h->conf.json, key, value) {
		bool found = false;
		for (size_t i = 0; h->conf.asked && h->conf.asked[i]; i++)
			found = found || (strncmp(h->conf.asked[i], key, strlen(key)) == 0 &&
			                         strchr(".", h->conf.asked[i][strlen(key)]));
		if (!found)
			return key;
	}
	return NULL;
}

static const void *host_extension(const struct berth_host *h, const char *id)
{
	return NULL;
}

/* ---- life ---- */

struct testhost *testhost_new(
        const char *so_path, const char *state_dir, const char *run_dir, const char *config)
{
	void *so = dlopen(so_path, RTLD_NOW | RTLD_LOCAL);
	if (!so) {
		fprintf(stderr, "%s\n", dlerror());
		abort();
	}
	const struct berth_plugin *(*entry)(uint32_t);
	*(void **)&entry = dlsym(so, "berth_plugin_v0");
	CHECK(entry);
	struct testhost *h = berth_new(struct testhost);
	h->plugin = entry(BERTH_ABI_MINOR);
	CHECK(h->plugin && h->plugin->size >= sizeof(*h->plugin));
	h->conf.json = json_loads(config ? config : "{}", 0, NULL);
	CHECK(h->conf.json);
	h->state_dir = berth_strdup(state_dir);
	h->run_dir = berth_strdup(run_dir ? run_dir : state_dir);
	h->host = (struct berth_host){
	        .size = sizeof(h->host),
	        .abi_minor = BERTH_ABI_MINOR,
	        .impl = h,
	        .host_version = "test",
	        .plugin_name = h->plugin->name,
	        .instance_name = h->plugin->name,
	        .state_dir = h->state_dir,
	        .run_dir = h->run_dir,
	        .log = host_log,
	        .fail = host_fail,
	        .op_cancelled = host_cancelled,
	        .op_cancel_fd = host_cancel_fd,
	        .op_deadline_ns = host_deadline,
	        .op_alloc = host_alloc,
	        .op_progress = host_progress,
	        .run = host_run,
	        .spawn = host_spawn,
	        .watch_fd = host_watch_fd,
	        .watch_after = host_watch_after,
	        .rearm = host_rearm,
	        .unwatch = host_unwatch,
	        .emit = host_emit,
	        .conf_str = conf_str,
	        .conf_i64 = conf_i64,
	        .conf_bool = conf_bool,
	        .conf_json = conf_json,
	        .extension = host_extension,
	};
	return h;
}

berth_status testhost_start(struct testhost *h, char **ret_msg)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);

	*ret_msg = NULL;
	berth_status st = h->plugin->create(op, &h->host, &h->conf, &h->self);
	if (st == BERTH_OK && h->plugin->start) {
		h->started = true;
		st = h->plugin->start(op, h->self);
	}
	if (st != BERTH_OK)
		*ret_msg = berth_strdup(testop_error(op));
	return st;
}

struct testhost *testhost_kill(struct testhost *h)
{
	if (!h)
		return NULL;
	if (h->self)
		h->plugin->destroy(h->self);
	for (struct berth_watch *w = h->watches; w; w = w->next)
		w->dead = true;
	bury(h);
	while (h->children) {
		kill(-h->children->pid, SIGKILL);
		testhost_dispatch(h, 20);
	}
	for (size_t i = 0; i < h->n_events; i++) {
		free(h->events[i].object_id);
		free(h->events[i].exec_id);
		free(h->events[i].message);
	}
	free(h->events);
	json_decref(h->conf.json);
	berth_strv_free(h->conf.asked);
	berth_strv_free(h->conf.texts);
	berth_buf_finish(&h->log);
	free(h->state_dir);
	free(h->run_dir);
	free(h);
	return NULL;
}

struct testhost *testhost_free(struct testhost *h)
{
	if (h && h->self && h->started && h->plugin->stop) {
		_cleanup_op_ struct berth_op *op = testop_new(h);
		CHECK(h->plugin->stop(op, h->self) == BERTH_OK);
	}
	return testhost_kill(h);
}

const struct berth_plugin *testhost_plugin(const struct testhost *h)
{
	return h->plugin;
}

void *testhost_self(const struct testhost *h)
{
	return h->self;
}

const struct berth_host *testhost_host(const struct testhost *h)
{
	return &h->host;
}

size_t testhost_n_events(const struct testhost *h)
{
	return h->n_events;
}

const struct testevent *testhost_event(const struct testhost *h, size_t i)
{
	CHECK(i < h->n_events);
	return &h->events[i];
}

size_t testhost_n_runs(const struct testhost *h)
{
	return h->n_runs;
}

const char *testhost_logged(const struct testhost *h)
{
	return h->log.data ? h->log.data : "";
}

struct berth_op *testop_new(struct testhost *h)
{
	struct berth_op *op = berth_new(struct berth_op);

	op->h = h;
	op->arena = berth_arena_new();
	op->cancel_fd = eventfd(0, EFD_CLOEXEC);
	return op;
}

struct berth_op *testop_free(struct berth_op *op)
{
	if (op) {
		berth_arena_free(op->arena);
		berth_close(op->cancel_fd);
		free(op->error);
		free(op);
	}
	return NULL;
}

void testop_freep(struct berth_op **op)
{
	*op = testop_free(*op);
}

const char *testop_error(struct berth_op *op)
{
	op->error_seen = true;
	return op->error ? op->error : "";
}

void testop_cancel(struct berth_op *op)
{
	op->cancelled = true;
	eventfd_write(op->cancel_fd, 1);
}

void testop_set_deadline_ms(struct berth_op *op, unsigned int ms)
{
	op->deadline_ns = berth_now_ns() + (uint64_t)ms * 1000000;
}
