/* The configuration: berth.yaml and its drop-ins, read once into typed values. One table (keys.c)
 * gives each key its type, default and text; loading, printing and the documentation follow it.
 * [any] */
#ifndef BERTH_CONFIG_CONFIG_H
#define BERTH_CONFIG_CONFIG_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "base/cgroup.h"
#include "base/error.h"
#include "base/log.h"

enum berth_tls_version { BERTH_TLS_1_2, BERTH_TLS_1_3 };

/* Every string is set ("" where a key may be empty); vectors are NULL-terminated or NULL. */
struct berth_config {
	char *file; /* what was read, for messages */
	char *root, *run;
	json_t *plugins; /* NAME -> object of the plugin's own keys */
	struct {
		char *driver;
		char **also;
		uint64_t size_limit; /* 0 = none */
	} storage;
	struct {
		char *plugin; /* "" = none: pods with the host's network alone */
	} network;
	struct {
		char *default_handler;
		json_t *handlers; /* NAME -> object with "plugin" and the plugin's keys */
	} runtimes;
	struct {
		char *registries, *policy;
		uint64_t parallel_layers;
		uint64_t parallel_downloads, parallel_per_registry;
		uint64_t partial_bytes; /* 0 = none is kept */
		char *import_dir;       /* "" = none */
		char **certs_dirs, **auth_files;
		char **pinned;
		char **additional_stores;
	} images;
	struct {
		char *listen; /* an absolute path */
		char *stream_address;
		uint64_t stream_port;                   /* 0 = any */
		char *stream_tls_cert, *stream_tls_key; /* both or none ("") */
		char *stream_tls_client_ca;
		int stream_tls_min_version; /* enum berth_tls_version */
		int cgroup_driver;          /* enum berth_cgroup_driver */
		char **cdi_spec_dirs;
		uint64_t max_receive_bytes, max_send_bytes;
	} cri;
	struct {
		char *listen; /* IP:PORT, [IP]:PORT, a path, or "" = none */
	} metrics;
	struct {
		int level; /* enum berth_log_level */
	} log;
};

/* Reads `path` and DIR(path)/berth.d/ *.yaml in the order of their names: maps are merged, all else
 * is replaced by the later file. `path` NULL: the compiled-in file, which may be missing. Mistakes
 * are INVALID_ARGUMENT with one line "FILE:LINE: what" for each of them, and a suggestion where a
 * key or value is near; a file that cannot be read has its errno's code. */
int berth_config_load(
        const char *path, struct berth_config **ret, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* The same from text alone, without drop-ins; `name` stands for the file in messages. */
int berth_config_parse(const char *name, const char *text, size_t len, struct berth_config **ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
struct berth_config *berth_config_free(struct berth_config *c); /* NULL-safe, returns NULL */
void berth_config_freep(struct berth_config **c);

/* The effective configuration as a YAML file with each key's text as a comment; it loads to the
 * same configuration. */
void berth_config_print(FILE *f, const struct berth_config *c);
/* The reference of all keys, as Markdown: docs/configuration.md. */
void berth_config_print_reference(FILE *f);

/* How many bytes a container of the handler may write into its own layer: its `size_limit`, else
 * storage.size_limit; 0 = any number. INVALID_ARGUMENT. */
int berth_config_size_limit(const struct berth_config *c, const char *handler, uint64_t *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* What an instance of a runtime handler is configured with: plugins.PLUGIN overlaid by the
 * handler's own keys, without "plugin", "storage" and "size_limit". A new reference; *ret_plugin is
 * valid as long as `c`. NULL where there is no such handler. */
json_t *berth_config_handler(
        const struct berth_config *c, const char *handler, const char **ret_plugin);

/* The storage driver of a runtime handler; valid as long as `c`. */
const char *berth_config_storage(const struct berth_config *c, const char *handler);

#endif
