/* Networks as they are not meant to be used, and hosts that are killed. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "network.h"

#define INVALID BIT(BERTH_INVALID_ARGUMENT)

static void arguments(struct session *s)
{
	struct berth_net_result r = {.size = sizeof(r)};
	const char *const odd[] = {NULL, "", "../escape", "a/b"};
	struct pod p;

	session_start(s);
	network_sweep(s);
	pod_make(s, &p, "pod-1");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(odd); i++) {
		struct berth_net_args a = pod_args(&p);
		a.sandbox_id = odd[i];
		int code = op(s, BERTH_OP_NETWORK_ATTACH, "odd", &a, &r);
		ended(s, code, i < 2 ? INVALID : INVALID | OK, NULL,
		        "attach of a sandbox whose id is no name");
		ended(s, op(s, BERTH_OP_NETWORK_DETACH, "odd", &a, NULL), INVALID | OK, NULL,
		        "detach of a sandbox whose id is no name");
	}
	struct berth_net_args a = pod_args(&p);
	a.flags = 1u << 30;
	ended(s, op(s, BERTH_OP_NETWORK_ATTACH, p.id, &a, &r), INVALID, p.id,
	        "attach with an unknown flag");
	must_detach(s, &p);
	pod_gone(&p);
	session_stop(s);
}

/* The host tries again after a crash: what an earlier attach left is no hindrance. */
static void again(struct session *s)
{
	struct pod p;

	session_start(s);
	network_sweep(s);
	pod_make(s, &p, "pod-1");
	must_attach(s, &p, NULL);
	if (pod_attach(s, &p, NULL) != 0) {
		ended(s, (int)s->err->code, BIT(BERTH_ALREADY_EXISTS), p.id, "attach twice");
		must_detach(s, &p);
	}
	must_detach(s, &p);
	must_attach(s, &p, NULL);
	must_detach(s, &p);
	pod_gone(&p);
	session_stop(s);
}

static void interrupted(struct session *s)
{
	struct pod p;

	session_start(s);
	network_sweep(s);
	for (unsigned int i = 0; i < (check.brief ? 6u : 30u); i++) {
		struct berth_net_result r = {.size = sizeof(r)};
		pod_make(s, &p, "pod-1");
		struct berth_net_args a = pod_args(&p);
		(void)op_interrupted(s, BERTH_OP_NETWORK_ATTACH, p.id, &a, &r,
		        any_number(40000) * 1000ull + 1, i % 2);
		must_detach(s, &p);
		pod_gone(&p);
	}
	pod_make(s, &p, "pod-1");
	must_attach(s, &p, NULL);
	must_detach(s, &p);
	pod_gone(&p);
	session_stop(s);
}

/* ---- many at once ---- */

struct walker {
	struct pod pod;
	unsigned int rounds;
	bool attached;
	unsigned int *left;
	char *wrong;
	struct berth_net_result r;
};

static void walked(struct flight *f);

static void walk(struct session *s, struct walker *w)
{
	const struct berth_net_args a = pod_args(&w->pod);

	(void)flight_start(s, w->attached ? BERTH_OP_NETWORK_DETACH : BERTH_OP_NETWORK_ATTACH,
	        w->pod.id, &a, &w->r, walked, w);
}

static void walked(struct flight *f)
{
	struct walker *w = f->arg;
	struct session *s = f->s;

	if (f->code && !*w->wrong)
		snprintf(w->wrong, 512, "%s of %s: %s", berth_op_name(f->op), f->object, f->msg);
	flight_end(f);
	w->attached = !w->attached;
	if (*w->wrong || (!w->attached && --w->rounds == 0))
		(*w->left)--;
	else
		walk(s, w);
}

static void crowd(struct session *s)
{
	enum { N = 5 };
	struct walker w[N] = {0};
	char wrong[512] = "", id[16];
	unsigned int left = N;

	session_start(s);
	network_sweep(s);
	for (unsigned int i = 0; i < N; i++) {
		snprintf(id, sizeof(id), "pod-%u", i);
		pod_make(s, &w[i].pod, id);
		w[i].rounds = check.brief ? 3 : 15;
		w[i].left = &left;
		w[i].wrong = wrong;
		walk(s, &w[i]);
	}
	for (unsigned int ms = 0; left && ms < 90000; ms += 10) {
		(void)op(s, BERTH_OP_NETWORK_STATUS, NULL, NULL, NULL);
		session_idle(s, 10);
	}
	expect(!left, "%u of %d wait for ever", left, N);
	expect(!*wrong, "%s", wrong);
	for (unsigned int i = 0; i < N; i++)
		pod_gone(&w[i].pod);
	session_stop(s);
}

/* ---- hosts that are killed ---- */

static struct pod survivor;

static void attach_and_die(struct session *s, void *arg)
{
	(void)arg;
	network_sweep(s);
	must_attach(s, &survivor, NULL);
	host_dies();
}

static void detach_and_die(struct session *s, void *arg)
{
	(void)arg;
	if (has(s, BERTH_OP_NETWORK_CHECK))
		ended(s, pod_check(s, &survivor), OK, survivor.id, "check in the next host");
	must_detach(s, &survivor);
	host_dies();
}

static void anew(struct session *s, void *arg)
{
	(void)arg;
	must_detach(s, &survivor);
	must_attach(s, &survivor, NULL);
	must_detach(s, &survivor);
}

static void between(struct session *s)
{
	pod_make(s, &survivor, "pod-1");
	expect(!host_run(s, attach_and_die, NULL, 0), "the host was not killed");
	expect(!host_run(s, detach_and_die, NULL, 0), "the host was not killed");
	(void)host_run(s, anew, NULL, 0);
	pod_gone(&survivor);
}

static void churn(struct session *s, void *arg)
{
	(void)arg;
	for (;;) {
		must_attach(s, &survivor, NULL);
		must_detach(s, &survivor);
	}
}

static void within(struct session *s)
{
	for (unsigned int i = 0; i < (check.brief ? 6u : 30u); i++) {
		pod_make(s, &survivor, "pod-1");
		expect(!host_run(s, churn, NULL, 1 + any_number(100000)),
		        "the host was not killed");
		(void)host_run(s, anew, NULL, 0);
		pod_gone(&survivor);
	}
}

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_NETWORK, true, fn, meaning \
	}
const struct test network_bad_tests[] = {
        T("network.arguments", arguments,
                "A sandbox without an id, and unknown flags, are INVALID; no id becomes a path."),
        T("network.again", again,
                "A second attach works, or is ALREADY_EXISTS and a detach helps."),
        T("network.cancel", interrupted,
                "An attach that is cancelled or late returns within 2 s; detach ends what it "
                "left."),
        T("network.crowd", crowd, "Pods come and go side by side."),
        T("network.killed-between", between,
                "The host is killed (-9) after attach and after detach: the next one goes on."),
        T("network.killed-within", within,
                "The host is killed at any moment: detach is OK, and all can be done anew."),
        {0}};
