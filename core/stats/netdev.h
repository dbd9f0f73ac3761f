/* What a network namespace's interfaces have moved. [worker] */
#ifndef BERTH_STATS_NETDEV_H
#define BERTH_STATS_NETDEV_H

#include <stddef.h>
#include <stdint.h>

struct berth_interface {
	char name[16];
	uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
};

/* /proc/net/dev of each namespace, opened by a thread that enters it; -1 where it cannot be had.
 * Such an fd tells of its namespace for as long as it is open, whoever reads it, takes no lock of
 * the network's (as netlink does), and keeps the namespace from going. */
struct berth_netdev {
	const char *netns; /* the pinned namespace */
	int fd;            /* the caller closes it */
};
void berth_netdev_open(struct berth_netdev *v, size_t n);
/* Without lo; at most n. Returns how many. */
unsigned int berth_netdev_read(int fd, struct berth_interface *ret, unsigned int n);
/* The same of a text that was read. */
unsigned int berth_interfaces(
        const char *net_dev_text, struct berth_interface *ret, unsigned int n);

#endif
