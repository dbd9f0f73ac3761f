/* Containers: the objects and their table. [loop] unless said otherwise. */
#ifndef BERTH_CONTAINER_CONTAINER_H
#define BERTH_CONTAINER_CONTAINER_H

#include "pod/pod.h"

enum berth_ctr_phase {
	BERTH_CTR_CREATING, /* an intent, not listed */
	BERTH_CTR_CREATED,
	BERTH_CTR_RUNNING,
	BERTH_CTR_EXITED,
	BERTH_CTR_REMOVING,
};

/* An image that mounts[mount] of the request shows. */
struct berth_ctr_volume {
	size_t mount;
	char *image_id, *parent; /* parent as the container's own */
	struct berth_instance *storage;
};

/* layer.c: what its writable layer takes. */
struct berth_layer {
	uint64_t bytes, inodes;
	uint64_t at_ns; /* CLOCK_REALTIME: when its driver said so; 0 = not known */
	/* CLOCK_MONOTONIC, of the last question and the last answer. */
	uint64_t asked_ns, answered_ns;
	bool asking;
	struct berth_layer_wait *waits;
	struct berth_container *next; /* whose turn it is after it */
};

struct berth_container {
	int refs;
	struct berth_daemon *d;
	struct berth_pod *pod;        /* a reference */
	struct berth_container *next; /* of the pod */
	char id[BERTH_ID_LEN + 1];
	char *name; /* NAME_ATTEMPT, unique in its pod */
	enum berth_ctr_phase phase;
	Runtime__V1__ContainerConfig *config; /* own copy */
	char *image_id, *image_ref, *parent;  /* parent: ChainID of the top layer, NULL = none */
	struct berth_instance *storage;       /* NULL: its driver is not configured any more */
	char *log_path;                       /* absolute, or NULL */
	uint64_t created_ns, started_ns, finished_ns;
	struct berth_exit exit; /* EXITED; flags 0 = unknown */
	bool oom;
	char *failure; /* why its creation or start failed: EXITED with 128 */
	pid_t pid;
	json_t *update; /* at the start of the daemon: an update that its record has as an intent */
	/* of berth_spec_out */
	json_t *resources;
	uint32_t uid, gid;
	uint32_t *groups;
	size_t n_groups;
	int stop_signal;
	struct berth_spec_mount *mounts;
	size_t n_mounts;                  /* none, or one for each of the request */
	struct berth_ctr_volume *volumes; /* images among the mounts */
	size_t n_volumes;
	bool privileged, own_pid_ns;
	char target_id[BERTH_ID_LEN + 1]; /* CREATING: whose PID namespace it joins; "" = none */
	char *cgroups_path,
	        *limits_cgroup; /* the latter where its limits are further down, or NULL */
	/* SELinux, set before it is in the table; NULL = it is not confined, its files are not. */
	char *process_label, *mount_label;

	struct berth_sampled *sampled; /* as a pod's */
	struct berth_layer layer;
	struct berth_gate gate;
	struct berth_checkpoint *checkpoints; /* that wait or are under way */
	struct berth_ctr_create *creating;    /* while CREATING */
	bool unclaimed;
	bool undo_failed; /* it was not made, and what it has did not go: listed, to be removed */
	/* Stopping: who waits for the exit, and when SIGKILL comes. */
	struct berth_ctr_exit_wait *exit_waits;
	struct berth_timer *kill_timer;
	uint64_t kill_at_ns;
	unsigned int kills;
	bool starting; /* its end is not looked at before its start is over */
	bool asking;   /* a state op is under way */
	bool ask_again;
	struct berth_timer *ask_timer; /* the state could not be told: asks again */
	unsigned int unanswered;
	bool in_table;
	UT_hash_handle hh;
};

struct berth_containers {
	struct berth_container *by_id;
	struct berth_layer_lane { /* layer.c: containers whose driver is to be asked */
		struct berth_container *first, *last;
		unsigned int under_way;
	} layers[BERTH_LIMIT_STORAGE_DRIVERS];
};

struct berth_container *berth_container_ref(struct berth_container *c);
struct berth_container *berth_container_unref(struct berth_container *c);
struct berth_container *berth_container_new(
        struct berth_pod *pod, const char *id, const Runtime__V1__ContainerConfig *config);
void berth_containers_add(struct berth_container *c); /* the table and the pod hold it */
void berth_containers_drop(struct berth_container *c);
/* As berth_pod_find(). */
struct berth_container *berth_container_find(
        struct berth_daemon *d, const char *id, struct berth_error **ret_err);

/* [any] caller frees. stage_dir: for mounts that berth makes itself. */
char *berth_container_stage_dir(const struct berth_container *c);
char *berth_container_dir(const struct berth_container *c);
char *berth_container_bundle(const struct berth_container *c);

