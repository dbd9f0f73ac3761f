#include "monitor/sysctl.h"

#include <stdbool.h>
#include <string.h>

#define ROOT "/proc/sys/"

/* sysctl(8): the first separator says which of the two is one; the other one is part of a name. */
static const char *convert(const char *key, char *out)
{
	size_t n = strlen(key);
	size_t first = strcspn(key, "./");
	bool dots = key[first] == '.';

	if (n == 0 || sizeof(ROOT) + n > BERTH_SYSCTL_PATH_MAX)
		return "its name is empty or too long";
	memcpy(out, ROOT, sizeof(ROOT) - 1);
	out += sizeof(ROOT) - 1;
	for (size_t i = 0; i <= n; i++) {
		unsigned char c = (unsigned char)key[i];
		if (c && (c <= ' ' || c >= 0x7f))
			return "its name has characters that none has";
		out[i] = dots && c == '.' ? '/' : dots && c == '/' ? '.' : (char)c;
	}
	for (const char *p = out; *p;) {
		size_t len = strcspn(p, "/");
		if (len == 0 || (len == 1 && p[0] == '.') ||
		        (len == 2 && p[0] == '.' && p[1] == '.') || (p[len] == '/' && !p[len + 1]))
			return "its name is not one of a sysctl";
		p += len + (p[len] == '/');
	}
	return NULL;
}

static bool starts(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

const char *berth_sysctl_path(const char *key, unsigned int own, char path[BERTH_SYSCTL_PATH_MAX])
{
	const char *why = convert(key, path);
	if (why)
		return why;
	const char *p = path + sizeof(ROOT) - 1;
	if (starts(p, "net/"))
		return own & BERTH_SYSCTL_NET ? NULL
		                              : "it needs a network namespace of the pod's own";
	if (starts(p, "kernel/shm") || starts(p, "kernel/msg") || strcmp(p, "kernel/sem") == 0 ||
	        starts(p, "fs/mqueue/"))
		return own & BERTH_SYSCTL_IPC ? NULL : "it needs an IPC namespace of the pod's own";
	return "it belongs to no namespace of a pod";
}
