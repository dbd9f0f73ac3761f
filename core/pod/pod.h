/* Pod sandboxes: the objects and their table. [loop] unless said otherwise. */
#ifndef BERTH_POD_POD_H
#define BERTH_POD_POD_H

#include <jansson.h>
#include <uthash.h>

#include "cri.pb-c.h"
#include "daemon.h"
#include "pod/gate.h"

#define BERTH_ID_LEN 64

enum berth_pod_phase {
	BERTH_POD_CREATING, /* an intent: undone by recovery; not listed */
	BERTH_POD_READY,
	BERTH_POD_STOPPED,
	BERTH_POD_REMOVING, /* gone for clients; recovery ends the removal */
	BERTH_POD_ENDING,   /* in a record alone: ready, and `ending` */
};

struct berth_container;
struct berth_sampled;

/* What the record on disk holds beside the CRI configuration; written by one flow at a time. */
struct berth_pod {
	int refs;
	struct berth_daemon *d;
	char id[BERTH_ID_LEN + 1];
	char *name; /* NAME_NAMESPACE_UID_ATTEMPT, the reservation */
	enum berth_pod_phase phase;
	Runtime__V1__PodSandboxConfig *config; /* own copy */
	const struct berth_handler *handler;
	char *handler_name; /* as the request said it, "" = default */
	uint64_t created_ns;
	char *hostname;
	char **ips;
	bool host_network, has_network;    /* has_network: ADD was begun */
	bool shared_pid;                   /* berth-init holds the PID namespace */
	_Atomic bool ending;               /* its stop or removal was begun, for good; [any] */
	char *process_label, *mount_label; /* SELinux; NULL = it is not confined */
	char *sandbox_state;               /* the runtime plugin's own, or NULL */
	/* In the form of spec/resources.h: of the configuration, or of the last update. NULL where
	 * nothing was said. */
	json_t *overhead, *resources;
	struct berth_container *containers;
	struct berth_sampled *sampled; /* its statistics; NULL = nobody has asked */
	struct berth_gate gate;
	/* While CREATING: who asked, and what came of it. */
	struct berth_pod_waiter *waiters;
	bool unclaimed;   /* made for a client that had gone: a retry gets it */
	bool undo_failed; /* it was not made, and what it has did not go: listed, to be removed */
	uint64_t release_by_ns; /* its network, by recovery; 0 = its own time */
	bool in_table;
	UT_hash_handle hh_id, hh_name;
};

struct berth_pods {
	struct berth_pod *by_id, *by_name;
};

struct berth_pod *berth_pod_ref(struct berth_pod *p);
struct berth_pod *berth_pod_unref(struct berth_pod *p);
/* A new object with a reference of the caller's; the configuration is copied. */
struct berth_pod *berth_pod_new(struct berth_daemon *d, const char *id,
        const Runtime__V1__PodSandboxConfig *config, const char *handler_name);
void berth_pods_add(struct berth_pod *p); /* the table takes a reference */
void berth_pods_drop(struct berth_pod *p);
/* By id or unique prefix of one. NULL with NOT_FOUND, or INVALID_ARGUMENT for an ambiguous prefix.
 * Pods in CREATING and REMOVING are not found. */
struct berth_pod *berth_pod_find(
        struct berth_daemon *d, const char *id, struct berth_error **ret_err);

/* May containers be created and started in it? FAILED_PRECONDITION where not, naming the pod. */
bool berth_pod_ready(const struct berth_pod *p);
int berth_pod_check_ready(const struct berth_pod *p, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* selinux.c: the labels that its containers begin with, set before it is in the table. A level that
 * the client gave is used as it is, else the pod gets one of its own; it is the pod's for as long
 * as the pod is in the table. */
int berth_pod_label(struct berth_pod *p, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] The files that berth makes for the pod. `shared`: for containers of any level. */
int berth_pod_label_files(
        const struct berth_pod *p, bool shared, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [any] May labels be left out, whatever the client asks for? */
bool berth_pod_unconfined(const struct berth_pod *p);

/* ---- paths; [any], caller frees ---- */
char *berth_pod_dir(const struct berth_pod *p);
/* kind: "net", "ipc", "uts", "user", "pid" */
char *berth_pod_ns_path(const struct berth_pod *p, const char *kind);

/* ---- the record; [worker] ---- */
int berth_pod_save(struct berth_pod *p, enum berth_pod_phase phase,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same with other overhead and resources than p has. */
int berth_pod_save_as(struct berth_pod *p, enum berth_pod_phase phase, json_t *overhead,
        json_t *resources, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Reads DIR/pod.json. Returns a new object that is in no table. */
struct berth_pod *berth_pod_load(
        struct berth_daemon *d, const char *id, bool *ret_old_boot, struct berth_error **ret_err);

/* ---- what is done to them ---- */

/* [worker] Everything that a ready pod has: namespaces, network, files. On failure all is undone.
 */
int berth_pod_build(struct berth_pod *p, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Releases what the pod holds but its directory: network, init, shm, namespaces.
 * Idempotent; goes on after a failure and returns the first. */
int berth_pod_release(struct berth_pod *p, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] The same and the directory. */
int berth_pod_destroy(struct berth_pod *p, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* [loop] Of a ready pod: it is stopped when its init ends, for with it goes the PID namespace, and
 * nothing can be started there any more. */
void berth_pod_watch(struct berth_pod *p);

typedef void (*berth_done_fn)(const struct berth_error *err, void *arg);
/* Makes a pod, or joins the making of one of the same name. done(id, err, arg) once; the id is
 * valid during the call. */
typedef void (*berth_pod_run_fn)(const char *id, const struct berth_error *err, void *arg);
struct berth_grpc_call;
void berth_pod_run(struct berth_daemon *d, const Runtime__V1__PodSandboxConfig *config,
        const char *handler, uint64_t deadline_ns, struct berth_grpc_call *call,
        berth_pod_run_fn done, void *arg);
/* Ends all containers (SIGKILL), releases the network and the namespaces. */
void berth_pod_stop(struct berth_pod *p, berth_done_fn done, void *arg);
/* Stops, removes the containers and the pod. */
void berth_pod_remove(struct berth_pod *p, berth_done_fn done, void *arg);

#endif
