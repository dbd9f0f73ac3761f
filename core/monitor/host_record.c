/* The records of a monitor's directory, and the processes that they name. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "monitor/host_internal.h"

static json_t *load(const char *text, size_t len)
{
	json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(j) || json_integer_value(json_object_get(j, "v")) != 1) {
		json_decref(j);
		return NULL;
	}
	return j;
}

static bool get_int(const json_t *j, const char *key, int64_t max, int64_t *ret)
{
	const json_t *v = json_object_get(j, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > max)
		return false;
	*ret = json_integer_value(v);
	return true;
}

int berth_mon_parse_record(const char *text, size_t len, struct berth_mon_record *ret)
{
	json_t *j = load(text, len);
	if (!j)
		return -EBADMSG;
	int64_t mp, ms, p, ps, created;
	const char *boot = json_string_value(json_object_get(j, "boot_id"));
	int r = -EBADMSG;
	if (boot && strlen(boot) == BERTH_MON_BOOT_ID_LEN &&
	        get_int(j, "monitor_pid", INT32_MAX, &mp) && mp > 1 &&
	        get_int(j, "monitor_start", INT64_MAX, &ms) && get_int(j, "pid", INT32_MAX, &p) &&
	        p != 1 && get_int(j, "pid_start", INT64_MAX, &ps) &&
	        get_int(j, "created_ns", INT64_MAX, &created)) {
		*ret = (struct berth_mon_record){.monitor_pid = (pid_t)mp,
		        .monitor_start = (uint64_t)ms,
		        .pid = (pid_t)p,
		        .pid_start = (uint64_t)ps,
		        .created_ns = (uint64_t)created};
		memcpy(ret->boot_id, boot, BERTH_MON_BOOT_ID_LEN);
		r = 0;
	}
	json_decref(j);
	return r;
}

int berth_mon_parse_exit(const char *text, size_t len, struct berth_mon_exit *ret)
{
	json_t *j = load(text, len);
	if (!j)
		return -EBADMSG;
	struct berth_mon_exit e = {0};
	int64_t v, finished = 0;
	int r = get_int(j, "finished_ns", INT64_MAX, &finished) ? 0 : -EBADMSG;
	e.finished_ns = (uint64_t)finished;
	if (json_is_true(json_object_get(j, "known"))) {
		if (get_int(j, "code", 255, &v)) {
			e.exit.flags = BERTH_EXIT_KNOWN;
		} else if (get_int(j, "signal", 127, &v) && v > 0) {
			e.exit.flags = BERTH_EXIT_KNOWN | BERTH_EXIT_SIGNALLED;
		} else {
			r = -EBADMSG;
			v = 0;
		}
		e.exit.code = (int32_t)v;
	}
	if (json_is_true(json_object_get(j, "oom")))
		e.exit.flags |= BERTH_EXIT_OOM;
	json_decref(j);
	if (r == 0)
		*ret = e;
	return r;
}

static int read_in(const char *dir, const char *name, char **ret, size_t *ret_len)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	return berth_read_file(AT_FDCWD, path, BERTH_MON_RECORD_MAX, ret, ret_len);
}

int berth_mon_read_record(const char *dir, struct berth_mon_record *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = read_in(dir, BERTH_MON_RECORD, &text, &len);
	return r < 0 ? r : berth_mon_parse_record(text, len, ret);
}

int berth_mon_read_exit(const char *dir, struct berth_mon_exit *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = read_in(dir, BERTH_MON_EXIT, &text, &len);
	return r < 0 ? r : berth_mon_parse_exit(text, len, ret);
}

void berth_mon_write_exit(const char *dir, int wait_status)
{
	char how[48] = "", text[192];
	bool known = wait_status != -1;
	if (known && WIFSIGNALED(wait_status))
		snprintf(how, sizeof(how), "\"signal\":%d,", WTERMSIG(wait_status));
	else if (known)
		snprintf(how, sizeof(how), "\"code\":%d,", WEXITSTATUS(wait_status));
	int n = snprintf(text, sizeof(text),
	        "{\"v\":1,\"known\":%s,%s\"oom\":%s,\"finished_ns\":%" PRIu64 "}\n",
	        known ? "true" : "false", how, berth_mon_was_oom(dir) ? "true" : "false",
	        berth_realtime_ns());
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, BERTH_MON_EXIT);
	/* Without the record the state is UNKNOWN, which is what it would be after a restart. */
	(void)!berth_write_file_atomic(AT_FDCWD, path, text, (size_t)n, 0600, false);
}

bool berth_mon_was_oom(const char *dir)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, BERTH_MON_OOM);
	struct stat st;
	return lstat(path, &st) == 0;
}

bool berth_mon_this_boot(const struct berth_mon_record *rec)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	return berth_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &len) == 0 &&
	       len >= BERTH_MON_BOOT_ID_LEN &&
	       memcmp(text, rec->boot_id, BERTH_MON_BOOT_ID_LEN) == 0;
}

