/* Pod networks by CNI plugins.
 *
 * What an attachment was made with (the network's configuration, the arguments, the result) is kept
 * in STATE/attachments/SANDBOX@IFNAME.json, written before the first plugin runs: a DEL needs no
 * configuration directory and no network namespace, only this file.
 */
#ifndef NET_CNI_H
#define NET_CNI_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "berth/plugin.h"

#define CONF_FILE_LIMIT (1u << 20) /* bytes of one configuration file */
#define CONF_FILES_LIMIT 1024      /* files looked at in the directory */
#define PLUGINS_LIMIT 32           /* of one network */
#define RESULT_LIMIT (1u << 20)    /* bytes of a plugin's answer */
#define IPS_LIMIT 64               /* addresses of one attachment */
#define BIN_DIRS_LIMIT 16
#define RECORD_LIMIT (8u << 20) /* bytes of a kept attachment */
#define MESSAGE_LIMIT 1024      /* of a plugin's error text in ours */

enum cni_version { V010, V020, V030, V031, V040, V100, V110, V_NONE };
enum cni_version version_parse(const char *s); /* V_NONE where it is not known */
const char *version_name(enum cni_version v);

/* A network as configured: {"name","cniVersion","plugins":[...],"disableCheck","disableGC"}; a
 * .conf file's single plugin becomes a list of one. */
struct network {
	json_t *list;
	enum cni_version version;
	char *file;
};

struct cni {
	const struct berth_host *host;
	char *conf_dir, *want; /* want: the name of the network to use, or NULL */
	char *bin_dirs[BIN_DIRS_LIMIT + 1];
	char *path; /* CNI_PATH */
	int records_fd;

	pthread_mutex_t lock;
	struct network net; /* list NULL: none */
	char *why;          /* where there is none */
	struct recent *recent;
	json_t *gc_failed; /* ids that gc() could not release: the others come first */

	/* Read by who attaches or detaches, written by GC: the specification has them apart. */
	pthread_rwlock_t changing;

	int inotify_fd;
	struct berth_watch *watch;
	uint32_t found; /* of the network's plugins, a bit each; the watch's own */
};

/* conf.c: reads the directory; takes the lock itself. Returns true where the network changed. */
bool conf_reload(struct cni *c);
/* A copy of the network of the moment; false with `why` in *ret_why (the caller frees either). */
bool conf_get(struct cni *c, struct network *ret, char **ret_why);
void network_finish(struct network *n);
/* Checks a list and its version; NULL, or what is wrong with it (the caller frees). */
char *network_check(json_t *list, enum cni_version *ret);

/* watch.c */
berth_status watch_start(struct cni *c, struct berth_op *op);
void watch_stop(struct cni *c);

/* result.c */
/* The addresses in a result of any version, without their prefix length; NULL-terminated, to be
 * freed with ips_free(). NULL where the result cannot be read, with the reason in *why. */
char **result_ips(const json_t *result, size_t *ret_n, const char **why);
void ips_free(char **ips);

/* record.c: an attachment that is, was, or was about to be */
struct record {
	json_t *json; /* owned: v, sandbox_id, ifname, netns, args, caps, network, result */
};
int record_open_dir(struct cni *c);
/* Returns a negative errno; -ENOENT where there is none, -EINVAL where it cannot be read. */
int record_load(struct cni *c, const char *sandbox_id, const char *ifname, struct record *ret);
int record_save(struct cni *c, const struct record *r);
int record_remove(struct cni *c, const char *sandbox_id, const char *ifname);
void record_finish(struct record *r);
const char *record_str(const struct record *r, const char *key); /* "" where it is absent */
/* Calls fn for each. What cannot be read is reported by its file name and left alone. */
void record_each(
        struct cni *c, struct berth_op *op, void (*fn)(struct record *r, void *arg), void *arg);
int record_name(const char *sandbox_id, const char *ifname, char *out, size_t size);

/* exec.c */
struct call {
	const char *command; /* "ADD" */
	const char *sandbox_id, *netns, *ifname, *args;
	const json_t *caps;  /* object or NULL */
	const json_t *prev;  /* prevResult, or NULL */
	const json_t *extra; /* more keys for the configuration, or NULL */
};
/* Runs one plugin of the list. With *ret_result (may be NULL) its answer must be a JSON object;
 * borrowed by the caller as a new reference. */
berth_status plugin_run(struct cni *c, struct berth_op *op, const struct network *n, size_t i,
        const struct call *call, json_t **ret_result);
char *plugin_find(const struct cni *c, const char *type); /* the caller frees; NULL: nowhere */
size_t network_size(const struct network *n);
const char *plugin_type(const struct network *n, size_t i);

/* ops.c */
extern const struct berth_network_ops cni_ops;

/* args.c */
bool call_args(
        const struct berth_net_args *a, char *out, size_t size); /* false: not to be passed on */
berth_status call_caps(
        struct cni *c, struct berth_op *op, const struct berth_net_args *a, json_t *caps);
void recent_add(struct cni *c, const char *id); /* gc() spares it for some minutes */
bool recent_has(struct cni *c, const char *id);
void recent_free(struct cni *c);

#endif
