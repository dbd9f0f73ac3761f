/* A container's log as the CRI writes it: "TIME stdout|stderr P|F TEXT", P for a piece of a line.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl/ctl.h"

#define CHUNK 65536
#define LINE_MAX_BYTES (1 << 20)
#define POLL_US 50000
#define ASK_EVERY 10 /* polls between two questions whether it still runs */

static bool next_word(const char **p, const char *end, const char **word, size_t *len)
{
	const char *space = memchr(*p, ' ', (size_t)(end - *p));
	if (!space || space == *p)
		return false;
	*word = *p;
	*len = (size_t)(space - *p);
	*p = space + 1;
	return true;
}

int ctl_parse_log_line(const char *line, size_t len, struct ctl_log_line *ret)
{
	const char *p = line, *end = line + len, *stream, *tag;
	size_t stream_len, tag_len;

	if (!next_word(&p, end, &ret->time, &ret->time_len) ||
	        !next_word(&p, end, &stream, &stream_len) || !next_word(&p, end, &tag, &tag_len))
		return -EINVAL;
	if (stream_len != 6 ||
	        (memcmp(stream, "stdout", 6) != 0 && memcmp(stream, "stderr", 6) != 0))
		return -EINVAL;
	/* Tags may be joined by ':'; the first says whether the line ends here. */
	if (*tag != 'P' && *tag != 'F')
		return -EINVAL;
	ret->is_stderr = stream[3] == 'e';
	ret->partial = *tag == 'P';
	ret->text = p;
	ret->text_len = (size_t)(end - p);
	return 0;
}

struct printer {
	const struct ctl_log_opts *o;
	const char *path;
	char *buf;
	size_t len, cap;
	bool in_line[2]; /* of stdout and stderr: its last piece was partial */
};

static int print_line(struct printer *p, const char *line, size_t len, struct berth_error **err)
{
	struct ctl_log_line l = {0};
	if (ctl_parse_log_line(line, len, &l) < 0)
		return berth_error_set(err, BERTH_DATA_LOSS, "%s: '%.*s' is no line of a CRI log",
		        p->path, len > 80 ? 80 : (int)len, line);
	FILE *f = l.is_stderr ? stderr : stdout;
	if (p->o->timestamps && !p->in_line[l.is_stderr])
		fprintf(f, "%.*s ", (int)l.time_len, l.time);
	fwrite(l.text, 1, l.text_len, f);
	if (!l.partial)
		fputc('\n', f);
	p->in_line[l.is_stderr] = l.partial;
	return 0;
}

/* Prints the whole lines in the buffer. */
static int print_buffered(struct printer *p, struct berth_error **err)
{
	size_t at = 0;
	for (;;) {
		const char *newline = memchr(p->buf + at, '\n', p->len - at);
		if (!newline)
			break;
		size_t n = (size_t)(newline - (p->buf + at));
		if (print_line(p, p->buf + at, n, err))
			return -1;
		at += n + 1;
	}
	memmove(p->buf, p->buf + at, p->len - at);
	p->len -= at;
	return 0;
}

static int read_to_end(struct printer *p, int fd, struct berth_error **err)
{
	for (;;) {
		if (p->cap - p->len < CHUNK) {
			if (p->len > LINE_MAX_BYTES)
				return berth_error_set(err, BERTH_DATA_LOSS,
				        "%s: a line is longer than %d bytes", p->path,
				        LINE_MAX_BYTES);
			p->cap = p->len + CHUNK;
			p->buf = berth_realloc(p->buf, p->cap);
		}
		ssize_t n = read(fd, p->buf + p->len, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return berth_error_errno(err, errno, "%s", p->path);
		if (n == 0) {
			fflush(stdout);
			return 0;
		}
		p->len += (size_t)n;
		if (print_buffered(p, err))
			return -1;
	}
}

/* Moves the file's offset to its last `lines` lines. */
static int seek_tail(int fd, uint64_t lines)
{
	char buf[CHUNK];
	off_t at = lseek(fd, 0, SEEK_END);
	bool last = true;
	if (at < 0)
		return -errno;
	while (at > 0) {
		size_t n = at < CHUNK ? (size_t)at : CHUNK;
		at -= (off_t)n;
		ssize_t r = pread(fd, buf, n, at);
		if (r < 0)
			return -errno;
		for (ssize_t i = r - 1; i >= 0; i--) {
			if (buf[i] == '\n' && !last && lines-- <= 1)
				return lseek(fd, at + i + 1, SEEK_SET) < 0 ? -errno : 0;
			last = false;
		}
	}
	return lseek(fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

/* The name stands for another file: the log was rotated. */
static bool rotated(int fd, const char *path)
{
	struct stat a, b;
	return fstat(fd, &a) == 0 && stat(path, &b) == 0 &&
	       (a.st_ino != b.st_ino || a.st_dev != b.st_dev);
}

static int follow(struct printer *p, int *fd, struct berth_error **err)
{
	for (unsigned int turn = 1;; turn++) {
		bool ends = turn % ASK_EVERY == 0 && !p->o->is_running(p->o->arg);
		if (read_to_end(p, *fd, err))
			return -1;
		if (rotated(*fd, p->path)) {
			/* What was written between the last read and the rename. */
			if (read_to_end(p, *fd, err))
				return -1;
			berth_close(*fd);
			*fd = open(p->path, O_RDONLY | O_CLOEXEC);
			if (*fd < 0)
				return berth_error_errno(err, errno, "%s", p->path);
			continue;
		}
		if (ends)
			return 0;
		usleep(POLL_US);
	}
}

int ctl_print_log(const char *path, const struct ctl_log_opts *o, struct berth_error **err)
{
	struct printer p = {.o = o, .path = path};
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return berth_error_errno(err, errno, "%s", path);
	if (o->tail == 0) {
		if (lseek(fd, 0, SEEK_END) < 0)
			return berth_error_errno(err, errno, "%s", path);
	} else if (o->tail != UINT64_MAX) {
		int r = seek_tail(fd, o->tail);
		if (r < 0)
			return berth_error_errno(err, r, "%s", path);
	}
	int r = read_to_end(&p, fd, err);
	if (r == 0 && o->follow)
		r = follow(&p, &fd, err);
	free(p.buf);
	return r;
}
