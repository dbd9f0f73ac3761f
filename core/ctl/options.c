#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "ctl/ctl.h"

#define TIMEOUT_MAX_S 86400

/* Where the line is read. */
struct line {
	struct ctl *c;
	char **argv;
	int argc, at;
	bool *help;
	struct berth_error **err;
};

static int usage(struct line *l, const char *fmt, ...) BERTH_PRINTF(2, 3);
static int usage(struct line *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	_cleanup_free_ char *what = berth_vasprintf(fmt, ap);
	va_end(ap);
	const struct ctl_command *k = l->c->command;
	return berth_error_set(l->err, BERTH_INVALID_ARGUMENT, "%s (see 'berthctl %s%s--help')",
	        what, k ? k->name : "", k ? " " : "");
}

static int parse_number(struct line *l, const char *name, const char *text, uint64_t *ret)
{
	char *end = NULL;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		return usage(l, "%s must be a number, not '%s'", name, text);
	*ret = v;
	return 0;
}

static int set_timeout(struct line *l, const char *text)
{
	char *end = NULL;
	double v = *text >= '0' && *text <= '9' ? strtod(text, &end) : -1;
	if (v < 0 || v > TIMEOUT_MAX_S || (*end && strcmp(end, "s") != 0))
		return usage(
		        l, "--timeout must be seconds, at most %d, not '%s'", TIMEOUT_MAX_S, text);
	l->c->have_timeout = true;
	l->c->timeout_ms = (uint64_t)(v * 1000);
	return 0;
}

static const char *const globals[] = {"runtime-endpoint", "output", "timeout", "help", NULL};

static int set_global(struct line *l, const char *name, const char *value)
{
	if (strcmp(name, "timeout") == 0)
		return set_timeout(l, value);
	if (strcmp(name, "runtime-endpoint") == 0) {
		l->c->endpoint = value;
		return 0;
	}
	if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0)
		return usage(l, "--output is json or table, not '%s'", value);
	l->c->json = strcmp(value, "json") == 0;
	return 0;
}

static struct ctl_value *find_value(const struct ctl *c, const char *name, size_t len)
{
	const struct ctl_option *o = c->command ? c->command->options : NULL;
	for (size_t i = 0; o && o[i].name; i++)
		if (strlen(o[i].name) == len && strncmp(o[i].name, name, len) == 0)
			return (struct ctl_value *)(uintptr_t)&c->values[i];
	return NULL;
}

static struct ctl_value *find_letter(struct ctl *c, char letter)
{
	const struct ctl_option *o = c->command ? c->command->options : NULL;
	for (size_t i = 0; o && o[i].name; i++)
		if (o[i].letter == letter)
			return &c->values[i];
	return NULL;
}

static int set_value(struct line *l, struct ctl_value *v, const char *text)
{
	_cleanup_free_ char *shown = berth_asprintf("--%s", v->option->name);
	if (v->set && v->option->type != CTL_LIST && v->option->type != CTL_FLAG)
		return usage(l, "%s is given twice", shown);
	v->set = true;
	if (v->option->type == CTL_NUMBER)
		return parse_number(l, shown, text, &v->number);
	if (v->option->type != CTL_FLAG)
		v->texts = berth_strv_append(v->texts, text);
	return 0;
}

static const char *next_argument(struct line *l)
{
	return l->at < l->argc ? l->argv[l->at++] : NULL;
}

static int unknown_option(struct line *l, const char *name)
{
	const char *words[CTL_OPTIONS_MAX + BERTH_ARRAY_LEN(globals)];
	size_t n = 0;
	const struct ctl_option *o = l->c->command ? l->c->command->options : NULL;
	for (size_t i = 0; o && o[i].name; i++)
		words[n++] = o[i].name;
	for (size_t i = 0; globals[i]; i++)
		words[n++] = globals[i];
	words[n] = NULL;
	const char *near = berth_nearest(name, words);
	if (near)
		return usage(l, "unknown option '--%s'; did you mean '--%s'?", name, near);
	return usage(l, "unknown option '--%s'", name);
}

static int parse_long(struct line *l, const char *arg)
{
	const char *equals = strchr(arg, '=');
	size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
	_cleanup_free_ char *name = berth_strndup(arg, len);
	struct ctl_value *v = find_value(l->c, name, len);
	bool global = false;

	if (strcmp(name, "help") == 0) {
		*l->help = true;
		return 0;
	}
	for (size_t i = 0; !v && globals[i]; i++)
		global = global || strcmp(globals[i], name) == 0;
	if (!v && !global)
		return unknown_option(l, name);
	if (v && v->option->type == CTL_FLAG)
		return equals ? usage(l, "--%s takes no value", name) : set_value(l, v, NULL);
	const char *value = equals ? equals + 1 : next_argument(l);
	if (!value)
		return usage(l, "--%s needs a value", name);
	return v ? set_value(l, v, value) : set_global(l, name, value);
}

