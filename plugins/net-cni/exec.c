/* One execution of a CNI plugin: its configuration on stdin, the rest in the environment, its
 * answer on stdout. */
#include "cni.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "berth/util.h"

#define ENV_MAX 10

size_t network_size(const struct network *n)
{
	return json_array_size(json_object_get(n->list, "plugins"));
}

static const json_t *plugin_at(const struct network *n, size_t i)
{
	return json_array_get(json_object_get(n->list, "plugins"), i);
}

const char *plugin_type(const struct network *n, size_t i)
{
	return json_string_value(json_object_get(plugin_at(n, i), "type"));
}

char *plugin_find(const struct cni *c, const char *type)
{
	struct stat st;
	char *path;

	for (size_t i = 0; c->bin_dirs[i]; i++) {
		if (asprintf(&path, "%s/%s", c->bin_dirs[i], type) < 0)
			return NULL;
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0)
			return path;
		free(path);
	}
	return NULL;
}

/* A capability's argument goes only to a plugin that declares the capability. */
static json_t *runtime_config(const json_t *plugin, const json_t *caps)
{
	const json_t *declared = json_object_get(plugin, "capabilities");
	json_t *config = json_object();
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)caps, key, value)
		if (json_is_true(json_object_get(declared, key)))
			json_object_set_new(config, key, json_deep_copy(value));
	return config;
}

static char *plugin_conf(const struct network *n, size_t i, const struct call *call)
{
	const json_t *plugin = plugin_at(n, i);
	json_t *conf = json_deep_copy(plugin), *runtime = runtime_config(plugin, call->caps);

	json_object_del(conf, "capabilities");
	json_object_set_new(conf, "name", json_deep_copy(json_object_get(n->list, "name")));
	json_object_set_new(conf, "cniVersion", json_string(version_name(n->version)));
	if (json_object_size(runtime) > 0)
		json_object_set(conf, "runtimeConfig", runtime);
	json_decref(runtime);
	if (call->prev)
		json_object_set_new(conf, "prevResult", json_deep_copy(call->prev));
	if (call->extra)
		json_object_update(conf, (json_t *)(uintptr_t)call->extra);
	char *text = json_dumps(conf, JSON_COMPACT);
	json_decref(conf);
	return text;
}

static void add_env(struct cni *c, struct berth_op *op, const char **env, size_t *n,
        const char *key, const char *value)
{
	if (!value)
		return;
	size_t len = strlen(key) + strlen(value) + 2;
	char *s = c->host->op_alloc(op, len);
	snprintf(s, len, "%s=%s", key, value);
	env[(*n)++] = s;
}

#define CODE_UNKNOWN_CONTAINER 3

/* The codes that the CNI specification gives a meaning. */
static berth_status status_of(json_int_t code)
{
	switch (code) {
	case 1: /* version not supported */
	case 2: /* a field of the configuration not supported */
	case 4: /* environment */
	case 7: /* invalid configuration */
		return BERTH_E_PRECONDITION;
	case CODE_UNKNOWN_CONTAINER:
		return BERTH_E_NOT_FOUND;
	default:
		return BERTH_E_UNAVAILABLE;
	}
}

/* What a plugin says may hold anything: one line of it is enough. */
static void clean(char *s)
{
	size_t n = strlen(s);

	while (n > 0 && (s[n - 1] == '\n' || s[n - 1] == ' '))
		s[--n] = '\0';
	for (; *s; s++)
		if ((unsigned char)*s < 0x20)
			*s = ' ';
}

