/* Any text as a registries.conf: it is refused, or what it makes of a reference is still a host and
 * a path. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pull/registries.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void resolve(const struct pull_registries *r, const char *text)
{
	struct pull_ref ref;
	struct pull_place_of *v = NULL;
	struct berth_error *err = NULL;
	size_t n = 0;

	if (pull_ref_parse(text, &ref, &err) < 0)
		abort();
	if (pull_registries_places(r, &ref, &v, &n, &err) < 0)
		berth_error_free(err); /* blocked */
	else if (n == 0 || v[n - 1].mirror)
		abort();
	for (size_t i = 0; i < n; i++)
		if (!*v[i].host || strchr(v[i].host, '/') || strstr(v[i].path, "..") ||
		        strpbrk(v[i].path, "?#% "))
			abort();
	pull_places_free(v, n);
	pull_ref_finish(&ref);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pull_registries *r = pull_registries_new();
	struct berth_error *err = NULL;

	if (pull_registries_add(r, "fuzz", (const char *)data, size, &err) < 0) {
		berth_error_free(err);
	} else {
		resolve(r, "docker.io/library/busybox:1");
		resolve(r, "a.b.example:5000/x/y:1");
		resolve(r, "quay.io/x@sha256:"
		           "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
	}
	pull_registries_free(r);
	return 0;
}
