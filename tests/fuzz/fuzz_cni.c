/* CNI results and network configurations: the same JSON is read as both. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "cni.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void result(const json_t *j)
{
	const char *why = NULL;
	size_t n = 0;
	char **ips = result_ips(j, &n, &why);
	unsigned char bin[16];

	if (!ips) {
		if (!why || !*why)
			abort();
		return;
	}
	if (n > IPS_LIMIT || ips[n])
		abort();
	for (size_t i = 0; i < n; i++)
		if (inet_pton(AF_INET, ips[i], bin) != 1 && inet_pton(AF_INET6, ips[i], bin) != 1)
			abort();
	ips_free(ips);
}

static void network(json_t *j)
{
	enum cni_version v = V_NONE;
	char *why = network_check(j, &v);

	if (!why && (v == V_NONE || !version_name(v)))
		abort();
	/* What was accepted names files: of plugins by their type, of their state by the name. */
	const json_t *plugins = json_object_get(j, "plugins");
	for (size_t i = 0; !why && i < json_array_size(plugins); i++) {
		const char *type =
		        json_string_value(json_object_get(json_array_get(plugins, i), "type"));
		if (!type || !*type || strchr(type, '/') || strcmp(type, "..") == 0)
			abort();
	}
	const char *name = json_string_value(json_object_get(j, "name"));
	if (!why && (!name || !*name || strchr(name, '/') || name[0] == '.'))
		abort();
	free(why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *j = json_loadb(
	        (const char *)data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);

	if (!j)
		return 0;
	result(j);
	network(j);
	json_decref(j);
	return 0;
}
