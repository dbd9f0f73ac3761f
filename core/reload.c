#include "reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "image/policy.h"
#include "image/shortnames.h"
#include "stream/stream.h"

struct reloading {
	struct berth_daemon *d;
	const char *path; /* of the configuration */
	struct berth_config *config;
	struct berth_policy *policy;
	struct berth_shortnames *shortnames;
	struct berth_error *err;
};

static char *config_text(const struct berth_config *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	if (f) {
		berth_config_print(f, c);
		fclose(f);
	}
	return text;
}

static void reload_work(void *arg)
{
	struct reloading *r = arg;
	if (berth_config_load(r->path, &r->config, &r->err) == 0 &&
	        (berth_policy_load(r->d->config->images.policy, &r->policy, &r->err) < 0 ||
	                berth_shortnames_load(
	                        r->d->config->images.registries, &r->shortnames, &r->err) < 0))
		return;
}

static void reloaded(void *arg)
{
	struct reloading *r = arg;
	struct berth_config *have = r->d->config;

	berth_streams_reload(r->d);
	if (r->err) {
		berth_log_error("reload failed, everything stays as it was", "error", r->err->msg);
		berth_error_free(r->err);
		berth_policy_free(r->policy);
	} else {
		/* The level and the policy take effect; is there more that would? */
		have->log.level = r->config->log.level;
		berth_log_set_level((enum berth_log_level)have->log.level);
		berth_policy_free(r->d->policy);
		r->d->policy = r->policy;
		berth_shortnames_free(r->d->shortnames);
		r->d->shortnames = r->shortnames;
		_cleanup_free_ char *before = config_text(have), *after = config_text(r->config);
		berth_log_info("reloaded log.level, the image policy, short names and the streams' "
		               "certificate",
		        "note",
		        before && after && strcmp(before, after) != 0
		                ? "other changes take effect at the next start"
		                : NULL);
	}
	berth_config_free(r->config);
	free(r);
}

void berth_reload(struct berth_daemon *d, const char *config)
{
	struct reloading *r = berth_new(struct reloading);
	r->d = d;
	r->path = config;
	if (berth_work(d->flows, d->loop, reload_work, reloaded, r) < 0) {
		berth_log_error("reload failed: too many requests are under way");
		free(r);
	}
}
