/* The fake plugin: storage, runtime and network over the real ABI, for tests of everything above
 * it.
 *
 *   storage   plain directories, a child's a copy of its parent's (no feature bits of its kind: a
 * driver that is asked for its layers in order, and for which deletions really delete) runtime
 * containers are entries of a table: they "run" until they are killed; an exec is a real process, a
 * checkpoint the entry network   addresses out of 10.200.0.0/16 and fd00:200::/64, nothing behind
 * them
 *
 * All of it is kept in files, so that a daemon that was killed finds it again.
 *
 * Configuration, and the same as KEY=VALUE lines in RUN_DIR/inject, which is read at each op and
 * wins over the configuration:
 *   fail_op       ops that fail, by commas: "create", "storage.commit"
 *   fail_status   with this gRPC code (13)
 *   fail_count    the first so many of them (0 = all)
 *   delay_op, delay_ms   ops that take this long; a cancel ends it early
 *   delay_hard    1: a cancel does not
 *   kill_op       an op in which the process ends
 *   kill_how      by SIGKILL (as without it), by a "fault", or by "abort"
 *   kill_when     "before" or "after" the op's work
 *   mounts        "bind" or "none": what storage describes ("none" without root)
 *   ignore_term   1: containers end by SIGKILL alone
 *   exit_after_ms, exit_code   containers end by themselves (0 = they do not)
 *   not_ready     why the network is not ready
 */
#ifndef FAKE_H
#define FAKE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "berth/plugin.h"

#define VALUE_LIMIT 512
#define NAME_LIMIT 255
#define FILE_LIMIT 65536

struct fake {
	const struct berth_host *host;
	pthread_mutex_t lock; /* over the tables' files and the counters */
	char *state, *run;    /* directories */
	uint64_t failed;      /* by injection, so far */
	uint64_t addresses;   /* handed out, so far */
	uint64_t born;        /* tells its attachments from those of an earlier life */
	struct ending *endings;
	char *conf[16]; /* values, in the order of keys[] */
};

/* inject.c */
void inject_init(struct fake *f, const struct berth_conf *c);
void inject_finish(struct fake *f);
/* The value of the moment, "" where there is none. Returns out. */
const char *inject_get(struct fake *f, const char *key, char out[VALUE_LIMIT]);
int64_t inject_number(struct fake *f, const char *key);
/* Before and after the work of every op, named "storage.commit". */
berth_status inject_before(struct fake *f, struct berth_op *op, const char *name);
void inject_after(struct fake *f, const char *name);

/* table.c: one file of KEY=VALUE lines per object, in DIR/TABLE/NAME */
struct row {
	char text[FILE_LIMIT];
};
int row_load(const char *dir, const char *table, const char *id, struct row *ret); /* -ENOENT */
int row_save(const char *dir, const char *table, const char *id, const struct row *r);
/* -EEXIST where it is there. */
int row_create(const char *dir, const char *table, const char *id, const struct row *r);
int row_remove(const char *dir, const char *table, const char *id);
const char *row_get(const struct row *r, const char *key, char out[VALUE_LIMIT]);
void row_set(struct row *r, const char *key, const char *value); /* a value without newlines */
void row_each(const char *dir, const char *table,
        void (*fn)(const char *id, const struct row *r, void *arg), void *arg);
int row_path(const char *dir, const char *table, const char *id, char *out, uint64_t size);

/* exec.c: a real process, beside the container rather than in it */
berth_status exec_process(struct fake *f, struct berth_op *op, const struct berth_ctr_args *a,
        struct berth_stdio *stdio);

/* checkpoint.c */
berth_status fake_checkpoint(
        struct berth_op *op, void *self, const struct berth_checkpoint_args *a);

/* sandbox.c */
berth_status sandbox_create(struct berth_op *op, void *self, const struct berth_sandbox_args *a,
        struct berth_sandbox_result *res);
berth_status sandbox_remove(struct berth_op *op, void *self, const struct berth_sandbox_args *a);
/* INTERNAL where this is not what sandbox_create() gave for the sandbox, if there is one. */
berth_status sandbox_state(
        struct fake *f, struct berth_op *op, const char *id, const char *state_json);

/* INVALID where `flags` has other bits than the known ones. */
berth_status fake_flags(
        struct fake *f, struct berth_op *op, const char *id, uint32_t flags, uint32_t known);
berth_status fake_fail(
        struct fake *f, struct berth_op *op, int errnum, const char *what, const char *id);

extern const struct berth_storage_ops fake_storage;
extern const struct berth_runtime_ops fake_runtime;
extern const struct berth_network_ops fake_network;
void runtime_stop(struct fake *f); /* forgets the timers of containers that end by themselves */

#endif
