#include "spec/resources.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/build.h"
#include "spec/cpuset.h"

#define BERTH_LIMIT_UNIFIED 256
#define BERTH_LIMIT_HUGEPAGES 64
#define BERTH_LIMIT_RESOURCE_TEXT 4096
enum { OOM_MIN = -1000, OOM_MAX = 1000 };

/* 0 changes nothing; `none`, if it is not 0, is "no limit"; what the kernel takes is between. It is
 * asked before a runtime writes one value after the other, and is refused in the middle. */
struct number {
	const char *name;
	size_t offset;
	int64_t none, min, max;
	int64_t usual; /* what is in force where none was ever asked for */
};

#define NUMBER(member, none, low, high, usual)                                                    \
	{                                                                                         \
#member, offsetof(Runtime__V1__LinuxContainerResources, member), none, low, high, \
		        usual                                                                     \
	}
static const struct number numbers[] = {
        NUMBER(cpu_period, 0, 1000, 1000000, 100000),
        NUMBER(cpu_quota, -1, 1000, INT64_MAX / 1000, -1),
        NUMBER(cpu_shares, 0, 2, 262144, 1024),
        /* Below it no runtime lives to tell why. */
        NUMBER(memory_limit_in_bytes, -1, 512 << 10, INT64_MAX, -1),
        NUMBER(memory_swap_limit_in_bytes, -1, 1, INT64_MAX, -1),
        /* Out of the kernel's range is clamped, as a kubelet may ask for it. */
        NUMBER(oom_score_adj, 0, INT64_MIN, INT64_MAX, 0),
};

static int64_t *number_of(Runtime__V1__LinuxContainerResources *r, const struct number *n)
{
	return (int64_t *)(void *)((char *)r + n->offset);
}

static int64_t value_of(const Runtime__V1__LinuxContainerResources *r, const struct number *n)
{
	int64_t v;
	memcpy(&v, (const char *)r + n->offset, sizeof(v));
	return v;
}

static int merge_numbers(json_t *res, const Runtime__V1__LinuxContainerResources *change,
        struct berth_error **ret_err)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(numbers); i++) {
		int64_t v = value_of(change, &numbers[i]);
		if (v && v != numbers[i].none && (v < numbers[i].min || v > numbers[i].max))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "resources.%s: %" PRId64 " is not within %" PRId64 " and %" PRId64,
			        numbers[i].name, v, numbers[i].min, numbers[i].max);
		if (v)
			json_object_set_new(res, numbers[i].name, json_integer(v));
	}
	json_int_t limit = json_integer_value(json_object_get(res, "memory_limit_in_bytes")),
	           swap = json_integer_value(json_object_get(res, "memory_swap_limit_in_bytes"));
	if (limit > 0 && swap > 0 && swap < limit)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.memory_swap_limit_in_bytes: %lld is less than the memory limit "
		        "%lld",
		        (long long)swap, (long long)limit);
	return 0;
}

static int merge_cpuset(json_t *res, const char *key, const char *s, struct berth_error **ret_err)
{
	if (!spec_is_set(s))
		return 0;
	size_t n = strnlen(s, BERTH_LIMIT_RESOURCE_TEXT + 1);
	if (n > BERTH_LIMIT_RESOURCE_TEXT || !berth_cpuset_parse(s, NULL))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.%s: \"%.64s\" is no list of numbers and ranges", key, s);
	json_object_set_new(res, key, json_string(s));
	return 0;
}

/* As the kernel names them: of the largest unit that is not above. */
uint64_t berth_page_size(const char *s)
{
	static const struct {
		const char *unit;
		int shift;
	} units[] = {{"KB", 10}, {"MB", 20}, {"GB", 30}};
	size_t n = strspn(s, "0123456789");
	unsigned long long number = n && n < 5 && *s != '0' ? strtoull(s, NULL, 10) : 0;

	for (size_t i = 0; number < 1024 && i < BERTH_ARRAY_LEN(units); i++)
		if (strcmp(s + n, units[i].unit) == 0)
			return number << units[i].shift;
	return 0;
}

static json_t *find_hugepage(json_t *list, const char *page_size)
{
	json_t *v;
	size_t i;
	json_array_foreach (list, i, v) {
		if (strcmp(json_string_value(json_object_get(v, "page_size")), page_size) == 0)
			return v;
	}
	return NULL;
}

static int merge_hugepages(json_t *res, const Runtime__V1__LinuxContainerResources *change,
        struct berth_error **ret_err)
{
	json_t *list = json_object_get(res, "hugepage_limits");

