#include "mount/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/mem.h"
#include "mount/mount.h"

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

static const struct {
	const char *name;
	uint64_t set, clr;
} attrs[] = {
        {"ro", MOUNT_ATTR_RDONLY, 0},
        {"rw", 0, MOUNT_ATTR_RDONLY},
        {"nosuid", MOUNT_ATTR_NOSUID, 0},
        {"suid", 0, MOUNT_ATTR_NOSUID},
        {"nodev", MOUNT_ATTR_NODEV, 0},
        {"dev", 0, MOUNT_ATTR_NODEV},
        {"noexec", MOUNT_ATTR_NOEXEC, 0},
        {"exec", 0, MOUNT_ATTR_NOEXEC},
        {"noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME},
        {"atime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
        {"relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
        {"strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
        {"nodiratime", MOUNT_ATTR_NODIRATIME, 0},
        {"diratime", 0, MOUNT_ATTR_NODIRATIME},
        {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0},
        {"symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW},
};

static const struct {
	const char *name;
	uint64_t flag;
} propagations[] = {
        {"private", MS_PRIVATE},
        {"shared", MS_SHARED},
        {"slave", MS_SLAVE},
        {"unbindable", MS_UNBINDABLE},
};

static bool take_attr(struct mount_plan *p, const char *o)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(attrs); i++) {
		if (strcmp(o, attrs[i].name) != 0)
			continue;
		/* A later option wins over an earlier one. */
		p->attr_set = (p->attr_set & ~attrs[i].clr) | attrs[i].set;
		p->attr_clr = (p->attr_clr & ~attrs[i].set) | attrs[i].clr;
		if (attrs[i].set == MOUNT_ATTR_RDONLY || attrs[i].clr == MOUNT_ATTR_RDONLY)
			p->super_ro = attrs[i].set == MOUNT_ATTR_RDONLY;
		return true;
	}
	return false;
}

static bool take_propagation(struct mount_plan *p, const char *o)
{
	bool rec = o[0] == 'r';

	for (size_t i = 0; i < BERTH_ARRAY_LEN(propagations); i++) {
		if (strcmp(o, propagations[i].name) != 0 &&
		        !(rec && strcmp(o + 1, propagations[i].name) == 0))
			continue;
		p->propagation = propagations[i].flag;
		p->propagation_rec = rec;
		return true;
	}
	return false;
}

static int too_many_lowers(struct berth_error **ret_err)
{
	return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
	        "an overlay has more than %d layers, and the kernel takes no more",
	        BERTH_LIMIT_OVERLAY_LAYERS);
}

/* lowerdir=A:B\:C:D is A, "B:C", D. An empty element (the kernel's "::" for data-only layers) is
 * refused. */
static int split_lowers(struct mount_plan *p, const char *list, struct berth_error **ret_err)
{
	struct berth_buf one = {0};
	size_t n = berth_strv_len(p->lowers);
	int r = 0;

	for (const char *s = list;; s++) {
		if (*s == ':' || *s == '\0') {
			if (one.len == 0) {
				r = berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
				        "overlay option 'lowerdir' has an empty path");
				break;
			}
			if (++n > BERTH_LIMIT_OVERLAY_LAYERS) {
				r = too_many_lowers(ret_err);
				break;
			}
			p->lowers = berth_strv_append(p->lowers, one.data);
			one.len = 0;
			if (*s == '\0')
				break;
			continue;
		}
		if (*s == '\\' && s[1] != '\0')
			s++;
		berth_buf_add(&one, s, 1);
	}
	berth_buf_finish(&one);
	return r;
}

static void add_param(struct mount_plan *p, const char *o)
{
	const char *eq = strchr(o, '=');

	p->params = berth_reallocarray(p->params, p->n_params + 1, sizeof(*p->params));
	struct mount_param *q = &p->params[p->n_params++];
	q->key = eq ? berth_strndup(o, (size_t)(eq - o)) : berth_strdup(o);
	q->value = eq ? berth_strdup(eq + 1) : NULL;
}

static int take_option(
        struct mount_plan *p, bool overlay, const char *o, struct berth_error **ret_err)
{
	if (!*o || strcmp(o, "defaults") == 0)
		return 0;
	if (strcmp(o, "bind") == 0 || strcmp(o, "rbind") == 0) {
		p->bind = true;
		p->rec = p->rec || o[0] == 'r';
		return 0;
	}
	if (take_attr(p, o) || take_propagation(p, o))
		return 0;
	if (overlay && strncmp(o, "lowerdir=", 9) == 0)
		return split_lowers(p, o + 9, ret_err);
	if (overlay && strncmp(o, "lowerdir+=", 10) == 0) {
		p->lowers = berth_strv_append(p->lowers, o + 10);
		return 0;
	}
	if (overlay && strncmp(o, "mount_program=", 14) == 0) {
		free(p->program);
		p->program = berth_strdup(o + 14);
		return 0;
	}
	add_param(p, o);
	return 0;
}

int mount_plan_init(struct mount_plan *p, const struct berth_mount *m, struct berth_error **ret_err)
{
	if (!m->type || !*m->type)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "a described mount has no type");
	bool overlay = strcmp(m->type, "overlay") == 0;
	p->bind = strcmp(m->type, "bind") == 0 || strcmp(m->type, "rbind") == 0;
	p->rec = p->bind && m->type[0] == 'r';
	for (size_t i = 0; m->options && m->options[i]; i++) {
		/* Overlay layers count by their own limit. */
		if (i >= BERTH_LIMIT_MOUNT_OPTIONS + (overlay ? BERTH_LIMIT_OVERLAY_LAYERS : 0))
			return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
			        "a mount of type '%s' has more than %zu options", m->type, i);
		if (take_option(p, overlay, m->options[i], ret_err) < 0)
			return -1;
	}
	if (berth_strv_len(p->lowers) > BERTH_LIMIT_OVERLAY_LAYERS)
		return too_many_lowers(ret_err);
	if (p->bind && p->n_params > 0)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "bind mount of '%s': unknown option '%s'", m->source ? m->source : "",
		        p->params[0].key);
	if (p->bind && !m->source)
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "a described bind mount has no source");
	return 0;
}

void mount_plan_label(struct mount_plan *p, const char *context)
{
	if (mount_plan_param(p, "context"))
		return;
	_cleanup_free_ char *option = berth_asprintf("context=%s", context);
	add_param(p, option);
}

void mount_plan_finish(struct mount_plan *p)
{
	for (size_t i = 0; i < p->n_params; i++) {
		free(p->params[i].key);
		free(p->params[i].value);
	}
	free(p->params);
	free(p->program);
	berth_strv_free(p->lowers);
	*p = (struct mount_plan){0};
}

const char *mount_plan_param(const struct mount_plan *p, const char *key)
{
	for (size_t i = 0; i < p->n_params; i++)
		if (strcmp(p->params[i].key, key) == 0)
			return p->params[i].value ? p->params[i].value : "";
	return NULL;
}
