/* berth/plugin.h - the plugin ABI of the runtime host.
 *
 * RULE 0: no plugin code ever runs on the host's event-loop thread.
 *   Every function below runs on a host worker thread and MAY BLOCK
 *   (the entry symbol alone runs at start-up, before there is a loop).
 *   Ops on one object (snapshot / container / sandbox / pod network) are
 *   serialised by the host, except those marked [concurrent].
 *   Every host function is thread-safe and callable from any thread; with an op from
 *   several at once, but only until that op has returned.
 * MEMORY:  in-args are borrowed until the op returns. Whatever an op returns by
 *   pointer must be static or come from host->op_alloc(); the host frees it.
 *   Nothing allocated by one side is ever freed by the other.
 * STRINGS: UTF-8, NUL-terminated; NULL = absent.  TIMES: uint64_t ns, CLOCK_MONOTONIC
 *   for deadlines, CLOCK_REALTIME for timestamps.  SIZES: bytes.  FDS: O_CLOEXEC.
 * LAYOUT:  fixed-width integers and pointers only; structs grow at the end only.
 */
#ifndef BERTH_PLUGIN_H
#define BERTH_PLUGIN_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define BERTH_ABI_MAJOR 0u /* in the entry symbol's name; a break means a new symbol; 0 = no promise yet */
#define BERTH_ABI_MINOR 0u /* +1 for every append */
#define BERTH_EXPORT __attribute__((visibility("default")))
/* Is FIELD inside the part of *P that the other side knows? */
#define BERTH_HAS(TYPE, P, FIELD) \
  ((P)->size >= offsetof(TYPE, FIELD) + sizeof(((const TYPE *)0)->FIELD))

/* Result of an op: BERTH_OK or minus a gRPC status code, so no mapping table. */
typedef int32_t berth_status;
#define BERTH_OK 0
#define BERTH_E_CANCELLED (-1)
#define BERTH_E_UNKNOWN (-2)
#define BERTH_E_INVALID (-3)
#define BERTH_E_DEADLINE (-4)
#define BERTH_E_NOT_FOUND (-5)
#define BERTH_E_EXISTS (-6)
#define BERTH_E_PERMISSION (-7)
#define BERTH_E_EXHAUSTED (-8)
#define BERTH_E_PRECONDITION (-9)
#define BERTH_E_UNIMPLEMENTED (-12)
#define BERTH_E_INTERNAL (-13)
#define BERTH_E_UNAVAILABLE (-14)

struct berth_op;    /* opaque: one call in flight: deadline, cancel, arena, error */
struct berth_conf;  /* opaque: this plugin's config subtree */
struct berth_watch; /* opaque: one fd or timer watch */
struct berth_host;

struct berth_kv { const char *key, *value; }; /* frozen for ever */

enum { BERTH_RUN_F_TTY = 1, BERTH_RUN_F_STDIN = 2 }; /* spawn: a pty for stdio; a pipe for stdin, else /dev/null */
struct berth_run {              /* a child process; it starts with default signals, umask, rlimits and oom_score_adj */
  uint32_t size, flags;
  const char *const *argv;    /* absolute argv[0], NULL-terminated */
  const char *const *envp;    /* NULL = minimal environment, never the host's */
  const char *cwd, *cgroup;   /* NULL = "/" / the host's own; a path below each hierarchy */
  const void *in;             /* written to stdin, then EOF */
  uint64_t in_len, out_max;   /* out_max: cap per stream, 0 = 64 KiB */
  const int32_t *keep_fds;    /* passed as 3, 4, ... */
  uint32_t n_keep_fds, term_grace_ms; /* TERM -> wait -> KILL on cancel/deadline */
  /* spawn: argv starts the command, writes its pid to pid_file (absolute), ends and leaves it to the host, which then owns
   * the command as it would own the child; the op waits for that. Where argv fails: UNKNOWN with its words, nothing is
   * left. With RUN_F_TTY argv sends the pty's master to console_socket, a name in cwd on which the host listens. */
  const char *pid_file, *console_socket; /* NULL = the child itself is the command */
};
struct berth_run_result {       /* out/err: from op arena, NUL-terminated */
  uint32_t size;
  int32_t wait_status;        /* as waitpid(2) */
  const char *out, *err;
  uint64_t out_len, err_len;
};

struct berth_stdio { uint32_t size; int32_t in_fd, out_fd, err_fd; }; /* -1 = none, and as a result it comes so; the host owns
                                                                         and closes */

