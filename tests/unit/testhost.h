/* A plugin host for unit tests: loads a plugin's .so and gives it every service of the ABI, in one
 * thread. Watches run when the test says so. */
#ifndef BERTH_TEST_TESTHOST_H
#define BERTH_TEST_TESTHOST_H

#include <berth/plugin.h>
#include <jansson.h>
#include <stdbool.h>

struct testhost;

struct testevent {
	uint32_t type;
	char *object_id, *exec_id, *message;
	struct berth_exit exit;
};

/* Loads DIR/NAME.so from the build's plugins. `state_dir` must exist; `config`: JSON text. */
struct testhost *testhost_new(
        const char *so_path, const char *state_dir, const char *run_dir, const char *config);
/* create() and start(). On failure *ret_msg is the error's text (caller frees). */
berth_status testhost_start(struct testhost *h, char **ret_msg);
struct testhost *testhost_free(struct testhost *h); /* stop() and destroy(); NULL-safe */
/* As if the process had been killed: no stop(), the memory is given back all the same. */
struct testhost *testhost_kill(struct testhost *h);

const struct berth_plugin *testhost_plugin(const struct testhost *h);
void *testhost_self(const struct testhost *h);
const struct berth_host *testhost_host(const struct testhost *h);

/* A call in flight. Everything the op returned lives until testop_free(). */
struct berth_op *testop_new(struct testhost *h);
struct berth_op *testop_free(struct berth_op *op);
void testop_freep(struct berth_op **op);
#define _cleanup_op_ __attribute__((cleanup(testop_freep)))
/* "" where fail() was not called. The first failure counts; once it was asked for, the next does.
 */
const char *testop_error(struct berth_op *op);
/* For cmocka: a call that succeeds; one that fails with this status, and PART in its error. */
#define OK(op, call)                                                              \
	do {                                                                      \
		berth_status st_ = (call);                                        \
		if (st_ != BERTH_OK)                                              \
			fail_msg("%s: %d %s", #call, (int)st_, testop_error(op)); \
	} while (0)
#define FAILS(op, call, status, part)                                    \
	do {                                                             \
		berth_status st_ = (call);                               \
		const char *said_ = testop_error(op);                    \
		if (st_ != (status) || !strstr(said_, part))             \
			fail_msg("%s: %d '%s'", #call, (int)st_, said_); \
	} while (0)
void testop_cancel(struct berth_op *op);
void testop_set_deadline_ms(struct berth_op *op, unsigned int ms);

/* Runs the watches that are ready and reaps what was spawned, for at most `ms`; returns how many
 * callbacks ran (0: nothing happened). */
int testhost_dispatch(struct testhost *h, int ms);
size_t testhost_n_events(const struct testhost *h);
const struct testevent *testhost_event(const struct testhost *h, size_t i);
/* The first configuration key that the plugin never asked for, or NULL. */
const char *testhost_unasked(const struct testhost *h);
size_t testhost_n_runs(const struct testhost *h); /* children run to completion */
/* Text logged so far, a line each. */
const char *testhost_logged(const struct testhost *h);

#endif
