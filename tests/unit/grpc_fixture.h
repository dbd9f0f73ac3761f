/* What the tests of core/grpc share: a server that runs in a thread of its own during a test, with
 * methods whose argument is the request's `version`. */
#ifndef GRPC_FIXTURE_H
#define GRPC_FIXTURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cri.pb-c.h"
#include "grpc/client.h"
#include "grpc/server.h"

#define GT_LIMIT 100000 /* of messages, both ways */

typedef Runtime__V1__VersionRequest Request;
typedef Runtime__V1__VersionResponse Response;

extern char gt_dir[], *gt_path; /* the socket's directory and path */
extern struct berth_loop *gt_loop;
extern struct berth_grpc_server *gt_server;
extern pthread_barrier_t gt_barrier;         /* of the test and the server's thread */
extern atomic_int gt_cancelled, gt_observed; /* handlers that were cancelled, calls that ended */
extern atomic_size_t gt_flow_peak;           /* the longest queue of the last Stream */

int gt_start(void **state);
int gt_stop(void **state);
struct berth_grpc_client *gt_client(void);
Response *gt_call(struct berth_grpc_client *c, const char *method, const char *text, uint64_t ms,
        struct berth_error **err);
void gt_expect(struct berth_grpc_client *c, const char *method, const char *text, const char *want);
void gt_expect_failure(struct berth_grpc_client *c, const char *method, const char *text,
        uint64_t ms, enum berth_code code, const char *msg);
void gt_eventually(atomic_int *v, int want);
void gt_expect_counts(size_t connections, size_t calls);

#define WITH_SERVER(f) cmocka_unit_test_setup_teardown(f, gt_start, gt_stop)

#endif
