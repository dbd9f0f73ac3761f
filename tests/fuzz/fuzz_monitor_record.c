/* The records of a monitor, which may be cut or forged: what is accepted is within its bounds. */
#include <stdint.h>
#include <stdlib.h>

#include "monitor/host_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct berth_mon_record r;
	struct berth_mon_exit e;
	if (berth_mon_parse_record((const char *)data, size, &r) == 0 &&
	        (r.monitor_pid <= 1 || r.pid < 0 || r.pid == 1))
		abort();
	if (berth_mon_parse_exit((const char *)data, size, &e) == 0) {
		bool known = e.exit.flags & BERTH_EXIT_KNOWN;
		if (e.exit.code < 0 || e.exit.code > 255 || (!known && e.exit.code))
			abort();
		if ((e.exit.flags & BERTH_EXIT_SIGNALLED) && (!known || e.exit.code == 0))
			abort();
	}
	return 0;
}
