/* What the monitor leaves behind for berthd: records as small JSON objects, and the one report over
 * the sync pipe. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/mon.h"

static int read_small(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, buf, size - 1);
	int e = errno;
	close(fd);
	if (n < 0)
		return -e;
	buf[n] = '\0';
	return 0;
}

int mon_proc_stat(pid_t pid, pid_t *ret_ppid, uint64_t *ret_start)
{
	char path[40], buf[1024];
	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	int r = read_small(path, buf, sizeof(buf));
	if (r < 0)
		return r;
	/* The name may hold anything; the last parenthesis ends it. */
	char *p = strrchr(buf, ')');
	int ppid;
	uint64_t start;
	if (!p || sscanf(p + 1,
	                  " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
	                  "%*d %*d %" SCNu64,
	                  &ppid, &start) != 2)
		return -EBADMSG;
	*ret_ppid = ppid;
	*ret_start = start;
	return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return -1;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static int replace(struct mon *m, const char *name, const char *temp, const char *text, size_t n)
{
	int fd =
	        openat(m->dirfd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	int r = write_all(fd, text, n);
	if (close(fd) < 0)
		r = -1;
	if (r == 0)
		r = renameat(m->dirfd, temp, m->dirfd, name);
	if (r < 0) {
		int e = errno;
		unlinkat(m->dirfd, temp, 0);
		errno = e;
	}
	return r;
}

int mon_write_record(struct mon *m)
{
	static char boot[64];
	static uint64_t self_start;
	pid_t ppid;
	char text[512];

	if (!boot[0]) {
		int r = read_small("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
		if (r == 0)
			r = mon_proc_stat(getpid(), &ppid, &self_start);
		if (r < 0) {
			errno = -r;
			return -1;
		}
		boot[strcspn(boot, "\n")] = '\0';
	}
	int n = snprintf(text, sizeof(text),
	        "{\"v\":1,\"boot_id\":\"%s\",\"monitor_pid\":%d,\"monitor_start\":%" PRIu64
	        ",\"pid\":%d,\"pid_start\":%" PRIu64 ",\"created_ns\":%" PRIu64 "}\n",
	        boot, (int)getpid(), self_start, (int)m->init, m->init_start, mon_realtime_ns());
	return replace(m, BERTH_MON_RECORD, "." BERTH_MON_RECORD ".tmp", text, (size_t)n);
}

int mon_write_exit(struct mon *m)
{
	char how[48], text[256];
	if (WIFSIGNALED(m->init_status))
		(void)snprintf(how, sizeof(how), "\"signal\":%d", WTERMSIG(m->init_status));
	else
		(void)snprintf(how, sizeof(how), "\"code\":%d", WEXITSTATUS(m->init_status));
	int n = snprintf(text, sizeof(text),
	        "{\"v\":1,\"known\":true,%s,\"oom\":%s,\"finished_ns\":%" PRIu64
	        ",\"lost_lines\":%" PRIu64 "}\n",
	        how, m->oom.seen ? "true" : "false", mon_realtime_ns(), m->log.lost);
	return replace(m, BERTH_MON_EXIT, "." BERTH_MON_EXIT ".tmp", text, (size_t)n);
}

void mon_touch_oom(struct mon *m)
{
	int fd = openat(m->dirfd, BERTH_MON_OOM,
	        O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	mon_close(&fd);
}

void mon_report_ok(struct mon *m)
{
	char text[96];
	int n = snprintf(text, sizeof(text), "{\"pid\":%d,\"pid_start\":%" PRIu64 "}\n",
	        (int)m->init, m->init_start);
	(void)write_all(
	        m->sync_fd, text, (size_t)n); /* berthd may be gone; the record tells, too */
	mon_close(&m->sync_fd);
}

/* The length of a valid UTF-8 sequence at p, 0 where there is none. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
	size_t want = p[0] < 0x80                   ? 1
	              : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
	              : (p[0] & 0xf0) == 0xe0       ? 3
	                                            : 0;
	if (p[0] >= 0xf0 && p[0] < 0xf5)
		want = 4;
	if (!want || want > n)
		return 0;
	for (size_t i = 1; i < want; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
	        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
		return 0;
	return want;
}

void mon_report_error(struct mon *m, const char *words, size_t len)
{
	char out[1024];
	size_t n = 0;
	const unsigned char *p = (const unsigned char *)words;

	(void)write_all(m->sync_fd, "{\"error\":\"", 10);
	for (size_t i = 0; i < len;) {
		size_t u = utf8_len(p + i, len - i);
		if (n + 8 > sizeof(out)) {
			(void)write_all(m->sync_fd, out, n);
			n = 0;
		}
		if (u == 0) {
			out[n++] = '?';
			i++;
			continue;
		}
		if (u > 1) {
			memcpy(out + n, p + i, u);
			n += u;
		} else if (p[i] == '"' || p[i] == '\\') {
			out[n++] = '\\';
			out[n++] = (char)p[i];
		} else if (p[i] < 0x20) {
			n += (size_t)snprintf(out + n, 8, "\\u%04x", p[i]);
		} else {
			out[n++] = (char)p[i];
		}
		i += u;
	}
	memcpy(out + n, "\"}\n", 3); /* each round leaves at least 8 bytes */
	(void)write_all(m->sync_fd, out, n + 3);
	mon_close(&m->sync_fd);
}
