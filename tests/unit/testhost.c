#include "testhost_impl.h"

#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/fd.h"

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

static struct testhost *self_of(const struct berth_host *h)
{
	return h->impl;
}

static void host_log(
        const struct berth_host *h, struct berth_op *op, int32_t level, const char *msg)
{
	berth_buf_addf(&self_of(h)->log, "%s\n", msg);
}

berth_status host_fail(struct berth_op *op, berth_status st, int32_t errnum, const char *msg)
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

int32_t host_cancelled(struct berth_op *op)
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

void host_emit(const struct berth_host *h, const struct berth_event *ev)
{
	struct testhost *t = self_of(h);

	t->events = berth_reallocarray(t->events, t->n_events + 1, sizeof(*t->events));
	t->events[t->n_events++] = (struct testevent){ev->type, berth_strdup(ev->object_id),
	        berth_strdup(ev->exec_id), berth_strdup(ev->message), ev->exit};
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
