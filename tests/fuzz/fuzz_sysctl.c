/* Names of sysctls come with requests: whatever they are, the path stays below the namespaced
 * parts of /proc/sys. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "monitor/sysctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *key = berth_strndup((const char *)data, size);
	char path[BERTH_SYSCTL_PATH_MAX];
	if (berth_sysctl_path(key, BERTH_SYSCTL_NET | BERTH_SYSCTL_IPC, path))
		return 0;
	if (strncmp(path, "/proc/sys/net/", 14) != 0 &&
	        strncmp(path, "/proc/sys/kernel/", 17) != 0 &&
	        strncmp(path, "/proc/sys/fs/mqueue/", 20) != 0)
		abort();
	if (strstr(path, "/../") || strstr(path, "/./") || strstr(path, "//") ||
	        (strlen(path) > 3 && strcmp(path + strlen(path) - 3, "/..") == 0))
		abort();
	return 0;
}
