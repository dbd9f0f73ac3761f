#include "monitor/logfmt.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define HEADER_MAX 48
#define IOV_MAX_BATCH 96
#define ARENA_SIZE (96 * 1024) /* a pipe full of lines of 80 bytes, with their headers */
#define SHORT 1024             /* a piece that is copied */
#define NAME_ROOM 4096

/* localtime() and gmtime() of libc read files and allocate. */
static void put_digits(char *p, uint64_t v, int n)
{
	while (n-- > 0) {
		p[n] = (char)('0' + v % 10);
		v /= 10;
	}
}

static void put_stamp(char *p, int64_t s)
{
	int64_t days = s / 86400, rem = s % 86400;
	/* Days since 0000-03-01, split into eras of 400 years: leap days come last in a year. */
	int64_t z = days + 719468;
	int64_t era = z / 146097, doe = z % 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	int64_t mp = (5 * doy + 2) / 153;
	int64_t day = doy - (153 * mp + 2) / 5 + 1;
	int64_t month = mp < 10 ? mp + 3 : mp - 9;
	int64_t year = yoe + era * 400 + (month <= 2);

	memcpy(p, "0000-00-00T00:00:00", 19);
	put_digits(p, (uint64_t)year, 4);
	put_digits(p + 5, (uint64_t)month, 2);
	put_digits(p + 8, (uint64_t)day, 2);
	put_digits(p + 11, (uint64_t)(rem / 3600), 2);
	put_digits(p + 14, (uint64_t)(rem / 60 % 60), 2);
	put_digits(p + 17, (uint64_t)(rem % 60), 2);
}

size_t mon_log_header(struct mon_log *l, char *out, const char *stream, uint64_t now_ns, char tag)
{
	int64_t s = (int64_t)(now_ns / NS_PER_S);
	if (s != l->day_s || !l->stamp[0]) {
		put_stamp(l->stamp, s);
		l->day_s = s;
	}
	memcpy(out, l->stamp, 19);
	out[19] = '.';
	put_digits(out + 20, now_ns % NS_PER_S, 9);
	out[29] = 'Z';
	out[30] = ' ';
	size_t n = strlen(stream);
	memcpy(out + 31, stream, n);
	out[31 + n] = ' ';
	out[32 + n] = tag;
	out[33 + n] = ' ';
	return 34 + n;
}

static int open_file(int dirfd, const char *name)
{
	int fd = openat(dirfd, name,
	        O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0640);
	return fd < 0 ? -errno : fd;
}

int mon_log_open(struct mon_log *l, const char *path)
{
	static char dir[NAME_ROOM];
	const char *slash = strrchr(path, '/');
	if (path[0] != '/' || !slash[1])
		return -EINVAL;
	size_t n = slash == path ? 1 : (size_t)(slash - path);
	if (n >= sizeof(dir))
		return -ENAMETOOLONG;
	memcpy(dir, path, n);
	dir[n] = '\0';
	int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return -errno;
	int fd = open_file(dirfd, slash + 1);
	if (fd < 0) {
		close(dirfd);
		return fd;
	}
	l->dirfd = dirfd;
	l->fd = fd;
	l->name = slash + 1;
	return 0;
}

int mon_log_reopen(struct mon_log *l)
{
	if (l->dirfd < 0)
		return -ENOENT;
	int fd = open_file(l->dirfd, l->name);
	if (fd < 0)
		return fd;
	close(l->fd);
	l->fd = fd;
	l->torn = false;
	return 0;
}

/* Entries on their way to the file. Short lines are put together in the arena, for the kernel takes
 * one long piece sooner than a hundred short ones; long ones stay where they are. */
struct batch {
	struct iovec iov[IOV_MAX_BATCH];
	int n;
	size_t lines, used;
};
static char arena[ARENA_SIZE];

/* Takes back what of a line got into the file before it was full. An entry ends where a line does,
 * and nowhere else. */
static void mend(struct mon_log *l, size_t written, const struct batch *b)
{
	size_t at = 0, whole = 0;
	for (int i = 0; i < b->n && at < written; i++) {
		size_t n = b->iov[i].iov_len < written - at ? b->iov[i].iov_len : written - at;
		const char *p = b->iov[i].iov_base;
		const char *nl = memrchr(p, '\n', n);
		if (nl)
			whole = at + (size_t)(nl - p) + 1;
		at += n;
	}
	struct stat st;
	size_t cut = written - whole;
	if (cut && (fstat(l->fd, &st) < 0 || (size_t)st.st_size < cut ||
	                   ftruncate(l->fd, st.st_size - (off_t)cut) < 0))
		l->torn = true;
}

static void flush(struct mon_log *l, struct batch *b)
{
	struct iovec iov[IOV_MAX_BATCH];
	struct iovec *v = iov;
	int left = b->n;
	size_t written = 0;

	memcpy(iov, b->iov, sizeof(iov[0]) * (size_t)b->n);
	while (left > 0 && l->fd >= 0) {
		ssize_t w = writev(l->fd, v, left);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			break;
		written += (size_t)w;
		while (left > 0 && (size_t)w >= v->iov_len) {
			w -= (ssize_t)v->iov_len;
			v++;
			left--;
		}
		if (left > 0) {
			v->iov_base = (char *)v->iov_base + w;
			v->iov_len -= (size_t)w;
		}
	}
	if (left > 0 && l->fd >= 0) {
		l->lost += b->lines;
		mend(l, written, b);
	} else {
		l->torn = false;
	}
	b->n = 0;
	b->lines = b->used = 0;
}

static void add(struct batch *b, const void *p, size_t n)
{
	char *to = arena + b->used;
	if (n <= SHORT && n <= sizeof(arena) - b->used) {
		memcpy(to, p, n);
		b->used += n;
		struct iovec *last = b->n ? &b->iov[b->n - 1] : NULL;
		if (last && (char *)last->iov_base + last->iov_len == to) {
			last->iov_len += n;
			return;
		}
		p = to;
	}
	b->iov[b->n].iov_base = (void *)(uintptr_t)p;
	b->iov[b->n].iov_len = n;
	b->n++;
}

void mon_log_lines(struct mon_log *l, struct mon_stream *s, uint64_t now_ns, bool eof)
{
	char full[HEADER_MAX], part[HEADER_MAX];
	size_t hn = mon_log_header(l, full, s->name, now_ns, 'F');
	(void)mon_log_header(l, part, s->name, now_ns, 'P');
	struct batch b;
	b.n = 0;
	b.lines = b.used = 0;
	size_t at = 0;

	while (at < s->len) {
		const char *p = s->buf + at;
		size_t left = s->len - at;
		size_t most = left < BERTH_MON_LINE_MAX ? left : BERTH_MON_LINE_MAX;
		const char *nl = memchr(p, '\n', most);
		if (!nl && !eof && left < BERTH_MON_LINE_MAX)
			break;
		size_t n = nl ? (size_t)(nl - p) + 1 : most;
		if (b.n + 4 > IOV_MAX_BATCH || b.used + HEADER_MAX + SHORT + 2 > sizeof(arena))
			flush(l, &b);
		if (b.n == 0 && l->torn)
			add(&b, "\n", 1);
		add(&b, nl ? full : part, hn);
		add(&b, p, n);
		if (!nl)
			add(&b, "\n", 1);
		b.lines++;
		at += n;
	}
	if (b.n)
		flush(l, &b);
	if (at) {
		memmove(s->buf, s->buf + at, s->len - at);
		s->len -= at;
	}
}
