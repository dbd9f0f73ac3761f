/* The driver's keys. */
#include "overlay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/util.h"

static berth_status no_memory(struct store *st, struct berth_op *op)
{
	return berth_fail(st->host, op, BERTH_E_EXHAUSTED, "%s: no memory", st->host->plugin_name);
}

static berth_status wrong(struct store *st, struct berth_op *op, const char *what)
{
	return berth_fail(st->host, op, BERTH_E_INVALID, "%s: %s", st->host->plugin_name, what);
}

static berth_status read_extra(
        struct store *st, struct berth_op *op, const struct berth_conf *c, struct overlay *o)
{
	static const char *const ours[] = {"lowerdir", "upperdir", "workdir", "userxattr"};
	const char *extra = st->host->conf_str(c, "mount_options", NULL);

	if (!extra || !*extra)
		return BERTH_OK;
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (strstr(extra, ours[i]))
			return berth_fail(st->host, op, BERTH_E_INVALID,
			        "%s: mount_options '%s': '%s' is the driver's own",
			        st->host->plugin_name, extra, ours[i]);
	o->extra_options = strdup(extra);
	return o->extra_options ? (berth_status)BERTH_OK : no_memory(st, op);
}

static berth_status read_redirect(
        struct store *st, struct berth_op *op, const struct berth_conf *c, struct overlay *o)
{
	static const char *const known[] = {"redirect_dir=on", "redirect_dir=off",
	        "redirect_dir=follow", "redirect_dir=nofollow"};
	const char *how = st->host->conf_str(c, "redirect_dir", "");
	int32_t yaml =
	        st->host->conf_bool(c, "redirect_dir", -1); /* what it takes a bare "on" for */

	if (yaml >= 0)
		how = yaml ? "on" : "off";
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(how, known[i] + strlen("redirect_dir=")) == 0)
			o->redirect = known[i];
	if (*how && !o->redirect)
		return wrong(
		        st, op, "redirect_dir must be \"on\", \"off\", \"follow\" or \"nofollow\"");
	return BERTH_OK;
}

static berth_status read_metacopy(
        struct store *st, struct berth_op *op, const struct berth_conf *c, struct overlay *o)
{
	/* Unset is neither. */
	int32_t metacopy = st->host->conf_bool(c, "metacopy", -1);

	if (metacopy >= 0)
		o->metacopy = metacopy ? "metacopy=on" : "metacopy=off";
	bool on = metacopy > 0;
	if (on && o->redirect && strcmp(o->redirect, "redirect_dir=on") != 0 &&
	        strcmp(o->redirect, "redirect_dir=follow") != 0)
		return wrong(st, op, "metacopy needs redirect_dir \"on\" or \"follow\"");
	if (on && !o->redirect)
		o->redirect = "redirect_dir=on";
	if (o->userxattr && (on || (o->redirect && strcmp(o->redirect, "redirect_dir=on") == 0)))
		return wrong(
		        st, op, "with userxattr the kernel has neither metacopy nor redirect_dir");
	return BERTH_OK;
}

/* What serves mounts instead of the kernel, and has other abilities. */
static berth_status read_program(
        struct store *st, struct berth_op *op, const struct berth_conf *c, struct overlay *o)
{
	const char *path = st->host->conf_str(c, "mount_program", "");

	if (!*path)
		return BERTH_OK;
	if (*path != '/' || access(path, X_OK) < 0)
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: mount_program '%s' is not the absolute path of a program",
		        st->host->plugin_name, path);
	if (o->metacopy || o->redirect || o->userxattr)
		return wrong(st, op,
		        "metacopy, redirect_dir and userxattr are the kernel's, not of a "
		        "mount_program");
	if (strpbrk(st->root, ":,\\"))
		return berth_fail(st->host, op, BERTH_E_PRECONDITION,
		        "%s: a mount_program takes no ':', ',' or '\\' in the path of its "
		        "directories: '%s'",
		        st->host->plugin_name, st->root);
	if (asprintf(&o->program, "mount_program=%s", path) < 0)
		abort();
	st->features &= ~(uint64_t)BERTH_F_IDMAP;
	return BERTH_OK;
}

static berth_status read_mask(
        struct store *st, struct berth_op *op, const struct berth_conf *c, struct overlay *o)
{
	const char *text = st->host->conf_str(c, "force_mask", NULL);

	if (!text)
		return BERTH_OK;
	if (!mask_parse(text, &o->mask_mode))
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: force_mask '%s' is not \"shared\", \"private\" or an octal mode such "
		        "as "
		        "\"0755\" (in quotes)",
		        st->host->plugin_name, text);
	if (!o->program)
		return wrong(st, op,
		        "force_mask needs a mount_program that shows the true modes, such as "
		        "/usr/bin/fuse-overlayfs: the kernel's overlay does not");
	o->mask = &o->mask_mode;
	return BERTH_OK;
}

berth_status overlay_configure(struct store *st, struct berth_op *op, const struct berth_conf *c)
{
	struct overlay *o = st->self = calloc(1, sizeof(*o));

	if (!o)
		return no_memory(st, op);
	o->use_volatile = st->host->conf_bool(c, "volatile", 1) != 0;
	o->userxattr = st->host->conf_bool(c, "userxattr", 0) != 0;
	if (o->userxattr)
		st->features |= BERTH_F_XATTR_USER;
	int64_t first = st->host->conf_i64(c, "quota_first_project", FIRST_PROJECT);
	if (first < 1 || first > UINT32_MAX - 1000000)
		return berth_fail(st->host, op, BERTH_E_INVALID,
		        "%s: quota_first_project %lld is not within 1 and %u",
		        st->host->plugin_name, (long long)first, UINT32_MAX - 1000000);
	o->first_project = o->next_project = (uint32_t)first;
	berth_status r = read_redirect(st, op, c, o);
	berth_status r2 = read_metacopy(st, op, c, o);
	berth_status r3 = read_extra(st, op, c, o);
	berth_status r4 = read_program(st, op, c, o);
	berth_status r5 = r4 == BERTH_OK ? read_mask(st, op, c, o) : r4;
	return r != BERTH_OK ? r : r2 != BERTH_OK ? r2 : r3 != BERTH_OK ? r3 : r5;
}

void overlay_finish(struct store *st)
{
	struct overlay *o = st->self;

	if (o)
		free(o->extra_options);
	if (o)
		free(o->program);
	free(o);
}
