/* A seccomp profile that the node's administrator wrote. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "security/profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const berth_capset sets[] = {0, UINT64_MAX};

	for (size_t i = 0; i < 2; i++) {
		struct berth_error *err = NULL;
		json_t *p = NULL, *again = NULL;
		if (berth_seccomp_parse("p", (const char *)data, size, sets[i], &p, &err) < 0) {
			if (err->code != BERTH_INVALID_ARGUMENT || p)
				abort();
			berth_error_free(err);
			continue;
		}
		/* What comes out is a profile itself, and stays as it is. */
		char *text = json_dumps(p, JSON_COMPACT);
		if (!text ||
		        berth_seccomp_parse("p", text, strlen(text), sets[i], &again, &err) < 0 ||
		        !json_equal(p, again))
			abort();
		free(text);
		json_decref(again);
		json_decref(p);
	}
	return 0;
}
