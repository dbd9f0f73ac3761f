/* What the tests of storage-common share: its store under the driver of store_driver.c. All of it
 * fails the test where something goes wrong. */
#ifndef BERTH_TEST_STORE_FIXTURE_H
#define BERTH_TEST_STORE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "storage_fixture.h"

extern const char *config;   /* of one test */
struct testhost *load(void); /* the driver, not started */
void start(void);
void refused(const char *part); /* a start that fails, and says so */
void restart(void);             /* after a kill */
int setup(void **s);
int setup_inside(void **s); /* with the driver's other kind of content */
int teardown(void **s);
void shell(const char *script);                        /* in the state directory */
void make_layer(const char *name, const char *parent); /* as those that stand on content */
void prepare(const char *key, const char *parent);
void cleanup(void);
bool there(const char *name); /* in the state directory */

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define INSIDE(f) cmocka_unit_test_setup_teardown(f, setup_inside, teardown)

#endif
