#include "cni.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

struct ips {
	char **v;
	size_t n;
	const char *why;
};

/* "10.88.0.5/16" or "fd00::5/64"; an address that is none is not handed on to anyone. */
static bool add_ip(struct ips *ips, const json_t *address)
{
	const char *text = json_string_value(address);
	unsigned char bin[16];
	char ip[INET6_ADDRSTRLEN];

	if (!text) {
		ips->why = "an address is not a string";
		return false;
	}
	size_t n = strcspn(text, "/");
	if (n >= sizeof(ip)) {
		ips->why = "an address is too long";
		return false;
	}
	memcpy(ip, text, n);
	ip[n] = '\0';
	if (inet_pton(AF_INET, ip, bin) != 1 && inet_pton(AF_INET6, ip, bin) != 1) {
		ips->why = "an address is neither IPv4 nor IPv6";
		return false;
	}
	if (ips->n == IPS_LIMIT) {
		ips->why = "there are too many addresses";
		return false;
	}
	ips->v[ips->n] = strdup(ip);
	if (!ips->v[ips->n]) {
		ips->why = "no memory";
		return false;
	}
	ips->n++;
	return true;
}

/* An address on a host-side interface (the bridge's own) is not the pod's. */
static bool is_pods(const json_t *result, const json_t *entry)
{
	const json_t *index = json_object_get(entry, "interface");
	const json_t *all = json_object_get(result, "interfaces");

	if (!json_is_integer(index) || !json_is_array(all))
		return true;
	json_int_t i = json_integer_value(index);
	if (i < 0 || (size_t)i >= json_array_size(all))
		return true;
	const char *sandbox =
	        json_string_value(json_object_get(json_array_get(all, (size_t)i), "sandbox"));
	return sandbox && *sandbox;
}

/* Until 0.2.0: {"ip4": {"ip": ...}, "ip6": {"ip": ...}} */
static bool old_form(struct ips *ips, const json_t *result)
{
	static const char *const families[] = {"ip4", "ip6"};

	for (size_t i = 0; i < 2; i++) {
		const json_t *family = json_object_get(result, families[i]);
		if (json_is_object(family) && !add_ip(ips, json_object_get(family, "ip")))
			return false;
	}
	return true;
}

static bool new_form(struct ips *ips, const json_t *result, const json_t *list)
{
	size_t i;
	const json_t *entry;

	for (i = 0; i < json_array_size(list) && (entry = json_array_get(list, i)); i++) {
		if (!json_is_object(entry)) {
			ips->why = "an entry of 'ips' is not an object";
			return false;
		}
		if (is_pods(result, entry) && !add_ip(ips, json_object_get(entry, "address")))
			return false;
	}
	return true;
}

char **result_ips(const json_t *result, size_t *ret_n, const char **why)
{
	struct ips ips = {.v = calloc(IPS_LIMIT + 1, sizeof(char *))};
	const json_t *list = json_object_get(result, "ips");
	bool ok = false;

	if (!ips.v)
		ips.why = "no memory";
	else if (!json_is_object(result))
		ips.why = "it is not an object";
	else if (list && !json_is_null(list) && !json_is_array(list))
		ips.why = "'ips' is not a list";
	else if (list)
		ok = new_form(&ips, result, list);
	else
		ok = old_form(&ips, result);
	if (!ok) {
		*why = ips.why;
		ips_free(ips.v);
		return NULL;
	}
	*ret_n = ips.n;
	return ips.v;
}

void ips_free(char **ips)
{
	for (size_t i = 0; ips && ips[i]; i++)
		free(ips[i]);
	free(ips);
}
