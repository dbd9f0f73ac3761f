/* Sizes as people write them. [any] */
#ifndef BERTH_BASE_SIZE_H
#define BERTH_BASE_SIZE_H

#include <stdint.h>

/* Bytes from "1048576", "512Ki", "10GiB" (powers of 1024) or "10G", "500M" (of 1000): the forms of
 * Kubernetes and of our own configuration. 0; -EINVAL, or -ERANGE where it does not fit. */
int berth_size_parse(const char *text, uint64_t *ret);

#endif
