/* What each op owes, whatever it does. Each test is a tour through all ops of the kind. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "check.h"

#define ROUND_MEMORY 4096ull /* bytes that a round may cost: less than any leak of each op */

static void rounds(struct session *s, unsigned int from, unsigned int n)
{
	for (unsigned int i = from; i < from + n; i++) {
		s->ops->tour(s, i);
		session_forget(s);
	}
}

static bool is(const struct session *s, const char *name)
{
	return !s->alone || strcmp(s->test->name, name) == 0;
}

static void tours(struct session *s)
{
	session_start(s);
	s->ops->sweep(s);
	rounds(s, 0, check.brief ? 2 : 5);
	session_idle(s, check.brief ? 200 : 1500); /* what the plugin does later, from timers */
	rounds(s, 100, 1);
	session_stop(s);
}

static void toured(struct session *s)
{
	char name[64];

	tours(s);
	rules_hold((is(s, "errors.said") ? BIT(RULE_FAIL) | BIT(RULE_STATUS) : 0u) |
	           (is(s, "hygiene.thread") ? BIT(RULE_STATE) : 0u) |
	           (is(s, "hygiene.stack") ? BIT(RULE_STACK) : 0u));
	uint64_t most = around_stack(name);
	if (most)
		note("the most of the stack is %llu KiB, in %s", (unsigned long long)(most >> 10),
		        name);
}

static void sizes_first(struct session *s)
{
	s->args = is(s, "sizes.first") ? SIZES_FIRST : SIZES_OURS;
	s->results = s->args;
	s->table = is(s, "sizes.host-first") ? SIZES_FIRST : SIZES_OURS;
	tours(s);
}

static void sizes_larger(struct session *s)
{
	s->args = is(s, "sizes.args-larger") ? SIZES_LARGER : SIZES_OURS;
	s->results = is(s, "sizes.results-larger") ? SIZES_LARGER : SIZES_OURS;
	s->table = is(s, "sizes.host-larger") ? SIZES_LARGER : SIZES_OURS;
	tours(s);
	rules_hold(BIT(RULE_SIZE));
}

/* ---- leaks ---- */

/* What of `now` was not there `before`: both are sorted. */
static const char *more_of(char **before, char **now)
{
	for (; now && *now; now++) {
		while (before && *before && strcmp(*before, *now) < 0)
			before++;
		if (!before || !*before || strcmp(*before, *now) != 0)
			return *now;
		before++;
	}
	return NULL;
}

struct growth {
	struct census before, after;
	unsigned int rounds;
};

static void measure(struct session *s, struct growth *g)
{
	rounds(s, 0, 3); /* threads and caches */
	session_idle(s, 100);
	census_take(&g->before, s->dir);
	g->rounds = check.brief ? 4 : 10;
	rounds(s, 1000, g->rounds);
	session_idle(s, 100);
	census_take(&g->after, s->dir);
}

static void judge_processes(struct session *s, struct growth *g)
{
	for (int i = 0; i < 20 && more_of(g->before.children, g->after.children); i++) {
		session_idle(s, 100); /* what ends, ends soon */
		census_finish(&g->after);
		census_take(&g->after, s->dir);
	}
	const char *more = more_of(g->before.children, g->after.children);
	expect(!more, "after %u rounds of all ops the process \"%s\" is left", g->rounds, more);
}