	if (!change->n_hugepage_limits)
		return 0;
	if (change->n_hugepage_limits > BERTH_LIMIT_HUGEPAGES)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.hugepage_limits: more than %d", BERTH_LIMIT_HUGEPAGES);
	if (!list) {
		list = json_array();
		json_object_set_new(res, "hugepage_limits", list);
	}
	for (size_t i = 0; i < change->n_hugepage_limits; i++) {
		const Runtime__V1__HugepageLimit *h = change->hugepage_limits[i];
		uint64_t size = berth_page_size(h->page_size);
		if (!size)
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "resources.hugepage_limits[%zu]: page size \"%.16s\" is not like "
			        "\"2MB\"",
			        i, h->page_size);
		/* The kubelet's "no limit" has the top bit set; JSON ends below. Else it is the
		 * kernel that counts whole pages. */
		json_int_t limit = h->limit >= INT64_MAX ? INT64_MAX
		                                         : (json_int_t)(h->limit - h->limit % size);
		json_t *old = find_hugepage(list, h->page_size);
		if (old)
			json_object_set_new(old, "limit", json_integer(limit));
		else
			json_array_append_new(list,
			        json_pack("{s:s,s:I}", "page_size", h->page_size, "limit", limit));
	}
	return 0;
}

/* A file of the container's own cgroup: "CONTROLLER.NAME". */
static bool is_unified_name(const char *s)
{
	size_t n = strnlen(s, 129);
	return n && n < 129 && s[0] != '.' && strchr(s, '.') &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._") == n &&
	       !strstr(s, "..") && strncmp(s, "cgroup.", 7) != 0;
}

static int merge_unified(json_t *res, const Runtime__V1__LinuxContainerResources *change,
        struct berth_error **ret_err)
{
	json_t *o = json_object_get(res, "unified");

	if (!change->n_unified)
		return 0;
	if (change->n_unified > BERTH_LIMIT_UNIFIED)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.unified: more than %d", BERTH_LIMIT_UNIFIED);
	if (!o) {
		o = json_object();
		json_object_set_new(res, "unified", o);
	}
	for (size_t i = 0; i < change->n_unified; i++) {
		const char *key = change->unified[i]->key, *value = change->unified[i]->value;
		if (!is_unified_name(key))
			return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "resources.unified: \"%.64s\" is no file of a cgroup's controller",
			        key);
		if (spec_set(o, key, "resources.unified", value, BERTH_LIMIT_RESOURCE_TEXT,
		            ret_err) < 0)
			return -1;
	}
	if (json_object_size(o) > BERTH_LIMIT_UNIFIED)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.unified: more than %d", BERTH_LIMIT_UNIFIED);
	return 0;
}

int berth_resources_merge(const char *id, const json_t *have,
        const Runtime__V1__LinuxContainerResources *change, json_t **ret,
        struct berth_error **ret_err)
{
	json_t *res = json_is_object(have) ? json_deep_copy(have) : json_object();

	(void)id; /* the field says enough; the caller names the container once */
	if (change && (merge_numbers(res, change, ret_err) < 0 ||
	                      merge_cpuset(res, "cpuset_cpus", change->cpuset_cpus, ret_err) < 0 ||
	                      merge_cpuset(res, "cpuset_mems", change->cpuset_mems, ret_err) < 0 ||
	                      merge_hugepages(res, change, ret_err) < 0 ||
	                      merge_unified(res, change, ret_err) < 0)) {
		json_decref(res);
		return -1;
	}
	*ret = res;
	return 0;
}

void berth_resources_settle(json_t *res, const struct berth_spec_host *host)
{
	if (!host->hugetlb)
		json_object_del(res, "hugepage_limits");
	if (!host->swap_accounting)
		json_object_del(res, "memory_swap_limit_in_bytes");
	if (json_object_get(res, "oom_score_adj"))
		json_object_set_new(res, "oom_score_adj",
		        json_integer(berth_resources_oom_score_adj(res, host)));
}

static void copy(const json_t *res, const char *from, json_t *to, const char *key)
{
	json_t *v = json_object_get(res, from);
	if (v)
		json_object_set(to, key, v);
}

static void set_part(json_t *oci, const char *key, json_t *part)
{
	if (json_object_size(part))
		json_object_set(oci, key, part);
	json_decref(part);
}

