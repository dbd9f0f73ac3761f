/* An exec: a real process, beside the container rather than in it. */
#include "fake.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

#define ARGS_LIMIT 256

static const char *find_program(struct fake *f, struct berth_op *op, const char *name)
{
	static const char *const dirs[] = {"/bin", "/usr/bin", "/sbin", "/usr/sbin"};
	char path[4096];

	if (strchr(name, '/'))
		return berth_dup(f->host, op, name);
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		int n = snprintf(path, sizeof(path), "%s/%s", dirs[i], name);
		if (n > 0 && (size_t)n < sizeof(path) && access(path, X_OK) == 0)
			return berth_dup(f->host, op, path);
	}
	return NULL;
}

static const char **strings(struct fake *f, struct berth_op *op, const json_t *v)
{
	const char **out = f->host->op_alloc(op, (ARGS_LIMIT + 1) * sizeof(*out));
	size_t n = 0;

	for (size_t i = 0; i < json_array_size(v) && n < ARGS_LIMIT; i++)
		if (json_is_string(json_array_get(v, i)))
			out[n++] = berth_dup(f->host, op, json_string_value(json_array_get(v, i)));
	return out;
}

berth_status exec_process(struct fake *f, struct berth_op *op, const struct berth_ctr_args *a,
        struct berth_stdio *stdio)
{
	json_t *process = json_loads(a->json ? a->json : "", 0, NULL);
	const char **argv = strings(f, op, json_object_get(process, "args")),
	           **env = strings(f, op, json_object_get(process, "env"));
	json_decref(process);
	if (!argv[0])
		return berth_fail(f->host, op, BERTH_E_INVALID, "exec in '%s': no command", a->id);
	const char *program = find_program(f, op, argv[0]);
	if (!program || access(program, X_OK) < 0)
		return berth_fail(f->host, op, BERTH_E_NOT_FOUND, "exec in '%s': '%s' is not there",
		        a->id, argv[0]);
	argv[0] = program;
	const struct berth_run run = {.size = sizeof(run),
	        .flags = (a->flags & BERTH_IO_TTY ? BERTH_RUN_F_TTY : 0u) |
	                 (a->flags & BERTH_IO_STDIN ? BERTH_RUN_F_STDIN : 0u),
	        .argv = argv,
	        .envp = env[0] ? env : NULL};
	return f->host->spawn(op, &run, a->id, a->exec_id, stdio);
}
