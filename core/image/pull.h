/* Inside of a pull, shared by pull.c (who takes part), puller.c (the process and its
 * packets) and layers.c (what is done to layers). [loop] */
#ifndef BERTH_IMAGE_PULL_H
#define BERTH_IMAGE_PULL_H

#include "base/mem.h"
#include "image/image.h"
#include "loop/child.h"
#include "pull/protocol.h"

#define PULL_MAX_JOBS 64 /* of one pull; beyond them its packets wait */

enum layer_state {
	LAYER_WAITING,
	LAYER_WANTED, /* asked for, its parent is not committed yet */
	LAYER_OPENING,
	LAYER_OPEN,     /* the puller writes into it */
	LAYER_UNPACKED, /* waits for its parent */
	LAYER_COMMITTING,
	LAYER_COMMITTED,
};

struct pull_layer {
	char *diff_id, *chain_id, *digest, *key;
	uint64_t size;
	enum layer_state state;
	int fd; /* the clone that the puller has, for checks; -1 */
	uint64_t mnt_id;
	char *implied; /* paths, each NUL-terminated */
	size_t implied_len, implied_n;
	unsigned int jobs;    /* that work on it */
	uint64_t asked;       /* its place in the queue for a download; 0: not in it */
	bool fetching;        /* it has one of the downloads that may go at a time */
	bool prepared;        /* the driver has something under `key` */
	char *external;       /* its content lies there, in an image store; or NULL */
	bool sourced, viewed; /* of a copy: it was asked for; the other driver has views of it */
};

struct berth_pull_part {
	struct berth_pull_part *next;
	struct berth_pull *pull;
	berth_pull_progress_fn progress;
	berth_image_fn fn;
	void *arg;
};

struct berth_pull {
	struct berth_pull *next;
	struct berth_daemon *d;
	struct berth_instance *storage; /* where the layers go */
	char *key, tag[17];
	struct berth_ref ref; /* of a pull; repository NULL for an import without a name */
	bool import;
	struct berth_image *copied;  /* of a copy: what, */
	struct berth_instance *from; /* and where its layers are read; or NULL */
	bool export;                 /* into an image store: nothing of it is the node's */
	struct berth_pull_part *parts;

	pid_t pid;
	int pidfd, sock; /* pidfd: -1 until the process runs */
	struct berth_child_watch *child;
	struct berth_fdwatch *watch;
	char *packet;
	char *who; /* of a pull: what tells credentials and platforms apart */

	struct pull_layer *layers;
	size_t n_layers;
	bool have_asked, have_waits; /* `image` came; its answer waits for removals */
	bool stores_looked;          /* for it, since it waits */
	json_t *record;              /* came, waits for the layers */
	bool waits_to_store;         /* it has them, but see pull_store_next() */
	struct berth_image **images;
	size_t n_images;
	uint64_t bytes;    /* of the layers of what it stored */
	unsigned int jobs; /* on workers */
	bool ended;        /* the process has */
	bool over;         /* the result is known; what is left is to clean up */
	bool cleaning;
	struct berth_error *err;
};

/* where.c */
void berth_layers_free(struct berth_images *s);
const char *berth_layers_top(const json_t *record); /* as berth_image_chain_id() */
bool berth_layers_have(const json_t *record, const char *chain_id);
struct berth_instance *berth_layers_home(/* as berth_image_home() */
        const struct berth_daemon *d, const json_t *record, struct berth_instance *wanted);
/* store.c: where the record lies. Caller frees. */
char *berth_image_dir(const struct berth_daemon *d, const char *id);

/* pull.c */
struct berth_pull *pull_new(struct berth_daemon *d, struct berth_instance *storage);
void pull_discard(struct berth_pull *p); /* one that has not begun */
struct berth_pull_part *pull_take_part(
        struct berth_pull *p, berth_pull_progress_fn progress, berth_image_fn fn, void *arg);
void pull_fail(struct berth_pull *p, struct berth_error *err); /* takes err */
void pull_advance(struct berth_pull *p);
/* Cleans up once the result is known and nothing works for it any more. */
void pull_end(struct berth_pull *p);

/* puller.c */
/* What is sent before its process runs waits in the socket. One that cannot be started fails later.
 */