/* How something ended. A zeroed struct means "not known", never "exit code 0". */
enum { BERTH_EXIT_KNOWN = 1, BERTH_EXIT_SIGNALLED = 2, BERTH_EXIT_OOM = 4 };
struct berth_exit { uint32_t flags; int32_t code; }; /* frozen; code: 0-255, or the signal's number with SIGNALLED */

/* HEALTH: a network is asked for its status. A storage driver says it in the message: why it takes nothing more,
 * and NULL once it does again. */
enum { BERTH_EV_EXIT = 1, BERTH_EV_OOM = 2, BERTH_EV_STATE = 3, BERTH_EV_HEALTH = 4 };
struct berth_event {            /* a hint: the host re-reads state() afterwards */
  uint32_t size, type;        /* BERTH_EV_* ; unknown types are ignored */
  const char *object_id, *exec_id, *message;
  struct berth_exit exit;     /* for BERTH_EV_EXIT */
  uint64_t when_ns;
};

enum { BERTH_LOG_ERROR = 1, BERTH_LOG_WARN, BERTH_LOG_INFO, BERTH_LOG_DEBUG };
enum { BERTH_WATCH_READ = 1, BERTH_WATCH_WRITE = 2, BERTH_WATCH_HUP = 4 };
/* One-shot: runs on a worker as an op of its own; disarmed until rearm(). */
typedef void (*berth_watch_fn)(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg);

struct berth_host {             /* host services; one table per plugin instance */
  uint32_t size, abi_minor;
  void *impl;                 /* host private */
  const char *host_version, *plugin_name;
  const char *instance_name;  /* runtime: the handler; else the plugin's name. One instance per handler */
  const char *state_dir;      /* persistent, 0700, created by the host */
  const char *run_dir;        /* tmpfs, 0700 */
  void (*log)(const struct berth_host *h, struct berth_op *op, int32_t level, const char *msg);
  /* the call in flight */
  berth_status (*fail)(struct berth_op *op, berth_status st, int32_t errnum, const char *msg); /* the first cause stays, but
                                                        UNKNOWN (a program's words) yields to what those words mean */
  int32_t (*op_cancelled)(struct berth_op *op);      /* cheap: poll it in loops */
  int32_t (*op_cancel_fd)(struct berth_op *op);      /* readable on cancel/deadline; borrowed */
  uint64_t (*op_deadline_ns)(struct berth_op *op);   /* 0 = none */
  void *(*op_alloc)(struct berth_op *op, uint64_t n);/* zeroed, 16-aligned; never NULL */
  void (*op_progress)(struct berth_op *op, uint64_t done, uint64_t total); /* in units of its own, total 0 = not known: it
                                                        goes on, and is not taken for stuck where its deadline is over */
  berth_status (*run)(struct berth_op *op, const struct berth_run *spec, struct berth_run_result *res); /* to completion */
  /* A child that outlives the op (an exec session): the host owns its pidfd, reaping, killing and fds, and
   * raises BERTH_EV_EXIT for (object_id, exec_id). With a terminal in_fd and out_fd are the same pty. */
  berth_status (*spawn)(struct berth_op *op, const struct berth_run *spec, const char *object_id, const char *exec_id,
                        struct berth_stdio *stdio);
  /* waiting without holding a thread */
  berth_status (*watch_fd)(const struct berth_host *h, int32_t fd, uint32_t events,
                         berth_watch_fn fn, void *arg, struct berth_watch **out);
  berth_status (*watch_after)(const struct berth_host *h, uint64_t ns,
                            berth_watch_fn fn, void *arg, struct berth_watch **out);
  void (*rearm)(struct berth_watch *w, uint32_t events, uint64_t ns);
  void (*unwatch)(struct berth_watch *w);            /* a queued call is dropped, a running one is waited for (fn itself may
                                                        call it); never hold a lock that fn takes */
  void (*emit)(const struct berth_host *h, const struct berth_event *ev); /* copies */
  /* config: dotted path; dflt where it is absent or null. The host refuses keys that nobody asked for, and a value that is of
   * none of the types its key was asked for as; as JSON it may be of any. What create() asks for counts before start() */
  const char *(*conf_str)(const struct berth_conf *c, const char *path, const char *dflt);
  int64_t (*conf_i64)(const struct berth_conf *c, const char *path, int64_t dflt);
  int32_t (*conf_bool)(const struct berth_conf *c, const char *path, int32_t dflt);
  const char *(*conf_json)(const struct berth_conf *c, const char *path); /* "" = all */
  const void *(*extension)(const struct berth_host *h, const char *id);   /* "berth.x/1" */
};

