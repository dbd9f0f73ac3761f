/* Runtimes as they are meant to be used. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "runtime.h"

#define EVENT_MS 10000
#define OUTPUT_MAX BERTH_KIB(64)

static void life(struct session *s)
{
	struct berth_ctr_state st;

	runtime_begin(s);
	ctr_bundle(s, "c1", SLEEPS);
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_CREATE, "c1"), OK, "c1", "create");
	expect(ctr_status(s, "c1") == BERTH_ST_CREATED, "after create its state is %u",
	        ctr_status(s, "c1"));
	expect(ctr_listed(s, "c1"), "list does not have what was created");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_START, "c1"), OK, "c1", "start");
	ended(s, ctr_state(s, "c1", &st), OK, "c1", "state");
	expect(st.status == BERTH_ST_RUNNING, "after start its state is %u", st.status);
	expect(st.id && strcmp(st.id, "c1") == 0, "state: its id is \"%s\"", st.id ? st.id : "");
	if (st.pid)
		expect(kill(st.pid, 0) == 0 && st.pid_start_ns, "state: pid %d, started %llu",
		        (int)st.pid, (unsigned long long)st.pid_start_ns);
	ended(s, ctr_kill(s, "c1", SIGKILL), OK, "c1", "kill");
	const struct seen_event *e = session_event(s, BERTH_EV_EXIT, "c1", NULL, EVENT_MS);
	expect(e, "its end was not told by an event");
	ended(s, ctr_state(s, "c1", &st), OK, "c1", "state");
	expect(st.status == BERTH_ST_STOPPED, "after its end its state is %u", st.status);
	expect(st.exit.flags & BERTH_EXIT_KNOWN, "how it ended is not known");
	expect((st.exit.flags & BERTH_EXIT_SIGNALLED) && st.exit.code == SIGKILL,
	        "it ended by SIGKILL, and state says %u %d", st.exit.flags, st.exit.code);
	expect(ctr_listed(s, "c1"), "list does not have what has stopped");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "remove");
	expect(ctr_status(s, "c1") == 0 && !ctr_listed(s, "c1"), "after its removal it is there");
	runtime_end(s);
}

static void exit_code(struct session *s)
{
	struct berth_ctr_state st;

	runtime_begin(s);
	ctr_run(s, "probe", SLEEPS);
	if (!ctr_real(s, "probe"))
		skip("its containers have no processes");
	ctr_run(s, "c1", "exit 3");
	expect(session_event(s, BERTH_EV_EXIT, "c1", NULL, EVENT_MS), "its end was not told");
	ended(s, ctr_state(s, "c1", &st), OK, "c1", "state");
	expect(st.status == BERTH_ST_STOPPED && st.exit.flags == BERTH_EXIT_KNOWN &&
	                st.exit.code == 3,
	        "it exited with 3, and state says %u: %u %d", st.status, st.exit.flags,
	        st.exit.code);
	runtime_end(s);
}

static void signals(struct session *s)
{
	struct berth_ctr_state st;

	runtime_begin(s);
	ctr_run(s, "c1", "trap 'exit 9' TERM; while :; do sleep 0.05; done");
	session_idle(s, 200);
	ended(s, ctr_kill(s, "c1", SIGTERM), OK, "c1", "kill");
	expect(ctr_wait(s, "c1", BERTH_ST_STOPPED, EVENT_MS), "it did not get its SIGTERM");
	ended(s, ctr_state(s, "c1", &st), OK, "c1", "state");
	expect(st.exit.code == 9 || (st.exit.flags & BERTH_EXIT_SIGNALLED),
	        "it exited with 9, and state says %d", st.exit.code);
	ended(s, ctr_kill(s, "c1", SIGTERM), OK, "c1", "kill of what has stopped");
	runtime_end(s);
}

static void output(struct session *s)
{
	_cleanup_free_ char *path = berth_asprintf("%s/ctrs/c1/log", s->dir), *text = NULL;

	runtime_begin(s);
	ctr_run(s, "probe", SLEEPS);
	if (!ctr_real(s, "probe"))
		skip("its containers have no processes");
	ctr_run(s, "c1", "echo to the log; echo and errors >&2");
	expect(ctr_wait(s, "c1", BERTH_ST_STOPPED, EVENT_MS), "it has not stopped");
	int r = berth_read_file(AT_FDCWD, path, OUTPUT_MAX, &text, NULL);
	expect(r == 0, "its log: %s", strerror(-r));
	expect(strstr(text, "stdout F to the log") && strstr(text, "stderr F and errors"),
	        "its log has no CRI lines of its output: \"%.200s\"", text);
	runtime_end(s);
}

static void close_io(struct berth_stdio *io)
{
	berth_close(io->in_fd);
	berth_close(io->out_fd);
	berth_close(io->err_fd);
}

static void exec_in(struct session *s, const char *exec_id, const char *script, uint32_t flag_bits,
        struct berth_stdio *io)
{
	struct berth_ctr_args a = ctr_args(s, "c1");
	_cleanup_free_ char *json =
	        berth_asprintf("{\"terminal\":false,\"user\":{\"uid\":0,\"gid\":0},"
	                       "\"args\":[\"/bin/sh\",\"-c\",\"%s\"],"
	                       "\"env\":[\"PATH=/bin:/usr/bin\"],\"cwd\":\"/\"}",
	                script);

	a.exec_id = exec_id;
	a.json = json;
	a.flags = flag_bits;
	*io = (struct berth_stdio){.size = sizeof(*io), .in_fd = -1, .out_fd = -1, .err_fd = -1};
	ended(s, op(s, BERTH_OP_RUNTIME_EXEC, "c1", &a, io), OK, "c1", "exec");
	expect(io->out_fd >= 0 && io->err_fd >= 0, "exec gave no stdio");
	expect((fcntl(io->out_fd, F_GETFD) & FD_CLOEXEC), "exec gave an fd without O_CLOEXEC");
}

static void exited_with(struct session *s, const char *exec_id, int code)
{
	const struct seen_event *e = session_event(s, BERTH_EV_EXIT, "c1", exec_id, EVENT_MS);

	expect(e, "the end of exec '%s' was not told", exec_id);
	expect(e->exit.flags == BERTH_EXIT_KNOWN && e->exit.code == code,
	        "exec '%s' exited with %d, and its event says %u %d", exec_id, code, e->exit.flags,
	        e->exit.code);
}

static void exec(struct session *s)
{
	struct berth_stdio io;

	runtime_begin(s);
	ctr_run(s, "c1", SLEEPS);
	for (int i = 0; i < 3; i++) {
		_cleanup_free_ char *out = NULL, *err = NULL, *id = berth_asprintf("e%d", i);
		exec_in(s, id, "echo out; echo err >&2; exit 5", 0, &io);
		expect(berth_read_fd(io.out_fd, OUTPUT_MAX, &out, NULL) == 0 &&
		                berth_read_fd(io.err_fd, OUTPUT_MAX, &err, NULL) == 0,
		        "its output cannot be read");
		expect(strcmp(out, "out\n") == 0 && strcmp(err, "err\n") == 0,
		        "its output is \"%s\" and \"%s\"", out, err);
		exited_with(s, id, 5);
		close_io(&io);
	}
	runtime_end(s);
}

static void exec_stdin(struct session *s)
{
	struct berth_stdio io;
	_cleanup_free_ char *out = NULL;

	runtime_begin(s);
	ctr_run(s, "c1", SLEEPS);
	exec_in(s, "e1", "cat", BERTH_IO_STDIN, &io);
	expect(io.in_fd >= 0, "exec gave no stdin");
	expect(berth_write_all(io.in_fd, "words", 5) == 0, "its stdin cannot be written");
	io.in_fd = berth_close(io.in_fd);
	expect(berth_read_fd(io.out_fd, OUTPUT_MAX, &out, NULL) == 0 && strcmp(out, "words") == 0,
	        "cat gave \"%s\"", out ? out : "");
	exited_with(s, "e1", 0);
	close_io(&io);
	runtime_end(s);
}

static void paused(struct session *s)
{
	runtime_begin(s);
	if (!has(s, BERTH_OP_RUNTIME_PAUSE) || !has(s, BERTH_OP_RUNTIME_RESUME))
		skip("it has no pause and resume");
	ctr_run(s, "c1", SLEEPS);
	int code = ctr_op(s, BERTH_OP_RUNTIME_PAUSE, "c1");
	if (code == BERTH_FAILED_PRECONDITION || code == BERTH_UNKNOWN)
		skip("%s", s->err->msg);
	ended(s, code, OK, "c1", "pause");
	expect(ctr_status(s, "c1") == BERTH_ST_PAUSED, "after pause its state is %u",
	        ctr_status(s, "c1"));
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_RESUME, "c1"), OK, "c1", "resume");
	expect(ctr_status(s, "c1") == BERTH_ST_RUNNING, "after resume its state is %u",
	        ctr_status(s, "c1"));
	runtime_end(s);
}

/* Directories as the host makes them. */
static struct berth_checkpoint_args checkpoint_args(struct session *s, const char *id)
{
	static char images[4096], work[4096], bundle[4096];

