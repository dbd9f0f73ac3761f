#include "container/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "spec/resources.h"
#include "spec/spec.h"

#define EXEC_ID_BYTES 16
#define KILL_AGAIN_MS 1000

struct berth_session {
	struct berth_session *prev, *next;
	struct berth_container *c;
	char id[2 * EXEC_ID_BYTES + 1];
	char **argv;
	uint32_t flags;
	int oom_score_adj;
	const struct berth_session_ops *ops; /* NULL: released */
	void *arg;
	struct berth_stdio io;
	struct berth_exit exit;
	struct berth_error *err;
	struct berth_timer *again;
	struct berth_cancel *cancel; /* of its beginning */
	bool begun, begin_over, ended;
	bool kill, killing;
	bool swept; /* a kill has come to its end */
	bool busy;  /* inside of one of the owner's functions */
};

struct berth_sessions {
	struct berth_session *first;
};

static void session_free(struct berth_session *s)
{
	DL_DELETE(s->c->d->sessions->first, s);
	berth_timer_free(s->again);
	berth_cancel_unref(s->cancel);
	berth_error_free(s->err);
	berth_strv_free(s->argv);
	berth_container_unref(s->c);
	free(s);
}

/* A command that ended by itself before its kill arrived may have left others behind. */
static bool needs_kill(const struct berth_session *s)
{
	return s->begun && s->kill && (!s->ended || !s->swept);
}

/* Frees it as soon as neither its owner nor a worker nor an event needs it. */
static void maybe_free(struct berth_session *s)
{
	if (!s->busy && !s->ops && s->begin_over && !s->killing && (s->ended || !s->begun) &&
	        !needs_kill(s))
		session_free(s);
}

/* ---- the kill ---- */

static void kill_work(void *arg)
{
	struct berth_session *s = arg;
	berth_exec_kill(s->c->pod->handler->instance, s->c->id, s->id);
}

static void kill_again(void *arg)
{
	struct berth_session *s = arg;
	s->again = berth_timer_free(s->again);
	berth_session_kill(s);
}

static void kill_done(void *arg)
{
	struct berth_session *s = arg;
	s->killing = false;
	s->swept = true;
	if (!needs_kill(s))
		s->again = berth_timer_free(s->again);
	maybe_free(s);
}

void berth_session_kill(struct berth_session *s)
{
	struct berth_daemon *d = s->c->d;

	s->kill = s->kill || !s->ended;
	if (!s->begin_over)
		berth_cancel_set(s->cancel);
	if (!s->begin_over || !needs_kill(s))
		return; /* killed as soon as it is there */
	if (!s->again)
		s->again = berth_timer_start(d->loop, KILL_AGAIN_MS, kill_again, s);
	if (s->killing)
		return;
	s->killing = true;
	if (berth_work(d->flows, d->loop, kill_work, kill_done, s) < 0)
		s->killing = false; /* the next time, then */
}

/* ---- the end ---- */

static void say_ended(struct berth_session *s)
{
	s->busy = true;
	if (s->ops)
		s->ops->ended(&s->exit, s->arg);
	s->busy = false;
	maybe_free(s);
}

void berth_session_exited(struct berth_daemon *d, const char *object_id, const char *exec_id,
        const struct berth_exit *exit)
{
	struct berth_session *s;

	if (!d->sessions)
		return;
	DL_FOREACH (d->sessions->first, s) {
		if (s->ended || strcmp(s->id, exec_id) != 0 || strcmp(s->c->id, object_id) != 0)
			continue;
		s->ended = true;
		s->exit = *exit;
		if (!needs_kill(s))
			s->again = berth_timer_free(s->again);
		if (s->begin_over)
			say_ended(s);
		return;
	}
}

struct berth_session *berth_session_release(struct berth_session *s)
{
	if (!s)
		return NULL;
	s->ops = NULL;
	if (!s->ended)
		berth_session_kill(s);
	maybe_free(s);
	return NULL;
}

/* ---- the beginning ---- */

static json_t *read_config(
        struct berth_container *c, const char *bundle, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_path(bundle, "config.json", NULL);
	_cleanup_free_ char *text = NULL;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_STATE_FILE, &text, NULL);
	json_t *j = r == 0 ? json_loads(text, 0, NULL) : NULL;
	if (!j)
		berth_error_set(
		        ret_err, BERTH_INTERNAL, "container %s: %s cannot be read", c->id, path);
	return j;
}

