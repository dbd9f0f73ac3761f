/* [any] Do two messages of one type say the same? */
#ifndef BERTH_CRI_SAME_H
#define BERTH_CRI_SAME_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* A map's entries have no order: Go sends them in another one each time. Lists have one. */
bool berth_cri_same(const ProtobufCMessage *a, const ProtobufCMessage *b);

#endif