void berth_mon_remove_files(const char *dir)
{
	static const char *const names[] = {BERTH_MON_RECORD, BERTH_MON_EXIT, BERTH_MON_OOM,
	        BERTH_MON_CTL, BERTH_MON_ATTACH, "." BERTH_MON_RECORD ".tmp",
	        "." BERTH_MON_EXIT ".tmp"};
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; fd >= 0 && i < BERTH_ARRAY_LEN(names); i++)
		unlinkat(fd, names[i], 0);
}

bool berth_mon_pidfd_ended(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

int berth_mon_open_process(pid_t pid, uint64_t start)
{
	uint64_t now;
	if (pid <= 1)
		return -ESRCH;
	_cleanup_close_ int fd = berth_pidfd_open(pid);
	if (fd < 0)
		return fd == -1 ? -ESRCH : fd;
	/* The pidfd holds the process; only now does its start time say which one it is. */
	if (berth_pid_start_time(pid, &now) < 0 || now != start || berth_mon_pidfd_ended(fd))
		return -ESRCH;
	return berth_take_fd(&fd);
}

/* PIDFD_GET_INFO tells an exit code since 6.15; older headers lack it. */
struct pidfd_info_v0 {
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid, ids[8];
	int32_t exit_code;
};
#define GET_INFO _IOWR(0xFF, 11, struct pidfd_info_v0)
#define INFO_EXIT (UINT64_C(1) << 3)

static int from_zombie(pid_t pid, uint64_t start, int *ret_status)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_free_ char *text = NULL;
	if (berth_read_file(AT_FDCWD, path, BERTH_MON_RECORD_MAX, &text, NULL) < 0)
		return -ENODATA;
	char *p = strrchr(text, ')'), *save = NULL;
	char state = 0;
	uint64_t began = 0;
	int field = 3, code = -1;
	for (char *w = p ? strtok_r(p + 1, " \n", &save) : NULL; w;
	        w = strtok_r(NULL, " \n", &save)) {
		if (field == 3)
			state = *w;
		else if (field == 22)
			began = strtoull(w, NULL, 10);
		else if (field == 52)
			code = (int)strtol(w, NULL, 10);
		field++;
	}
	if (state != 'Z' || began != start || code < 0)
		return -ENODATA;
	*ret_status = code;
	return 0;
}

int berth_mon_exit_status(pid_t pid, uint64_t start, int pidfd, int *ret_status)
{
	siginfo_t si = {0};
	if (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	        si.si_pid == pid) {
		*ret_status =
		        si.si_code == CLD_EXITED ? (si.si_status & 0xff) << 8 : si.si_status & 0x7f;
		return 0;
	}
	struct pidfd_info_v0 info = {.mask = INFO_EXIT};
	if (ioctl(pidfd, GET_INFO, &info) == 0 && (info.mask & INFO_EXIT)) {
		*ret_status = info.exit_code;
		return 0;
	}
	return from_zombie(pid, start, ret_status);
}

char *berth_mon_dir_of(const char *bundle)
{
	size_t n = strlen(bundle);
	while (n > 1 && bundle[n - 1] == '/')
		n--;
	while (n > 0 && bundle[n - 1] != '/')
		n--;
	while (n > 1 && bundle[n - 1] == '/')
		n--;
	return n ? berth_strndup(bundle, n) : berth_strdup(".");
}

int berth_monitor_state(const char *id, const char *dir, struct berth_monitor_state *ret,
        struct berth_error **ret_err)
{
	struct berth_mon_record rec;
	struct berth_mon_exit ex;
	int r = berth_mon_read_record(dir, &rec);
	if (r == -ENOENT)
		return berth_error_set(ret_err, BERTH_NOT_FOUND, "%s has no monitor", id);
	if (r < 0)
		return berth_error_errno(ret_err, r, "%s: record of the monitor in %s", id, dir);
	if (rec.pid == 0)
		return berth_error_set(ret_err, BERTH_NOT_FOUND, "%s was not created", id);

	struct berth_monitor_state s = {
	        .created_ns = rec.created_ns, .oom = berth_mon_was_oom(dir)};
	bool boot = berth_mon_this_boot(&rec);
	_cleanup_close_ int init = boot ? berth_mon_open_process(rec.pid, rec.pid_start) : -1;
	_cleanup_close_ int mon =
	        boot ? berth_mon_open_process(rec.monitor_pid, rec.monitor_start) : -1;
	if (init >= 0) {
		s.pid = rec.pid;
		s.pid_start = rec.pid_start;
	}
	if (mon >= 0) {
		s.monitor_pid = rec.monitor_pid;
		s.monitor_start = rec.monitor_start;
	}
	/* Read last: who has ended by now has written it by now. */
	r = berth_mon_read_exit(dir, &ex);
	if (r == 0) {
		s.exit = ex.exit;
		s.finished_ns = ex.finished_ns;
		s.oom |= (ex.exit.flags & BERTH_EXIT_OOM) != 0;
		s.status = ex.exit.flags & BERTH_EXIT_KNOWN ? BERTH_ST_STOPPED : BERTH_ST_UNKNOWN;
	} else if (r == -ENOENT && (init >= 0 || mon >= 0)) {
		s.status = BERTH_ST_RUNNING; /* or its monitor is about to record the end */
	} else {
		s.status = BERTH_ST_UNKNOWN;
	}
	*ret = s;
	return 0;
}
