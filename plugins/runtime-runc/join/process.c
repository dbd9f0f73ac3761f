/* What config.json says of a process, and what of it takes the node's rights. */
#include <cap-ng.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "join.h"

#define DEFAULT_UMASK 022

/* ---- reading ---- */

static char **read_strings(const json_t *list, const char *what)
{
	char **v = calloc(json_array_size(list) + 1, sizeof(*v));
	json_t *s;
	size_t i;

	json_array_foreach (list, i, s) {
		if (v && json_is_string(s))
			v[i] = (char *)(uintptr_t)json_string_value(s);
		else
			v = NULL;
		if (!v)
			break;
	}
	if (!v || !json_is_array(list)) {
		join_fail(0, "the process has no list of", what);
		return NULL;
	}
	return v;
}

/* As the runtimes have it: of entries of the same name the last one's value, at the first one's
 * place.
 */
static int unique_env(char **env)
{
	size_t n = 0;

	for (size_t i = 0; env[i]; i++) {
		size_t len = strcspn(env[i], "="), at = 0;
		if (!len || !env[i][len])
			return join_refuse("an environment with", env[i]);
		while (at < n && strncmp(env[at], env[i], len + 1) != 0)
			at++;
		env[at] = env[i];
		n += at == n;
	}
	env[n] = NULL;
	return 0;
}

static int read_caps(const json_t *caps, const char *set, uint64_t *ret)
{
	json_t *s;
	size_t i;

	json_array_foreach (json_object_get(caps, set), i, s) {
		const char *name = json_string_value(s);
		char small[64] = "";
		for (size_t n = 0; name && name[n] && n + 1 < sizeof(small); n++)
			small[n] = (char)tolower((unsigned char)name[n]);
		int cap = strncmp(small, "cap_", 4) == 0 ? capng_name_to_capability(small + 4) : -1;
		if (cap < 0 || cap > 63)
			return join_refuse("capability", name ? name : set);
		*ret |= UINT64_C(1) << cap;
	}
	return 0;
}

static int read_user(const json_t *user, struct join_process *p)
{
	const json_t *groups = json_object_get(user, "additionalGids"), *mask;
	json_t *v;
	size_t i;

	p->uid = (uid_t)json_integer_value(json_object_get(user, "uid"));
	p->gid = (gid_t)json_integer_value(json_object_get(user, "gid"));
	mask = json_object_get(user, "umask");
	p->umask = json_is_integer(mask) ? (mode_t)json_integer_value(mask) & 0777 : DEFAULT_UMASK;
	p->n_groups = json_array_size(groups);
	if (p->n_groups > JOIN_GROUPS_MAX)
		return join_fail(0, "the process has too many groups", NULL);
	p->groups = calloc(p->n_groups + 1, sizeof(*p->groups));
	if (!p->groups)
		return join_fail(ENOMEM, "groups", NULL);
	json_array_foreach (groups, i, v)
		p->groups[i] = (gid_t)json_integer_value(v);
	return 0;
}

int join_process_read(const json_t *process, struct join_process *p)
{
	const json_t *caps = json_object_get(process, "capabilities"),
	             *size = json_object_get(process, "consoleSize"),
	             *oom = json_object_get(process, "oomScoreAdj");

	if (!(p->argv = read_strings(json_object_get(process, "args"), "args")) || !p->argv[0] ||
	        !(p->env = read_strings(json_object_get(process, "env"), "env")) ||
	        unique_env(p->env) < 0 || read_user(json_object_get(process, "user"), p) < 0)
		return join_fail(0, "the process has nothing to run", NULL);
	p->cwd = json_string_value(json_object_get(process, "cwd"));
	p->apparmor = json_string_value(json_object_get(process, "apparmorProfile"));
	p->terminal = json_is_true(json_object_get(process, "terminal"));
	p->no_new_privs = json_is_true(json_object_get(process, "noNewPrivileges"));
	p->has_oom_score_adj = json_is_integer(oom);
	p->oom_score_adj = (int)json_integer_value(oom);
	p->width = (uint16_t)json_integer_value(json_object_get(size, "width"));
	p->height = (uint16_t)json_integer_value(json_object_get(size, "height"));
	p->rlimits = json_object_get(process, "rlimits");
	p->has_caps = caps != NULL;
	if (!p->cwd || p->cwd[0] != '/')
		return join_fail(0, "the process has no absolute cwd", NULL);
	return read_caps(caps, "bounding", &p->bounding) < 0 ||
	                       read_caps(caps, "effective", &p->effective) < 0 ||
	                       read_caps(caps, "permitted", &p->permitted) < 0 ||
	                       read_caps(caps, "inheritable", &p->inheritable) < 0 ||
	                       read_caps(caps, "ambient", &p->ambient) < 0
	               ? -1
	               : 0;
}