static int parse_letters(struct line *l, const char *arg)
{
	for (; *arg; arg++) {
		struct ctl_value *v = find_letter(l->c, *arg);
		if (!v && *arg == 'h') {
			*l->help = true;
			continue;
		}
		if (!v && *arg != 'o')
			return usage(l, "unknown option '-%c'", *arg);
		if (v && v->option->type == CTL_FLAG) {
			if (set_value(l, v, NULL))
				return -1;
			continue;
		}
		const char letter = *arg;
		const char *value = arg[1] ? arg + 1 : next_argument(l);
		if (!value)
			return usage(l, "-%c needs a value", letter);
		return v ? set_value(l, v, value) : set_global(l, "output", value);
	}
	return 0;
}

/* Options up to the first argument, or all of them in between arguments. */
static int parse_options(struct line *l, bool stop_at_argument)
{
	while (l->at < l->argc) {
		char *arg = l->argv[l->at];
		bool is_option = arg[0] == '-' && arg[1];
		if (!is_option && stop_at_argument)
			return 0;
		l->at++;
		if (!is_option) {
			l->c->args[l->c->n_args++] = arg;
			continue;
		}
		if (strcmp(arg, "--") == 0)
			return 0;
		if (arg[1] == '-' ? parse_long(l, arg + 2) : parse_letters(l, arg + 1))
			return -1;
	}
	return 0;
}

static const struct ctl_command *find_command(struct line *l)
{
	const char *first = l->argv[l->at];
	const char *second = l->at + 1 < l->argc ? l->argv[l->at + 1] : "";
	for (const struct ctl_command *k = ctl_commands; k->name; k++) {
		size_t n = strcspn(k->name, " ");
		if (strlen(first) != n || strncmp(k->name, first, n) != 0)
			continue;
		if (k->name[n] && strcmp(k->name + n + 1, second) != 0)
			continue;
		l->at += k->name[n] ? 2 : 1;
		return k;
	}
	return NULL;
}

static int unknown_command(struct line *l)
{
	const char *words[64];
	size_t n = 0;
	for (const struct ctl_command *k = ctl_commands; k->name && n < 63; k++)
		words[n++] = k->name;
	words[n] = NULL;
	const char *near = berth_nearest(l->argv[l->at], words);
	if (near)
		return usage(l, "unknown command '%s'; did you mean '%s'?", l->argv[l->at], near);
	return usage(l, "unknown command '%s'", l->argv[l->at]);
}

static int check_count(struct line *l)
{
	const struct ctl_command *k = l->c->command;
	if (l->c->n_args < k->min_args)
		return usage(l, "%s needs %s", k->name, k->arguments);
	if (k->max_args >= 0 && l->c->n_args > k->max_args)
		return usage(l, "%s takes no argument '%s'", k->name, l->c->args[k->max_args]);
	return 0;
}

int ctl_parse(struct ctl *c, int argc, char **argv, bool *ret_help, struct berth_error **err)
{
	struct line l = {c, argv, argc, 1, ret_help, err};
	const char *env = getenv("BERTH_RUNTIME_ENDPOINT");

	c->endpoint = env && *env ? env : CTL_ENDPOINT;
	c->args = berth_new_array(char *, (size_t)argc + 1);
	if (parse_options(&l, true) || *ret_help)
		return *l.err ? -1 : 0;
	if (l.at == argc)
		return usage(&l, "a command is missing");
	if (strcmp(argv[l.at], "help") == 0) {
		*ret_help = true;
		l.at++;
		if (l.at == argc)
			return 0;
		c->command = find_command(&l);
		return c->command ? 0 : unknown_command(&l);
	}
	c->command = find_command(&l);
	if (!c->command)
		return unknown_command(&l);
	for (size_t i = 0; c->command->options && c->command->options[i].name; i++)
		c->values[i].option = &c->command->options[i];
	if (parse_options(&l, c->command->options_first))
		return -1;
	while (l.at < argc)
		c->args[c->n_args++] = argv[l.at++];
	return *ret_help ? 0 : check_count(&l);
}

void ctl_parse_finish(struct ctl *c)
{
	for (size_t i = 0; i < CTL_OPTIONS_MAX; i++)
		berth_strv_free(c->values[i].texts);
	free(c->args);
}

static const struct ctl_value *value(const struct ctl *c, const char *name)
{
	const struct ctl_value *v = find_value(c, name, strlen(name));
	return v && v->set ? v : NULL;
}

bool ctl_flag(const struct ctl *c, const char *name)
{
	return value(c, name) != NULL;
}

const char *ctl_text(const struct ctl *c, const char *name)
{
	const struct ctl_value *v = value(c, name);
	return v ? v->texts[0] : NULL;
}

char *const *ctl_list(const struct ctl *c, const char *name)
{
	const struct ctl_value *v = value(c, name);
	return v ? v->texts : NULL;
}

uint64_t ctl_number(const struct ctl *c, const char *name, uint64_t otherwise)
{
	const struct ctl_value *v = value(c, name);
	return v ? v->number : otherwise;
}
