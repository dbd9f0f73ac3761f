#include "spec/cpuset.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"

#define ONLINE_CPUS "/sys/devices/system/cpu/online"
#define ONLINE_MEMS "/sys/devices/system/node/online"

bool berth_cpuset_parse(const char *s, struct berth_cpuset *ret)
{
	if (ret)
		memset(ret, 0, sizeof(*ret));
	for (;; s++) {
		unsigned long first, last;
		char *end;

		if (!isdigit((unsigned char)*s))
			return false;
		first = last = strtoul(s, &end, 10);
		if (*end == '-') {
			if (!isdigit((unsigned char)end[1]))
				return false;
			last = strtoul(end + 1, &end, 10);
		}
		if (last < first || last > BERTH_LIMIT_CPU_NUMBER)
			return false;
		for (unsigned long n = first; ret && n <= last; n++)
			ret->bits[n / 64] |= UINT64_C(1) << n % 64;
		if (!*end)
			return true;
		if (*end != ',')
			return false;
		s = end;
	}
}

bool berth_cpuset_within(const struct berth_cpuset *part, const struct berth_cpuset *whole)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(part->bits); i++)
		if (part->bits[i] & ~whole->bits[i])
			return false;
	return true;
}

static char *without_newline(char *text)
{
	if (text)
		text[strcspn(text, "\n")] = '\0';
	return text;
}

/* What the cgroup `path` has in force; NULL where it says nothing. */
static char *effective(const struct berth_cg_source *s, const char *path, const char *kind)
{
	const struct berth_cg_source at = {.mount = s->mount, .path = path, .v2 = s->v2};
	_cleanup_free_ char *name =
	        berth_asprintf(s->v2 ? "cpuset.%s.effective" : "cpuset.effective_%s", kind);
	_cleanup_free_ char *plain = berth_asprintf("cpuset.%s", kind);
	_cleanup_free_ char *text = without_newline(berth_cg_text(&at, "cpuset", name));

	if (!text && !s->v2) /* a kernel of before Linux 3.17 */
		text = without_newline(berth_cg_text(&at, "cpuset", plain));
	return text && *text ? berth_take(text) : NULL;
}

static char *online(const char *kind)
{
	char *text = NULL;
	if (berth_read_file(AT_FDCWD, strcmp(kind, "cpus") == 0 ? ONLINE_CPUS : ONLINE_MEMS,
	            BERTH_KIB(64), &text, NULL) < 0)
		return NULL;
	return without_newline(text);
}

int berth_cpuset_check(const struct berth_cg_source *s, const char *kind, const char *wanted,
        struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_strdup(s->path), *has = NULL;
	_cleanup_free_ struct berth_cpuset *part = berth_new(struct berth_cpuset),
	                                   *whole = berth_new(struct berth_cpuset);
	char *slash;

	/* A cgroup without the controller, on version 2, has what is above it. */
	while (!has && (slash = strrchr(path, '/'))) {
		*slash = '\0';
		has = effective(s, path, kind);
	}
	bool above = has != NULL;
	if (!has && !(has = online(kind)))
		return 0; /* who cannot know cannot refuse: the kernel does */
	if (!berth_cpuset_parse(has, whole) || !berth_cpuset_parse(wanted, part) ||
	        berth_cpuset_within(part, whole))
		return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "resources.cpuset_%s: \"%.256s\" is not within \"%.256s\", which is what %s%s has",
	        kind, wanted, has, above ? "cgroup " : "this node",
	        !above  ? ""
	        : *path ? path
	                : "/");
}