/* ---- limits and labels ---- */

static const struct {
	const char *name;
	int number;
} limits[] = {{"RLIMIT_AS", RLIMIT_AS}, {"RLIMIT_CORE", RLIMIT_CORE}, {"RLIMIT_CPU", RLIMIT_CPU},
        {"RLIMIT_DATA", RLIMIT_DATA}, {"RLIMIT_FSIZE", RLIMIT_FSIZE},
        {"RLIMIT_LOCKS", RLIMIT_LOCKS}, {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
        {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", RLIMIT_NICE},
        {"RLIMIT_NOFILE", RLIMIT_NOFILE}, {"RLIMIT_NPROC", RLIMIT_NPROC},
        {"RLIMIT_RSS", RLIMIT_RSS}, {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
        {"RLIMIT_RTTIME", RLIMIT_RTTIME}, {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
        {"RLIMIT_STACK", RLIMIT_STACK}};

static int limit_number(const char *name)
{
	for (size_t i = 0; name && i < sizeof(limits) / sizeof(limits[0]); i++)
		if (strcmp(limits[i].name, name) == 0)
			return limits[i].number;
	return -1;
}

/* RLIM_INFINITY is 2^64 - 1 in OCI, which is more than a JSON integer of ours. */
static rlim_t limit_value(const json_t *v)
{
	if (json_is_integer(v))
		return (rlim_t)json_integer_value(v);
	return json_real_value(v) >= 9.2e18 ? RLIM_INFINITY : (rlim_t)json_real_value(v);
}

static int read_limit(const json_t *v, const char **name, struct rlimit *ret)
{
	int number = limit_number(*name = json_string_value(json_object_get(v, "type")));

	*ret = (struct rlimit){.rlim_cur = limit_value(json_object_get(v, "soft")),
	        .rlim_max = limit_value(json_object_get(v, "hard"))};
	return number < 0 ? join_refuse("limit", *name) : number;
}

/* Only upwards: a small one could keep this process from what it still has to do, and downwards the
 * child needs no right. */
static int prepare_limits(const struct join_process *p)
{
	json_t *v;
	size_t i;

	json_array_foreach (p->rlimits, i, v) {
		const char *name;
		struct rlimit want, now;
		int number = read_limit(v, &name, &want);
		if (number < 0)
			return -1;
		if (getrlimit((__rlimit_resource_t)number, &now) < 0)
			return join_fail(errno, "its limit", name);
		if (want.rlim_max <= now.rlim_max)
			continue;
		now.rlim_max = want.rlim_max;
		if (setrlimit((__rlimit_resource_t)number, &now) < 0)
			return join_fail(errno, "raising a limit", name);
	}
	return 0;
}

int join_process_limits(const struct join_process *p)
{
	json_t *v;
	size_t i;

	json_array_foreach (p->rlimits, i, v) {
		const char *name;
		struct rlimit want;
		int number = read_limit(v, &name, &want);
		if (number < 0)
			return -1;
		if (setrlimit((__rlimit_resource_t)number, &want) < 0)
			return join_fail(errno, "setting a limit", name);
	}
	return 0;
}

static int write_self(const char *name, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));
	int e = errno;
	if (fd >= 0)
		close(fd);
	return n < 0 ? join_fail(e, path, text) : 0;
}

/* A fork inherits them. Here, by the node's own /proc: in the container another file may lie there.
 */
static int prepare_labels(const struct join_process *p)
{
	char text[512];

	if (!p->apparmor || !*p->apparmor)
		return 0;
	if (snprintf(text, sizeof(text), "exec %s", p->apparmor) >= (int)sizeof(text))
		return join_refuse("the AppArmor profile", p->apparmor);
	return write_self(access("/proc/self/attr/apparmor/exec", F_OK) == 0 ? "attr/apparmor/exec"
	                                                                     : "attr/exec",
	        text);
}

int join_process_prepare(const struct join_process *p)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", p->oom_score_adj);
	return prepare_limits(p) < 0 || prepare_labels(p) < 0 ||
	                       (p->has_oom_score_adj && write_self("oom_score_adj", text) < 0)
	               ? -1
	               : 0;
}
