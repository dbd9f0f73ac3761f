/* How much a container may write into its own layer. */
#include <errno.h>
#include <string.h>

#include "base/size.h"
#include "container/container.h"

#define OF_POD "berth.io/size-limit"  /* annotation of a pod: for each of its containers */
#define OF_ONE "size-limit.berth.io/" /* and the name of a container: for that one */

static const char *wanted(const struct berth_container *c, const char **ret_key)
{
	const Runtime__V1__PodSandboxConfig *p = c->pod->config;
	const char *name = c->config->metadata ? c->config->metadata->name : "";
	const char *all = NULL;

	for (size_t i = 0; i < p->n_annotations; i++) {
		const char *key = p->annotations[i]->key;
		if (strncmp(key, OF_ONE, strlen(OF_ONE)) == 0 &&
		        strcmp(key + strlen(OF_ONE), name) == 0) {
			*ret_key = key;
			return p->annotations[i]->value;
		}
		if (strcmp(key, OF_POD) == 0) {
			*ret_key = key;
			all = p->annotations[i]->value;
		}
	}
	return all;
}

int berth_container_size_limit(
        const struct berth_container *c, uint64_t *ret, struct berth_error **ret_err)
{
	uint64_t most = c->pod->handler->size_limit, limit = most;
	const char *key = NULL, *text = wanted(c, &key);

	if (text && (berth_size_parse(text, &limit) < 0 || limit == 0))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "annotation %s: '%.40s' is no size such as 10Gi", key, text);
	if (most && limit > most)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "annotation %s: %s is more than this node allows, %llu bytes", key, text,
		        (unsigned long long)most);
	if (limit && !(berth_instance_features(c->storage) & BERTH_F_QUOTA))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "its size cannot be limited to %llu bytes: the storage driver %s has no "
		        "quota: %s",
		        (unsigned long long)limit, berth_instance_name(c->storage),
		        berth_instance_no_quota(c->storage));
	*ret = limit;
	return 0;
}
