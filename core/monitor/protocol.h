/* What berth-monitor and its callers agree on. Plain macros and text: the monitor links nothing of
 * the core. */
#ifndef BERTH_MONITOR_PROTOCOL_H
#define BERTH_MONITOR_PROTOCOL_H

/* Names in the monitor's directory. */
#define BERTH_MON_RECORD "monitor.json"
#define BERTH_MON_EXIT "exit"
#define BERTH_MON_OOM "oom"
#define BERTH_MON_CTL "ctl"
#define BERTH_MON_ATTACH "attach"

/* The attach socket, SOCK_SEQPACKET. To the client: one byte BERTH_MON_STDOUT or _STDERR, then at
 * most BERTH_MON_ATTACH_OUT bytes; a terminal has stdout alone. EOF comes when the container has
 * ended. From the client: raw bytes for stdin, at most BERTH_MON_ATTACH_IN in a packet (a longer
 * one ends the connection); shutdown(SHUT_WR) is the end of its input. Where the container was
 * created with stdin-once, the end of the first client's input closes stdin for good. A client
 * that falls more than BERTH_MON_CLIENT_BUF behind is disconnected. */
#define BERTH_MON_STDOUT 2
#define BERTH_MON_STDERR 3
#define BERTH_MON_ATTACH_OUT 16384
#define BERTH_MON_ATTACH_IN 32768
#define BERTH_MON_CLIENT_BUF (256 * 1024)
#define BERTH_MON_CLIENTS 16

/* The ctl socket, SOCK_SEQPACKET: one request, one answer ("ok", or "error WORDS"), any number of
 * times. Requests: "reopen", "resize WIDTH HEIGHT", "close-stdin". */
#define BERTH_MON_CTL_MAX 512
#define BERTH_MON_CTL_CLIENTS 8

/* What the create command wrote to stderr, kept for the error. */
#define BERTH_MON_STDERR_MAX (64 * 1024)
/* The longest log line that is not split into partial ones. */
#define BERTH_MON_LINE_MAX 16384
/* Of a container's output, at once: what a pipe holds. */
#define BERTH_MON_READ (64 * 1024)

#endif
