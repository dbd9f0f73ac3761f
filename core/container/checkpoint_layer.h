/* What a container has written, for the archive of its checkpoint. [worker] */
#ifndef BERTH_CONTAINER_CHECKPOINT_LAYER_H
#define BERTH_CONTAINER_CHECKPOINT_LAYER_H

#include <jansson.h>

#include "container/container.h"
#include "image/checkpoint.h"

struct berth_ctr_layer {
	struct berth_packer_layer fds; /* owned */
	bool own;    /* the top is its own directory; else that is what differs from `below` */
	bool viewed; /* the driver has a view of the image for it */
};
int berth_ctr_layer_open(const struct berth_container *c, struct berth_ctr_layer *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Also after a failure; a second time it does nothing. */
void berth_ctr_layer_close(const struct berth_container *c, struct berth_ctr_layer *l);
/* Of how its owners are mapped, for the packer's request. */
int berth_ctr_layer_owners(const struct berth_container *c, const struct berth_ctr_layer *l,
        json_t *request, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
