/* What containers and pods use, for the requests that ask for it. [loop] */
#ifndef BERTH_CRI_SAMPLING_H
#define BERTH_CRI_SAMPLING_H

#include "cri/service.h"
#include "stats/sampler.h"

struct berth_container_sample {
	struct berth_container *c;
	struct berth_cgroup_usage usage;
	uint64_t nano_cores;
	bool rate_known;
	struct berth_layer_wait layer;
	struct berth_sampled_detail *detail; /* where it was asked for */
};

struct berth_pod_sample {
	struct berth_pod *pod;
	struct berth_cgroup_usage usage;
	uint64_t nano_cores;
	bool rate_known;
	char *cgroup; /* of the pod, NULL = the sum of its containers */
	uint64_t when_ns;
	struct berth_interface *interfaces;
	unsigned int n_interfaces;
	size_t first, n; /* its containers among the samples */
};

struct berth_sampling {
	struct berth_daemon *d;
	struct berth_grpc_call *call;
	struct berth_container_sample *containers;
	size_t n_containers;
	struct berth_pod_sample *pods;
	size_t n_pods;
	void (*reply)(struct berth_sampling *s);
	size_t waiting; /* for the sample, and for each layer that was asked for */
	struct berth_timer *timer;
	struct berth_error *err;
	/* Set before the start: what cadvisor tells, too. */
	bool detailed;
	struct berth_sampled_fs { /* that the writable layers lie on; where detailed */
		char device[64];
		uint64_t bytes, inodes, inodes_free;
	} fs;
};

/* `reply` runs once all is sampled; what it was about is freed after it. */
struct berth_sampling *berth_sampling_new(struct berth_daemon *d, struct berth_grpc_call *call,
        void (*reply)(struct berth_sampling *s));
void berth_sampling_add_container(struct berth_sampling *s, struct berth_container *c);
/* A pod with its containers that are listed. */
void berth_sampling_add_pod(struct berth_sampling *s, struct berth_pod *p);
/* Lists are of what runs (CRI, ListContainerStats). */
bool berth_sampling_possible(const struct berth_container *c);
void berth_sampling_start(struct berth_sampling *s);
/* Of a pod that has no cgroup of its own: what its containers use. */
void berth_sampling_add_usage(struct berth_cgroup_usage *to, const struct berth_cgroup_usage *u);

#endif
