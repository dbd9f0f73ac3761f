#include "cri/service.h"

#include <string.h>

#define RUNTIME(Name, name, handler_)                                                \
	{                                                                            \
#Name, &runtime__v1__##name##_request__descriptor,                   \
		        &runtime__v1__##name##_response__descriptor, false, handler_ \
	}

#define STREAM(Name, name, handler_)                                                \
	{                                                                           \
#Name, &runtime__v1__##name##_request__descriptor,                  \
		        &runtime__v1__##name##_response__descriptor, true, handler_ \
	}

const struct berth_grpc_method berth_runtime_service[] = {
        RUNTIME(Version, version, berth_cri_version),
        RUNTIME(Status, status, berth_cri_status),
        RUNTIME(RuntimeConfig, runtime_config, berth_cri_runtime_config),
        RUNTIME(UpdateRuntimeConfig, update_runtime_config, berth_cri_update_runtime_config),
        RUNTIME(RunPodSandbox, run_pod_sandbox, berth_cri_run_pod_sandbox),
        RUNTIME(StopPodSandbox, stop_pod_sandbox, berth_cri_stop_pod_sandbox),
        RUNTIME(RemovePodSandbox, remove_pod_sandbox, berth_cri_remove_pod_sandbox),
        RUNTIME(PodSandboxStatus, pod_sandbox_status, berth_cri_pod_sandbox_status),
        RUNTIME(ListPodSandbox, list_pod_sandbox, berth_cri_list_pod_sandbox),
        STREAM(StreamPodSandboxes, stream_pod_sandboxes, berth_cri_stream_pod_sandboxes),
        RUNTIME(UpdatePodSandboxResources, update_pod_sandbox_resources,
                berth_cri_update_pod_sandbox_resources),
        RUNTIME(CreateContainer, create_container, berth_cri_create_container),
        RUNTIME(StartContainer, start_container, berth_cri_start_container),
        RUNTIME(StopContainer, stop_container, berth_cri_stop_container),
        RUNTIME(RemoveContainer, remove_container, berth_cri_remove_container),
        RUNTIME(ListContainers, list_containers, berth_cri_list_containers),
        STREAM(StreamContainers, stream_containers, berth_cri_stream_containers),
        RUNTIME(UpdateContainerResources, update_container_resources,
                berth_cri_update_container_resources),
        RUNTIME(CheckpointContainer, checkpoint_container, berth_cri_checkpoint_container),
        {"GetContainerEvents", &runtime__v1__get_events_request__descriptor,
                &runtime__v1__container_event_response__descriptor, true,
                berth_cri_get_container_events},
        RUNTIME(ContainerStatus, container_status, berth_cri_container_status),
        RUNTIME(ReopenContainerLog, reopen_container_log, berth_cri_reopen_container_log),
        RUNTIME(ExecSync, exec_sync, berth_cri_exec_sync),
        RUNTIME(Exec, exec, berth_cri_exec),
        RUNTIME(Attach, attach, berth_cri_attach),
        RUNTIME(PortForward, port_forward, berth_cri_port_forward),
        RUNTIME(ContainerStats, container_stats, berth_cri_container_stats),
        RUNTIME(ListContainerStats, list_container_stats, berth_cri_list_container_stats),
        RUNTIME(PodSandboxStats, pod_sandbox_stats, berth_cri_pod_sandbox_stats),
        RUNTIME(ListPodSandboxStats, list_pod_sandbox_stats, berth_cri_list_pod_sandbox_stats),
        STREAM(StreamContainerStats, stream_container_stats, berth_cri_stream_container_stats),
        STREAM(StreamPodSandboxStats, stream_pod_sandbox_stats, berth_cri_stream_pod_sandbox_stats),
        RUNTIME(ListMetricDescriptors, list_metric_descriptors, berth_cri_list_metric_descriptors),
        RUNTIME(ListPodSandboxMetrics, list_pod_sandbox_metrics,
                berth_cri_list_pod_sandbox_metrics),
        STREAM(StreamPodSandboxMetrics, stream_pod_sandbox_metrics,
                berth_cri_stream_pod_sandbox_metrics),
        {NULL, NULL, NULL, false, NULL},
};

const struct berth_grpc_method berth_image_service[] = {
        RUNTIME(ListImages, list_images, berth_cri_list_images),
        STREAM(StreamImages, stream_images, berth_cri_stream_images),
        RUNTIME(ImageStatus, image_status, berth_cri_image_status),
        RUNTIME(PullImage, pull_image, berth_cri_pull_image),
        RUNTIME(RemoveImage, remove_image, berth_cri_remove_image),
        RUNTIME(ImageFsInfo, image_fs_info, berth_cri_image_fs_info),
        {NULL, NULL, NULL, false, NULL},
};

struct berth_map_entry *berth_map_entry(struct berth_grpc_call *call,
        const ProtobufCMessageDescriptor *descriptor, const char *key, const char *value)
{
	struct berth_map_entry *e = berth_arena_alloc(berth_grpc_arena(call), sizeof(*e));
	protobuf_c_message_init(descriptor, e);
	e->key = berth_arena_strdup(berth_grpc_arena(call), key);
	e->value = berth_arena_strdup(berth_grpc_arena(call), value);
	return e;
}

bool berth_labels_match(void *const *have, size_t n_have, void *const *want, size_t n_want)
{
	for (size_t i = 0; i < n_want; i++) {
		const struct berth_map_entry *w = want[i];
		bool found = false;
		for (size_t j = 0; j < n_have && !found; j++) {
			const struct berth_map_entry *h = have[j];
			found = strcmp(h->key, w->key) == 0 && strcmp(h->value, w->value) == 0;
		}
		if (!found)
			return false;
	}
	return true;
}
