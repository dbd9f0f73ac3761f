#include "stats/netdev.h"

#include <stdio.h>
#include <string.h>

unsigned int berth_interfaces(const char *text, struct berth_interface *ret, unsigned int n)
{
	unsigned int found = 0;

	for (const char *line = text; line && *line && found < n;) {
		const char *colon = strchr(line, ':'), *end = strchr(line, '\n');
		unsigned long long v[12] = {0};
		while (*line == ' ')
			line++;
		if (colon && (!end || colon < end) && colon - line < 16 &&
		        sscanf(colon + 1,
		                " %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu",
		                &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8],
		                &v[9], &v[10], &v[11]) == 12 &&
		        strncmp(line, "lo:", 3) != 0) {
			struct berth_interface *i = &ret[found++];
			memset(i, 0, sizeof(*i));
			memcpy(i->name, line, (size_t)(colon - line));
			i->rx_bytes = v[0];
			i->rx_packets = v[1];
			i->rx_errors = v[2];
			i->rx_dropped = v[3];
			i->tx_bytes = v[8];
			i->tx_packets = v[9];
			i->tx_errors = v[10];
			i->tx_dropped = v[11];
		}
		line = end ? end + 1 : NULL;
	}
	return found;
}