/* ---- storage: named snapshots; the HOST mounts what mounts() describes ---- */
struct berth_mount { uint32_t size, flags; const char *type, *source, *target; const char *const *options; };
struct berth_idmap { uint32_t container_id, host_id, count; }; /* frozen */
enum {
  BERTH_SNAP_F_LAYER = 1    /* prepare: a place for one image layer alone. With BERTH_F_DETACHED_LAYERS no parent is
                               given until commit, and layers come in any order; else the parent's content is there */
};
/* struct berth_plugin.features, storage. At most one way of writing deletions; none of the two: really delete. */
#define BERTH_F_DETACHED_LAYERS 0x1ull
#define BERTH_F_WHITEOUT_OVERLAY 0x2ull  /* character device 0:0, opaque xattr */
#define BERTH_F_WHITEOUT_AUFS 0x4ull     /* .wh. names, as in the OCI layer itself */
/* prepare and view take uid_maps and gid_maps. The host maps what is described: of an overlay each lowerdir, of
 * anything else the mount as a whole. So an upper directory begins, and an overlay's root is owned, as host_id says,
 * and everything else stays as it is; the driver copies and chowns nothing for it. */
#define BERTH_F_IDMAP 0x8ull
#define BERTH_F_QUOTA 0x10ull
#define BERTH_F_XATTR_USER 0x20ull       /* with WHITEOUT_OVERLAY: the opaque xattr is user.overlay.opaque, not trusted. */
/* prepare takes `external`: the layer's content lies there, in overlay's form, and is not the driver's. Its name and its
 * place in the order are. A call never waits for what lies there, but for prepare, which may look at the directory itself;
 * usage of it is none; remove leaves it alone. */
#define BERTH_F_EXTERNAL_LAYERS 0x40ull
struct berth_snap_args {
  uint32_t size, flags;       /* BERTH_SNAP_F_* */
  const char *key, *parent, *name; /* name: commit only; a committed layer's name is its ChainID */
  const struct berth_kv *labels; uint32_t n_labels, reserved0;
  const struct berth_idmap *uid_maps, *gid_maps; uint32_t n_uid_maps, n_gid_maps; /* needs BERTH_F_IDMAP */
  uint64_t size_limit, inode_limit; /* of the writable layer, 0 = none; needs BERTH_F_QUOTA */
  const char *external;       /* prepare, with SNAP_F_LAYER: an absolute path; needs BERTH_F_EXTERNAL_LAYERS */
};
struct berth_mounts_result { uint32_t size, n; const struct berth_mount *const *mounts; };
enum { BERTH_SNAP_ACTIVE = 1, BERTH_SNAP_VIEW = 2, BERTH_SNAP_COMMITTED = 3 };
struct berth_snap_info { uint32_t size, kind; const char *key, *parent; uint64_t created_ns, bytes, inodes;
  const char *external;       /* as it was given to prepare; NULL = the driver's own */
};
struct berth_snap_list { uint32_t size, n; const struct berth_snap_info *const *snaps; };
struct berth_storage_ops {
  uint32_t size, reserved0;
  berth_status (*prepare)(struct berth_op *, void *self, const struct berth_snap_args *, struct berth_mounts_result *);
  berth_status (*view)(struct berth_op *, void *self, const struct berth_snap_args *, struct berth_mounts_result *);
  berth_status (*mounts)(struct berth_op *, void *self, const struct berth_snap_args *, struct berth_mounts_result *);
  berth_status (*commit)(struct berth_op *, void *self, const struct berth_snap_args *);
  berth_status (*remove)(struct berth_op *, void *self, const struct berth_snap_args *); /* absent: OK */
  berth_status (*stat)(struct berth_op *, void *self, const struct berth_snap_args *, struct berth_snap_info *); /* [concurrent] */
  berth_status (*list)(struct berth_op *, void *self, struct berth_snap_list *);  /* [concurrent] */
  berth_status (*cleanup)(struct berth_op *, void *self);  /* after start and now and then */
};

