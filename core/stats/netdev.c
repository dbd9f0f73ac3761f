#include "stats/netdev.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "stats/kept.h"

#define STACK BERTH_KIB(128)
#define TEXT_MAX BERTH_KIB(64)

struct entering {
	struct berth_netdev *v;
	size_t n;
};

/* Not through a container's process: a pod has its network while nothing runs in it, too. */
static void *enter(void *arg)
{
	const struct entering *e = arg;

	for (size_t i = 0; i < e->n; i++) {
		_cleanup_close_ int ns = open(e->v[i].netns, O_RDONLY | O_CLOEXEC);
		if (ns >= 0 && setns(ns, CLONE_NEWNET) == 0)
			e->v[i].fd = open("/proc/thread-self/net/dev", O_RDONLY | O_CLOEXEC);
	}
	return NULL;
}

/* A thread of its own, for this one has to stay where it is. */
void berth_netdev_open(struct berth_netdev *v, size_t n)
{
	struct entering e = {.v = v, .n = n};
	pthread_attr_t attr;
	pthread_t thread;

	for (size_t i = 0; i < n; i++)
		v[i].fd = -1;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	if (n > 0 && pthread_create(&thread, &attr, enter, &e) == 0)
		pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
}

unsigned int berth_netdev_read(int fd, struct berth_interface *ret, unsigned int n)
{
	_cleanup_free_ char *text = NULL;

	return berth_read_again(fd, TEXT_MAX, &text) == 0 ? berth_interfaces(text, ret, n) : 0;
}

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
