/* What the tests of net-cni share: scripts that write down how they were called in place of
 * plugins, networks made of them, and the driver's ops in short. */
#ifndef BERTH_TEST_CNI_FIXTURE_H
#define BERTH_TEST_CNI_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "testhost.h"

#define PLUGIN BERTH_TEST_PLUGINS "/net-cni/net-cni.so"
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

extern char dir[]; /* of one test */
extern struct testhost *h;
extern const char script[]; /* of bin/one and bin/two */

int setup(void **s);
int teardown(void **s);
/* `more`: of the configuration, after a comma. */
void start_with(const char *more);

/* Names are of `dir`. */
char *at(const char *name); /* the caller frees */
void put(const char *name, const char *text);
void gone(const char *name);           /* removes it */
char *get(const char *name);           /* "" where it is not there; the caller frees */
json_t *get_json(const char *name);    /* the caller unrefs */
size_t records(void);                  /* of attachments, in the driver's state */
void two_plugins(const char *version); /* a network of both scripts */

const struct berth_network_ops *ops(void);
struct berth_net_args pod(const char *id);
void attach_ok(const char *id);
void assert_status(berth_status want, const char *part);
/* The calls of scripts since bin/calls went: "ADD one;ADD two;". */
void assert_calls(const char *want);

#endif
