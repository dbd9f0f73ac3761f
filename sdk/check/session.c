/* One instance of the plugin in this process, and calls into it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "around.h"
#include "base/fd.h"
#include "check.h"
#include "loop/child.h"
#include "monitor/host.h"

#define BACK_MS 2000 /* after a cancel */

#define GIVE_UP_MS 100000

static void on_event(struct berth_instance *i, const struct berth_event *ev, void *arg)
{
	struct session *s = arg;

	(void)i;
	s->events = berth_reallocarray(s->events, s->n_events + 1, sizeof(*s->events));
	s->events[s->n_events++] = (struct seen_event){.type = ev->type,
	        .object = berth_strdup(ev->object_id),
	        .exec = berth_strdup(ev->exec_id),
	        .exit = ev->exit};
}

static void on_orphan(pid_t pid, int status, void *arg)
{
	struct session *s = arg;

	if (s->monitor)
		berth_monitor_orphan(pid, status);
}

static void open_monitor(struct session *s)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	const struct berth_monitor_opts opts = {
	        .loop = s->loop, .helpers_dir = check.helpers, .plugins = s->host};

	if (s->kind != KIND_RUNTIME)
		return;
	s->monitor = berth_monitor_init(&opts, &err) == 0; /* main.c has said where it is not */
}

bool session_try(struct session *s, json_t *more)
{
	json_t *conf = json_copy(check.config);

	json_object_update(conf, more);
	json_object_set_new(conf, "plugin_path", json_string(check.so));
	s->loop = berth_loop_new();
	berth_child_init(s->loop, on_orphan, s);
	s->host = berth_plugin_host_new(&(struct berth_plugin_host_opts){.loop = s->loop,
	        .plugin_dir = s->dir,
	        .state_root = s->state_root,
	        .run_root = s->run_root,
	        .host_version = "check",
	        .on_event = on_event,
	        .event_arg = s});
	open_monitor(s);
	around_init(s);
	berth_spawned_recover(s->run_root);
	s->err = berth_error_free(s->err);
	s->instance = berth_instance_new(s->host, check.name, check.name, conf, &s->err);
	json_decref(conf);
	if (s->instance)
		return true;
	session_stop(s);
	return false;
}

void session_start(struct session *s)
{
	if (!session_try(s, NULL))
		fail("it does not start: %s", s->err->msg);
}

void session_forget(struct session *s)
{
	for (size_t i = 0; i < s->n_events; i++) {
		free(s->events[i].object);
		free(s->events[i].exec);
	}
	free(s->events);
	s->events = NULL;
	s->n_events = 0;
}

void session_stop(struct session *s)
{
	if (s->last)
		flight_end(s->last);
	s->last = NULL;
	if (s->instance && s->monitor)
		session_idle(s, 50); /* monitors that have just ended are reaped */
	if (s->monitor)
		berth_monitor_finish();
	s->monitor = false;
	uv_run(berth_loop_uv(s->loop), UV_RUN_NOWAIT);
	s->host = berth_plugin_host_free(s->host);
	s->instance = NULL;
	berth_child_finish();
	s->loop = berth_loop_free(s->loop);
	session_forget(s);
}

bool session_wait(struct session *s, const volatile bool *flag, unsigned int ms)
{
	uint64_t end = berth_now_ns() + ms * 1000000ull;

	while (!(flag && *flag)) {
		if (berth_now_ns() >= end)
			return false;
		if (uv_run(berth_loop_uv(s->loop), UV_RUN_NOWAIT) == 0 || !(flag && *flag))
			usleep(100);
	}
	return true;
}

void session_idle(struct session *s, unsigned int ms)
{
	(void)session_wait(s, NULL, ms);
}

static const struct seen_event *find_event(
        const struct session *s, uint32_t type, const char *object, const char *exec)
{
	for (size_t i = 0; i < s->n_events; i++) {
		const struct seen_event *e = &s->events[i];
		if (e->type == type && e->object && strcmp(e->object, object) == 0 &&
		        strcmp(e->exec ? e->exec : "", exec ? exec : "") == 0)
			return e;
	}
	return NULL;
}

const struct seen_event *session_event(
        struct session *s, uint32_t type, const char *object, const char *exec, unsigned int ms)
{
	const struct seen_event *e = NULL;
	uint64_t end = berth_now_ns() + ms * 1000000ull;

	while (!(e = find_event(s, type, object, exec)) && berth_now_ns() < end)
		session_idle(s, 2);
	return e;
}

/* ---- calls ---- */

