#include "security/selinux.h"

#include <errno.h>
#include <fcntl.h>
#include <selinux/context.h>
#include <selinux/selinux.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

/* Of the package container-selinux. */
#define CONTAINERS_OWN "/usr/share/containers/selinux/contexts"
#define MOST_CATEGORIES 1024u /* what policies are built with */

static void context_freep(context_t *c)
{
	if (*c)
		context_free(*c);
}

/* ---- what the policy has ---- */

static int kernel_canonical(const char *context, char **ret)
{
	char *con = NULL;

	*ret = NULL;
	if (security_canonicalize_context_raw(context, &con) < 0)
		return -errno;
	*ret = berth_strdup(con);
	freecon(con);
	return 0;
}

static bool known(const struct berth_selinux *s, const char *context)
{
	_cleanup_free_ char *as_written = NULL;
	return s->canonical(context, &as_written) == 0;
}

/* Blanks around it and quotes go. */
static char *trim(char *text)
{
	static const char blank[] = " \t\r\"";
	text += strspn(text, blank);
	for (size_t n = strlen(text); n > 0 && strchr(blank, text[n - 1]); n--)
		text[n - 1] = '\0';
	return text;
}

static void read_contexts(char *text, char **process, char **file)
{
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *eq = strchr(line, '=');
		if (!eq)
			continue;
		*eq = '\0';
		char *key = trim(line), *value = trim(eq + 1);
		char **to = strcmp(key, "process") == 0 ? process
		            : strcmp(key, "file") == 0  ? file
		                                        : NULL;
		if (to && !*to && *value)
			*to = berth_strdup(value);
	}
}

/* A policy is free to have fewer, and none at all. */
static unsigned int count_categories(const struct berth_selinux *s)
{
	_cleanup_(context_freep) context_t c = context_new(s->process);

	if (!c || !context_range_get(c))
		return 0;
	for (unsigned int n = MOST_CATEGORIES; n >= 2; n /= 2) {
		const struct berth_mcs last = {n - 2, n - 1};
		_cleanup_free_ char *level = berth_mcs_level(&last, s->process);
		if (context_range_set(c, level) == 0 && known(s, context_str(c)))
			return n;
	}
	return 0;
}

void berth_selinux_read(struct berth_selinux *s, const char *path)
{
	_cleanup_free_ char *text = NULL, *process = NULL, *file = NULL;
	int r = path ? berth_read_file(AT_FDCWD, path, BERTH_LIMIT_SELINUX_CONTEXTS, &text, NULL)
	             : -ENOENT;

	if (r == 0)
		read_contexts(text, &process, &file);
	if (r < 0)
		s->why = berth_asprintf("the policy names no contexts of containers: %s: %s",
		        path ? path : "lxc_contexts", strerror(-r));
	else if (!process || !file)
		s->why = berth_asprintf(
		        "%s names no context \"%s\"", path, !process ? "process" : "file");
	else if (!known(s, process) || !known(s, file))
		s->why = berth_asprintf("the loaded policy has no context \"%s\", which %s names",
		        known(s, process) ? file : process, path);
	if (s->why)
		return;
	s->process = berth_take(process);
	s->file = berth_take(file);
	s->categories = count_categories(s);
}

void berth_selinux_probe(struct berth_selinux *ret)
{
	*ret = (struct berth_selinux){.canonical = kernel_canonical};
	ret->on = is_selinux_enabled() > 0;
	if (ret->on)
		berth_selinux_read(ret, access(CONTAINERS_OWN, R_OK) == 0
		                                ? CONTAINERS_OWN
		                                : selinux_lxc_contexts_path());
}

void berth_selinux_finish(struct berth_selinux *s)
{
	free(s->process);
	free(s->file);
	free(s->why);
	*s = (struct berth_selinux){0};
}

/* ---- labels ---- */

static bool said(const char *s)
{
	return s && *s;
}

bool berth_selinux_asked(const struct berth_selinux_options *o)
{
	return said(o->user) || said(o->role) || said(o->type) || said(o->level);
}

/* libselinux refuses blanks, and colons where they do not belong. */
static int set(context_t c, int (*setter)(context_t, const char *), const char *field,
        const char *value, struct berth_error **ret_err)
{
	bool plain = true;

	if (!said(value))
		return 0;
	for (const char *p = value; *p; p++)
		plain = plain && *p > ' ' && *p < 0x7f;
	if (plain && strlen(value) <= BERTH_LIMIT_SELINUX_LABEL && setter(c, value) == 0)
		return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT, "selinux_options.%s: %s", field,
	        plain ? "it cannot be a part of a label" : "it holds blanks or other than ASCII");
}

static int text_of(context_t c, char **ret, struct berth_error **ret_err)
{
	const char *text = context_str(c);

	if (!text || strlen(text) > BERTH_LIMIT_SELINUX_LABEL)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "selinux_options: the label is longer than %d bytes",
		        BERTH_LIMIT_SELINUX_LABEL);
	*ret = berth_strdup(text);
	return 0;
}

int berth_selinux_compose(const char *process, const char *file,
        const struct berth_selinux_options *o, char **ret_process, char **ret_file,
        struct berth_error **ret_err)
{
	_cleanup_(context_freep) context_t p = context_new(process);
	_cleanup_(context_freep) context_t f = context_new(file);
	_cleanup_free_ char *process_text = NULL, *file_text = NULL;

	if (!p || !f)
		return berth_error_set(
		        ret_err, BERTH_INTERNAL, "\"%.255s\" is no context", p ? file : process);
	if (set(p, context_user_set, "user", o->user, ret_err) < 0 ||
	        set(p, context_role_set, "role", o->role, ret_err) < 0 ||
	        set(p, context_type_set, "type", o->type, ret_err) < 0 ||
	        set(p, context_range_set, "level", o->level, ret_err) < 0 ||
	        set(f, context_user_set, "user", o->user, ret_err) < 0 ||
	        set(f, context_range_set, "level", o->level, ret_err) < 0)
		return -1;
	if (text_of(p, &process_text, ret_err) < 0 || text_of(f, &file_text, ret_err) < 0)
		return -1;
	*ret_process = berth_take(process_text);
	*ret_file = berth_take(file_text);
	return 0;
}

int berth_selinux_check(
        const struct berth_selinux *s, const char *label, char **ret, struct berth_error **ret_err)
{
	int r = s->canonical(label, ret);

	if (r == -EINVAL)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "selinux_options: the loaded policy has no context \"%s\"", label);
	return r < 0 ? berth_error_errno(ret_err, r, "SELinux context \"%s\"", label) : 0;
}

bool berth_selinux_is_type(const char *label, const char *type)
{
	_cleanup_(context_freep) context_t c = label ? context_new(label) : NULL;
	return c && strcmp(context_type_get(c), type) == 0;
}

bool berth_selinux_same_level(const char *a, const char *b)
{
	_cleanup_(context_freep) context_t x = context_new(a);
	_cleanup_(context_freep) context_t y = context_new(b);
	const char *p = x ? context_range_get(x) : NULL, *q = y ? context_range_get(y) : NULL;

	return p && q ? strcmp(p, q) == 0 : p == q;
}

char *berth_selinux_shared(const char *label)
{
	_cleanup_(context_freep) context_t c = context_new(label);
	const char *range = c ? context_range_get(c) : NULL;

	if (!range)
		return berth_strdup(label);
	_cleanup_free_ char *low = berth_strndup(range, strcspn(range, ":-"));
	return context_range_set(c, low) == 0 ? berth_strdup(context_str(c)) : berth_strdup(label);
}