	snprintf(images, sizeof(images), "%s/images", s->dir);
	snprintf(work, sizeof(work), "%s/work", s->dir);
	snprintf(bundle, sizeof(bundle), "%s/ctrs/%s/bundle", s->dir, id);
	expect(berth_rm_tree(AT_FDCWD, images) == 0 && berth_rm_tree(AT_FDCWD, work) == 0 &&
	                mkdir(images, 0700) == 0 && mkdir(work, 0700) == 0,
	        "%s: %s", images, strerror(errno));
	return (struct berth_checkpoint_args){.size = sizeof(struct berth_checkpoint_args),
	        .id = id,
	        .bundle = bundle,
	        .image_dir = images,
	        .work_dir = work};
}

static int checkpoint(struct session *s, const char *id, uint32_t flag_bits)
{
	struct berth_checkpoint_args a = checkpoint_args(s, id);
	a.flags = flag_bits;
	return op(s, BERTH_OP_RUNTIME_CHECKPOINT, id, &a, NULL);
}

static void checkpointed(struct session *s)
{
	_cleanup_free_ char *images = berth_asprintf("%s/images", s->dir);

	runtime_begin(s);
	if (!has(s, BERTH_OP_RUNTIME_CHECKPOINT)) {
		expect(!(check.features & BERTH_F_CHECKPOINT), "BERTH_F_CHECKPOINT, and no op");
		skip("it has no checkpoint");
	}
	if (!(check.features & BERTH_F_CHECKPOINT)) {
		ended(s, checkpoint(s, "nobody", 0), BIT(BERTH_UNIMPLEMENTED), "nobody",
		        "checkpoint of a plugin without the bit");
		skip("without BERTH_F_CHECKPOINT");
	}
	ended(s, checkpoint(s, "nobody", 0), BIT(BERTH_NOT_FOUND), "nobody",
	        "checkpoint of what is not there");
	ctr_run(s, "c1", SLEEPS);
	ended(s, checkpoint(s, "c1", 1u << 30), BIT(BERTH_INVALID_ARGUMENT), "c1",
	        "checkpoint with an unknown flag");
	int code = checkpoint(s, "c1", 0);
	bool cannot = code == BERTH_UNKNOWN || code == BERTH_FAILED_PRECONDITION;
	_cleanup_free_ char *why = cannot ? berth_strdup(s->err->msg) : NULL;
	if (!cannot)
		ended(s, code, OK, "c1", "checkpoint");
	expect(ctr_status(s, "c1") == BERTH_ST_RUNNING, "after a checkpoint its state is %u",
	        ctr_status(s, "c1"));
	if (cannot)
		skip("%s", why);
	expect(rmdir(images) < 0 && errno == ENOTEMPTY, "a checkpoint left no images");
	ctr_end(s, "c1");
	ended(s, checkpoint(s, "c1", 0), BIT(BERTH_FAILED_PRECONDITION), "c1",
	        "checkpoint of what has stopped");
	runtime_end(s);
}

