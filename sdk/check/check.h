/* berth-plugin-check: conformance tests of plugins. It is a small host, made of the daemon's own
 * dispatcher (core/plugin), loop and mounts.
 *
 * The process that was started loads no plugin. Each test is a process of its own, with a mount
 * namespace and directories of its own; a test that kills its host forks that once more. In a test
 * everything is said on one thread, the loop's; ops run on the dispatcher's workers. */
#ifndef BERTH_CHECK_H
#define BERTH_CHECK_H

#include <berth/plugin.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/macros.h"
#include "base/mem.h"
#include "plugin/host.h"

enum { KIND_STORAGE = 1, KIND_RUNTIME = 2, KIND_NETWORK = 4, KIND_ANY = 7 };

struct check { /* what main.c found out; the same in each test */
	const char *so, *work, *state, *helpers;
	json_t *config;
	bool brief, root, sanitized;
	char name[64];
	uint64_t features;
	uint32_t kinds;
};
extern struct check check;

struct session;
struct test {
	const char *name; /* "GROUP.WHAT" */
	unsigned int kinds;
	bool root; /* needs it */
	void (*fn)(struct session *s);
	const char *meaning; /* what is promised: `--list`, and docs/plugin-check.md */
	/* One run does for all tests in a row that have the same fn: where it fails, each is run
	 * alone (session.alone) and looks at what is its own. */
	bool shared;
};
#define TEST_SECONDS 120 /* then a test is killed */

/* ---- a session: one instance of the plugin in this process ---- */

struct seen_event {
	uint32_t type;
	char *object, *exec;
	struct berth_exit exit;
};

enum sizes { SIZES_OURS, SIZES_FIRST, SIZES_LARGER };

struct session {
	const struct test *test;
	bool alone;
	unsigned int kind; /* whose tests run */
	const struct kind *ops;
	char *dir, *state_root, *run_root, *mnt;
	struct berth_loop *loop;
	struct berth_plugin_host *host;
	struct berth_instance *instance;
	bool monitor;
	struct seen_event *events;
	size_t n_events;
	struct berth_error *err;       /* of the last op() */
	uint64_t took_ns, deadline_ns; /* of the last; for the next, relative, 0 = the op's own */
	struct flight *last;
	enum sizes args, results, table; /* what structures are given */
	unsigned int mounted;
};

/* What the tests that serve all kinds need of one. */
struct kind {
	const char *name;
	/* Each op, as it should be used and as it should not; leaves nothing behind. `round` makes
	 * names differ. */
	void (*tour)(struct session *s, unsigned int round);
	/* Removes whatever list() names, or the test made. */
	void (*sweep)(struct session *s);
};
extern const struct kind kind_storage, kind_runtime, kind_network;

/* create() and start() with `more` (may be NULL) over the configuration. False with s->err. */
bool session_try(struct session *s, json_t *more);
void session_start(struct session *s);  /* or the test fails */
void session_forget(struct session *s); /* the events so far */
void session_stop(struct session *s);   /* stop(), destroy(); events are forgotten */
/* Lets the loop run until *flag or the milliseconds are over. */
bool session_wait(struct session *s, const volatile bool *flag, unsigned int ms);
void session_idle(struct session *s, unsigned int ms);
const struct seen_event *session_event(
        struct session *s, uint32_t type, const char *object, const char *exec, unsigned int ms);

/* ---- ops ---- */

/* A call under way. in: struct berth_*_args, copied where a plugin cannot write; its pointers go
 * bad once the flight is over, as do those of the result. */
struct flight {
	struct session *s;
	struct berth_call *call;
	enum berth_opcode op;
	char object[256];
	const void *in;
	void *out, *guarded; /* the caller's, the plugin's */
	struct guard *arguments;
	struct berth_cancel *cancel;
	bool done;
	int code; /* enum berth_code */
	char *msg;
	uint64_t began_ns, took_ns;
	void (*then)(struct flight *f);
	void *arg;
};
struct flight *flight_start(struct session *s, enum berth_opcode op, const char *object,
        const void *in, void *out, void (*then)(struct flight *f), void *arg);
