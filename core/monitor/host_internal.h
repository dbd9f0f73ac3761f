/* Shared by the files of the host side. */
#ifndef BERTH_MONITOR_HOST_INTERNAL_H
#define BERTH_MONITOR_HOST_INTERNAL_H

#include "monitor/host.h"
#include "monitor/protocol.h"

#define BERTH_MON_BOOT_ID_LEN 36
#define BERTH_MON_RECORD_MAX 4096 /* bytes of a record file */

struct berth_mon_record {
	char boot_id[BERTH_MON_BOOT_ID_LEN + 1];
	pid_t monitor_pid, pid; /* pid 0: the container was not made (yet) */
	uint64_t monitor_start, pid_start, created_ns;
};
struct berth_mon_exit {
	struct berth_exit exit;
	uint64_t finished_ns;
};

struct berth_mon_global {
	struct berth_loop *loop;
	char *helper; /* path of berth-monitor */
	char **cgroup_procs;
	struct berth_pool *starters; /* threads that start monitors */
	int filter_fd;
};
extern struct berth_mon_global berth_mon;

/* ---- records ---- */

/* The text of a record: 0 or -EBADMSG. */
int berth_mon_parse_record(const char *text, size_t len, struct berth_mon_record *ret);
int berth_mon_parse_exit(const char *text, size_t len, struct berth_mon_exit *ret);
/* From DIR: 0 or a negative errno (-ENOENT: there is none). */
int berth_mon_read_record(const char *dir, struct berth_mon_record *ret);
int berth_mon_read_exit(const char *dir, struct berth_mon_exit *ret);
/* Writes the exit record where the monitor could not; wait_status -1 = nobody knows. */
void berth_mon_write_exit(const char *dir, int wait_status);
bool berth_mon_was_oom(const char *dir);
/* True where the record is of this boot. */
bool berth_mon_this_boot(const struct berth_mon_record *rec);
void berth_mon_remove_files(const char *dir);

/* ---- processes ---- */

/* A pidfd of the process that has this pid and this start time and has not ended; -ESRCH. */
int berth_mon_open_process(pid_t pid, uint64_t start);
bool berth_mon_pidfd_ended(int pidfd);
/* How an ended process ended: 0 with a wait status, -ENODATA where nobody can tell (any more). A
 * child of ours stays unreaped. */
int berth_mon_exit_status(pid_t pid, uint64_t start, int pidfd, int *ret_status);

/* The parent directory of the bundle; the caller's. */
char *berth_mon_dir_of(const char *bundle);

/* [any] Hands a started monitor over to the loop, which reaps it. Takes both pidfds. */
void berth_mon_adopt(const char *id, const char *dir, const struct berth_monitor_result *res,
        int monitor_pidfd, int init_pidfd);
void berth_mon_watch_finish(void);

extern const struct berth_monitor_ext berth_mon_ext;

#endif
