/* What a container writes, in whatever pieces: the log has each byte of it once, in entries of the
 * CRI's form. The first byte says how large the pieces are. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "monitor/logfmt.h"

#define HEAD "1970-01-01T00:00:01.000000002Z stdout "

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *log, size_t len, const uint8_t *want, size_t n)
{
	struct berth_buf got = {0};
	for (size_t at = 0; at < len;) {
		const char *line = log + at;
		const char *end = memchr(line, '\n', len - at);
		size_t head = strlen(HEAD "F ");
		if (!end || (size_t)(end - line) < head || memcmp(line, HEAD, strlen(HEAD)) != 0)
			abort();
		char tag = line[strlen(HEAD)];
		if ((tag != 'F' && tag != 'P') || line[head - 1] != ' ')
			abort();
		if ((size_t)(end - line) - head > BERTH_MON_LINE_MAX)
			abort();
		berth_buf_add(&got, line + head, (size_t)(end - line) - head);
		if (tag == 'F')
			berth_buf_adds(&got, "\n");
		at += (size_t)(end - line) + 1;
	}
	if (got.len != n || (n && memcmp(got.data, want, n) != 0))
		abort();
	berth_buf_finish(&got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mon_stream s;
	static int fd = -1;
	struct mon_log l = {.dirfd = -1};
	if (size < 1)
		return 0;
	if (fd < 0)
		fd = memfd_create("log", MFD_CLOEXEC);
	if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	l.fd = fd;
	s.name = "stdout";
	s.len = 0;
	size_t piece = (size_t)data[0] * 97 + 1, at = 1;
	while (at < size) {
		if (s.len >= BERTH_MON_LINE_MAX)
			abort(); /* the next read would not fit */
		size_t n = BERTH_MON_READ;
		n = n < piece ? n : piece;
		n = n < size - at ? n : size - at;
		memcpy(s.buf + s.len, data + at, n);
		s.len += n;
		at += n;
		mon_log_lines(&l, &s, 1000000002, false);
	}
	mon_log_lines(&l, &s, 1000000002, true);
	if (s.len || l.lost || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	char *log = NULL;
	size_t len;
	if (berth_read_fd(fd, (size_t)64 << 20, &log, &len) < 0)
		abort();
	check(log, len, data + 1, size - 1);
	free(log);
	return 0;
}
