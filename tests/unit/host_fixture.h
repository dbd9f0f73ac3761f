/* A plugin host over a directory of the test's own. */
#ifndef BERTH_TEST_HOST_FIXTURE_H
#define BERTH_TEST_HOST_FIXTURE_H

#include "plugin/host.h"

static inline struct berth_plugin_host *host_in(
        const char *dir, struct berth_loop *loop, berth_event_fn on_event, void *arg)
{
	return berth_plugin_host_new(&(struct berth_plugin_host_opts){.loop = loop,
	        .plugin_dir = dir,
	        .state_root = dir,
	        .run_root = dir,
	        .host_version = "test",
	        .on_event = on_event,
	        .event_arg = arg});
}

#endif