/* ---- runtime: OCI bundles in, events out; no op waits for an exit ---- */
enum { BERTH_IO_TTY = 1, BERTH_IO_STDIN = 2, BERTH_IO_STDIN_ONCE = 4 };
struct berth_sandbox_args {
  uint32_t size, flags;
  const char *id, *netns;     /* netns: a path; NULL = the host's network */
  const char *cgroup_parent;  /* sandbox_create: as in CRI LinuxPodSandboxConfig; NULL = none was given */
  const char *oci_resources_json; /* sandbox_create: OCI linux.resources of the pod as a whole; NULL = none was given */
  const struct berth_kv *annotations; uint32_t n_annotations, reserved0;
  const char *state_json;     /* sandbox_remove: what sandbox_create gave */
};
struct berth_ctr_args {
  uint32_t size, flags;       /* BERTH_IO_* */
  const char *id, *sandbox_id, *exec_id; /* exec_id: NULL = the container's init */
  const char *bundle, *log_path;
  const struct berth_mounts_result *rootfs; /* create: what the host mounted on BUNDLE/rootfs, or would (VM runtimes) */
  const char *json;           /* exec: OCI process; update: OCI linux.resources */
  int32_t signal;             /* kill */
  uint16_t width, height;     /* resize, in cells */
  const char *sandbox_state_json; /* create: what sandbox_create gave */
};
enum { BERTH_ST_CREATED = 1, BERTH_ST_RUNNING, BERTH_ST_STOPPED, BERTH_ST_PAUSED, BERTH_ST_UNKNOWN };
struct berth_ctr_state {
  uint32_t size, status;      /* BERTH_ST_* */
  const char *id, *exec_id;
  int32_t pid; uint32_t reserved0;
  struct berth_exit exit;     /* STOPPED */
  uint64_t pid_start_ns;      /* with pid: names one process for ever */
  uint64_t started_ns, finished_ns;
};
struct berth_sandbox_result { uint32_t size, reserved0; const char *state_json; }; /* opaque to the host, which keeps it
                                                    with the pod, over restarts, and gives it back; at most 64 KiB */
struct berth_runtime_info { uint32_t size, reserved0; const char *features_json; }; /* OCI runtime `features` form */
struct berth_ctr_list { uint32_t size, n; const struct berth_ctr_state *const *ctrs; };
struct berth_ctr_stats { uint32_t size, reserved0; uint64_t cpu_ns, mem_usage, mem_working_set, pids, when_ns; };
/* struct berth_plugin.features, runtime: checkpoint() is there, and what it takes of the machine. Without the bit it is not
 * called: the request is refused with berth_features.no_checkpoint. */
#define BERTH_F_CHECKPOINT 0x80ull
/* Both directories are absolute, the host's own, empty and 0700: it removes them. */
struct berth_checkpoint_args {
  uint32_t size, flags;       /* none yet */
  const char *id, *bundle;
  const char *image_dir;      /* for the images: those of CRIU, or of a form of the runtime's own */
  const char *work_dir;       /* for its log, CRIU's "dump.log", and what else is not needed to restore it */
};
struct berth_runtime_ops {
  uint32_t size, reserved0;
  berth_status (*info)(struct berth_op *, void *self, struct berth_runtime_info *); /* [concurrent] for CRI Status */
  berth_status (*sandbox_create)(struct berth_op *, void *self, const struct berth_sandbox_args *, struct berth_sandbox_result *);
  berth_status (*sandbox_remove)(struct berth_op *, void *self, const struct berth_sandbox_args *);
  berth_status (*create)(struct berth_op *, void *self, const struct berth_ctr_args *);
  berth_status (*start)(struct berth_op *, void *self, const struct berth_ctr_args *);
  berth_status (*kill)(struct berth_op *, void *self, const struct berth_ctr_args *);   /* [concurrent] sends, does not wait */
  berth_status (*remove)(struct berth_op *, void *self, const struct berth_ctr_args *); /* stopped only; absent: OK */
  berth_status (*state)(struct berth_op *, void *self, const struct berth_ctr_args *, struct berth_ctr_state *); /* [concurrent] */
  berth_status (*list)(struct berth_op *, void *self, struct berth_ctr_list *);         /* re-adopts after a restart */
  berth_status (*exec)(struct berth_op *, void *self, const struct berth_ctr_args *, struct berth_stdio *);
  berth_status (*close_stdin)(struct berth_op *, void *self, const struct berth_ctr_args *); /* [concurrent] */
  /* attach and reopen_log only where the plugin does not use the host's monitor ("berth.monitor/1") */
  berth_status (*attach)(struct berth_op *, void *self, const struct berth_ctr_args *, struct berth_stdio *);
  berth_status (*resize)(struct berth_op *, void *self, const struct berth_ctr_args *); /* [concurrent] */
  berth_status (*update)(struct berth_op *, void *self, const struct berth_ctr_args *);
  berth_status (*pause)(struct berth_op *, void *self, const struct berth_ctr_args *);
  berth_status (*resume)(struct berth_op *, void *self, const struct berth_ctr_args *);
  berth_status (*reopen_log)(struct berth_op *, void *self, const struct berth_ctr_args *);
  berth_status (*stats)(struct berth_op *, void *self, const struct berth_ctr_args *, struct berth_ctr_stats *); /* [concurrent] */
  /* Writes the state of its processes down. RUNNING or PAUSED only, and as it was it goes on, also where this fails; how
   * long it stands still meanwhile is the driver's. A failure has the words of who made the images. After a cancel or the
   * deadline it returns only when nothing works at it any more. */
  berth_status (*checkpoint)(struct berth_op *, void *self, const struct berth_checkpoint_args *);
};

