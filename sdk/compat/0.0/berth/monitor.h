/* berth/monitor.h - the host extension "berth.monitor/1": a berth-monitor for each container.
 *
 * The monitor is the parent and reaper of the container: log writer, attach server, terminal, exit record. It outlives
 * the host. With it a runtime plugin pumps no bytes and waits for nothing; the host raises BERTH_EV_EXIT and BERTH_EV_OOM.
 * Every function may block and is called from within an op.
 */
#ifndef BERTH_MONITOR_H
#define BERTH_MONITOR_H
#include "berth/plugin.h"
#ifdef __cplusplus
extern "C" {
#endif

#define BERTH_MONITOR_EXT "berth.monitor/1"

struct berth_monitor_args {
  uint32_t size, flags;         /* BERTH_IO_* */
  const char *id, *bundle;      /* the container; the monitor's directory is the bundle's parent directory */
  const char *log_path;         /* absolute; NULL = no log */
  const char *const *argv;      /* the runtime's command line that creates the container; absolute argv[0] */
  const char *pid_file;         /* where that command writes the init's pid */
  const char *console_socket;   /* with BERTH_IO_TTY: where the monitor listens for the pty master */
};
struct berth_monitor_result {
  uint32_t size;
  int32_t pid;                  /* of the container's init, in the host's pid namespace */
  uint64_t pid_start_ns;        /* clock ticks since boot, field 22 of /proc/PID/stat */
  int32_t monitor_pid; uint32_t reserved0;
};
struct berth_monitor_ext {
  uint32_t size, reserved0;
  /* Starts a monitor, which runs argv and reports. A failing command fails with its own words (stderr, bounded). */
  berth_status (*start)(struct berth_op *op, const struct berth_host *h, const struct berth_monitor_args *a,
                        struct berth_monitor_result *res);
  /* What is known of a container of ours, read from the monitor's records: CREATED or RUNNING (its process lives), STOPPED
   * (with its exit), UNKNOWN (it ended and nobody saw how). NOT_FOUND where there never was a monitor. */
  berth_status (*state)(struct berth_op *op, const struct berth_host *h, const char *id, const char *bundle,
                        struct berth_ctr_state *res);
  berth_status (*resize)(struct berth_op *op, const struct berth_host *h, const char *bundle, uint16_t width, uint16_t height);
  berth_status (*close_stdin)(struct berth_op *op, const struct berth_host *h, const char *bundle);
  berth_status (*reopen_log)(struct berth_op *op, const struct berth_host *h, const char *bundle); /* returns once it is done */
};

#ifdef __cplusplus
}
#endif
#endif
