/* Shared by the files of the plugin host. */
#ifndef BERTH_PLUGIN_INTERNAL_H
#define BERTH_PLUGIN_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include "loop/pool.h"
#include "plugin/host.h"

#define MAX_EXTENSIONS 16
#define LANE_GENERAL 16
#define LANE_CONTROL 4
#define LANE_STORAGE 8
#define LANE_QUEUE 4096
#define STUCK_CAP 8               /* replaced threads per lane; more make the plugin unhealthy */
#define OP_DEADLINE_S 120         /* where the caller named none */
#define OP_STORAGE_DEADLINE_S 600 /* commits and removes of large trees */
#define STUCK_AFTER_NS 30000000000ull /* past the deadline */

/* A plugin file, loaded once; instances share it. The tables are the host's zero-filled copies, so
 * a missing member is NULL. */
struct plugin_file {
	struct plugin_file *next;
	char *name, *path;
	struct berth_plugin desc;
	struct berth_storage_ops storage;
	struct berth_runtime_ops runtime;
	struct berth_network_ops network;
};

struct berth_conf {
	json_t *root;
	pthread_mutex_t lock;
	char **asked;         /* dotted paths, sorted by nothing */
	unsigned int *wanted; /* of each: what it was asked for as */
	struct conf_text *texts;
};

struct berth_plugin_host {
	struct berth_loop *loop;
	char *plugin_dir, *state_root, *run_root, *host_version;
	berth_event_fn on_event;
	void *event_arg;
	struct plugin_file *files;
	struct berth_instance **instances;
	size_t n_instances;
	struct {
		const char *id;
		const void *table;
	} extensions[MAX_EXTENSIONS];
	size_t n_extensions;
	struct berth_timer *watchdog;
};

enum lane { LANE_ID_GENERAL, LANE_ID_CONTROL, LANE_ID_STORAGE, LANE_COUNT };

/* Ops on one object wait here for their turn. */
struct object {
	char *key;
	struct berth_call *first, **last; /* waiting */
	UT_hash_handle hh;
};

struct berth_instance {
	struct berth_plugin_host *owner;
	struct plugin_file *file;
	char *name, *state_dir, *run_dir;
	struct berth_host table; /* .impl is this */
	struct berth_conf conf;
	void *self;
	bool created, started;
	uint64_t features;
	char *no_quota, *no_checkpoint;       /* or NULL */
	struct berth_pool *lanes[LANE_COUNT]; /* SERIAL: all the same */
	pthread_mutex_t lock;                 /* guards what follows */
	unsigned int ops;                     /* that were begun and have not ended */
	pthread_cond_t idle;                  /* ops is 0 */
	struct object *objects;
	struct berth_call *running; /* list, for the watchdog */
	struct berth_op_usage usage[BERTH_OP_COUNT];
	unsigned int stuck[LANE_COUNT];
	atomic_bool unhealthy;
	char *why_unhealthy; /* set once, before `unhealthy` */
	char *says;          /* the loop's: what the plugin says ails it, or NULL */
};

struct op_impl {
	const char *name;
	enum lane lane;
	bool concurrent;
	uint64_t deadline_ns; /* from now, where the caller named none */
};

/* A call in flight. The ABI's opaque `struct berth_op` is this. */
struct berth_call {
	struct berth_instance *instance;
	int opcode; /* enum berth_opcode, or -1 for a custom function */
	const char *name;
	char *object;
	enum lane lane;
	const void *in;
	void *out;
	berth_status (*custom)(struct berth_op *op, struct berth_instance *i, void *arg);
	void *custom_arg;

	uint64_t deadline_ns;
	struct berth_cancel *cancel;
	uint64_t mark; /* of what it runs; 0 = none */
	int cancel_fd; /* an epoll of the token and a timer; -1 until asked for */
	int timer_fd;
	pthread_mutex_t lock; /* several threads of a plugin may serve one op: cancel_fd to error */
	struct berth_arena *arena;
	struct berth_error *error;
	bool failed_by_plugin; /* fail() was called */

	struct berth_call *next;                /* in the object's queue */
	struct berth_call *run_prev, *run_next; /* in instance->running */
	pid_t tid;
	uint64_t began_ns;
	_Atomic uint64_t progress_ns; /* when it last said that it goes on; 0 = never */
	bool reported_stuck, replaced;

	void (*done)(struct berth_call *c, void *arg);
	void *done_arg;
	pthread_mutex_t wait_lock;
	pthread_cond_t wait_cond;
	bool ended;
};

static inline struct berth_call *call_of(struct berth_op *op)
{
	return (struct berth_call *)(void *)op;
}
static inline struct berth_op *op_of(struct berth_call *c)
{
	return (struct berth_op *)(void *)c;
}

