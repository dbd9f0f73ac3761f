/* The tests there are, and the runs of those that are wanted: a process for each. */
#ifndef BERTH_CHECK_RUN_H
#define BERTH_CHECK_RUN_H

#include <stdbool.h>

#define SKIPPED 77 /* the status of a test's process, and of this program */

void list_tests(void);
/* False where the plugin lacks something on this machine, and then why. Else check.features are
 * those of an instance. Before run_all(). */
bool can_start(const char **ret_why);
/* The plan and the tests, as TAP: of the groups and tests in `only`, by commas, and of the kind
 * `only_kind`; NULL = all. The program's exit status. */
int run_all(const char *only, const char *only_kind);

#endif
