/* What a network namespace's interfaces have moved. */
#ifndef BERTH_STATS_NETDEV_H
#define BERTH_STATS_NETDEV_H

#include <stdint.h>

/* Network interfaces from a process's /proc/PID/net/dev, without lo. Returns how many, at most n.
 */
struct berth_interface {
	char name[16];
	uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
};
unsigned int berth_interfaces(
        const char *net_dev_text, struct berth_interface *ret, unsigned int n);

#endif