/* ---- network ---- */
struct berth_port { uint16_t host_port, ctr_port; uint32_t proto; const char *host_ip; }; /* frozen. proto: IPPROTO_TCP,
                                                    _UDP or _SCTP; host_ip: NULL = all */
struct berth_net_args {
  uint32_t size, flags;
  const char *sandbox_id, *pod_name, *pod_namespace, *pod_uid, *netns, *ifname, *prev_result_json;
  const struct berth_port *ports; const struct berth_kv *caps;
  uint32_t n_ports, n_caps;
};
struct berth_net_result { uint32_t size, n_ips; const char *const *ips; const char *result_json; };
struct berth_net_gc_args { uint32_t size, n_valid; const char *const *valid; }; /* ids of the sandboxes whose network stays */
struct berth_network_ops {
  uint32_t size, reserved0;
  berth_status (*attach)(struct berth_op *, void *self, const struct berth_net_args *, struct berth_net_result *);
  berth_status (*detach)(struct berth_op *, void *self, const struct berth_net_args *); /* netns may be gone: OK */
  berth_status (*check)(struct berth_op *, void *self, const struct berth_net_args *);
  berth_status (*status)(struct berth_op *, void *self);  /* NetworkReady, called now and then */
  berth_status (*gc)(struct berth_op *, void *self, const struct berth_net_gc_args *); /* releases all others */
};

/* ---- the plugin ---- */
#define BERTH_FEATURES_EXT "berth.features/1"
/* What extension(self, BERTH_FEATURES_EXT) gives, where what a plugin can depends on machine or configuration: asked once
 * after start(), and valid until destroy(). */
struct berth_features {
  uint32_t size, reserved0;
  uint64_t features;          /* this instance's, in place of struct berth_plugin's */
  const char *no_quota;       /* why BERTH_F_QUOTA is not among them; NULL = it never is */
  const char *no_checkpoint;  /* likewise BERTH_F_CHECKPOINT */
};
#define BERTH_PLUGIN_SERIAL 1u /* flags: never call two ops of this plugin at once */
struct berth_plugin {
  uint32_t size, abi_minor;   /* BERTH_ABI_MINOR it was compiled with */
  uint32_t flags, reserved0;  /* BERTH_PLUGIN_* */
  uint64_t features;          /* BERTH_F_*: behaviour the host must not assume otherwise */
  const char *name, *version;
  const struct berth_storage_ops *storage; /* non-NULL = provides this kind */
  const struct berth_runtime_ops *runtime;
  const struct berth_network_ops *network;
  berth_status (*create)(struct berth_op *, const struct berth_host *, const struct berth_conf *, void **self);
  berth_status (*start)(struct berth_op *, void *self);  /* recover, arm watches; ops come after it */
  berth_status (*stop)(struct berth_op *, void *self);   /* unwatch, join own threads; containers go on */
  void (*destroy)(void *self);
  const void *(*extension)(void *self, const char *id); /* [concurrent] */
};
/* The one exported symbol. Must not block, allocate or start anything. */
BERTH_EXPORT const struct berth_plugin *berth_plugin_v0(uint32_t host_minor);

/* A host reads which minor a plugin needs before any of its code runs: from an ELF note, which each plugin has once. A newer
 * one than the host's, or none, and the file is refused. Frozen for ever. */
#define BERTH_NOTE_ABI 1u
struct berth_note {           /* aligned to 4 in an allocated section of notes, ".note.berth" */
  uint32_t namesz, descsz, type; /* 6, 8, BERTH_NOTE_ABI */
  char name[8];               /* "berth" */
  uint32_t major, needs_minor;
};
#if defined(__clang__)
#define BERTH_NOTE_BARE , no_sanitize("address") /* its red zones would be part of the section */
#else
#define BERTH_NOTE_BARE
#endif
/* At file scope, without a semicolon: the note of a plugin that needs 0.MINOR; what came later it asks for by BERTH_HAS. */
#define BERTH_PLUGIN_NEEDS(MINOR) \
  static const struct berth_note berth_plugin_note \
      __attribute__((section(".note.berth"), used, aligned(4) BERTH_NOTE_BARE)) = \
          {6u, 8u, BERTH_NOTE_ABI, "berth", BERTH_ABI_MAJOR, (MINOR)};

#ifdef __cplusplus
}
#endif
#endif
