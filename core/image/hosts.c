/* Registries and mirrors that did not answer: for a while no pull asks them before others, so that
 * a dead mirror costs its timeout once and not for each image. [loop] */
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/pull.h"

enum { HOSTS_MAX = 256, HOST_NAME_MAX_LEN = 300 };
#define PAUSE_NS 30000000000u
#define PAUSE_MAX_NS 600000000000u

struct berth_silent_host {
	UT_hash_handle hh;
	uint64_t pause_ns, until_ns;
	char name[];
};

static struct berth_silent_host *find(const struct berth_images *s, const char *name)
{
	struct berth_silent_host *h;
	HASH_FIND_STR(s->hosts, name, h);
	return h;
}

static void drop(struct berth_images *s, struct berth_silent_host *h)
{
	HASH_DEL(s->hosts, h);
	free(h);
}

static struct berth_silent_host *add(struct berth_images *s, const char *name)
{
	size_t n = strlen(name);
	struct berth_silent_host *h = berth_zalloc(sizeof(*h) + n + 1);

	if (HASH_COUNT(s->hosts) >= HOSTS_MAX)
		drop(s, s->hosts); /* the one that is there for longest */
	memcpy(h->name, name, n + 1);
	h->pause_ns = PAUSE_NS / 2;
	HASH_ADD_STR(s->hosts, name, h);
	return h;
}

void pull_host_heard(struct berth_images *s, const char *name, bool up)
{
	if (!name || !*name || strlen(name) > HOST_NAME_MAX_LEN)
		return;
	struct berth_silent_host *h = find(s, name);
	if (up) {
		if (h) {
			berth_log_info("registry answers again", "host", name);
			drop(s, h);
		}
		return;
	}
	uint64_t now = berth_now_ns();
	if (h && now < h->until_ns)
		return; /* another pull, which had begun before */
	if (!h)
		h = add(s, name);
	h->pause_ns = h->pause_ns * 2 < PAUSE_MAX_NS ? h->pause_ns * 2 : PAUSE_MAX_NS;
	h->until_ns = now + h->pause_ns;
	berth_log_warn("registry does not answer, others are asked before it", "host", name);
}

json_t *pull_hosts_down(const struct berth_images *s)
{
	json_t *list = json_array();
	uint64_t now = berth_now_ns();

	for (const struct berth_silent_host *h = s->hosts; h; h = h->hh.next) {
		if (now < h->until_ns)
			json_array_append_new(list, json_string(h->name));
	}
	return list;
}

void pull_hosts_free(struct berth_images *s)
{
	while (s->hosts)
		drop(s, s->hosts);
}