/* [worker] the record */
int berth_container_save(struct berth_container *c, enum berth_ctr_phase phase,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same with other resources than c has, and the intent of an update (NULL: none). */
int berth_container_save_as(struct berth_container *c, enum berth_ctr_phase phase,
        json_t *resources, json_t *update, struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_container *berth_container_load(
        struct berth_daemon *d, const char *id, struct berth_error **ret_err);

/* [worker] Makes and unmakes what a container has. Undo and removal are the same idempotent steps.
 */
int berth_container_build(struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;
int berth_container_destroy(
        struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* idmap.c, [worker]: how a container's owners are mapped; all zero where they are not. */
struct berth_ctr_maps {
	bool mapped;
	int userns_fd;
	struct berth_idmap *uids, *gids;
	uint32_t n_uids, n_gids;
};
int berth_container_maps(const struct berth_container *c, struct berth_ctr_maps *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
void berth_ctr_maps_finish(struct berth_ctr_maps *m);
/* For an op of the storage driver; borrowed. */
void berth_ctr_maps_give(const struct berth_ctr_maps *m, struct berth_snap_args *args);
/* As described, with owners mapped and with the container's label, where it has them. */
int berth_ctr_mount(struct berth_container *c, const struct berth_ctr_maps *m,
        const struct berth_mounts_result *res, const char *target,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The user namespace that maps owners as mounts[i] wants it; -1 in *ret where it wants none. The fd
 * is the caller's. */
int berth_container_mount_userns(const struct berth_container *c, size_t i, int *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* limit.c: how many bytes it may write into its own layer, by its pod's annotations and its
 * handler; 0 = any number. FAILED_PRECONDITION where there is a limit and no quota. [any] */
int berth_container_size_limit(const struct berth_container *c, uint64_t *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* layer.c: asks for what c->layer tells, where that is not of right now. True: w->fn(w->arg) is
 * called on the answer, after the return. False: there is nothing to wait for, for it is known, has
 * no driver, or the driver does not answer; the last that is known holds. Nobody has to wait
 * longer than BERTH_LAYER_WAIT_MS. */
#define BERTH_LAYER_WAIT_MS 1000u
struct berth_layer_wait {
	void (*fn)(void *arg);
	void *arg;
	struct berth_layer_wait *next, **prev; /* prev: NULL = it does not wait */
};
bool berth_layer_ask(struct berth_container *c, struct berth_layer_wait *w);
void berth_layer_wait_end(struct berth_layer_wait *w); /* idempotent; fn is not called */

/* selinux.c: its labels, by its own options and its pod's labels. FAILED_PRECONDITION where labels
 * are asked for that cannot be had. */
int berth_container_label(struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [any] Does a mount of the request want its files relabelled? */
bool berth_container_relabels(const struct berth_container *c);
/* [worker] Relabels them. May take long: CANCELLED where the container is not wanted any more. */
int berth_container_relabel(
        struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Does the policy know the labels? And gives it the pod's files. */
int berth_container_check_labels(
        struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [any] False once the end of its pod or of the daemon was begun. */
bool berth_container_wanted(const struct berth_container *c);

/* target.c: the container that namespace_options.target_id names. NOT_FOUND, INVALID_ARGUMENT for
 * one of another pod, FAILED_PRECONDITION where it does not run. */
int berth_container_resolve_target(
        struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* volumes.c: the images that the request's mounts name. NOT_FOUND where one is not here. */
int berth_container_resolve_volumes(
        struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;
const struct berth_ctr_volume *berth_container_volume(
        const struct berth_container *c, size_t mount);
/* Does the container need the image, or the committed layer, of that driver (NULL: of any)? */
bool berth_container_uses_image(const struct berth_container *c, const char *image_id,
        const struct berth_instance *storage);
bool berth_container_uses_layer(const struct berth_container *c, const char *chain_id,
        const struct berth_instance *storage);
/* [worker] Removes a snapshot that may not be there. */
int berth_container_drop_snapshot(const struct berth_container *c, struct berth_instance *storage,
        const char *key, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] berth_spec_in.stage; arg: the container. */
int berth_container_stage(void *arg, size_t i, const char *source, uint64_t propagation, char **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] The host's /sys, read-only. *ret: where; the caller frees. */
int berth_container_stage_sys(
        struct berth_container *c, char **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [worker] Once the container has its own copies: lets go of the volumes that
 * berth_container_stage() attached for it, else who mounted them could neither end nor remove them.
 */
void berth_container_release_trees(struct berth_container *c);
/* [worker] Releases all of it; idempotent. */
int berth_container_unstage(
        struct berth_container *c, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* update.c, [worker]: puts `after`, which is c->resources with `change`, in force and writes it
 * down; c->resources is the caller's to replace. Whole or not at all. */
int berth_container_update(struct berth_container *c, enum berth_ctr_phase phase,
        const Runtime__V1__LinuxContainerResources *change, json_t *after,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Once it is created: finds limits_cgroup. */
void berth_container_note_cgroup(struct berth_container *c);
/* At the start: takes back the update that a berthd before this one did not end. */
void berth_container_recover_update(struct berth_container *c);

/* Creates, or joins the creation of one of the same name in the pod. */
void berth_container_create(struct berth_pod *pod, const Runtime__V1__ContainerConfig *config,
        struct berth_grpc_call *call, berth_pod_run_fn done, void *arg);
void berth_container_start(struct berth_container *c, berth_done_fn done, void *arg);
/* done when it has ended. A shorter grace than a stop under way has left shortens that. */
void berth_container_stop(
        struct berth_container *c, uint64_t grace_ms, berth_done_fn done, void *arg);
/* At the end of the daemon: who waits for its end gets UNAVAILABLE. */
void berth_container_forsake(struct berth_container *c);
/* Kills what runs, removes everything. */
void berth_container_remove(struct berth_container *c, berth_done_fn done, void *arg);
/* An EXIT or OOM event, or the start of the daemon: re-reads the state. */
void berth_container_check(struct berth_container *c);
/* After a question that failed: what is not known is no end. Asks again, after growing pauses. */
void berth_container_check_later(struct berth_container *c);
/* [worker] What the runtime says; used by recovery before the loop runs. */
int berth_container_read_state(struct berth_container *c, struct berth_ctr_state *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
void berth_container_apply_state(struct berth_container *c, const struct berth_ctr_state *st);
/* The exit code as CRI has it: 128+signal, 128 for a failed start, 255 for unknown. */
int berth_container_exit_code(const struct berth_container *c);
const char *berth_container_reason(const struct berth_container *c); /* static */

#endif
