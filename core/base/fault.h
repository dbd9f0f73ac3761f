/* Fault points: where a test may end the process in the middle, or hold it up. Compiled in with
 * -Dfaults=true alone; else they are nothing. [any] */
#ifndef BERTH_BASE_FAULT_H
#define BERTH_BASE_FAULT_H

#include "berth-config.h"

#ifdef BERTH_FAULTS
/* SIGKILL to ourselves where BERTH_FAULT=NAME is in the environment. BERTH_FAULT_LIST=FILE appends
 * each name that is passed. */
void berth_fault(const char *name);
/* Sleeps where BERTH_FAULT_SLOW=NAME:MS is in the environment. */
void berth_fault_slow(const char *name);
#else
#define berth_fault(name) ((void)0)
#define berth_fault_slow(name) ((void)0)
#endif

#endif
