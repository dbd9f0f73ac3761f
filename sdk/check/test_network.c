/* Networks as they are meant to be used. */
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "network.h"

static void begin(struct session *s)
{
	session_start(s);
	network_sweep(s);
}

static void status(struct session *s)
{
	begin(s);
	ended(s, op(s, BERTH_OP_NETWORK_STATUS, NULL, NULL, NULL), OK, NULL, "status");
	session_stop(s);
}

static void attached(struct session *s)
{
	struct pod p;

	begin(s);
	pod_make(s, &p, "pod-1");
	for (int i = 0; i < 3; i++) {
		must_attach(s, &p, NULL);
		if (has(s, BERTH_OP_NETWORK_CHECK))
			ended(s, pod_check(s, &p), OK, p.id, "check");
		must_detach(s, &p);
		if (has(s, BERTH_OP_NETWORK_CHECK))
			ended(s, pod_check(s, &p), ~OK, p.id, "check of what was detached");
	}
	pod_gone(&p);
	session_stop(s);
}

static void addresses(struct session *s)
{
	enum { N = 5 };
	struct pod p[N];
	char at[N][64], id[16];

	begin(s);
	for (int i = 0; i < N; i++) {
		snprintf(id, sizeof(id), "pod-%d", i);
		pod_make(s, &p[i], id);
		must_attach(s, &p[i], at[i]);
		for (int k = 0; k < i; k++)
			expect(strcmp(at[i], at[k]) != 0 || strncmp(at[i], "127.", 4) == 0,
			        "two pods have the address %s", at[i]);
	}
	for (int i = 0; i < N; i++) {
		must_detach(s, &p[i]);
		pod_gone(&p[i]);
	}
	session_stop(s);
}

static void gone(struct session *s)
{
	struct pod p;

	begin(s);
	pod_make(s, &p, "pod-1");
	must_attach(s, &p, NULL);
	pod_gone(&p);
	must_detach(s, &p);
	must_detach(s, &p);
	pod_make(s, &p, "pod-1");
	must_attach(s, &p, NULL);
	pod_gone(&p);
	*p.netns = '\0'; /* nobody knows any more where it was */
	must_detach(s, &p);
	session_stop(s);
}

/* In a later life: what was attached a moment ago may be spared, for it may not be known yet. */
static void collected(struct session *s)
{
	struct pod kept, lost;
	const char *const valid[] = {"kept"};

	begin(s);
	if (!has(s, BERTH_OP_NETWORK_GC) || !has(s, BERTH_OP_NETWORK_CHECK))
		skip("it has no gc, or no check to look at it");
	pod_make(s, &kept, "kept");
	pod_make(s, &lost, "lost");
	must_attach(s, &kept, NULL);
	must_attach(s, &lost, NULL);
	session_stop(s);
	session_start(s);
	ended(s, pods_gc(s, valid, 1), OK, NULL, "gc");
	ended(s, pod_check(s, &kept), OK, "kept", "check of what gc should keep");
	ended(s, pod_check(s, &lost), ~OK, "lost", "check of what gc should release");
	must_detach(s, &kept);
	must_detach(s, &lost);
	session_stop(s);
	pod_gone(&kept);
	pod_gone(&lost);
}

static void tour(struct session *s, unsigned int round)
{
	struct pod p, none = {.id = "nobody", .netns = "/nowhere"};
	char id[32];

	snprintf(id, sizeof(id), "tour-%u", round);
	pod_make(s, &p, id);
	ended(s, op(s, BERTH_OP_NETWORK_STATUS, NULL, NULL, NULL), OK, NULL, "status");
	must_attach(s, &p, NULL);
	if (has(s, BERTH_OP_NETWORK_CHECK))
		ended(s, pod_check(s, &p), OK, id, "check");
	(void)pod_attach(s, &none, NULL); /* fails, but for a network that needs no namespace */
	must_detach(s, &none);
	if (has(s, BERTH_OP_NETWORK_CHECK))
		(void)pod_check(s, &none);
	must_detach(s, &p);
	must_detach(s, &p);
	network_sweep(s);
	pod_gone(&p);
}

const struct kind kind_network = {.name = "network", .tour = tour, .sweep = network_sweep};

#define T(name, fn, meaning)                          \
	{                                             \
		name, KIND_NETWORK, true, fn, meaning \
	}
const struct test network_tests[] = {
        T("network.status", status, "With its configuration the network is ready."),
        T("network.attach", attached,
                "attach gives addresses; check knows the attachment until it is detached; all of "
                "it can be done again."),
        T("network.addresses", addresses, "No two pods have one address."),
        T("network.netns-gone", gone,
                "detach is OK where the namespace is gone, and where there was nothing."),
        T("network.gc", collected, "gc releases all attachments but those of the sandboxes named."),
        {0}};