void flight_end(struct flight *f); /* after it is done */
/* One op that is given up after so long, by a cancel or (`deadline`) because its time is over: it
 * is back within 2 s, and done, CANCELLED or DEADLINE_EXCEEDED, or the test fails. The code. */
int op_interrupted(struct session *s, enum berth_opcode op, const char *object, const void *in,
        void *out, uint64_t after_ns, bool deadline);
/* One op to its end: a berth_code, 0 = OK. What `out` points to is good until the next one. */
int op(struct session *s, enum berth_opcode opcode, const char *object, const void *in, void *out);
bool has(const struct session *s, enum berth_opcode opcode);

/* ---- what a test says ---- */

/* Ends the test's process; what it left is cleaned up by run.c. */
void fail(const char *fmt, ...) BERTH_PRINTF(1, 2) __attribute__((noreturn));
void skip(const char *fmt, ...) BERTH_PRINTF(1, 2) __attribute__((noreturn));
void note(const char *fmt, ...) BERTH_PRINTF(1, 2);
#define expect(what, ...)                  \
	do {                               \
		if (!(what))               \
			fail(__VA_ARGS__); \
	} while (0)
/* The last op ended with one of the codes, given as bits; its error names the object. */
#define BIT(code) (1u << (code))
#define OK BIT(BERTH_OK_)
void ended(struct session *s, int code, unsigned int allowed, const char *object, const char *what);

/* ---- guard.c: memory that goes bad ---- */

void guard_init(void);
struct guard *guard_new(void);
/* Zeroed; what lies after it cannot be touched (for the first few hundred of a guard). [any] */
void *guard_alloc(struct guard *g, uint64_t n);
void guard_seal(struct guard *g);  /* from now on it can be read only */
void guard_spoil(struct guard *g); /* from now on it cannot be touched; frees g, NULL-safe */

/* ---- seal.c: arguments and results in guarded memory ---- */

const void *seal_in(struct guard *g, enum berth_opcode op, const void *in, enum sizes how);
void *seal_out(struct guard *g, enum berth_opcode op, enum sizes how);
/* Copies a result into the caller's. False where the plugin wrote what it cannot know. */
bool unseal_out(enum berth_opcode op, const void *guarded, void *out, enum sizes how);

/* ---- around.c: what is looked at in each call ---- */

enum rule { RULE_STATE, RULE_STACK, RULE_FAIL, RULE_STATUS, RULE_SIZE, RULE_COUNT };
void around_init(struct session *s);
void broken(enum rule r, const char *fmt, ...) BERTH_PRINTF(2, 3); /* [any] */
void rules_noted(void);              /* prints all that was broken so far */
void rules_hold(unsigned int rules); /* fails with what was broken so far, of these (bits) */
#define ALL_RULES (BIT(RULE_COUNT) - 1)
uint64_t around_stack(char op[64]); /* the most that an op took, and which */

/* ---- leaks.c ---- */

struct census {
	char **fds, **mounts, **children;
	unsigned int threads;
	uint64_t heap;
};
void census_take(struct census *c, const char *dir);
void census_finish(struct census *c);

/* ---- host processes of their own (kill.c) ---- */

/* Runs fn in a process with a session. It ends by SIGKILL where fn calls host_dies() or `kill_us`
 * (0 = never) are over, else by a stop. What it said, it said. Returns false where it was killed.
 * Not within a session. */
bool host_run(struct session *s, void (*fn)(struct session *s, void *arg), void *arg,
        unsigned int kill_us);
void host_dies(void) __attribute__((noreturn));
void *shared_alloc(size_t n); /* zeroed; the same in all processes that are forked later */
unsigned int any_number(unsigned int below);

/* ---- the tests ---- */

extern const struct test life_tests[], storage_tests[], storage_bad_tests[], storage_kill_tests[],
        storage_feature_tests[], runtime_tests[], runtime_bad_tests[], network_tests[],
        network_bad_tests[], all_kinds_tests[];

#endif
