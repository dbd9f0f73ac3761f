/* The CRI services: one file per group of RPCs. Handlers run on the loop and get the daemon as
 * their argument. */
#ifndef BERTH_CRI_SERVICE_H
#define BERTH_CRI_SERVICE_H

#include "container/container.h"
#include "cri.pb-c.h"
#include "daemon.h"
#include "grpc/server.h"
#include "image/image.h"

/* runtime.v1.RuntimeService and runtime.v1.ImageService. */
extern const struct berth_grpc_method berth_runtime_service[];
extern const struct berth_grpc_method berth_image_service[];
/* berth.admin.v1.Admin */
extern const struct berth_grpc_method berth_admin_service[];
/* Imports what lies in images.import_dir; each failure is logged. */
void berth_import_dir(struct berth_daemon *d);

#define BERTH_RUNTIME_NAME "berth"
#define BERTH_KUBE_API_VERSION "0.1.0"
#define BERTH_CRI_VERSION "v1"

/* Maps of CRI are repeated entries of one form, each with a type of its own: their arrays may be
 * given for one another. */
struct berth_map_entry {
	ProtobufCMessage base;
	char *key, *value;
};

/* One entry in the call's arena; `descriptor` is that of the map's entry type. */
struct berth_map_entry *berth_map_entry(struct berth_grpc_call *call,
        const ProtobufCMessageDescriptor *descriptor, const char *key, const char *value);
/* Are all of `want` among `have`? */
bool berth_labels_match(void *const *have, size_t n_have, void *const *want, size_t n_want);

#define HANDLER(name) \
	void name(struct berth_grpc_call *call, const ProtobufCMessage *request, void *arg)

HANDLER(berth_cri_version);
HANDLER(berth_cri_status);
HANDLER(berth_cri_runtime_config);
HANDLER(berth_cri_update_runtime_config);
HANDLER(berth_cri_run_pod_sandbox);
HANDLER(berth_cri_stop_pod_sandbox);
HANDLER(berth_cri_remove_pod_sandbox);
HANDLER(berth_cri_pod_sandbox_status);
HANDLER(berth_cri_list_pod_sandbox);
HANDLER(berth_cri_stream_pod_sandboxes);
HANDLER(berth_cri_update_pod_sandbox_resources);
HANDLER(berth_cri_create_container);
HANDLER(berth_cri_start_container);
HANDLER(berth_cri_stop_container);
HANDLER(berth_cri_remove_container);
HANDLER(berth_cri_list_containers);
HANDLER(berth_cri_stream_containers);
HANDLER(berth_cri_update_container_resources);
HANDLER(berth_cri_checkpoint_container);
HANDLER(berth_cri_get_container_events);
HANDLER(berth_cri_container_status);
HANDLER(berth_cri_reopen_container_log);
HANDLER(berth_cri_exec_sync);
HANDLER(berth_cri_exec);
HANDLER(berth_cri_attach);
HANDLER(berth_cri_port_forward);
HANDLER(berth_cri_container_stats);
HANDLER(berth_cri_list_container_stats);
HANDLER(berth_cri_pod_sandbox_stats);
HANDLER(berth_cri_list_pod_sandbox_stats);
HANDLER(berth_cri_stream_container_stats);
HANDLER(berth_cri_stream_pod_sandbox_stats);
HANDLER(berth_cri_list_metric_descriptors);
HANDLER(berth_cri_list_pod_sandbox_metrics);
HANDLER(berth_cri_stream_pod_sandbox_metrics);
HANDLER(berth_cri_list_images);
HANDLER(berth_cri_stream_images);
HANDLER(berth_cri_image_status);
HANDLER(berth_cri_pull_image);
HANDLER(berth_cri_remove_image);
HANDLER(berth_cri_image_fs_info);

/* Statuses, in an arena; they borrow from the object. */
Runtime__V1__ContainerStatus *berth_cri_container_status_of(
        struct berth_arena *a, struct berth_container *c);
Runtime__V1__PodSandboxStatus *berth_cri_pod_status_of(struct berth_arena *a, struct berth_pod *p);
/* Those of all its containers that clients may see; returns how many. */
size_t berth_cri_container_statuses_of(
        struct berth_arena *a, struct berth_pod *p, Runtime__V1__ContainerStatus ***ret);

/* The daemon's on_change, and the end of all event streams before a drain. */
void berth_cri_on_change(
        struct berth_daemon *d, enum berth_change change, const char *id, struct berth_pod *pod);
void berth_cri_end_events(struct berth_daemon *d);

/* [loop] At the start: what the last UpdateRuntimeConfig of this boot said. */
void berth_cri_load_pod_cidr(struct berth_daemon *d);

/* A list streamed has at most so many items in a message. */
#define BERTH_STREAM_ITEMS 100

/* A runtime handler by the name that a client gives, "" the default; where there is none the call
 * has failed. */
const struct berth_handler *berth_cri_handler(
        struct berth_grpc_call *call, struct berth_daemon *d, const char *name);

/* storage.c, of berth.admin.v1 */
HANDLER(berth_admin_migrate_storage);
HANDLER(berth_admin_export_store);

#endif
