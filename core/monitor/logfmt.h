/* The CRI log: `2006-01-02T15:04:05.999999999Z stdout F words`, one line for each of the
 * container's; tag P where the line goes on in the next entry. Times are UTC. No allocation. */
#ifndef BERTH_MONITOR_LOGFMT_H
#define BERTH_MONITOR_LOGFMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "monitor/protocol.h"

struct mon_log {
	int fd;    /* -1 = no log */
	int dirfd; /* of the log's directory; kept for reopening */
	const char *name;
	bool torn;     /* the file ends inside a line */
	uint64_t lost; /* lines that could not be written */
	int64_t day_s; /* the second that `stamp` shows */
	char stamp[20];
};

/* What the container wrote and the log has not: between calls less than BERTH_MON_LINE_MAX. */
struct mon_stream {
	const char *name; /* "stdout" */
	size_t len;
	char buf[BERTH_MON_READ + BERTH_MON_LINE_MAX];
};

/* Opens LOG's directory and the file. -errno. */
int mon_log_open(struct mon_log *l, const char *path);
/* Opens the name anew (a rotated log); on error the old file stays in use. -errno. */
int mon_log_reopen(struct mon_log *l);
/* Writes all whole lines of `s`, and BERTH_MON_LINE_MAX bytes without an end as partial; what is
 * left moves to the front. With `eof` the rest is written, too, as partial. A file that cannot take
 * a line loses that line and stays well-formed; the caller is never told, nothing waits for it. */
void mon_log_lines(struct mon_log *l, struct mon_stream *s, uint64_t now_ns, bool eof);
/* "2006-01-02T15:04:05.999999999Z stdout F " into out (at least 48 bytes); returns the length. */
size_t mon_log_header(struct mon_log *l, char *out, const char *stream, uint64_t now_ns, char tag);

#endif
