/* A line of mountinfo: paths of mounts are chosen by whoever mounts. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "mount/mount.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *line = berth_strndup((const char *)data, size);
	struct berth_mountinfo mi;
	size_t n = strlen(line);

	if (berth_mountinfo_parse(line, &mi) == 0 &&
	        strlen(mi.root) + strlen(mi.target) + strlen(mi.options) + strlen(mi.type) +
	                        strlen(mi.source) + strlen(mi.super_options) >
	                n)
		abort();
	return 0;
}
