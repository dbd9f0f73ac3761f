/* Every size that comes from a peer, a file or a plugin has its limit here, by name. */
#ifndef BERTH_BASE_LIMITS_H
#define BERTH_BASE_LIMITS_H

#define BERTH_KIB(n) ((size_t)(n) << 10)
#define BERTH_MIB(n) ((size_t)(n) << 20)
#define BERTH_GIB(n) ((size_t)(n) << 30)

/* Logging */
#define BERTH_LIMIT_LOG_LINE 4096 /* bytes; longer lines are cut */

/* State files, configuration */
#define BERTH_LIMIT_STATE_FILE BERTH_MIB(16)
#define BERTH_LIMIT_CONFIG_FILE BERTH_MIB(1)

/* gRPC: see core/grpc for how they are applied */
#define BERTH_LIMIT_GRPC_MESSAGE BERTH_MIB(16) /* default for both directions */
#define BERTH_LIMIT_GRPC_HEADERS BERTH_KIB(16)
#define BERTH_LIMIT_GRPC_STREAMS 256 /* concurrent streams of one connection */
#define BERTH_LIMIT_GRPC_CONNECTIONS 1024
#define BERTH_LIMIT_GRPC_CLIENT_MESSAGE BERTH_MIB(64) /* what the client takes */
#define BERTH_LIMIT_GRPC_STATUS_TEXT 4096             /* of grpc-message, once it is encoded */
#define BERTH_LIMIT_GRPC_UNPACKED BERTH_MIB(64)       /* memory of one request's message */
/* Responses that a client did not read yet: above it its next requests wait, at eight times of it
 * they fail. */
#define BERTH_LIMIT_GRPC_UNREAD BERTH_MIB(8)
/* Handlers at work for one connection, those of calls that the client gave up included. */
#define BERTH_LIMIT_GRPC_HANDLERS 512
/* Streams that a client may reset at once, and how many more a second. */
#define BERTH_LIMIT_GRPC_RESETS 500
#define BERTH_LIMIT_GRPC_RESETS_PER_S 100

/* The metrics endpoint: see core/metrics */
#define BERTH_LIMIT_METRICS_HEAD BERTH_KIB(8) /* of a request */
#define BERTH_LIMIT_METRICS_CLIENTS 16

/* What a runtime's sandbox_create() has kept for it */
#define BERTH_LIMIT_SANDBOX_STATE BERTH_KIB(64)

/* CRI strings */
#define BERTH_LIMIT_NAME 253 /* names and namespaces, as Kubernetes bounds them */
#define BERTH_LIMIT_IMAGE_REF 1024

/* ExecSync: each stream's capture; what comes after is read and thrown away */
#define BERTH_LIMIT_EXEC_OUTPUT BERTH_MIB(16)

/* Threads of a plugin's lane */
#define BERTH_LIMIT_LANE_THREADS 256

/* Checkpoints of containers: at once, each with a thread of its own, and how many seconds one may
 * take where its request does not say it */
#define BERTH_LIMIT_CHECKPOINTS 4
#define BERTH_LIMIT_CHECKPOINT_S 600

/* Children run by the host for plugins */
#define BERTH_LIMIT_RUN_OUTPUT BERTH_KIB(64)
#define BERTH_LIMIT_RUN_OUTPUT_MAX BERTH_MIB(16)

#endif