static void begin_work(void *arg)
{
	struct berth_session *s = arg;
	struct berth_container *c = s->c;
	_cleanup_free_ char *bundle = berth_container_bundle(c);
	struct berth_error *err = NULL;
	json_t *process = NULL, *config = read_config(c, bundle, &err);

	int r = !config ? -1
	                : berth_spec_exec_process(config, c->id, berth_strv_len(s->argv), s->argv,
	                          (s->flags & BERTH_IO_TTY) != 0, &process, &err);
	json_decref(config);
	if (r == 0) {
		json_object_set_new(process, "oomScoreAdj", json_integer(s->oom_score_adj));
		_cleanup_free_ char *text = json_dumps(process, JSON_COMPACT);
		struct berth_ctr_args a = {.size = sizeof(a),
		        .id = c->id,
		        .sandbox_id = c->pod->id,
		        .exec_id = s->id,
		        .bundle = bundle,
		        .json = text,
		        .flags = s->flags};
		_cleanup_(berth_call_freep) struct berth_call *call =
		        berth_call_new(c->pod->handler->instance, BERTH_OP_RUNTIME_EXEC, s->id);
		berth_call_set_cancel(call, s->cancel);
		s->io = (struct berth_stdio){
		        .size = sizeof(s->io), .in_fd = -1, .out_fd = -1, .err_fd = -1};
		r = berth_call_run(call, &a, &s->io, &err);
		json_decref(process);
	}
	s->begun = r == 0;
	if (r < 0) {
		berth_error_wrap(&err, "container %s: exec \"%.128s\"", c->id, s->argv[0]);
		s->err = err;
	}
}

static void begin_done(void *arg)
{
	struct berth_session *s = arg;

	s->begin_over = s->busy = true;
	if (s->ops) {
		s->ops->begun(&s->io, s->err, s->arg);
	} else if (s->begun) {
		berth_close(s->io.in_fd);
		berth_close(s->io.out_fd);
		berth_close(s->io.err_fd);
	}
	s->busy = false;
	if (s->kill || !s->ops)
		berth_session_kill(s);
	if (s->begun && s->ended) {
		say_ended(s);
		return;
	}
	maybe_free(s);
}

struct berth_session *berth_session_start(struct berth_container *c, size_t argc, char *const *argv,
        uint32_t flags, const struct berth_session_ops *ops, void *arg)
{
	struct berth_daemon *d = c->d;
	struct berth_session *s = berth_new(struct berth_session);

	if (!d->sessions)
		d->sessions = berth_new(struct berth_sessions);
	s->c = berth_container_ref(c);
	berth_random_hex(s->id, EXEC_ID_BYTES);
	for (size_t i = 0; i < argc; i++)
		s->argv = berth_strv_append(s->argv, argv[i]);
	s->flags = flags;
	/* An update may have changed what the container was created with. */
	s->oom_score_adj = berth_resources_oom_score_adj(c->resources, &d->host);
	s->cancel = berth_cancel_new();
	s->ops = ops;
	s->arg = arg;
	DL_APPEND(d->sessions->first, s);
	if (berth_work(d->flows, d->loop, begin_work, begin_done, s) < 0) {
		berth_error_set(&s->err, BERTH_RESOURCE_EXHAUSTED,
		        "container %s: too many requests are under way", c->id);
		berth_loop_post(d->loop, begin_done, s);
	}
	return s;
}

void berth_sessions_end(struct berth_daemon *d)
{
	struct berth_session *s;

	if (!d->sessions)
		return;
	DL_FOREACH (d->sessions->first, s)
		berth_session_kill(s);
}

bool berth_sessions_over(const struct berth_daemon *d)
{
	return !d->sessions || !d->sessions->first;
}

void berth_sessions_finish(struct berth_daemon *d)
{
	while (d->sessions && d->sessions->first) {
		struct berth_session *s = d->sessions->first;
		const struct berth_session_ops *ops = s->ops;
		s->ended = s->begin_over = s->busy = true;
		s->killing = false;
		s->ops = NULL;
		if (ops && s->begun)
			ops->ended(&s->exit, s->arg);
		session_free(s);
	}
	free(d->sessions);
	d->sessions = NULL;
}