/* dispatch.c */
/* A call of a function that is no op of a table: create, start, a watch's callback. */
struct berth_call *berth_call_custom(struct berth_instance *i, const char *name,
        berth_status (*fn)(struct berth_op *op, struct berth_instance *i, void *arg), void *arg);
/* [loop] Until no op runs or waits for its turn, however long that takes. */
void berth_instance_wait_idle(struct berth_instance *i);
void berth_dispatch_watchdog(struct berth_instance *i);
/* The call that this thread runs, or NULL: for the crash handler. */
const struct berth_call *berth_call_current(void);
/* CANCELLED or DEADLINE once either holds, else BERTH_OK; with the error set. */
berth_status berth_call_check(struct berth_call *c);

/* ops.c */
extern const struct op_impl berth_op_table[BERTH_OP_COUNT];
/* Runs the op's function; UNIMPLEMENTED where the plugin lacks it, or a feature that the call
 * needs. */
berth_status berth_op_invoke(struct berth_call *c);
/* The first op that the plugin's kinds cannot do without and it has not, as "storage.stat"; NULL =
 * none. */
const char *berth_plugin_lacks(const struct plugin_file *f);
/* For a host that looks closer (berth-plugin-check): where it is set, each call into a plugin goes
 * through it, on the worker. It returns what invoke(c) returned. Set before the first instance. */
extern berth_status (*berth_dispatch_around)(
        struct berth_call *c, berth_status (*invoke)(struct berth_call *c));

/* loader.c */
/* What is asked of a file before any of its code runs: owner, modes, machine, entry symbol. */
int berth_plugin_file_check(const char *path, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Fails on feature bits that exclude each other. */
int berth_plugin_features_check(
        const char *plugin, uint64_t features, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct plugin_file *berth_plugin_load(struct berth_plugin_host *h, const char *name,
        const char *path, struct berth_error **ret_err);

/* conf.c */
void berth_conf_init(struct berth_conf *c, json_t *root); /* takes a reference */
void berth_conf_finish(struct berth_conf *c);
const char *berth_conf_str(const struct berth_conf *c, const char *path, const char *dflt);
int64_t berth_conf_i64(const struct berth_conf *c, const char *path, int64_t dflt);
int32_t berth_conf_bool(const struct berth_conf *c, const char *path, int32_t dflt);
const char *berth_conf_json(const struct berth_conf *c, const char *path);
/* Fails on a value that is of none of the types that its key was asked for as. */
int berth_conf_check_types(
        struct berth_conf *c, const char *plugin, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same, and on a key that nobody asked for, naming the nearest one that was. */
int berth_conf_check(
        struct berth_conf *c, const char *plugin, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* services.c, run.c, spawn.c, watch.c: the host table */
void berth_services_fill(struct berth_instance *i);
berth_status berth_service_run(
        struct berth_op *op, const struct berth_run *spec, struct berth_run_result *res);
berth_status berth_service_spawn(struct berth_op *op, const struct berth_run *spec,
        const char *object_id, const char *exec_id, struct berth_stdio *stdio);
void berth_spawned_drop(struct berth_instance *i); /* [loop] kills the instance's children */

/* detach.c: a program that starts a command and ends. */
struct berth_detach {
	pid_t pid; /* the program's, then the command's */
	int pidfd; /* likewise; -1 with `status` where the command has ended already */
	int status;
	int listener; /* -1 without a terminal */
	uint64_t mark;
};
/* The console socket, or -1. */
int berth_detach_listen(const struct berth_run *spec, struct berth_error **ret_err);
/* Waits for the program. words_fd: its stderr, for what it says when it fails. On failure, cancel
 * and deadline nothing of it is left. Between berth_child_expect() and its end. */
berth_status berth_detach_await(struct berth_op *op, const struct berth_run *spec,
        struct berth_detach *d, int words_fd, int *ret_master);
berth_status berth_service_watch_fd(const struct berth_host *h, int32_t fd, uint32_t events,
        berth_watch_fn fn, void *arg, struct berth_watch **out);
berth_status berth_service_watch_after(const struct berth_host *h, uint64_t ns, berth_watch_fn fn,
        void *arg, struct berth_watch **out);
void berth_service_rearm(struct berth_watch *w, uint32_t events, uint64_t ns);
void berth_service_unwatch(struct berth_watch *w);
int32_t berth_service_cancel_fd(struct berth_op *op);
void *berth_call_alloc(struct berth_call *c, uint64_t n);
berth_status berth_service_fail(
        struct berth_op *op, berth_status st, int32_t errnum, const char *msg);
/* The same with a format, for the host's own services. */
berth_status berth_service_failf(struct berth_op *op, berth_status st, int32_t errnum,
        const char *fmt, ...) BERTH_PRINTF(4, 5);

#endif
