/* Structured log lines on stderr: `time=... level=info msg="..." pod=ID ...` (logfmt). [any]
 *
 * Functions that return an error do not log it; the request boundary logs each failed request once.
 */
#ifndef BERTH_BASE_LOG_H
#define BERTH_BASE_LOG_H

#include "base/macros.h"

enum berth_log_level {
	BERTH_LOG_LVL_ERROR,
	BERTH_LOG_LVL_WARN,
	BERTH_LOG_LVL_INFO,
	BERTH_LOG_LVL_DEBUG
};

void berth_log_set_level(enum berth_log_level level);
/* "error", "warn", "info", "debug"; -1 where it is none of them. */
int berth_log_parse_level(const char *name);
/* berth_log(BERTH_LOG_LVL_INFO, "pod ready", "pod", id, "ip", ip, NULL): message, then key/value
 * strings up to a NULL key. A NULL value is left out. Values are quoted where they need it, so a
 * peer's text cannot forge a line. */
void berth_log(enum berth_log_level level, const char *msg, ...) __attribute__((sentinel));

#define berth_log_error(...) berth_log(BERTH_LOG_LVL_ERROR, __VA_ARGS__, (char *)0)
#define berth_log_warn(...) berth_log(BERTH_LOG_LVL_WARN, __VA_ARGS__, (char *)0)
#define berth_log_info(...) berth_log(BERTH_LOG_LVL_INFO, __VA_ARGS__, (char *)0)
#define berth_log_debug(...) berth_log(BERTH_LOG_LVL_DEBUG, __VA_ARGS__, (char *)0)

#endif
