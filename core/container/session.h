/* A command in a container, from its start to its end: what ExecSync and streamed execs share.
 * [loop] */
#ifndef BERTH_CONTAINER_SESSION_H
#define BERTH_CONTAINER_SESSION_H

#include "container/container.h"

struct berth_session;
struct berth_session_ops {
	/* Once: it runs, and the fds are the callee's (in_fd -1 without stdin, err_fd -1 with a
	 * terminal; with one in_fd and out_fd are its master); or err, and that was all. */
	void (*begun)(const struct berth_stdio *io, const struct berth_error *err, void *arg);
	/* Once, after it began. Its output may still be in the pipes. exit->flags 0: nobody saw
	 * how. */
	void (*ended)(const struct berth_exit *exit, void *arg);
};
/* flags: BERTH_IO_TTY, BERTH_IO_STDIN. argv is copied. Neither function runs inside of this call.
 */
struct berth_session *berth_session_start(struct berth_container *c, size_t argc, char *const *argv,
        uint32_t flags, const struct berth_session_ops *ops, void *arg);
/* SIGKILL to the command and all that descends from it, again and again until it has ended. */
void berth_session_kill(struct berth_session *s);
/* No function runs after it. A command that still runs is killed. NULL-safe, returns NULL. */
struct berth_session *berth_session_release(struct berth_session *s);

/* An EXIT event with an exec id. */
void berth_session_exited(struct berth_daemon *d, const char *object_id, const char *exec_id,
        const struct berth_exit *exit);
/* At the end of the daemon: kills all of them; they are over once the events and workers were
 * waited for. */
void berth_sessions_end(struct berth_daemon *d);
bool berth_sessions_over(const struct berth_daemon *d);
/* When the daemon ends and no worker runs any more: what has not ended is told so, with an unknown
 * exit. */
void berth_sessions_finish(struct berth_daemon *d);

#endif