static void info(struct session *s)
{
	struct berth_runtime_info i = {.size = sizeof(i)};

	runtime_begin(s);
	if (!has(s, BERTH_OP_RUNTIME_INFO))
		skip("it has no info");
	ended(s, op(s, BERTH_OP_RUNTIME_INFO, NULL, NULL, &i), OK, NULL, "info");
	json_t *j = i.features_json ? json_loads(i.features_json, 0, NULL) : NULL;
	expect(json_is_object(j) && json_is_string(json_object_get(j, "ociVersionMax")),
	        "info is no OCI features object: %.100s", i.features_json ? i.features_json : "");
	json_decref(j);
	runtime_end(s);
}

static void many_listed(struct session *s)
{
	enum { N = 6 };
	char id[16];

	runtime_begin(s);
	for (int i = 0; i < N; i++) {
		snprintf(id, sizeof(id), "c%d", i);
		ctr_run(s, id, SLEEPS);
	}
	for (int i = 0; i < N; i += 2) {
		snprintf(id, sizeof(id), "c%d", i);
		ctr_end(s, id);
	}
	for (int i = 0; i < N; i++) {
		snprintf(id, sizeof(id), "c%d", i);
		expect(ctr_listed(s, id), "list lacks '%s'", id);
		uint32_t st = ctr_status(s, id);
		expect(st == (i % 2 ? BERTH_ST_RUNNING : BERTH_ST_STOPPED),
		        "the state of '%s' is %u", id, st);
	}
	runtime_end(s);
}

