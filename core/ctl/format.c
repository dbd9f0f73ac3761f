#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

#define SHORT_ID 13

char *ctl_short_id(struct berth_arena *a, const char *id)
{
	if (strncmp(id, "sha256:", 7) == 0)
		id += 7;
	return berth_arena_printf(a, "%.*s", SHORT_ID, id);
}

char *ctl_size(struct berth_arena *a, uint64_t bytes)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
	double v = (double)bytes;
	size_t u = 0;
	while (v >= 999.5 && u + 1 < BERTH_ARRAY_LEN(units)) {
		v /= 1000;
		u++;
	}
	return berth_arena_printf(a, "%.*f%s",
	        u == 0 || v >= 99.95 ? 0
	        : v >= 9.995         ? 1
	                             : 2,
	        v, units[u]);
}

char *ctl_age(struct berth_arena *a, int64_t created_ns, int64_t now_ns)
{
	static const struct {
		int64_t seconds;
		const char *name;
	} units[] = {{31536000, "year"}, {2592000, "month"}, {604800, "week"}, {86400, "day"},
	        {3600, "hour"}, {60, "minute"}, {1, "second"}};
	if (created_ns <= 0)
		return berth_arena_strdup(a, "unknown");
	int64_t s = (now_ns - created_ns) / 1000000000;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(units); i++) {
		int64_t n = s / units[i].seconds;
		if (n >= 1)
			return berth_arena_printf(
			        a, "%lld %s%s ago", (long long)n, units[i].name, n == 1 ? "" : "s");
	}
	return berth_arena_strdup(a, "just now");
}

void ctl_split_image(struct berth_arena *a, const char *ref, char **ret_name, char **ret_tag)
{
	const char *at = strchr(ref, '@');
	const char *slash = strrchr(ref, '/');
	const char *colon = strrchr(ref, ':');
	const char *end = at ? at : colon && (!slash || colon > slash) ? colon : NULL;
	*ret_name = end ? berth_arena_printf(a, "%.*s", (int)(end - ref), ref)
	                : berth_arena_strdup(a, ref);
	*ret_tag = berth_arena_strdup(a, end ? end + 1 : "<none>");
}

static bool parse_port_number(const char *s, int32_t *ret)
{
	char *end = NULL;
	if (*s < '0' || *s > '9')
		return false;
	long v = strtol(s, &end, 10);
	if (*end || v < 1 || v > 65535)
		return false;
	*ret = (int32_t)v;
	return true;
}

static bool valid_ip(const char *s)
{
	unsigned char buf[16];
	return inet_pton(AF_INET, s, buf) == 1 || inet_pton(AF_INET6, s, buf) == 1;
}

int ctl_parse_port(struct berth_arena *a, const char *s, Runtime__V1__PortMapping *ret,
        struct berth_error **err)
{
	static const char *const protocols[] = {"tcp", "udp", "sctp"};
	char *text = berth_arena_strdup(a, s), *host = text, *ip = NULL;
	char *slash = strrchr(text, '/');
	bool good = true;

	runtime__v1__port_mapping__init(ret);
	if (slash) {
		size_t i = 0;
		*slash = '\0';
		while (i < BERTH_ARRAY_LEN(protocols) && strcmp(protocols[i], slash + 1) != 0)
			i++;
		good = i < BERTH_ARRAY_LEN(protocols);
		ret->protocol = (Runtime__V1__Protocol)i;
	}
	char *container = strrchr(text, ':');
	if (good && container) {
		*container++ = '\0';
		char *before = strrchr(text, ':');
		if (before) {
			*before = '\0';
			host = before + 1;
			ip = text;
			size_t n = strlen(ip);
			if (ip[0] == '[' && ip[n - 1] == ']') {
				ip[n - 1] = '\0';
				ip++;
			}
		}
		good = parse_port_number(host, &ret->host_port) &&
		       parse_port_number(container, &ret->container_port) && (!ip || valid_ip(ip));
	}
	if (!good || !container)
		return berth_error_set(err, BERTH_INVALID_ARGUMENT,
		        "port '%s' is not [IP:]HOST:CONTAINER[/tcp|udp|sctp]", s);
	if (ip)
		ret->host_ip = ip;
	return 0;
}

int ctl_parse_mount(
        struct berth_arena *a, const char *s, Runtime__V1__Mount *ret, struct berth_error **err)
{
	char *host = berth_arena_strdup(a, s);
	char *container = strchr(host, ':');
	char *mode = container ? strchr(container + 1, ':') : NULL;

	runtime__v1__mount__init(ret);
	if (container)
		*container++ = '\0';
	if (mode)
		*mode++ = '\0';
	if (!container || host[0] != '/' || container[0] != '/' ||
	        (mode && strcmp(mode, "ro") != 0 && strcmp(mode, "rw") != 0))
		return berth_error_set(
		        err, BERTH_INVALID_ARGUMENT, "mount '%s' is not /HOST:/CONTAINER[:ro]", s);
	ret->host_path = host;
	ret->container_path = container;
	ret->readonly = mode && strcmp(mode, "ro") == 0;
	return 0;
}
