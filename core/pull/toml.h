/* A strict reader of the part of TOML 1.0 that registries.conf uses: tables, arrays of tables,
 * dotted and quoted keys, strings of one line, integers, booleans, arrays, inline tables. What it
 * does not know (dates, floats, strings of several lines) is an error, not a guess. [any] */
#ifndef BERTH_PULL_TOML_H
#define BERTH_PULL_TOML_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

/* *ret: the document as a JSON object, the caller's. The error has the line, not the file's name.
 */
int pull_toml_parse(
        const char *text, size_t len, json_t **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
