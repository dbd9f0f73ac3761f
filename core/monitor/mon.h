/* berth-monitor: the parts of the program. One process, one thread, one container; no allocation
 * once the container runs, no library but libc and libcap-ng. */
#ifndef BERTH_MONITOR_MON_H
#define BERTH_MONITOR_MON_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "monitor/logfmt.h"
#include "monitor/protocol.h"

/* What the command line said; strings are those of argv. */
struct mon_opts {
	const char *id, *dir, *cwd, *pid_file, *log_path, *console_socket;
	int sync_fd, seccomp_fd;
	bool tty, use_stdin, stdin_once;
	char **argv; /* the command that creates the container */
};

struct mon_stdin {
	int fd; /* nonblocking write end or pty master (not owned then); -1 = none or closed */
	bool once, tty, closing;
	size_t off, len;
	char buf[BERTH_MON_ATTACH_IN];
};

struct mon_client {
	int fd; /* -1 = free */
	bool in_eof, out_dead;
	bool was_input;          /* it held stdin when that mattered */
	size_t taken;            /* bytes, until it earns by them */
	int64_t credit_ns;       /* how long the container may still be held up for it */
	char *q;                 /* mapped while something is queued */
	size_t head, tail, last; /* last: offset of the newest entry */
};

struct mon_oom {
	int counter_fd; /* memory.oom_control or memory.events */
	int event_fd;   /* v1 alone */
	int parent_fd;  /* v2 alone: memory.events of the pod */
	bool v2, seen;
	uint64_t base, parent_base;
	int64_t again_ns, until_ns; /* the notification comes before the counter has risen */
};

struct mon {
	const struct mon_opts *o;
	int dirfd, sigfd, sync_fd;
	int out_fd, err_fd; /* of the container; with a terminal out_fd is the master */
	int attach_fd, ctl_fd;
	pid_t init;
	uint64_t init_start;
	bool init_ended;
	int init_status;
	int64_t tty_retry_ns; /* the master has no slave: asked again then */
	int64_t read_ns;      /* the last read of output */
	int64_t rest_ns;      /* none before then */
	struct mon_log log;
	struct mon_stream out, err;
	struct mon_stdin in;
	struct mon_oom oom;
	struct mon_client clients[BERTH_MON_CLIENTS];
	int ctl_clients[BERTH_MON_CTL_CLIENTS];
	unsigned int ctl_next;
};

int64_t mon_now_ns(void); /* CLOCK_MONOTONIC */
uint64_t mon_realtime_ns(void);
void mon_close(int *fd);

/* create.c: runs the command; returns 0 with m->init known, the streams open and stderr's words
 * already in m->err; or -1 with the words of the failure in *ret_err (static). */
int mon_create(struct mon *m, const char **ret_err);
/* Kills and reaps whatever descends from us. */
void mon_kill_descendants(void);

/* confine.c */
/* Empties the bounding set, where that is allowed. It costs as much as all the rest, and goes
 * before it: while the runtime works, once no child of ours needs capabilities any more. */
void mon_confine_bounds(void);
/* No return of privileges after it. 0 or -1 with errno. */
int mon_confine(int seccomp_fd);

/* record.c */
int mon_write_record(struct mon *m);
int mon_write_exit(struct mon *m);
void mon_touch_oom(struct mon *m);
void mon_report_ok(struct mon *m);
void mon_report_error(struct mon *m, const char *words, size_t len);
int mon_proc_stat(pid_t pid, pid_t *ret_ppid, uint64_t *ret_start);

/* oom.c */
void mon_oom_open(struct mon *m);
bool mon_oom_check(struct mon *m); /* reads the counter; true once it has risen */

/* attach.c */
void mon_attach_accept(struct mon *m);
void mon_attach_send(struct mon *m, unsigned char stream, const char *p, size_t n);
void mon_client_events(struct mon *m, struct mon_client *c, struct pollfd *p);
void mon_client_ready(struct mon *m, struct mon_client *c, short revents);
bool mon_attach_pending(const struct mon *m); /* a client has output queued */
/* How long reading from the container should wait for a client that reads, 0 = not at all. */
int64_t mon_attach_hold_ns(const struct mon *m);
void mon_attach_held(struct mon *m, int64_t ns);
void mon_stdin_flush(struct mon *m);
void mon_stdin_close(struct mon *m); /* once what is queued is written */

/* ctl.c */
void mon_ctl_accept(struct mon *m);
void mon_ctl_ready(struct mon *m, int *fd);

#endif
