/* What the parts of the plugin host for unit tests share. */
#ifndef BERTH_TEST_TESTHOST_IMPL_H
#define BERTH_TEST_TESTHOST_IMPL_H

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "testhost.h"

/* An assert that is there in release builds, too. */
#define CHECK(what)                                                                \
	do {                                                                       \
		if (!(what)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                   \
		}                                                                  \
	} while (0)

struct berth_conf {
	json_t *json;
	char **asked;
	char **texts; /* what conf_json() gave away */
};

struct spawned {
	struct spawned *next;
	pid_t pid;
	char *object_id, *exec_id;
};

struct testhost {
	struct berth_host host;
	const struct berth_plugin *plugin;
	void *self;
	bool started;
	struct berth_conf conf;
	struct berth_watch *watches;
	struct spawned *children;
	struct testevent *events;
	size_t n_events, n_runs;
	struct berth_buf log;
	char *state_dir, *run_dir;
};

struct berth_op {
	struct testhost *h;
	struct berth_arena *arena;
	char *error;
	bool error_seen;
	int cancel_fd;
	bool cancelled;
	uint64_t deadline_ns;
};

/* testhost.c */
berth_status host_fail(struct berth_op *op, berth_status st, int32_t errnum, const char *msg);
int32_t host_cancelled(struct berth_op *op);
void host_emit(const struct berth_host *h, const struct berth_event *ev);

/* testhost_child.c */
berth_status host_run(struct berth_op *op, const struct berth_run *r, struct berth_run_result *res);
berth_status host_spawn(struct berth_op *op, const struct berth_run *r, const char *object_id,
        const char *exec_id, struct berth_stdio *stdio);
/* Tells of the spawned ones that ended; returns how many did. */
int reap(struct testhost *h);

#endif