static void tour(struct session *s, unsigned int round)
{
	struct berth_ctr_state st;
	struct berth_runtime_info i = {.size = sizeof(i)};
	struct berth_stdio io;
	char id[32];

	runtime_files(s);
	ctr_run(s, "c1", SLEEPS);
	snprintf(id, sizeof(id), "tour-%u", round);
	exec_in(s, id, "true", 0, &io);
	exited_with(s, id, 0);
	close_io(&io);
	if (has(s, BERTH_OP_RUNTIME_INFO))
		ended(s, op(s, BERTH_OP_RUNTIME_INFO, NULL, NULL, &i), OK, NULL, "info");
	(void)ctr_op(s, BERTH_OP_RUNTIME_CREATE, "c1"); /* and what fails */
	(void)ctr_op(s, BERTH_OP_RUNTIME_START, "c1");
	(void)ctr_op(s, BERTH_OP_RUNTIME_START, "nobody");
	(void)ctr_state(s, "nobody", &st);
	(void)ctr_kill(s, "nobody", SIGTERM);
	(void)ctr_op(s, BERTH_OP_RUNTIME_CREATE, "nobundle");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "nobody"), OK, "nobody", "remove of nothing");
	ctr_end(s, "c1");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "remove");
	expect(ctr_status(s, "c1") == 0, "after its removal it is there");
	runtime_sweep(s);
	session_idle(s, 50);
}

const struct kind kind_runtime = {.name = "runtime", .tour = tour, .sweep = runtime_sweep};

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_RUNTIME, true, fn, meaning \
	}
const struct test runtime_tests[] = {
        T("runtime.life", life,
                "create, start, kill, remove; state, list and an event tell where a container is "
                "and how it ended."),
        T("runtime.exit-code", exit_code, "A container's own exit code is known."),
        T("runtime.signals", signals,
                "kill sends the signal; killing what has stopped is no error."),
        T("runtime.log", output, "What a container writes is in its log, in lines of the CRI."),
        T("runtime.exec", exec, "exec gives stdio and tells the exit code by an event."),
        T("runtime.exec-stdin", exec_stdin, "An exec's stdin ends when it is closed."),
        T("runtime.pause", paused, "pause and resume."),
        T("runtime.checkpoint", checkpointed,
                "BERTH_F_CHECKPOINT: checkpoint writes images of what runs, and it runs on."),
        T("runtime.info", info, "info is what `runc features` prints."),
        T("runtime.list", many_listed, "list has each container once."), {0}};
