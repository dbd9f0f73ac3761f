/* A CDI specification in both forms, and all that it wants put into a configuration. The host's
 * devices are only looked at. */
#include <stddef.h>
#include <stdint.h>

#include "spec/cdi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void all_of(const json_t *spec)
{
	json_t *config = json_pack("{s:{s:[s]}}", "process", "env", "PATH=/bin"), *d;
	json_t *edits = json_array();
	struct berth_error *err = NULL;
	size_t i;

	if (json_object_get(spec, "containerEdits"))
		json_array_append(edits, json_object_get(spec, "containerEdits"));
	json_array_foreach (json_object_get(spec, "devices"), i, d) {
		json_array_append(edits, json_object_get(d, "containerEdits"));
	}
	if (berth_cdi_apply(config, edits, &err) < 0)
		berth_error_free(err);
	json_decref(edits);
	json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"x.json", "x.yaml"};

	for (size_t i = 0; i < 2; i++) {
		struct berth_error *err = NULL;
		json_t *spec = berth_cdi_parse(names[i], (const char *)data, size, &err);
		if (spec)
			all_of(spec);
		json_decref(spec);
		berth_error_free(err);
	}
	return 0;
}
