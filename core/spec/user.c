/* Who the container's process is: the request over the image's USER, names resolved in the image.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/build.h"
#include "spec/passwd.h"

struct want {
	char *user, *group; /* names or numbers; NULL = not said */
};

struct files {
	char *passwd, *group;
	size_t passwd_len, group_len;
};

static void want_finish(struct want *w)
{
	free(w->user);
	free(w->group);
}

static void files_finish(struct files *f)
{
	free(f->passwd);
	free(f->group);
}

static int id_in_range(const char *field, int64_t id, struct berth_error **ret_err)
{
	if (id < 0 || id > INT32_MAX)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%s: %" PRId64 " is out of range", field, id);
	return 0;
}

static int find_wish(const struct spec_build *b, struct want *w, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sec = b->sec;
	const char *image_user = json_string_value(json_object_get(b->in->image_config, "user"));

	if (sec->run_as_user && spec_is_set(sec->run_as_username))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "run_as_user and run_as_username are both set");
	if (sec->run_as_group && !sec->run_as_user && !spec_is_set(sec->run_as_username))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "run_as_group is set without run_as_user or run_as_username");
	if (sec->run_as_user) {
		if (id_in_range("run_as_user", sec->run_as_user->value, ret_err) < 0)
			return -1;
		w->user = berth_asprintf("%" PRId64, sec->run_as_user->value);
	} else if (spec_is_set(sec->run_as_username)) {
		w->user = berth_strdup(sec->run_as_username);
	} else if (spec_is_set(image_user)) {
		const char *colon = strchr(image_user, ':');
		size_t n = colon ? (size_t)(colon - image_user) : strlen(image_user);
		w->user = n ? berth_strndup(image_user, n) : NULL;
		w->group = colon && colon[1] ? berth_strdup(colon + 1) : NULL;
	}
	if (sec->run_as_group) {
		if (id_in_range("run_as_group", sec->run_as_group->value, ret_err) < 0)
			return -1;
		w->group = berth_asprintf("%" PRId64, sec->run_as_group->value);
	}
	return 0;
}

static int cmp_gid(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static int resolve_groups(
        struct spec_build *b, const struct files *f, const char *name, struct berth_error **ret_err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sec = b->sec;
	bool merge =
	        sec->supplemental_groups_policy == RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Merge;
	_cleanup_free_ uint32_t *gids = NULL;
	size_t n = 0, own = sec->n_supplemental_groups;

	if (!merge &&
	        sec->supplemental_groups_policy != RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "supplemental_groups_policy: %d is unknown",
		        (int)sec->supplemental_groups_policy);
	if (own >= BERTH_LIMIT_SPEC_GROUPS ||
	        (merge && name &&
	                !berth_group_members(f->group, f->group_len, name,
	                        BERTH_LIMIT_SPEC_GROUPS - own - 1, &gids, &n)))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "supplemental_groups: more than %d groups", BERTH_LIMIT_SPEC_GROUPS);
	gids = berth_reallocarray(gids, n + own + 1, sizeof(*gids));
	for (size_t i = 0; i < own; i++) {
		if (id_in_range("supplemental_groups", sec->supplemental_groups[i], ret_err) < 0)
			return -1;
		gids[n++] = (uint32_t)sec->supplemental_groups[i];
	}
	gids[n++] = b->out->gid;
	qsort(gids, n, sizeof(*gids), cmp_gid);
	size_t kept = 1;
	for (size_t i = 1; i < n; i++)
		if (gids[i] != gids[kept - 1])
			gids[kept++] = gids[i];
	b->out->groups = berth_take(gids);
	b->out->n_groups = kept;
	return 0;
}

static int resolve(struct spec_build *b, const struct want *w, const struct files *f,
        struct berth_error **ret_err)
{
	struct berth_passwd_entry e = {0};
	const char *user = w->user ? w->user : "0";
	int64_t id = berth_parse_id(user, strlen(user)), gid = -1;
	/* A user may have a number for a name, but a number in a request means the number. */
	bool known = berth_passwd_find(
	        f->passwd, f->passwd_len, id < 0 ? user : NULL, id < 0 ? 0 : (uint32_t)id, &e);

	if (!known && id < 0)
		return berth_error_set(ret_err, BERTH_NOT_FOUND,
		        "user \"%.256s\": not in the image's /etc/passwd", user);
	b->out->uid = known ? e.uid : (uint32_t)id;
	b->out->gid = known ? e.gid : 0;
	if (w->group) {
		uint32_t found;
		gid = berth_parse_id(w->group, strlen(w->group));
		if (gid < 0 && !berth_group_find(f->group, f->group_len, w->group, &found)) {
			berth_passwd_entry_finish(&e);
			return berth_error_set(ret_err, BERTH_NOT_FOUND,
			        "group \"%.256s\": not in the image's /etc/group", w->group);
		}
		b->out->gid = gid < 0 ? found : (uint32_t)gid;
	}
	int r = resolve_groups(b, f, known ? e.name : NULL, ret_err);
	if (r == 0)
		b->home = berth_take(e.home);
	berth_passwd_entry_finish(&e);
	return r;
}

int spec_user(struct spec_build *b, struct berth_error **ret_err)
{
	_cleanup_(want_finish) struct want w = {0};
	_cleanup_(files_finish) struct files f = {0};

	if (find_wish(b, &w, ret_err) < 0 ||
	        berth_passwd_read(b->in->rootfs_fd, "/etc/passwd", BERTH_LIMIT_SPEC_PASSWD,
	                &f.passwd, &f.passwd_len, ret_err) < 0 ||
	        berth_passwd_read(b->in->rootfs_fd, "/etc/group", BERTH_LIMIT_SPEC_PASSWD, &f.group,
	                &f.group_len, ret_err) < 0 ||
	        resolve(b, &w, &f, ret_err) < 0)
		return -1;
	json_t *groups = json_array();
	for (size_t i = 0; i < b->out->n_groups; i++)
		json_array_append_new(groups, json_integer(b->out->groups[i]));
	json_object_set_new(b->process, "user",
	        json_pack("{s:I,s:I,s:o}", "uid", (json_int_t)b->out->uid, "gid",
	                (json_int_t)b->out->gid, "additionalGids", groups));
	return 0;
}