int pull_start(struct berth_pull *p, struct berth_error **ret_err);
void pull_send(struct berth_pull *p, json_t *packet, int fd); /* takes packet */
/* Need nothing be brought of the layer? Sets its state where it is so. */
bool pull_layer_here(struct berth_pull *p, struct pull_layer *l);
json_t *pull_first_packet(struct berth_pull *p, const struct berth_pull_request *r);

/* spawn.c */
/* [worker] Starts a berth-pull with this environment; `sock`, its end of the socket, is closed. The
 * fd and the pid are the caller's. It takes milliseconds: entering cgroups, the exec. */
int pull_spawn(const struct berth_daemon *d, const char *const *env, int sock, pid_t *ret_pid,
        int *ret_pidfd, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* `fd` -1: none goes with it. 0; a negative errno, none of which waits. */
int pull_send_packet(int sock, const char *text, int fd) BERTH_MUST_CHECK;
/* What a berth-pull says, without waiting; `packet` has room for `size` bytes. *ret_fd is -1 where
 * none came with it, and the caller's. 0; -EAGAIN; -EPIPE: it has closed its end; -EBADMSG: no
 * JSON, or too long; another negative errno. */
int pull_receive(int sock, char *packet, size_t size, json_t **ret, int *ret_fd);

/* fetch.c: who may download. */
void pull_fetch(struct berth_pull *p, size_t n);
void pull_fetched(struct berth_pull *p, size_t n);
/* After one has ended: the next ones in the queue. */
void pull_fetch_next(struct berth_images *s);

/* hosts.c: which registries and mirrors answer. */
void pull_host_heard(struct berth_images *s, const char *host, bool up);
json_t *pull_hosts_down(const struct berth_images *s);
void pull_hosts_free(struct berth_images *s);

/* partial.c: files of blobs that are on the way. [worker] */
/* -1: none may be kept. Locked as long as it, or a copy of it, is open. */
int pull_partial_open(struct berth_daemon *d, const char *digest, uint64_t size);
void pull_partial_remove(struct berth_daemon *d, const char *digest);

/* copy.c */
void pull_source(struct berth_pull *p, size_t n);
json_t *pull_copy_packet(const struct berth_pull *p);
json_t *pull_export_packet(const struct berth_pull *p); /* export.c */
/* [worker] The other driver's views of a layer go. */
void pull_source_release(struct berth_pull *p, struct pull_layer *l);
/* opaque.c, [worker]: adds the path of each opaque directory below `dir`, NUL-terminated. */
int pull_opaque_dirs(
        const char *dir, struct berth_buf *out, struct berth_error **ret_err) BERTH_MUST_CHECK;

/* layers.c */
struct pull_job {
	struct berth_pull *p;
	size_t n;
	struct pull_layer *layer;
	const char *parent;      /* ChainID below, or NULL */
	int fd;                  /* the work's argument or result */
	int below_fd, opaque_fd; /* of a copy's source; the done function's to close */
	uint64_t mnt_id;
	bool prepared, exists;
	struct berth_error *err;
	berth_fn done;
};
/* `work` on a worker, then `done` here, each with a struct pull_job. fd is taken. */
void pull_start_job(struct berth_pull *p, size_t n, berth_fn work, berth_fn done, int fd);
int pull_set_layers(struct berth_pull *p, const json_t *layers, struct berth_error **ret_err);
void pull_free_layers(struct berth_pull *p);
void pull_open(struct berth_pull *p, size_t n);
void pull_opaque(struct berth_pull *p, size_t n, int fd); /* takes fd */
void pull_layers_advance(struct berth_pull *p);
bool pull_layers_done(const struct berth_pull *p);
/* pull.c: lets the next one store that waits for another's record, or for removals. */
void pull_store_next(struct berth_daemon *d);
/* remove.c: begins what was asked for while a record was being written. */
void berth_removals_resume(struct berth_daemon *d);
/* [worker] A failure is logged alone. */
void pull_drop_snapshot(struct berth_instance *storage, const char *key);
int pull_open_beneath(int root, const char *path, int flags);
/* [worker] Removes what is not committed. */
void pull_layers_undo(struct berth_pull *p);

#endif
