/* The plugin host: loading, one instance per use, and calls into plugins.
 *
 * RULE 0: no plugin instruction runs on the loop thread. A call goes to a worker lane of its
 * instance; calls on one object are served first come, first served and never overlap, except the
 * [concurrent] ones of the ABI. */
#ifndef BERTH_PLUGIN_HOST_H
#define BERTH_PLUGIN_HOST_H

#include <berth/plugin.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/histogram.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "plugin/cancel.h"

struct berth_plugin_host; /* all plugins of the process */
struct berth_instance;    /* one plugin, created with one configuration */

/* Events of plugins, on the loop. `ev` and its strings are valid during the call. */
typedef void (*berth_event_fn)(struct berth_instance *i, const struct berth_event *ev, void *arg);

struct berth_plugin_host_opts {
	struct berth_loop *loop;
	const char *plugin_dir; /* where bare names are looked up: DIR/NAME.so */
	const char *state_root; /* instance state: STATE_ROOT/plugins/INSTANCE */
	const char *run_root;
	const char *host_version;
	berth_event_fn on_event;
	void *event_arg;
};

/* A key of an instance's config: an object of what plugins may ask about the core's own
 * configuration; nobody has to ask. */
#define BERTH_CONF_HOST "host"

struct berth_plugin_host *berth_plugin_host_new(const struct berth_plugin_host_opts *opts);

/* Would the file be loaded (all that berth_instance_new() asks before create())? `path` NULL: a
 * file of plugin_dir. Needs no host; the file's constructors and its entry run, and it stays
 * loaded. */
