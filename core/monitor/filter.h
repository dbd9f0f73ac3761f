/* The system-call filter of berth-monitor, compiled by berthd so that the monitor need not map
 * libseccomp. */
#ifndef BERTH_MONITOR_FILTER_H
#define BERTH_MONITOR_FILTER_H

#include "base/error.h"

/* [any] A sealed memfd with the bytes of a struct sock_filter array, the caller's. What the filter
 * does not allow fails with EPERM. */
int berth_monitor_filter(int *ret_fd, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
