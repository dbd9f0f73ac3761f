/* Runtimes as they are not meant to be used, and hosts that are killed. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "runtime.h"

#define INVALID BIT(BERTH_INVALID_ARGUMENT)
#define MISSING BIT(BERTH_NOT_FOUND)
#define EXISTS BIT(BERTH_ALREADY_EXISTS)
#define STATE BIT(BERTH_FAILED_PRECONDITION)
#define WORDS BIT(BERTH_UNKNOWN) /* a program's, which mean what they say */

static void unknown(struct session *s)
{
	struct berth_ctr_state st;

	runtime_begin(s);
	ended(s, ctr_state(s, "nobody", &st), MISSING, "nobody", "state of what is not there");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_START, "nobody"), MISSING, "nobody",
	        "start of what is not there");
	ended(s, ctr_kill(s, "nobody", SIGTERM), OK | MISSING, "nobody",
	        "kill of what is not there");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "nobody"), OK, "nobody",
	        "remove of what is not there");
	expect(!ctr_listed(s, "nobody"), "what failed left something");
	runtime_end(s);
}

static void wrong_state(struct session *s)
{
	runtime_begin(s);
	ctr_run(s, "c1", SLEEPS);
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_CREATE, "c1"), EXISTS, "c1", "create of what is there");
	expect(ctr_status(s, "c1") == BERTH_ST_RUNNING, "a create that failed harmed it");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_START, "c1"), STATE, "c1", "the second start");
	struct berth_ctr_args a = ctr_args(s, "c1");
	int code = op(s, BERTH_OP_RUNTIME_REMOVE, "c1", &a, NULL);
	ended(s, code, STATE | OK, "c1", "remove of what runs");
	expect(ctr_listed(s, "c1") == (code != 0), "list is wrong after the remove of what runs");
	if (code == 0) {
		ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "the second remove");
		ctr_run(s, "c1", SLEEPS);
	}
	expect(ctr_status(s, "c1") == BERTH_ST_RUNNING, "a remove that failed harmed it");
	ctr_end(s, "c1");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_START, "c1"), STATE, "c1", "start of what has stopped");
	struct berth_stdio io = {.size = sizeof(io), .in_fd = -1, .out_fd = -1, .err_fd = -1};
	a = ctr_args(s, "c1");
	a.exec_id = "e";
	a.json = "{\"args\":[\"/bin/true\"],\"cwd\":\"/\"}";
	ended(s, op(s, BERTH_OP_RUNTIME_EXEC, "c1", &a, &io), STATE | MISSING, "c1",
	        "exec in what has stopped");
	expect(io.in_fd == -1 && io.out_fd == -1 && io.err_fd == -1,
	        "an exec that failed gave descriptors");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "remove");
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "the second remove");
	runtime_end(s);
}

static void bundles(struct session *s)
{
	runtime_begin(s);
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_CREATE, "nobundle"), ~OK, "nobundle",
	        "create without a bundle");
	expect(!ctr_listed(s, "nobundle") && ctr_status(s, "nobundle") == 0,
	        "a create that failed left something");
	ctr_bundle(s, "broken", SLEEPS);
	_cleanup_free_ char *path = berth_asprintf("%s/ctrs/broken/bundle/config.json", s->dir);
	int r = berth_write_file_atomic(AT_FDCWD, path, "{", 1, 0600, false);
	expect(r == 0, "%s: %s", path, strerror(-r));
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_CREATE, "broken"), ~OK, "broken",
	        "create with a broken bundle");
	expect(!ctr_listed(s, "broken") && ctr_status(s, "broken") == 0,
	        "a create that failed left something");
	ctr_run(s, "broken", SLEEPS); /* the name is free */
	runtime_end(s);
}

static void arguments(struct session *s)
{
	const char *const odd[] = {NULL, "", "../escape", "a/b"};
	struct berth_ctr_args a;

	runtime_begin(s);
	ctr_bundle(s, "c1", SLEEPS);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(odd); i++) {
		a = ctr_args(s, "c1");
		a.id = odd[i];
		a.signal = SIGKILL;
		int code = op(s, BERTH_OP_RUNTIME_CREATE, "odd", &a, NULL);
		ended(s, code, i < 2 ? INVALID : INVALID | OK, NULL,
		        "create with an id that is no name");
		if (code)
			continue;
		ended(s, op(s, BERTH_OP_RUNTIME_KILL, "odd", &a, NULL), OK, NULL, "kill");
		ended(s, op(s, BERTH_OP_RUNTIME_REMOVE, "odd", &a, NULL), OK, NULL, "remove");
	}
	a = ctr_args(s, "c1");
	a.flags = 1u << 30;
	ended(s, op(s, BERTH_OP_RUNTIME_CREATE, "c1", &a, NULL), INVALID, "c1",
	        "create with an unknown flag");
	expect(ctr_status(s, "c1") == 0, "what failed left something");
	runtime_end(s);
}

/* ---- cancel ---- */

static void interrupted(struct session *s)
{
	runtime_begin(s);
	for (unsigned int i = 0; i < (check.brief ? 4u : 20u); i++) {
		ctr_bundle(s, "c1", SLEEPS);
		struct berth_ctr_args a = ctr_args(s, "c1");
		(void)op_interrupted(s, BERTH_OP_RUNTIME_CREATE, "c1", &a, NULL,
		        any_number(60000) * 1000ull + 1, i % 2);
		runtime_sweep(s);
		ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "remove");
	}
	ctr_run(s, "c1", SLEEPS);
	runtime_end(s);
}

/* ---- many at once ---- */

struct walker {
	char id[16];
	unsigned int step, rounds;
	unsigned int *left;
	char *wrong;
};

static void walk(struct session *s, struct walker *w);