static void judge(struct session *s, struct growth *g)
{
	unsigned int n = g->rounds;
	const char *fd = more_of(g->before.fds, g->after.fds);
	const char *m = more_of(g->before.mounts, g->after.mounts);
	size_t fds = berth_strv_len(g->before.fds), now = berth_strv_len(g->after.fds);
	uint64_t heap = g->after.heap > g->before.heap ? g->after.heap - g->before.heap : 0;

	/* A few more are a cache or a thread that was late; a leak grows with each round. */
	if (is(s, "leaks.fds"))
		expect(!fd || now < fds + n / 2,
		        "after %u rounds of all ops %zu more descriptors are open, \"%s\" for one",
		        n, now - fds, fd);
	if (is(s, "leaks.threads"))
		expect(g->after.threads < g->before.threads + n / 2,
		        "after %u rounds of all ops there are %u threads and not %u", n,
		        g->after.threads, g->before.threads);
	if (is(s, "leaks.mounts"))
		expect(!m, "after %u rounds of all ops \"%s\" is mounted", n, m);
	if (is(s, "leaks.memory") && !check.sanitized) /* those count by themselves */
		expect(heap < ROUND_MEMORY * n,
		        "after %u rounds of all ops %llu KiB more of memory are in use", n,
		        (unsigned long long)heap >> 10);
	if (is(s, "leaks.processes"))
		judge_processes(s, g);
}

static void leaks(struct session *s)
{
	struct growth g;

	session_start(s);
	s->ops->sweep(s);
	measure(s, &g);
	judge(s, &g);
	census_finish(&g.before);
	census_finish(&g.after);
	session_stop(s);
}

/* After stop() and destroy() nothing of the plugin is left but its code. */
static void stopped(struct session *s)
{
	struct census before, after;

	session_start(s);
	s->ops->sweep(s);
	rounds(s, 0, 1);
	session_stop(s);
	census_take(
	        &before, s->dir); /* with what exists once for ever, as the thread for watches */
	for (unsigned int i = 0; i < 3; i++) {
		session_start(s);
		rounds(s, 10 + i, 1);
		session_stop(s);
	}
	census_take(&after, s->dir);
	for (int i = 0; i < 50 && after.threads > before.threads; i++) {
		usleep(20000); /* the workers, which nobody joins, are on their way */
		census_finish(&after);
		census_take(&after, s->dir);
	}
	const char *fd = more_of(before.fds, after.fds), *m = more_of(before.mounts, after.mounts);
	expect(!fd, "after its end a descriptor of \"%s\" is open", fd);
	expect(after.threads <= before.threads, "after its end %u threads more are running",
	        after.threads - before.threads);
	expect(!m, "after its end \"%s\" is mounted", m);
	census_finish(&before);
	census_finish(&after);
}

#define T(name, fn, meaning)                            \
	{                                               \
		name, KIND_ANY, true, fn, meaning, true \
	}
const struct test all_kinds_tests[] = {
        T("errors.said", toured,
                "Each op that fails called fail() with the status that it returns, and the text "
                "names the object and a cause."),
        T("memory.arguments", toured,
                "Arguments are not written to, and not used after the op: they lie in memory that "
                "is read-only, then gone."),
        T("memory.arena", toured,
                "What came from op_alloc() is not used after the op, nor beyond its end: a use is "
                "a fault."),
        T("hygiene.thread", toured,
                "A worker is left as it was: signal mask, working and root directory, umask, ids, "
                "capabilities, namespaces, name, CPUs; and the process's signal handlers."),
        T("hygiene.stack", toured, "No op needs more than 256 KiB of stack."),
        T("sizes.first", sizes_first,
                "Arguments and results with the first version's members alone: nothing behind "
                "`size` is read or written."),
        T("sizes.host-first", sizes_first,
                "The host's table with the first version's members alone."),
        T("sizes.args-larger", sizes_larger,
                "Arguments with members that are not known yet are taken as if these were not "
                "there."),
        T("sizes.results-larger", sizes_larger,
                "Of a larger result the unknown members stay zero, and `size` stays as it was."),
        T("sizes.host-larger", sizes_larger, "The host's table with unknown members."),
        T("leaks.fds", leaks, "Rounds of all ops leave no descriptors."),
        T("leaks.threads", leaks, "Rounds of all ops leave no threads."),
        T("leaks.mounts", leaks, "Rounds of all ops leave no mounts."),
        T("leaks.processes", leaks, "Rounds of all ops leave no processes."),
        T("leaks.memory", leaks, "Rounds of all ops leave no memory."),
        {"leaks.stop", KIND_ANY, true, stopped,
                "After stop() and destroy() there are no descriptors, threads and mounts.", false},
        {0}};
