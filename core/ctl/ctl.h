/* berthctl: a command line for people, over the CRI and, where it is there, berth.admin.v1.
 *
 * A command returns its exit status, or -1, which stands for CTL_FAILED, and may leave an error
 * that main() prints. Everything runs in one thread. */
#ifndef BERTH_CTL_CTL_H
#define BERTH_CTL_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "admin.pb-c.h"
#include "base/error.h"
#include "base/mem.h"
#include "cri.pb-c.h"
#include "grpc/client.h"

enum ctl_exit { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2, CTL_EXEC_FAILED = 125 };

enum ctl_option_type { CTL_FLAG, CTL_TEXT, CTL_LIST, CTL_NUMBER };
struct ctl_option {
	char letter; /* 0 = none */
	const char *name;
	enum ctl_option_type type;
	const char *value; /* its name in the help, NULL for flags */
	const char *help;
};

#define CTL_ENDPOINT "/run/berth/berth.sock"
#define CTL_OPTIONS_MAX 24

struct ctl;
struct ctl_command {
	const char *name; /* "image import" has two words */
	const char *arguments;
	const char *summary;
	const char *details;              /* more text of the help; may be NULL */
	bool options_first;               /* what follows the first argument belongs to a program */
	int min_args, max_args;           /* max -1 = any */
	const struct ctl_option *options; /* ends with a NULL name; may be NULL */
	int (*run)(struct ctl *c, struct berth_error **err);
};
extern const struct ctl_command ctl_commands[];

struct ctl_value {
	const struct ctl_option *option;
	bool set;
	char **texts;
	uint64_t number;
};

struct ctl {
	const char *endpoint;
	bool json;
	bool have_timeout;
	uint64_t timeout_ms;
	const struct ctl_command *command;
	struct ctl_value values[CTL_OPTIONS_MAX];
	char **args;
	int n_args;
	struct berth_arena *arena;
	struct berth_grpc_client *client; /* connected by the first call */
};

/* options.c: main's part of the line into `c`, then the command's. INVALID_ARGUMENT; *ret_help is
 * set where help is wanted, with the command if one was named. */
int ctl_parse(struct ctl *c, int argc, char **argv, bool *ret_help,
        struct berth_error **err) BERTH_MUST_CHECK;
void ctl_parse_finish(struct ctl *c);
bool ctl_flag(const struct ctl *c, const char *name);
const char *ctl_text(const struct ctl *c, const char *name); /* NULL = not given */
char *const *ctl_list(const struct ctl *c, const char *name);
uint64_t ctl_number(const struct ctl *c, const char *name, uint64_t otherwise);
/* complete.c: prints what may stand in place of the last word. Never fails. */
int ctl_complete(struct ctl *c, int n, char *const *words);
/* help.c */
void ctl_help(FILE *f, const struct ctl_command *command); /* NULL: the whole program */

/* call.c. A call of the CRI, "RuntimeService/Version"; timeout_ms 0 = none, and --timeout is
 * stronger. NULL with the error. */
void *ctl_call(struct ctl *c, const char *method, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, uint64_t timeout_ms, struct berth_error **err);
void *ctl_admin_call(struct ctl *c, const char *method, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, uint64_t timeout_ms, struct berth_error **err);
int ctl_connect(struct ctl *c, struct berth_error **err) BERTH_MUST_CHECK;
void ctl_free_message(void *message); /* NULL-safe */
#define CTL_SHORT_MS 30000            /* calls that are answered from memory or nearly so */
#define CTL_LONG_MS 300000            /* calls that start or remove something */
/* The full id of what a user calls `name`: its name, or the beginning of its id. NOT_FOUND, or
 * INVALID_ARGUMENT where there are several. In the arena. */
const char *ctl_find_container(struct ctl *c, const char *name, struct berth_error **err);
const char *ctl_find_pod(struct ctl *c, const char *name, struct berth_error **err);

/* json.c: messages as protobuf's JSON: camelCase, enums by name, 64-bit numbers as text. */
json_t *ctl_to_json(const ProtobufCMessage *m);
/* From JSON, with camelCase or the .proto's names, numbers as numbers or text. In the arena.
 * INVALID_ARGUMENT names the field. */
ProtobufCMessage *ctl_from_json(struct berth_arena *a, const ProtobufCMessageDescriptor *type,
        const json_t *j, struct berth_error **err);
