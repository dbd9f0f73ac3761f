/* runtime-runc: containers by any OCI runtime with the usual command line (runc, crun). */
#ifndef RUNTIME_RUNC_H
#define RUNTIME_RUNC_H

#include <berth/monitor.h>
#include <berth/plugin.h>
#include <stdbool.h>

#define RUNC_PATH_MAX 4096
#define RUNC_LOG_MAX (256 * 1024)   /* of the runtime's log that is looked at */
#define RUNC_JSON_MAX (1024 * 1024) /* process, resources */
#define RUNC_ARGS 24                /* words of a command line */

struct runc {
	const struct berth_host *h;
	const struct berth_monitor_ext *mon;
	char *path, *root;
	bool systemd_cgroup;
	int join_fd; /* berth-join as a sealed memfd; -1: execs are the runtime's */
	bool checkpoints;
	char *criu;          /* of the configuration, or NULL */
	char *no_checkpoint; /* why there are none, or NULL; start() looks for it */
	struct berth_features features;
};

/* Where a container's small files lie: RUN/ctr/ID. */
enum runc_file { RUNC_DIR, RUNC_BUNDLE, RUNC_STARTED, RUNC_PAUSED, RUNC_LOG, RUNC_FILTER };
/* From the op's arena. */
char *runc_file(struct berth_op *op, const struct runc *r, const char *id, enum runc_file f);
char *runc_state_dir(struct berth_op *op, const struct runc *r, const char *id);
char *runc_printf(struct berth_op *op, const struct runc *r, const char *fmt, ...)
        __attribute__((format(printf, 3, 4), nonnull(3)));

/* INVALID with a reason where the id may not become a file name. */
berth_status runc_check_id(struct berth_op *op, const struct runc *r, const char *id);

/* INVALID where there are other flags than BERTH_IO_*. */
berth_status runc_check_flags(
        struct berth_op *op, const struct runc *r, const struct berth_ctr_args *a);

/* A command line: the runtime, its global options (log = NULL: no log file), then `words` up to a
 * NULL. argv holds RUNC_ARGS. */
void runc_argv(const struct runc *r, const char *log, const char *const *words, const char **argv);
/* The `msg` of the last error in a JSON log, from the arena; NULL where there is none. */
char *runc_log_message(
        struct berth_op *op, const struct runc *r, const char *log, const char *level);
/* A runtime that failed with `st` and left words in its log: fails the op with what they mean,
 * "WHAT ID: words". Without words, `st`. */
berth_status runc_explain(struct berth_op *op, const struct runc *r, const char *what,
        const char *id, const char *log, berth_status st);
/* What words of a runtime, or of CRIU, mean. */
berth_status runc_status_of(const char *words);
struct runc_call {
	const char *what, *id;
	const char *const *words;
	const char *json;       /* becomes /proc/self/fd/3 of the command; or NULL */
	const char *const *env; /* NULL: the host's minimum */
};
/* Runs the runtime to completion. Where it exits with a failure *ret_said has its words, and the op
 * has not failed yet. */
berth_status runc_call(
        struct berth_op *op, const struct runc *r, const struct runc_call *c, char **ret_said);
/* The same, with all that is needed for most of them. A failure says WHAT ID: the runtime's own
 * words. json may be NULL. */
berth_status runc_command(struct berth_op *op, const struct runc *r, const char *what,
        const char *id, const char *const *words, const char *json);
/* A memfd that holds text, -1 with errno. */
int runc_memfd(const char *text);

/* What an exec session has, whichever way it goes. */
struct runc_session {
	const char *dir, *pid_file, *log;
	const char *console; /* a name in dir */
	int32_t process_fd;
	uint32_t run_flags;
};
/* direct.c: execs by berth-join. *ret_refused: it leaves this one to the runtime. */
berth_status runc_direct_open(struct berth_op *op, struct runc *r, const char *path);
berth_status runc_direct_exec(struct berth_op *op, const struct runc *r,
        const struct berth_ctr_args *a, const struct runc_session *s, struct berth_stdio *stdio,
        bool *ret_refused);

/* checkpoint.c */
berth_status runc_checkpoint_conf(struct berth_op *op, struct runc *r, const struct berth_conf *c);
berth_status runc_checkpoint_start(struct berth_op *op, void *self);
const void *runc_extension(void *self, const char *id);
berth_status runc_checkpoint(
        struct berth_op *op, void *self, const struct berth_checkpoint_args *a);

berth_status runc_info(struct berth_op *op, void *self, struct berth_runtime_info *res);

berth_status runc_create(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_start(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_kill(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_remove(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_state(struct berth_op *op, void *self, const struct berth_ctr_args *a,
        struct berth_ctr_state *res);
berth_status runc_list(struct berth_op *op, void *self, struct berth_ctr_list *res);

berth_status runc_exec(
        struct berth_op *op, void *self, const struct berth_ctr_args *a, struct berth_stdio *stdio);
berth_status runc_close_stdin(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_resize(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_update(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_pause(struct berth_op *op, void *self, const struct berth_ctr_args *a);
berth_status runc_resume(struct berth_op *op, void *self, const struct berth_ctr_args *a);

#endif