static void walked(struct flight *f)
{
	struct walker *w = f->arg;
	struct session *s = f->s;

	if (f->code && !*w->wrong)
		snprintf(w->wrong, 512, "%s of %s: %s", berth_op_name(f->op), f->object, f->msg);
	flight_end(f);
	if (*w->wrong || (++w->step == 3 && --w->rounds == 0)) {
		(*w->left)--;
		return;
	}
	walk(s, w);
}

/* Made, started, killed, over and over; what each kill leaves is removed by the next create. */
static void walk(struct session *s, struct walker *w)
{
	static const enum berth_opcode steps[] = {
	        BERTH_OP_RUNTIME_CREATE, BERTH_OP_RUNTIME_START, BERTH_OP_RUNTIME_KILL};
	char bundle[4096];

	if (w->step == 3) {
		w->step = 0;
		snprintf(w->id, sizeof(w->id), "%c%u", w->id[0], w->rounds);
	}
	if (w->step == 0)
		ctr_bundle(s, w->id, SLEEPS);
	struct berth_ctr_args a = ctr_args(s, w->id);
	snprintf(bundle, sizeof(bundle), "%s", a.bundle);
	a.bundle = bundle;
	a.signal = SIGKILL;
	(void)flight_start(s, steps[w->step], w->id, &a, NULL, walked, w);
}

static void crowd(struct session *s)
{
	enum { N = 4 };
	struct walker w[N];
	char wrong[512] = "";
	unsigned int left = N;

	runtime_begin(s);
	for (unsigned int i = 0; i < N; i++) {
		w[i] = (struct walker){
		        .rounds = check.brief ? 2 : 8, .left = &left, .wrong = wrong};
		snprintf(w[i].id, sizeof(w[i].id), "%c", (char)('a' + i));
		walk(s, &w[i]);
	}
	for (unsigned int ms = 0; left && ms < 90000; ms += 10) {
		(void)ctr_listed(s, "a");
		session_idle(s, 10);
	}
	expect(!left, "%u of %d wait for ever", left, N);
	expect(!*wrong, "%s", wrong);
	runtime_end(s);
}

/* ---- hosts that are killed ---- */

#define STEPS 4
static const uint32_t after[STEPS + 1] = {
        0, BERTH_ST_CREATED, BERTH_ST_RUNNING, BERTH_ST_STOPPED, 0};

static void step(struct session *s, int n)
{
	switch (n) {
	case 0:
		ctr_bundle(s, "c1", SLEEPS);
		ended(s, ctr_op(s, BERTH_OP_RUNTIME_CREATE, "c1"), OK, "c1", "create");
		break;
	case 1:
		ended(s, ctr_op(s, BERTH_OP_RUNTIME_START, "c1"), OK, "c1", "start");
		break;
	case 2:
		ctr_end(s, "c1");
		break;
	default:
		ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "remove");
	}
}

static void first_part(struct session *s, void *arg)
{
	runtime_sweep(s);
	for (int i = 0; i < *(int *)arg; i++)
		step(s, i);
	host_dies();
}

static void second_part(struct session *s, void *arg)
{
	int n = *(int *)arg;
	uint32_t st = ctr_status(s, "c1");

	expect(st == after[n], "killed after step %d, and the state is %u, not %u", n, st,
	        after[n]);
	expect(ctr_listed(s, "c1") == (after[n] != 0), "killed after step %d, and list is wrong",
	        n);
	for (int i = n; i < STEPS; i++)
		step(s, i);
	expect(!ctr_listed(s, "c1"), "after its removal it is listed");
}

static void between(struct session *s)
{
	runtime_files(s);
	for (int n = 0; n <= STEPS; n++) {
		expect(!host_run(s, first_part, &n, 0), "the host was not killed");
		(void)host_run(s, second_part, &n, 0);
	}
}

static void churn(struct session *s, void *arg)
{
	(void)arg;
	for (;;) {
		for (int i = 0; i < STEPS; i++)
			step(s, i);
	}
}

static void aftermath(struct session *s, void *arg)
{
	(void)arg;
	ctr_abort(s, "c1");
	runtime_sweep(s);
	ended(s, ctr_op(s, BERTH_OP_RUNTIME_REMOVE, "c1"), OK, "c1", "remove");
	/* A program that the dead host was running for c1 may still be at it; ids are not used
	 * twice. */
	ctr_run(s, "c2", SLEEPS);
	ctr_end(s, "c2");
	runtime_sweep(s);
}

static void within(struct session *s)
{
	runtime_files(s);
	for (unsigned int i = 0; i < (check.brief ? 4u : 25u); i++) {
		expect(!host_run(s, churn, NULL, 1 + any_number(200000)),
		        "the host was not killed");
		(void)host_run(s, aftermath, NULL, 0);
	}
}

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_RUNTIME, true, fn, meaning \
	}
const struct test runtime_bad_tests[] = {
        T("runtime.unknown", unknown, "Ops on what is not there are NOT_FOUND; removing it is OK."),
        T("runtime.wrong-state", wrong_state,
                "ALREADY_EXISTS and FAILED_PRECONDITION where a container is in another state, "
                "and it stays in that; the second remove is OK."),
        T("runtime.bundles", bundles, "A create that fails leaves nothing; its name is free."),
        T("runtime.arguments", arguments,
                "Without an id, and with unknown flags: INVALID; no id becomes a path."),
        T("runtime.cancel", interrupted,
                "A create that is cancelled or late returns within 2 s; remove ends what it left."),
        T("runtime.crowd", crowd, "Containers come and go side by side."),
        T("runtime.killed-between", between,
                "The host is killed (-9) between any two ops: containers go on, and the next host "
                "finds them."),
        T("runtime.killed-within", within,
                "The host is killed at any moment: everything can be removed and done anew."),
        {0}};
