/* Writes the system-call filter of berth-monitor to stdout, for tests that play berthd to it. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "monitor/filter.h"

int main(void)
{
	struct berth_error *err = NULL;
	int fd, r;
	char *bytes;
	size_t n;
	if (berth_monitor_filter(&fd, &err) < 0) {
		fprintf(stderr, "%s\n", err->msg);
		return 1;
	}
	if (lseek(fd, 0, SEEK_SET) < 0 || berth_read_fd(fd, 1 << 20, &bytes, &n) < 0)
		return 1;
	r = berth_write_all(1, bytes, n);
	free(bytes);
	close(fd);
	return r < 0;
}
