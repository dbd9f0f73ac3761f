#include "base/fault.h"

#ifdef BERTH_FAULTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
#else
typedef int berth_fault_is_not_compiled_in;
#endif
