/* Sizes, and programs. */
#include "devmapper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "berth/util.h"

#define ARGS_MAX 64
#define GRACE_MS 2000

bool parse_size(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno)
		return false;
	const char *unit = *end ? strchr(units, *end) : NULL;
	for (const char *u = units; unit && u <= unit; u++) {
		if (n > UINT64_MAX / 1024)
			return false;
		n *= 1024;
	}
	if (unit)
		end++;
	if (unit && end[0] == 'i' && end[1] == 'B')
		end += 2;
	*ret = n;
	return !*end;
}

static const char *find_tool(struct store *st, struct berth_op *op, const char *name)
{
	static const char *const dirs[] = {
	        "/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"};

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		size_t n = strlen(dirs[i]) + strlen(name) + 2;
		char *path = st->host->op_alloc(op, n);
		snprintf(path, n, "%s/%s", dirs[i], name);
		if (access(path, X_OK) == 0)
			return path;
	}
	return NULL;
}

/* Its lines as one. */
static const char *words(struct store *st, struct berth_op *op, const char *text)
{
	char *copy = berth_dup(st->host, op, text), *save = NULL;
	char *all = st->host->op_alloc(op, strlen(text) * 2 + 3), *end = all;

	for (char *l = strtok_r(copy, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		l += strspn(l, " \t\r");
		if (*l)
			end += sprintf(end, "%s%s", end == all ? "" : "; ", l);
	}
	return *all ? all : "it said nothing";
}

berth_status run_tool(struct store *st, struct berth_op *op, const char *what,
        const char *const *argv, const char **out)
{
	static const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
	const char *v[ARGS_MAX + 1] = {find_tool(st, op, argv[0])};
	struct berth_run_result res = {.size = sizeof(res)};
	const char *who = st->host->plugin_name;

	if (!v[0])
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: %s: the program %s is not installed", who, what, argv[0]);
	for (size_t i = 1; i < ARGS_MAX && argv[i]; i++)
		v[i] = argv[i];
	const struct berth_run run = {
	        .size = sizeof(run), .argv = v, .envp = env, .term_grace_ms = GRACE_MS};
	berth_status r = st->host->run(op, &run, &res);
	if (r != BERTH_OK)
		return r;
	if (!WIFEXITED(res.wait_status) || WEXITSTATUS(res.wait_status) != 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION, "%s: %s: %s: %.300s", who,
		        what, argv[0],
		        words(st, op,
		                res.err && *res.err ? res.err
		                : res.out           ? res.out
		                                    : ""));
	if (out)
		*out = res.out ? res.out : "";
	return BERTH_OK;
}
