#include "base/fault.h"

#ifdef BERTH_FAULTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void berth_fault(const char *name)
{
	const char *list = getenv("BERTH_FAULT_LIST");
	const char *want = getenv("BERTH_FAULT");

	if (list) {
		char line[128];
		int n = snprintf(line, sizeof(line), "%s\n", name);
		int fd = open(list, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0 && write(fd, line, (size_t)n) < 0)
			perror("berth: fault list");
		if (fd >= 0)
			close(fd);
	}
	if (want && strcmp(want, name) == 0)
		kill(getpid(), SIGKILL);
}

void berth_fault_slow(const char *name)
{
	const char *slow = getenv("BERTH_FAULT_SLOW");
	size_t n = strlen(name);

	if (!slow || strncmp(slow, name, n) != 0 || slow[n] != ':')
		return;
	long ms = strtol(slow + n + 1, NULL, 10);
	const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	nanosleep(&t, NULL);
}
#else
typedef int berth_fault_is_not_compiled_in;
#endif