static berth_status tell_failure(struct cni *c, struct berth_op *op, const char *type,
        const struct call *call, const struct berth_run_result *r)
{
	json_t *j = json_loadb(r->out, r->out_len, 0, NULL);
	const char *msg = json_string_value(json_object_get(j, "msg"));
	const char *details = json_string_value(json_object_get(j, "details"));
	json_int_t code = json_integer_value(json_object_get(j, "code"));
	char text[MESSAGE_LIMIT];

	if (msg && details && *details)
		snprintf(text, sizeof(text), "%s: %s", msg, details);
	else if (msg)
		snprintf(text, sizeof(text), "%s", msg);
	else if (r->err_len > 0)
		snprintf(text, sizeof(text), "%s", r->err);
	else if (r->out_len > 0)
		snprintf(text, sizeof(text), "%s", r->out);
	else
		snprintf(text, sizeof(text), "it said nothing");
	clean(text);
	json_decref(j);
	/* The specification: then there is nothing to clean up. */
	if (code == CODE_UNKNOWN_CONTAINER && strcmp(call->command, "DEL") == 0)
		return BERTH_OK;
	errno = 0;
	if (WIFSIGNALED(r->wait_status))
		return berth_fail(c->host, op, BERTH_E_UNAVAILABLE,
		        "network plugin '%s' was ended by signal %d in %s: %s", type,
		        WTERMSIG(r->wait_status), call->command, text);
	return berth_fail(c->host, op, msg ? status_of(code) : BERTH_E_UNAVAILABLE,
	        "network plugin '%s' failed in %s (%s %d): %s", type, call->command,
	        msg ? "code" : "exit status", msg ? (int)code : WEXITSTATUS(r->wait_status), text);
}

berth_status plugin_run(struct cni *c, struct berth_op *op, const struct network *n, size_t i,
        const struct call *call, json_t **ret_result)
{
	const char *type = plugin_type(n, i), *env[ENV_MAX + 1] = {0};
	char *path = plugin_find(c, type);
	size_t n_env = 0;

	errno = 0;
	if (!path)
		return berth_fail(c->host, op, BERTH_E_PRECONDITION,
		        "network plugin '%s' not found in %s", type, c->path);
	char *conf = plugin_conf(n, i, call);
	if (!conf) {
		free(path);
		return berth_fail(c->host, op, BERTH_E_EXHAUSTED,
		        "network plugin '%s': no memory for its configuration", type);
	}
	add_env(c, op, env, &n_env, "PATH",
	        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	add_env(c, op, env, &n_env, "CNI_COMMAND", call->command);
	add_env(c, op, env, &n_env, "CNI_CONTAINERID", call->sandbox_id);
	add_env(c, op, env, &n_env, "CNI_NETNS", call->netns);
	add_env(c, op, env, &n_env, "CNI_IFNAME", call->ifname);
	add_env(c, op, env, &n_env, "CNI_ARGS", call->args);
	add_env(c, op, env, &n_env, "CNI_PATH", c->path);
	const char *const argv[] = {path, NULL};
	const struct berth_run run = {.size = sizeof(run),
	        .argv = argv,
	        .envp = env,
	        .in = conf,
	        .in_len = strlen(conf),
	        .out_max = RESULT_LIMIT,
	        .term_grace_ms = 2000};
	struct berth_run_result r = {.size = sizeof(r)};
	berth_status st = c->host->run(op, &run, &r);
	free(conf);
	free(path);
	if (st != BERTH_OK)
		return st;
	if (!WIFEXITED(r.wait_status) || WEXITSTATUS(r.wait_status) != 0)
		return tell_failure(c, op, type, call, &r);
	if (!ret_result)
		return BERTH_OK;
	json_error_t e;
	*ret_result = json_loadb(r.out, r.out_len, JSON_REJECT_DUPLICATES, &e);
	errno = 0;
	if (!*ret_result)
		return berth_fail(c->host, op, BERTH_E_UNAVAILABLE,
		        "network plugin '%s' gave no JSON in %s: line %d: %s", type, call->command,
		        e.line, e.text);
	if (!json_is_object(*ret_result)) {
		json_decref(*ret_result);
		*ret_result = NULL;
		return berth_fail(c->host, op, BERTH_E_UNAVAILABLE,
		        "network plugin '%s' gave no JSON object in %s", type, call->command);
	}
	return BERTH_OK;
}
