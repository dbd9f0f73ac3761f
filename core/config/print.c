#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "config/config.h"
#include "config/keys.h"

#define COMMENT_COLUMNS 96

/* Words of `text` in lines of at most COMMENT_COLUMNS, each after `lead`. */
static void print_wrapped(FILE *f, const char *lead, const char *text)
{
	size_t column = 0;
	while (*text) {
		size_t n = strcspn(text, " ");
		if (column > 0 && column + 1 + n > COMMENT_COLUMNS) {
			fputc('\n', f);
			column = 0;
		}
		column += (size_t)fprintf(f, "%s%.*s", column ? " " : lead, (int)n, text);
		text += n + strspn(text + n, " ");
	}
	fputc('\n', f);
}

/* JSON is YAML, but for surrogate pairs: jansson writes UTF-8 as it is. */
static void print_json(FILE *f, const json_t *j)
{
	char *text = json_dumps(j, JSON_ENCODE_ANY);
	fputs(text ? text : "null", f);
	free(text);
}

static void print_text(FILE *f, const char *s)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	                            "0123456789/._-";
	bool word = (*s == '/' || (*s >= 'a' && *s <= 'z')) && s[strspn(s, plain)] == '\0' &&
	            strcmp(s, "true") != 0 && strcmp(s, "false") != 0 && strcmp(s, "null") != 0;
	if (word) {
		fputs(s, f);
		return;
	}
	json_t *j = json_string(s);
	print_json(f, j);
	json_decref(j);
}

static void print_paths(FILE *f, char *const *v)
{
	fputc('[', f);
	for (size_t i = 0; i < berth_strv_len(v); i++) {
		fputs(i ? ", " : "", f);
		print_text(f, v[i]);
	}
	fputc(']', f);
}

static void print_bytes(FILE *f, uint64_t v)
{
	static const char *const units[] = {"", "KiB", "MiB", "GiB"};
	size_t u = 0;
	while (v && v % 1024 == 0 && u + 1 < BERTH_ARRAY_LEN(units)) {
		v /= 1024;
		u++;
	}
	fprintf(f, "%llu%s", (unsigned long long)v, units[u]);
}

static void print_objects(FILE *f, const char *indent, json_t *all)
{
	const char *name;
	json_t *value;

	if (json_object_size(all) == 0) {
		fputs(" {}\n", f);
		return;
	}
	fputc('\n', f);
	json_object_foreach (all, name, value) {
		fprintf(f, "%s  ", indent);
		print_text(f, name);
		fputs(": ", f);
		print_json(f, value);
		fputc('\n', f);
	}
}

static void print_value(
        FILE *f, const char *indent, const struct berth_config *c, const struct berth_key *k)
{
	const void *at = (const char *)c + k->offset;
	if (k->type == BERTH_KEY_OBJECTS) {
		print_objects(f, indent, *(json_t *const *)at);
		return;
	}
	fputc(' ', f);
	switch (k->type) {
	case BERTH_KEY_TEXT:
	case BERTH_KEY_PATH:
		print_text(f, *(char *const *)at);
		break;
	case BERTH_KEY_PATHS:
	case BERTH_KEY_TEXTS:
		print_paths(f, *(char **const *)at);
		break;
	case BERTH_KEY_CHOICE:
		fputs(k->choices[*(const int *)at], f);
		break;
	case BERTH_KEY_COUNT:
		fprintf(f, "%llu", (unsigned long long)*(const uint64_t *)at);
		break;
	case BERTH_KEY_BYTES:
		print_bytes(f, *(const uint64_t *)at);
		break;
	case BERTH_KEY_OBJECTS:
		break;
	}
	fputc('\n', f);
}

void berth_config_print(FILE *f, const struct berth_config *c)
{
	const char *group = NULL;

	fprintf(f, "# The effective configuration of %s and its drop-ins.\n", c->file);
	for (size_t i = 0; i < berth_keys_count; i++) {
		const struct berth_key *k = &berth_keys[i];
		const char *indent = k->group ? "  " : "";
		if (k->group && (!group || strcmp(group, k->group) != 0))
			fprintf(f, "\n# %s.\n%s:\n", berth_key_group_doc(k->group), k->group);
		else if (!k->group)
			fputc('\n', f);
		group = k->group;
		print_wrapped(f, k->group ? "  # " : "# ", k->doc);
		fprintf(f, "%s%s:", indent, k->name);
		print_value(f, indent, c, k);
	}
}

static const char *type_name(const struct berth_key *k)
{
	switch (k->type) {
	case BERTH_KEY_TEXT:
		return "text";
	case BERTH_KEY_PATH:
		return "absolute path";
	case BERTH_KEY_PATHS:
		return "list of absolute paths";
	case BERTH_KEY_TEXTS:
		return "list of texts";
	case BERTH_KEY_CHOICE:
		return "one of";
	case BERTH_KEY_COUNT:
		return "whole number";
	case BERTH_KEY_BYTES:
		return "size: bytes, or with KiB, MiB, GiB";
	case BERTH_KEY_OBJECTS:
		return "map of names to maps";
	}
	return "";
}

static void print_reference_key(FILE *f, const struct berth_key *k)
{
	fprintf(f, "\n### `%s%s%s`\n\n", k->group ? k->group : "", k->group ? "." : "", k->name);
	print_wrapped(f, "", k->doc);
	fprintf(f, "\n- Type: %s", type_name(k));
	for (size_t i = 0; k->choices && k->choices[i]; i++)
		fprintf(f, "%s `%s`", i ? "," : "", k->choices[i]);
	if (k->max && k->type == BERTH_KEY_COUNT)
		fprintf(f, ", %llu to %llu", (unsigned long long)k->min,
		        (unsigned long long)k->max);
	if (k->max && k->type == BERTH_KEY_BYTES) {
		fputs("; ", f);
		print_bytes(f, k->min);
		fputs(" to ", f);
		print_bytes(f, k->max);
	}
	if (strncmp(k->preset, "${run}", 6) == 0)
		fprintf(f, "\n- Default: `%s` in the directory `run`\n", k->preset + 7);
	else
		fprintf(f, "\n- Default: `%s`\n", k->preset);
}

void berth_config_print_reference(FILE *f)
{
	const char *group = NULL;

	for (size_t i = 0; i < berth_keys_count; i++) {
		const struct berth_key *k = &berth_keys[i];
		if (i == 0)
			fputs("\n## Top level\n", f);
		if (k->group && (!group || strcmp(group, k->group) != 0))
			fprintf(f, "\n## `%s`: %s\n", k->group, berth_key_group_doc(k->group));
		group = k->group;
		print_reference_key(f, k);
	}
}
