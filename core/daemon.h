/* What the parts of berthd share. One per process; everything belongs to the loop unless it is
 * said otherwise. */
#ifndef BERTH_DAEMON_H
#define BERTH_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/histogram.h"
#include "config/config.h"
#include "loop/pool.h"
#include "plugin/host.h"
#include "pod/gate.h"
#include "security/selinux.h"
#include "spec/spec.h"

struct berth_pods;
struct berth_containers;
struct berth_images;
struct berth_sessions;
struct berth_streams;
struct berth_policy;
struct berth_shortnames;
struct berth_metrics;
struct berth_sampler;

/* What happened to a container or a pod sandbox, for those who listen; numbers of CRI. */
enum berth_change {
	BERTH_CHANGE_CREATED,
	BERTH_CHANGE_STARTED,
	BERTH_CHANGE_STOPPED,
	BERTH_CHANGE_DELETED
};
struct berth_pod;

/* Storage drivers in use at once; a layer's place is told by a bit for each. */
#define BERTH_LIMIT_STORAGE_DRIVERS 8

struct berth_handler {
	char *name;
	struct berth_instance *instance;
	struct berth_instance *storage; /* where its containers' root file systems are made */
	char *info;                     /* OCI runtime `features` as JSON, or NULL */
	bool rro;                       /* it knows the mount option */
	bool no_selinux;                /* it was built without */
	bool userns;                    /* told to CRI */
	char *userns_why;    /* why the node cannot map owners with its storage driver, or NULL */
	uint64_t size_limit; /* of what a container writes, in bytes; 0 = none */
};

/* What happened since the start, for metrics. */
struct berth_counts {
	uint64_t ooms, unknown_exits;
	uint64_t repaired, unrepaired; /* of the state on disk, at the start */
	struct berth_histogram pulls; /* that succeeded, by their layers' size: berth_bounds_size */
	uint64_t pulls_failed[BERTH_CODES];
};

struct berth_daemon {
	struct berth_loop *loop;
	struct berth_config *config; /* [any], never changed while serving */
	const char *helpers_dir;     /* [any] */
	struct berth_plugin_host *plugins;
	struct berth_pool *flows;       /* requests that block: one worker each while they run */
	struct berth_pool *relabels;    /* volumes of containers whose creation waits for it */
	struct berth_instance *storage; /* [any] storage.driver: the first of `storages` */
	struct berth_instance *storages[BERTH_LIMIT_STORAGE_DRIVERS]; /* [any] */
	size_t n_storages;
	struct berth_instance *network; /* [any] NULL = host network alone */
	struct berth_handler *handlers; /* [any] */
	size_t n_handlers;
	struct berth_spec_host host;  /* [any] what this machine can do */
	struct berth_selinux selinux; /* [any] */

	struct berth_pods *pods;
	struct berth_containers *containers;
	struct berth_images *images;
	struct berth_sessions *sessions; /* commands that run in containers */
	struct berth_streams *streams;

	/* Called on each change, `id` of the container or of the pod itself. */
	void (*on_change)(struct berth_daemon *d, enum berth_change change, const char *id,
	        struct berth_pod *pod);
	struct berth_event_client *event_clients;

	/* NetworkReady, as the plugin last said it. */
	bool network_ready, network_asking, network_ask_again;
	char *network_why;
	struct berth_timer *network_timer;
	struct berth_net_wait *network_waiters;
	struct berth_net_sweep *network_sweep; /* NULL: nothing is left to be released */
	struct berth_policy *policy;           /* images.policy; NULL = all are accepted */
	struct berth_shortnames *shortnames;   /* of images.registries; NULL = could not be read */
	char **pull_cgroup;                    /* cgroup.procs files that pullers enter, or NULL */
	char *pod_cidr;                        /* UpdateRuntimeConfig; shown, not used */
	struct berth_gate pod_cidr_gate;
	unsigned int checkpoints; /* under way */
	struct berth_counts counts;
	struct berth_sampler *sampler; /* statistics */
	struct berth_metrics *metrics; /* NULL = not served */
	_Atomic bool draining;         /* [any] */
};

/* "" is the default handler; NULL where there is none of that name. [any] */
const struct berth_handler *berth_daemon_handler(const struct berth_daemon *d, const char *name);

/* By a driver's name; NULL where none of that name is loaded. [any] */
struct berth_instance *berth_daemon_storage(const struct berth_daemon *d, const char *name);

/* Tells on_change, where somebody listens. [loop] */
void berth_changed(
        struct berth_daemon *d, enum berth_change change, const char *id, struct berth_pod *pod);

/* Paths below run and root: berth_path(d->config->run, "pods", id, NULL). Caller frees. [any] */
char *berth_path(const char *first, ...) __attribute__((sentinel));

/* Asks the network plugin for its status, now and whenever it says that something changed. */
void berth_network_watch(struct berth_daemon *d);
void berth_network_finish(struct berth_daemon *d);
/* Has the network release what belongs to no pod in the table: in the background, after growing
 * pauses again until it could. _soon: it may work now. _now, of a daemon that does not serve: once,
 * and blocks. _finish: with `draining` set. */
void berth_network_sweep(struct berth_daemon *d);
void berth_network_sweep_soon(struct berth_daemon *d);
void berth_network_sweep_now(struct berth_daemon *d);
void berth_network_sweep_finish(struct berth_daemon *d);
/* fn(ready, arg) once the network is ready, or at deadline_ns (0 = 2 minutes) with false; before
 * the return where it is ready already. */
void berth_network_wait(
        struct berth_daemon *d, uint64_t deadline_ns, void (*fn)(bool ready, void *arg), void *arg);

#endif
