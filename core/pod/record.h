/* Records of objects on disk: DIR/FILE.json beside DIR/config.pb, the CRI configuration as it came.
 * [worker] */
#ifndef BERTH_POD_RECORD_H
#define BERTH_POD_RECORD_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/error.h"
#include "base/macros.h"

#define BERTH_RECORD_VERSION 1

/* The kernel's id of this boot, 36 characters; read once. [any] */
const char *berth_boot_id(void);

/* Writes DIR/NAME.json (takes `record`; adds "v" and "boot"); DIR/config.pb first where it is not
 * there yet. DIR is made. */
int berth_record_save(const char *dir, const char *name, json_t *record,
        const ProtobufCMessage *config, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* Reads both. DATA_LOSS for what is no record of ours. The caller frees both. */
int berth_record_load(const char *dir, const char *name, const ProtobufCMessageDescriptor *type,
        json_t **ret_record, ProtobufCMessage **ret_config, bool *ret_old_boot,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A string of the record, copied; NULL where it is absent. [any] */
char *berth_record_str(const json_t *record, const char *key);

#endif
