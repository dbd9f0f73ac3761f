/* The configuration directory and those of the binaries are watched. One that does not exist yet is
 * waited for at the nearest one above it that does. */
#include "cni.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "berth/util.h"

#define CHANGES                                                                                  \
	(IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE_SELF | \
	        IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR)
#define APPEARS (IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | IN_MASK_ADD)

static void add_watch(struct cni *c, const char *dir)
{
	char *path = strdup(dir);

	if (path && inotify_add_watch(c->inotify_fd, path, CHANGES | IN_MASK_ADD) < 0) {
		/* Up to the first that is there; "/" always is. */
		char *slash;
		while ((slash = strrchr(path, '/'))) {
			slash[slash == path ? 1 : 0] = '\0';
			if (inotify_add_watch(c->inotify_fd, path, APPEARS) >= 0 ||
			        (errno != ENOENT && errno != ENOTDIR) || slash == path)
				break;
		}
	}
	free(path);
}

/* Known directories keep their watch; the kernel counts by inode. */
static void add_all(struct cni *c)
{
	struct network n;
	char *why, *own = NULL;

	add_watch(c, c->conf_dir);
	if (conf_get(c, &n, &why)) {
		const char *name = json_string_value(json_object_get(n.list, "name"));
		/* Where a network's plugins may lie one by one. */
		if (asprintf(&own, "%s/%s", c->conf_dir, name) >= 0)
			(void)inotify_add_watch(c->inotify_fd, own, CHANGES | IN_MASK_ADD);
		free(own);
	}
	network_finish(&n);
	free(why);
	for (size_t i = 0; c->bin_dirs[i]; i++)
		add_watch(c, c->bin_dirs[i]);
}

static void drain(int fd)
{
	char buf[4096] __attribute__((aligned(8)));

	while (read(fd, buf, sizeof(buf)) > 0)
		;
}

/* Which of the network's plugins can be found, a bit each. */
static uint32_t binaries(struct cni *c)
{
	struct network n;
	char *why;
	uint32_t found = 0;

	if (conf_get(c, &n, &why)) {
		for (size_t i = 0; i < network_size(&n); i++) {
			char *path = plugin_find(c, plugin_type(&n, i));
			found |= path ? 1u << i : 0;
			free(path);
		}
	}
	network_finish(&n);
	free(why);
	return found;
}

static void changed(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	struct cni *c = arg;

	(void)op;
	(void)events;
	drain(c->inotify_fd);
	add_all(c);
	/* After the watches: what changes from here on is an event again. */
	bool other = conf_reload(c);
	if (other)
		add_all(c);
	uint32_t found = binaries(c);
	if (other || found != c->found) {
		struct berth_event ev = {.size = sizeof(ev),
		        .type = BERTH_EV_HEALTH,
		        .message = other ? "network configuration changed"
		                         : "network plugins changed"};
		c->host->emit(c->host, &ev);
	}
	c->found = found;
	c->host->rearm(w, BERTH_WATCH_READ, 0);
}

berth_status watch_start(struct cni *c, struct berth_op *op)
{
	c->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (c->inotify_fd < 0)
		return berth_fail(c->host, op, BERTH_E_EXHAUSTED, "net-cni: watch '%s': %s",
		        c->conf_dir, strerror(errno));
	(void)conf_reload(c);
	add_all(c);
	c->found = binaries(c);
	return c->host->watch_fd(c->host, c->inotify_fd, BERTH_WATCH_READ, changed, c, &c->watch);
}

void watch_stop(struct cni *c)
{
	if (c->watch)
		c->host->unwatch(c->watch);
	c->watch = NULL;
	if (c->inotify_fd >= 0)
		close(c->inotify_fd);
	c->inotify_fd = -1;
}