/* A file in JSON or YAML. */
ProtobufCMessage *ctl_from_file(struct berth_arena *a, const ProtobufCMessageDescriptor *type,
        const char *path, struct berth_error **err);
void ctl_print_json(json_t *j); /* and frees it */
void ctl_print_message(const void *m);

/* format.c */
char *ctl_short_id(struct berth_arena *a, const char *id); /* 13 digits, without "sha256:" */
char *ctl_size(struct berth_arena *a, uint64_t bytes);     /* "12.3MB" */
char *ctl_age(struct berth_arena *a, int64_t created_ns, int64_t now_ns); /* "3 minutes ago" */
/* "registry/path:tag" or "@digest" into name and tag. */
void ctl_split_image(struct berth_arena *a, const char *ref, char **ret_name, char **ret_tag);
/* "8080:80", "127.0.0.1:8080:80/udp", "[::1]:53:53/udp". */
int ctl_parse_port(struct berth_arena *a, const char *s, Runtime__V1__PortMapping *ret,
        struct berth_error **err) BERTH_MUST_CHECK;
/* "/host:/container[:ro]" */
int ctl_parse_mount(struct berth_arena *a, const char *s, Runtime__V1__Mount *ret,
        struct berth_error **err) BERTH_MUST_CHECK;

/* table.c: columns as wide as their widest cell. Cells are kept as pointers until the print. */
struct ctl_table {
	size_t columns, n, cap;
	const char **cells;
};
void ctl_table_init(struct ctl_table *t, size_t columns, const char *const *heads);
void ctl_table_add(struct ctl_table *t, const char *const *cells);
void ctl_table_print(struct ctl_table *t, FILE *f); /* and empties it */

/* progress.c */
struct ctl_progress;
struct ctl_progress *ctl_progress_new(FILE *f, bool terminal);
void ctl_progress_show(struct ctl_progress *p, const Berth__Admin__V1__PullProgress *m);
struct ctl_progress *ctl_progress_free(struct ctl_progress *p);

/* logfile.c: a log in the form of the CRI. */
struct ctl_log_line {
	const char *time, *text;
	size_t time_len, text_len;
	bool is_stderr, partial;
};
int ctl_parse_log_line(const char *line, size_t len, struct ctl_log_line *ret); /* -EINVAL */
struct ctl_log_opts {
	bool follow, timestamps;
	uint64_t tail; /* UINT64_MAX = all */
	/* Asked while following at the end of the file; false ends it. */
	bool (*is_running)(void *arg);
	void *arg;
};
int ctl_print_log(
        const char *path, const struct ctl_log_opts *o, struct berth_error **err) BERTH_MUST_CHECK;

/* What commands share. */
int ctl_pull(struct ctl *c, const char *image, const char **ret_id,
        struct berth_error **err) BERTH_MUST_CHECK;
int ctl_stop_pod(struct ctl *c, const char *id, struct berth_error **err) BERTH_MUST_CHECK;
int ctl_remove_pod(struct ctl *c, const char *id, struct berth_error **err) BERTH_MUST_CHECK;
int ctl_follow_container(struct ctl *c, const char *id, const struct ctl_log_opts *o,
        struct berth_error **err) BERTH_MUST_CHECK;

/* exec over a stream: with -i or -t. */
int ctl_stream_exec(struct ctl *c, const char *id, struct berth_error **err) BERTH_MUST_CHECK;

#define CTL_COMMAND(name) int ctl_cmd_##name(struct ctl *c, struct berth_error **err)
CTL_COMMAND(attach);
CTL_COMMAND(exec);
CTL_COMMAND(image_export_store);
CTL_COMMAND(image_import);
CTL_COMMAND(images);
CTL_COMMAND(inspect);
CTL_COMMAND(inspecti);
CTL_COMMAND(inspectp);
CTL_COMMAND(logs);
CTL_COMMAND(plugins);
CTL_COMMAND(pods);
CTL_COMMAND(port_forward);
CTL_COMMAND(ps);
CTL_COMMAND(pull);
CTL_COMMAND(rm);
CTL_COMMAND(rmi);
CTL_COMMAND(rmp);
CTL_COMMAND(run);
CTL_COMMAND(start);
CTL_COMMAND(status);
CTL_COMMAND(stop);
CTL_COMMAND(storage_migrate);
CTL_COMMAND(stopp);
CTL_COMMAND(version);

#endif
