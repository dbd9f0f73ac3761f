/* What the tests of runtime-runc share: a plugin host with an instance, a bundle with busybox, and
 * the ops on the container "c1" of it in short. */
#ifndef BERTH_TEST_RUNC_FIXTURE_H
#define BERTH_TEST_RUNC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "monitor/host.h"
#include "plugin/host.h"

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

struct env {
	struct berth_loop *loop;
	struct berth_plugin_host *host;
	struct berth_instance *rt;
	char dir[64], bundle[128], ctr[96], log[128];
	int exits, exec_exits, ooms;
	struct berth_exit exit, exec_exit;
};

extern uint64_t started_ns; /* of the last status() */

/* Takes main()'s arguments: the plugin's file, the directory of berth-monitor. False where there is
 * no runc to test with. */
bool runc_tests_can_run(int argc, char **argv);
int setup(void **state);
int teardown(void **state);

void set_up_monitor(struct env *e);
void write_config(struct env *e, const char *terminal, const char *args);
struct berth_instance *make_instance(struct env *e, const char *runtime);
int call(struct env *e, enum berth_opcode op, struct berth_ctr_args *a, void *out,
        struct berth_error **err);
void must(struct env *e, enum berth_opcode op, struct berth_ctr_args a);
/* BERTH_ST_*, or 100 and the error's code. */
uint32_t status(struct env *e, struct berth_exit *ret_exit);
/* Is there a monitor, or a child of ours to reap? */
bool busy(struct env *e);
void run_until(struct env *e, const int *count, int want);
void create(struct env *e, const char *args);
size_t entries_of_state(struct env *e);

#endif