static void landed(struct berth_call *c, void *arg)
{
	struct flight *f = arg;
	const struct berth_error *err = berth_call_error(c);

	f->took_ns = berth_now_ns() - f->began_ns;
	f->code = err ? (int)err->code : 0;
	f->msg = err ? berth_strdup(err->msg) : NULL;
	if (f->guarded && !unseal_out(f->op, f->guarded, f->out, f->s->results))
		broken(RULE_SIZE, "%s of %s wrote what lies behind the members that it knows",
		        berth_op_name(f->op), f->object);
	f->done = true;
	if (f->then)
		f->then(f);
}

struct flight *flight_start(struct session *s, enum berth_opcode opcode, const char *object,
        const void *in, void *out, void (*then)(struct flight *f), void *arg)
{
	struct flight *f = berth_new(struct flight);

	f->s = s;
	f->op = opcode;
	f->out = out;
	f->then = then;
	f->arg = arg;
	snprintf(f->object, sizeof(f->object), "%s", object ? object : "");
	f->call = berth_call_new(s->instance, opcode, object);
	f->cancel = berth_cancel_new();
	berth_call_set_cancel(f->call, f->cancel);
	f->began_ns = berth_now_ns();
	if (s->deadline_ns)
		berth_call_set_deadline(f->call, f->began_ns + s->deadline_ns);
	/* Arguments are a seal of their own: they can be read while results are written. */
	f->arguments = guard_new();
	f->in = seal_in(f->arguments, opcode, in, s->args);
	f->guarded = seal_out(around_guard(f->call), opcode, s->results);
	berth_call_start(f->call, f->in, f->guarded, landed, f);
	return f;
}

void flight_end(struct flight *f)
{
	if (!f)
		return;
	around_forget(f->call);
	guard_spoil(f->arguments);
	berth_call_free(f->call);
	berth_cancel_unref(f->cancel);
	free(f->msg);
	free(f);
}

int op_interrupted(struct session *s, enum berth_opcode opcode, const char *object, const void *in,
        void *out, uint64_t after_ns, bool deadline)
{
	s->deadline_ns = deadline ? after_ns : 0;
	struct flight *f = flight_start(s, opcode, object, in, out, NULL, NULL);
	s->deadline_ns = 0;
	uint64_t until = berth_now_ns() + after_ns;
	while (!f->done && berth_now_ns() < until)
		session_idle(s, 0);
	uint64_t then = berth_now_ns();
	berth_cancel_set(f->cancel);
	bool back = session_wait(s, &f->done, BACK_MS * 10);
	uint64_t ms = (berth_now_ns() - then) / 1000000;
	expect(back && ms < BACK_MS, "%s of %s returned %llu ms after it was %s",
	        berth_op_name(opcode), object, (unsigned long long)ms,
	        deadline ? "out of time" : "cancelled");
	int code = f->code;
	if (code && code != BERTH_CANCELLED && code != BERTH_DEADLINE_EXCEEDED)
		fail("%s of %s: %s: %s", berth_op_name(opcode), object,
		        berth_code_name((enum berth_code)code), f->msg);
	flight_end(f);
	return code;
}

int op(struct session *s, enum berth_opcode opcode, const char *object, const void *in, void *out)
{
	flight_end(s->last);
	struct flight *f = s->last = flight_start(s, opcode, object, in, out, NULL, NULL);

	if (!session_wait(s, &f->done, GIVE_UP_MS))
		fail("%s of %s does not return", berth_op_name(opcode), f->object);
	s->took_ns = f->took_ns;
	s->err = berth_error_free(s->err);
	if (f->code)
		berth_error_set(&s->err, (enum berth_code)f->code, "%s", f->msg);
	return f->code;
}

bool has(const struct session *s, enum berth_opcode opcode)
{
	return berth_instance_has_op(s->instance, opcode);
}

void ended(struct session *s, int code, unsigned int allowed, const char *object, const char *what)
{
	if (!(allowed & BIT(code)))
		fail("%s: %s%s%s", what, berth_code_name((enum berth_code)code), code ? ": " : "",
		        code ? s->err->msg : "");
	if (code == 0 || !object || !*object)
		return;
	/* An error names its object, and has more to say than that. */
	if (!strstr(s->err->msg, object))
		broken(RULE_FAIL, "%s: the error does not name '%s': \"%s\"", what, object,
		        s->err->msg);
	else if (strlen(s->err->msg) < strlen(object) + 8)
		broken(RULE_FAIL, "%s: the error gives no cause: \"%s\"", what, s->err->msg);
}
