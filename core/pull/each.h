/* Layers, several at once. */
#ifndef BERTH_PULL_EACH_H
#define BERTH_PULL_EACH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "pull/wire.h"

struct pull_each {
	struct pull_wire *wire;
	unsigned int parallel;
	size_t n;
	const bool *have; /* those that are left out */
	/* [any] */
	int (*run)(void *arg, size_t n, struct berth_error **ret_err);
	void *arg;
};

/* The first failure is told to berthd and ends the process. */
int pull_each_run(const struct pull_each *e, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
