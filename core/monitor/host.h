/* berthd's side of berth-monitor: starts one per container, reads its records, sees exits.
 *
 * A monitor's directory DIR (for containers the bundle's parent) holds
 *   monitor.json   pids with start times and the boot id; "pid" is 0 until the container exists
 *   exit           how it ended, written once (temporary + rename) by the monitor, or by berthd
 *                  where the monitor died first
 *   oom            exists once a process of the container was killed for memory
 *   ctl, attach    sockets of the monitor (see monitor/protocol.h)
 *   pid            the pid file of the runtime, where the caller asked for that name
 * berth-monitor outlives berthd; everything here works from the records alone after a restart. */
#ifndef BERTH_MONITOR_HOST_H
#define BERTH_MONITOR_HOST_H

#include <berth/monitor.h>
#include <berth/plugin.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "loop/loop.h"
#include "plugin/host.h"

struct berth_monitor_opts {
	struct berth_loop *loop;
	const char *helpers_dir;         /* where berth-monitor lies; copied */
	const char *const *cgroup_procs; /* cgroup.procs files that monitors enter, NULL-terminated;
	                                    NULL = berthd's own cgroups; copied */
	struct berth_plugin_host *plugins; /* gets the extension "berth.monitor/1"; may be NULL */
};

/* [loop, before the first plugin instance] Compiles the monitor's seccomp filter, checks that the
 * helper is there, and offers the extension. */
int berth_monitor_init(
        const struct berth_monitor_opts *opts, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [loop] Forgets all watches; monitors go on. */
void berth_monitor_finish(void);

/* ---- starting ---- */

struct berth_monitor_spec {
	const char *id;          /* for messages and ps */
	const char *dir;         /* the monitor's directory; exists */
	const char *cwd;         /* of argv; the bundle for containers */
	const char *log_path;    /* absolute; NULL = no log */
	const char *const *argv; /* creates the container; absolute argv[0] */
	const char *pid_file; /* absolute; where argv writes the init's pid (host pid namespace) */
	const char *console_socket; /* with BERTH_IO_TTY; relative = from cwd (sun_path is short) */
	uint32_t flags;             /* BERTH_IO_* */
	/* Readable = give up; -1 = none. argv may still end by itself for a moment, with success,
	 * too; then all that was started is killed. */
	int cancel_fd;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC, 0 = none; the same past it */
};

/* [worker] Starts a monitor and waits until argv has ended. On success the monitor's end is
 * reaped by this module, whether it is watched or not. On failure nothing of it lives and its files
 * in DIR are gone; the error carries the words of the failing command. The `pid_start_ns` of the
 * result is in clock ticks, as in the ABI. */
int berth_monitor_start(const struct berth_monitor_spec *s, struct berth_monitor_result *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* ---- records; [any], blocking file reads of a tmpfs ---- */

struct berth_monitor_state {
	uint32_t status; /* BERTH_ST_RUNNING (lives; created or started), STOPPED or UNKNOWN */
	pid_t pid, monitor_pid;            /* 0 where they have ended */
	uint64_t pid_start, monitor_start; /* clock ticks */
	struct berth_exit exit;            /* STOPPED */
	uint64_t created_ns, finished_ns;  /* CLOCK_REALTIME, 0 = not known */
	bool oom;                          /* something was killed for memory */
};
/* NOT_FOUND where there never was a monitor, or its container was never made. */
int berth_monitor_state(const char *id, const char *dir, struct berth_monitor_state *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Ends a monitor that a berthd which died left in the middle of its create command, with
 * the command; nothing is left of it when this returns. Nothing to do is fine. For the undo of an
 * intent, before the runtime's remove. A monitor whose container exists is left alone. */
void berth_monitor_abort(const char *dir);
/* [worker] Ends the monitor and its container, both by SIGKILL, and removes the records. For
 * berth-init and failed creates. Nothing to do is fine. */
void berth_monitor_destroy(const char *dir);

/* ---- requests to a living monitor; [worker], bounded by a few seconds ---- */

int berth_monitor_resize(const char *dir, uint16_t width, uint16_t height,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
int berth_monitor_close_stdin(const char *dir, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Returns once the log is reopened. FAILED_PRECONDITION where the monitor has ended: then no file
 * is made. */
int berth_monitor_reopen_log(const char *dir, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [any] Connects to the attach socket (see monitor/protocol.h): a SOCK_SEQPACKET fd, CLOEXEC and
 * non-blocking, the caller's. */
int berth_monitor_attach(
        const char *dir, int *ret_fd, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* ---- watching; [loop] ---- */

/* The container of `instance` ended or lost memory: raises BERTH_EV_EXIT (once, with the exit;
 * flags 0 = nobody saw how) and BERTH_EV_OOM through berth_instance_emit(). Call it after create
 * and at recovery; what happened before is raised, too, never inside the call. A second watch of a
 * directory replaces the first. */
void berth_monitor_watch(struct berth_instance *instance, const char *id, const char *bundle);
/* The same for a process without a plugin (berth-init): fn(id, exit, arg) once, on the loop. */
typedef void (*berth_monitor_exit_fn)(const char *id, const struct berth_exit *exit, void *arg);
void berth_monitor_watch_dir(const char *id, const char *dir, berth_monitor_exit_fn fn, void *arg);
/* No event of this directory after it. Unknown: nothing. (For containers: dir = parent of the
 * bundle.) */
void berth_monitor_unwatch(const char *dir);
/* From the orphan callback of berth_child_init(): the container of a monitor that died. Writes its
 * exit record. False where pid is none of ours. */
bool berth_monitor_orphan(pid_t pid, int wait_status);

#endif
