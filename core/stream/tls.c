/* Loads berth-tls.so. */
#include <dlfcn.h>

#include "base/error.h"
#include "base/mem.h"
#include "stream/tls_load.h"

const struct berth_tls_api *berth_tls_load(const char *dir, struct berth_error **ret_err)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, BERTH_TLS_MODULE);
	/* It stays: what it is asked for lives as long as the process. */
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct berth_tls_api *api = module ? dlsym(module, "berth_tls_api") : NULL;

	if (!api) {
		const char *why = dlerror();
		berth_error_set(ret_err, BERTH_FAILED_PRECONDITION, "TLS needs %s: %s", path,
		        why ? why : "it is no module of berth's");
		return NULL;
	}
	if (api->version != BERTH_TLS_API) {
		berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "%s is of another version of berth", path);
		return NULL;
	}
	return api;
}