int berth_plugin_try(const char *plugin_dir, const char *name, const char *path,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [loop, before serving] Loads the plugin file where it is not loaded yet (ownership checks, ELF
 * inspection, dlopen, handshake), creates an instance with `config` (a JSON object; borrowed; the
 * host's own keys are taken out: plugin_path, the file, and lanes), runs create() and start() on a
 * worker and waits for them. Keys that the plugin never asked for are an error that names the
 * nearest asked one, and so are values of a type that it did not ask for. `instance` is the
 * handler's name for runtimes, else the plugin's. */
struct berth_instance *berth_instance_new(struct berth_plugin_host *h, const char *plugin,
        const char *instance, json_t *config, struct berth_error **ret_err);
/* [loop, at the end] stop() and destroy() of all instances, newest first. Plugins are never
 * dlclosed. */
struct berth_plugin_host *berth_plugin_host_free(struct berth_plugin_host *h);

const char *berth_instance_name(const struct berth_instance *i);   /* "runc" */
const char *berth_instance_plugin(const struct berth_instance *i); /* "runtime-runc" */
const struct berth_plugin *berth_instance_descriptor(
        const struct berth_instance *i); /* the host's copy: flags, version */
/* [any] BERTH_F_*: what this instance can, on this machine and with this configuration. */
uint64_t berth_instance_features(const struct berth_instance *i);
/* [any] Why it has not BERTH_F_QUOTA; never NULL. */
const char *berth_instance_no_quota(const struct berth_instance *i);
const char *berth_instance_no_checkpoint(const struct berth_instance *i); /* likewise */
bool berth_instance_has_storage(const struct berth_instance *i);
bool berth_instance_has_runtime(const struct berth_instance *i);
bool berth_instance_has_network(const struct berth_instance *i);
/* [loop] False after too many stuck calls, or where the plugin says so itself, with the reason
 * (owned by the instance, good until the loop goes on) in *ret_why. */
bool berth_instance_healthy(struct berth_instance *i, const char **ret_why);
/* [loop] What a health event said: the reason why the instance cannot work, NULL or "" = it can. */
void berth_instance_says(struct berth_instance *i, const char *why);
/* The instances, for `berthctl plugins` and metrics. [loop] */
size_t berth_plugin_host_count(const struct berth_plugin_host *h);
struct berth_instance *berth_plugin_host_at(const struct berth_plugin_host *h, size_t n);

/* Every op of the ABI. X(id, kind, op, in_type, out_type, concurrent): the id, the table, the
 * member; what it takes. */
#define BERTH_OPS_STORAGE(X)                                                                     \
	X(STORAGE_PREPARE, storage, prepare, const struct berth_snap_args,                       \
	        struct berth_mounts_result, 0)                                                   \
	X(STORAGE_VIEW, storage, view, const struct berth_snap_args, struct berth_mounts_result, \
	        0)                                                                               \
	X(STORAGE_MOUNTS, storage, mounts, const struct berth_snap_args,                         \
	        struct berth_mounts_result, 0)                                                   \
	X(STORAGE_COMMIT, storage, commit, const struct berth_snap_args, void, 0)                \
	X(STORAGE_REMOVE, storage, remove, const struct berth_snap_args, void, 0)                \
	X(STORAGE_STAT, storage, stat, const struct berth_snap_args, struct berth_snap_info, 1)  \
	X(STORAGE_LIST, storage, list, void, struct berth_snap_list, 1)                          \
	X(STORAGE_CLEANUP, storage, cleanup, void, void, 0)
#define BERTH_OPS_RUNTIME(X)                                                                      \
	X(RUNTIME_INFO, runtime, info, void, struct berth_runtime_info, 1)                        \
	X(RUNTIME_SANDBOX_CREATE, runtime, sandbox_create, const struct berth_sandbox_args,       \
	        struct berth_sandbox_result, 0)                                                   \
	X(RUNTIME_SANDBOX_REMOVE, runtime, sandbox_remove, const struct berth_sandbox_args, void, \
	        0)                                                                                \
	X(RUNTIME_CREATE, runtime, create, const struct berth_ctr_args, void, 0)                  \
	X(RUNTIME_START, runtime, start, const struct berth_ctr_args, void, 0)                    \
	X(RUNTIME_KILL, runtime, kill, const struct berth_ctr_args, void, 1)                      \
	X(RUNTIME_REMOVE, runtime, remove, const struct berth_ctr_args, void, 0)                  \
	X(RUNTIME_STATE, runtime, state, const struct berth_ctr_args, struct berth_ctr_state, 1)  \
	X(RUNTIME_LIST, runtime, list, void, struct berth_ctr_list, 0)                            \
	X(RUNTIME_EXEC, runtime, exec, const struct berth_ctr_args, struct berth_stdio, 0)        \
	X(RUNTIME_CLOSE_STDIN, runtime, close_stdin, const struct berth_ctr_args, void, 1)        \
	X(RUNTIME_ATTACH, runtime, attach, const struct berth_ctr_args, struct berth_stdio, 0)    \
	X(RUNTIME_RESIZE, runtime, resize, const struct berth_ctr_args, void, 1)                  \
	X(RUNTIME_UPDATE, runtime, update, const struct berth_ctr_args, void, 0)                  \
	X(RUNTIME_PAUSE, runtime, pause, const struct berth_ctr_args, void, 0)                    \
	X(RUNTIME_RESUME, runtime, resume, const struct berth_ctr_args, void, 0)                  \
	X(RUNTIME_REOPEN_LOG, runtime, reopen_log, const struct berth_ctr_args, void, 0)          \
	X(RUNTIME_STATS, runtime, stats, const struct berth_ctr_args, struct berth_ctr_stats, 1)  \
	X(RUNTIME_CHECKPOINT, runtime, checkpoint, const struct berth_checkpoint_args, void, 0)
#define BERTH_OPS_NETWORK(X)                                                                     \
	X(NETWORK_ATTACH, network, attach, const struct berth_net_args, struct berth_net_result, \
	        0)                                                                               \
	X(NETWORK_DETACH, network, detach, const struct berth_net_args, void, 0)                 \
	X(NETWORK_CHECK, network, check, const struct berth_net_args, void, 0)                   \
	X(NETWORK_STATUS, network, status, void, void, 0)                                        \
	X(NETWORK_GC, network, gc, const struct berth_net_gc_args, void, 0)

enum berth_opcode {
#define X(id, ...) BERTH_OP_##id,
	BERTH_OPS_STORAGE(X) BERTH_OPS_RUNTIME(X) BERTH_OPS_NETWORK(X)
#undef X
	        BERTH_OP_COUNT
};

/* [any] Does the plugin have the op? What it lacks is UNIMPLEMENTED. */
bool berth_instance_has_op(const struct berth_instance *i, enum berth_opcode op);

/* For metrics. [any] What came of an op's calls since the start; times are those in the plugin,
 * without the wait for its lane. */
struct berth_op_usage {
	struct berth_histogram took; /* berth_bounds_latency */
	uint64_t failed;
};
const char *berth_op_name(enum berth_opcode op); /* "storage.prepare" */
void berth_instance_op_usage(
        struct berth_instance *i, enum berth_opcode op, struct berth_op_usage *ret);
/* Lanes are numbered from 0; the name is static, NULL where there is no further one. Plugins that
 * are called one op at a time have one. */
const char *berth_instance_lane(struct berth_instance *i, unsigned int lane, size_t *queued,
        unsigned int *busy, unsigned int *stuck);

/* One call into a plugin. Everything that the op returned by pointer lives in its arena until
 * berth_call_free(). */
struct berth_call;
struct berth_call *berth_call_new(
        struct berth_instance *i, enum berth_opcode op, const char *object);
/* Optional, before the start. deadline_ns: CLOCK_MONOTONIC, 0 = the op's default. `cancel` is
 * referenced. */
void berth_call_set_deadline(struct berth_call *c, uint64_t deadline_ns);
void berth_call_set_cancel(struct berth_call *c, struct berth_cancel *cancel);
/* What the op runs by host->run() bears the mark, with all that descends from it, and ends with it.
 */
void berth_call_set_mark(struct berth_call *c, uint64_t mark);
/* [worker, not of a plugin lane] Runs the op on its lane and waits for it, past the deadline as
 * well: what an op did must be known before anything is undone. `out` must have its `size` member
 * set by the caller and be zeroed otherwise. */
int berth_call_run(struct berth_call *c, const void *in, void *out,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [loop] The same without waiting: done(c, arg) on the loop exactly once; there berth_call_error()
 * tells the outcome. `in` and `out` stay valid until then. */
void berth_call_start(struct berth_call *c, const void *in, void *out,
        void (*done)(struct berth_call *c, void *arg), void *arg);
const struct berth_error *berth_call_error(const struct berth_call *c); /* NULL = OK */
struct berth_call *berth_call_free(
        struct berth_call *c); /* after it has ended or before it began; NULL-safe */
void berth_call_freep(struct berth_call **c);

/* Stops the process started by host->spawn() for (object_id, exec_id): SIGKILL to it and all its
 * descendants. [any] */
void berth_exec_kill(struct berth_instance *i, const char *object_id, const char *exec_id);
/* [at the start, before recovery] Kills what host->spawn() of an earlier process left running:
 * RUN_ROOT/execs has a file for each that had not ended. */
void berth_spawned_recover(const char *run_root);

/* Offers a host extension (plugin calls host->extension(h, id)); `table` is static. Before the
 * first instance. */
void berth_plugin_host_extension(struct berth_plugin_host *h, const char *id, const void *table);
/* From inside an extension's function: the instance behind a host table, and the instance behind an
 * op. */
struct berth_instance *berth_instance_of(const struct berth_host *h);
struct berth_instance *berth_op_instance(struct berth_op *op);
struct berth_loop *berth_instance_loop(const struct berth_instance *i);
/* Raises an event for the instance as if the plugin had called emit(). [any] */
void berth_instance_emit(struct berth_instance *i, const struct berth_event *ev);

#endif
