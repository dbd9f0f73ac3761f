/* Devices of the Container Device Interface: vendors say in files what a container needs for
 * "VENDOR/CLASS=NAME", and requests name it. */
#ifndef BERTH_SPEC_CDI_H
#define BERTH_SPEC_CDI_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "base/macros.h"
#include "cri.pb-c.h"

/* [worker] What the devices that a request names (CDI_devices, and annotations "cdi.k8s.io/...")
 * want changed, as a list of containerEdits in the order in which they apply; NULL in *ret where it
 * names none. The specifications (*.json, *.yaml) of `dirs` (NULL-terminated; later ones win) are
 * read anew each time. INVALID_ARGUMENT for what is no name of a device, NOT_FOUND for a device
 * that no specification has (the message tells of files that are no specification),
 * FAILED_PRECONDITION where two of one directory have it. */
int berth_cdi_resolve(const char *const *dirs, const Runtime__V1__ContainerConfig *c, json_t **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* [any] Is it a specification? INVALID_ARGUMENT with the place of the fault. */
int berth_cdi_check(
        const char *file, const json_t *spec, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* [any] A specification's text; `file` decides by its ending whether it is JSON or YAML. A new
 * reference, checked. NULL with an error. */
json_t *berth_cdi_parse(
        const char *file, const char *text, size_t len, struct berth_error **ret_err);

/* [worker] Changes an OCI configuration. Device nodes of which a specification tells neither type
 * nor number are looked up on the host: NOT_FOUND where they are not there. */
int berth_cdi_apply(
        json_t *config, const json_t *edits, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