int berth_resources_oci(const char *id, const json_t *res, const struct berth_spec_host *host,
        json_t **ret, struct berth_error **ret_err)
{
	json_t *unified = json_object_get(res, "unified"), *v;
	json_int_t swap = json_integer_value(json_object_get(res, "memory_swap_limit_in_bytes"));
	size_t i;

	(void)id;
	if (json_object_size(unified) && !host->cgroup_v2)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "resources.unified: this host's controllers are in cgroup v1");
	/* It is the limit of both together. */
	if (host->swap_accounting && swap > 0 &&
	        json_integer_value(json_object_get(res, "memory_limit_in_bytes")) <= 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "resources.memory_swap_limit_in_bytes: %lld without a memory limit",
		        (long long)swap);

	json_t *oci = json_object(), *cpu = json_object(), *memory = json_object();
	copy(res, "cpu_shares", cpu, "shares");
	copy(res, "cpu_quota", cpu, "quota");
	copy(res, "cpu_period", cpu, "period");
	copy(res, "cpuset_cpus", cpu, "cpus");
	copy(res, "cpuset_mems", cpu, "mems");
	set_part(oci, "cpu", cpu);

	copy(res, "memory_limit_in_bytes", memory, "limit");
	if (host->swap_accounting) {
		/* Without a word on swap there is none: the sum of both is the limit. */
		copy(res, "memory_limit_in_bytes", memory, "swap");
		copy(res, "memory_swap_limit_in_bytes", memory, "swap");
	}
	set_part(oci, "memory", memory);

	/* Without the controller nothing can be limited; a kubelet sends zeros for every size. */
	json_t *pages = host->hugetlb ? json_object_get(res, "hugepage_limits") : NULL;
	if (json_array_size(pages)) {
		json_t *list = json_array();
		json_array_foreach (pages, i, v) {
			json_array_append_new(list,
			        json_pack("{s:O,s:O}", "pageSize", json_object_get(v, "page_size"),
			                "limit", json_object_get(v, "limit")));
		}
		json_object_set_new(oci, "hugepageLimits", list);
	}
	if (json_object_size(unified))
		json_object_set(oci, "unified", unified);
	*ret = oci;
	return 0;
}

json_t *berth_resources_before(
        const json_t *have, const json_t *after, const struct berth_spec_host *host)
{
	json_t *res = have ? json_deep_copy(have) : json_object();

	for (size_t i = 0; i < BERTH_ARRAY_LEN(numbers); i++) {
		const struct number *n = &numbers[i];
		/* On v2 no number of shares is the usual weight with all runtimes. */
		bool shares =
		        n->offset == offsetof(Runtime__V1__LinuxContainerResources, cpu_shares);
		if (n->usual && json_object_get(after, n->name) && !json_object_get(res, n->name) &&
		        !(shares && host->cgroup_v2))
			json_object_set_new(res, n->name, json_integer(n->usual));
	}
	return res;
}

int berth_resources_oom_score_adj(const json_t *res, const struct berth_spec_host *host)
{
	json_int_t v = json_integer_value(json_object_get(res, "oom_score_adj"));

	if (v < OOM_MIN)
		v = OOM_MIN;
	if (v > OOM_MAX)
		v = OOM_MAX;
	/* The kernel lets nobody below what the last privileged writer set. */
	if (!host->can_lower_oom && v < host->oom_score_adj)
		v = host->oom_score_adj;
	return (int)v;
}

static char *arena_text(struct berth_arena *arena, const json_t *v)
{
	const char *s = json_string_value(v);
	return berth_arena_strdup(arena, s ? s : "");
}

static void hugepages_to_cri(
        struct berth_arena *arena, const json_t *list, Runtime__V1__LinuxContainerResources *out)
{
	json_t *v;
	size_t i;

	if (!json_array_size(list))
		return;
	out->hugepage_limits =
	        berth_arena_alloc(arena, json_array_size(list) * sizeof(*out->hugepage_limits));
	json_array_foreach (list, i, v) {
		Runtime__V1__HugepageLimit *h = berth_arena_alloc(arena, sizeof(*h));
		runtime__v1__hugepage_limit__init(h);
		h->page_size = arena_text(arena, json_object_get(v, "page_size"));
		h->limit = (uint64_t)json_integer_value(json_object_get(v, "limit"));
		out->hugepage_limits[out->n_hugepage_limits++] = h;
	}
}

void berth_resources_to_cri(
        struct berth_arena *arena, const json_t *res, Runtime__V1__LinuxContainerResources *out)
{
	json_t *unified = json_object_get(res, "unified"), *v;
	const char *key;

	runtime__v1__linux_container_resources__init(out);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(numbers); i++)
		*number_of(out, &numbers[i]) =
		        json_integer_value(json_object_get(res, numbers[i].name));
	out->cpuset_cpus = arena_text(arena, json_object_get(res, "cpuset_cpus"));
	out->cpuset_mems = arena_text(arena, json_object_get(res, "cpuset_mems"));
	hugepages_to_cri(arena, json_object_get(res, "hugepage_limits"), out);
	if (!json_object_size(unified))
		return;
	out->unified = berth_arena_alloc(arena, json_object_size(unified) * sizeof(*out->unified));
	json_object_foreach (unified, key, v) {
		Runtime__V1__LinuxContainerResources__UnifiedEntry *e =
		        berth_arena_alloc(arena, sizeof(*e));
		runtime__v1__linux_container_resources__unified_entry__init(e);
		e->key = berth_arena_strdup(arena, key);
		e->value = arena_text(arena, v);
		out->unified[out->n_unified++] = e;
	}
}
