/* [any] What protobuf-c's descriptors do not say in so many words. */
#ifndef BERTH_CRI_FIELDS_H
#define BERTH_CRI_FIELDS_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

/* Bytes of one value in a message's structure. */
size_t berth_cri_value_size(ProtobufCType type);
/* Maps are lists of messages XEntry { key = 1; value = 2; }, told from others by that alone. Keys
 * are strings in all of CRI. */
bool berth_cri_is_map(const ProtobufCFieldDescriptor *f);

#endif
