#include "config/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct anchor {
	char *name;
	struct berth_yaml *node;
	struct anchor *next;
};

struct reader {
	yaml_parser_t parser;
	struct berth_arena *arena;
	const char *file;
	struct anchor *anchors;
	size_t nodes;
	struct berth_error **ret_err;
};

static int fail(struct reader *r, size_t line, const char *what)
{
	return berth_error_set(
	        r->ret_err, BERTH_INVALID_ARGUMENT, "%s:%zu: %s", r->file, line, what);
}

static int next_event(struct reader *r, yaml_event_t *ev)
{
	if (yaml_parser_parse(&r->parser, ev))
		return 0;
	/* A reader's error (bad UTF-8) has an offset only. */
	size_t line = r->parser.error == YAML_READER_ERROR ? r->parser.mark.line
	                                                   : r->parser.problem_mark.line;
	const char *problem = r->parser.problem ? r->parser.problem : "not YAML";
	if (r->parser.context)
		return berth_error_set(r->ret_err, BERTH_INVALID_ARGUMENT, "%s:%zu: %s %s", r->file,
		        line + 1, problem, r->parser.context);
	return fail(r, line + 1, problem);
}

static char *copy_text(struct reader *r, const char *p, size_t n)
{
	char *s = berth_arena_alloc(r->arena, n + 1);
	memcpy(s, p, n);
	return s;
}

static int count(struct reader *r, size_t line, size_t n)
{
	if (n > BERTH_YAML_MAX_NODES - r->nodes)
		return berth_error_set(r->ret_err, BERTH_INVALID_ARGUMENT,
		        "%s:%zu: more than %d values in one file", r->file, line,
		        BERTH_YAML_MAX_NODES);
	r->nodes += n;
	return 0;
}

static int too_deep(struct reader *r, size_t line)
{
	return berth_error_set(r->ret_err, BERTH_INVALID_ARGUMENT,
	        "%s:%zu: nested deeper than %d levels", r->file, line, BERTH_YAML_MAX_DEPTH);
}

/* An anchor is known once its node is complete, so no node can contain itself. */
static void remember(struct reader *r, const yaml_char_t *name, struct berth_yaml *n)
{
	if (!name)
		return;
	struct anchor *a = berth_arena_alloc(r->arena, sizeof(*a));
	a->name = berth_arena_strdup(r->arena, (const char *)name);
	a->node = n;
	a->next = r->anchors;
	r->anchors = a;
}

static int read_node(
        struct reader *r, const yaml_event_t *ev, size_t depth, struct berth_yaml **ret);

static int read_alias(
        struct reader *r, const yaml_event_t *ev, size_t depth, struct berth_yaml **ret)
{
	size_t line = ev->start_mark.line + 1;
	const char *name = (const char *)ev->data.alias.anchor;
	for (struct anchor *a = r->anchors; a; a = a->next) {
		if (strcmp(a->name, name) != 0)
			continue;
		if (depth + a->node->height > BERTH_YAML_MAX_DEPTH + 1)
			return too_deep(r, line);
		if (count(r, line, a->node->weight))
			return -1;
		*ret = a->node;
		return 0;
	}
	return berth_error_set(r->ret_err, BERTH_INVALID_ARGUMENT,
	        "%s:%zu: alias '*%.100s' has no anchor before it", r->file, line, name);
}

static int read_scalar(struct reader *r, const yaml_event_t *ev, struct berth_yaml *n)
{
	if (strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
		return fail(r, n->line, "a value contains a NUL byte");
	n->text = copy_text(r, (const char *)ev->data.scalar.value, ev->data.scalar.length);
	n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	return 0;
}

static int check_key(struct reader *r, const struct berth_yaml *map, const char *key, size_t line)
{
	if (strcmp(key, "<<") == 0)
		return fail(r, line, "merge keys (<<) are not supported");
	for (const struct berth_yaml_item *i = map->items; i; i = i->next)
		if (strcmp(i->key, key) == 0)
			return berth_error_set(r->ret_err, BERTH_INVALID_ARGUMENT,
			        "%s:%zu: key '%.100s' is there already, in line %zu", r->file, line,
			        key, i->line);
	return 0;
}

/* One key of a map into *item. */
static int read_key(struct reader *r, const yaml_event_t *ev, const struct berth_yaml *map,
        struct berth_yaml_item *item)
{
	size_t line = ev->start_mark.line + 1;
	if (ev->type != YAML_SCALAR_EVENT)
		return fail(r, line, "a key must be a plain word");
	if (strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
		return fail(r, line, "a key contains a NUL byte");
	if (ev->data.scalar.anchor)
		return fail(r, line, "a key cannot have an anchor");
	item->key = copy_text(r, (const char *)ev->data.scalar.value, ev->data.scalar.length);
	item->line = line;
	return check_key(r, map, item->key, line);
}

/* The items of a map or list, up to its end event. */
static int read_items(struct reader *r, struct berth_yaml *n, size_t depth)
{
	struct berth_yaml_item **tail = &n->items;
	for (;;) {
		yaml_event_t ev;
		if (next_event(r, &ev))
			return -1;
		if (ev.type == YAML_MAPPING_END_EVENT || ev.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&ev);
			return 0;
		}
		struct berth_yaml_item *item = berth_arena_alloc(r->arena, sizeof(*item));
		if (n->kind == BERTH_YAML_MAP) {
			int bad = read_key(r, &ev, n, item);
			yaml_event_delete(&ev);
			if (bad || next_event(r, &ev))
				return -1;
		}
		int bad = read_node(r, &ev, depth + 1, &item->value);
		yaml_event_delete(&ev);
		if (bad)
			return -1;
		n->weight += item->value->weight;
		if (item->value->height + 1 > n->height)
			n->height = item->value->height + 1;
		*tail = item;
		tail = &item->next;
	}
}

static int read_node(
        struct reader *r, const yaml_event_t *ev, size_t depth, struct berth_yaml **ret)
{
	size_t line = ev->start_mark.line + 1;
	const yaml_char_t *anchor = NULL, *tag = NULL;
	enum berth_yaml_kind kind = BERTH_YAML_SCALAR;

	if (depth > BERTH_YAML_MAX_DEPTH)
		return too_deep(r, line);
	if (ev->type == YAML_ALIAS_EVENT)
		return read_alias(r, ev, depth, ret);
	if (ev->type == YAML_SCALAR_EVENT) {
		anchor = ev->data.scalar.anchor;
		tag = ev->data.scalar.tag;
	} else if (ev->type == YAML_MAPPING_START_EVENT) {
		kind = BERTH_YAML_MAP;
		anchor = ev->data.mapping_start.anchor;
		tag = ev->data.mapping_start.tag;
	} else {
		kind = BERTH_YAML_LIST;
		anchor = ev->data.sequence_start.anchor;
		tag = ev->data.sequence_start.tag;
	}
	if (tag)
		return fail(r, line, "tags (!...) are not supported");
	if (count(r, line, 1))
		return -1;

	struct berth_yaml *n = berth_arena_alloc(r->arena, sizeof(*n));
	n->kind = kind;
	n->file = r->file;
	n->line = line;
	n->weight = n->height = 1;
	if (kind == BERTH_YAML_SCALAR ? read_scalar(r, ev, n) : read_items(r, n, depth))
		return -1;
	remember(r, anchor, n);
	*ret = n;
	return 0;
}

static int read_stream(struct reader *r, struct berth_yaml **ret)
{
	size_t documents = 0;
	for (;;) {
		yaml_event_t ev;
		if (next_event(r, &ev))
			return -1;
		yaml_event_type_t type = ev.type;
		size_t line = ev.start_mark.line + 1;
		int bad = 0;
		if (type == YAML_DOCUMENT_START_EVENT && documents++)
			bad = fail(r, line, "a second document; one file holds one");
		else if (type == YAML_SCALAR_EVENT || type == YAML_MAPPING_START_EVENT ||
		         type == YAML_SEQUENCE_START_EVENT || type == YAML_ALIAS_EVENT)
			bad = read_node(r, &ev, 1, ret);
		yaml_event_delete(&ev);
		if (bad)
			return -1;
		if (type == YAML_STREAM_END_EVENT)
			return 0;
	}
}

int berth_yaml_parse(struct berth_arena *a, const char *file, const char *text, size_t len,
        struct berth_yaml **ret, struct berth_error **ret_err)
{
	struct reader r = {.arena = a, .ret_err = ret_err};
	struct berth_yaml *root = NULL;

	r.file = berth_arena_strdup(a, file);
	if (!yaml_parser_initialize(&r.parser))
		return berth_error_errno(ret_err, ENOMEM, "read %s", file);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
	int res = read_stream(&r, &root);
	yaml_parser_delete(&r.parser);
	if (res == 0)
		*ret = root;
	return res;
}

static struct berth_yaml_item *append_item(struct berth_arena *a, struct berth_yaml_item ***tail,
        const struct berth_yaml_item *from, struct berth_yaml *value)
{
	struct berth_yaml_item *item = berth_arena_alloc(a, sizeof(*item));
	item->key = from->key;
	item->line = from->line;
	item->value = value;
	**tail = item;
	*tail = &item->next;
	return item;
}

struct berth_yaml *berth_yaml_merge(
        struct berth_arena *a, struct berth_yaml *base, struct berth_yaml *over)
{
	if (!over)
		return base;
	if (!base || base->kind != BERTH_YAML_MAP || over->kind != BERTH_YAML_MAP)
		return over;

	struct berth_yaml *n = berth_arena_alloc(a, sizeof(*n));
	struct berth_yaml_item **tail = &n->items;
	*n = *over;
	n->items = NULL;
	for (struct berth_yaml_item *i = base->items; i; i = i->next) {
		struct berth_yaml_item *o = over->items;
		while (o && strcmp(o->key, i->key) != 0)
			o = o->next;
		append_item(a, &tail, o ? o : i,
		        o ? berth_yaml_merge(a, i->value, o->value) : i->value);
	}
	for (struct berth_yaml_item *o = over->items; o; o = o->next)
		if (!berth_yaml_get(base, o->key))
			append_item(a, &tail, o, o->value);
	return n;
}

const struct berth_yaml *berth_yaml_get(const struct berth_yaml *map, const char *key)
{
	if (!map || map->kind != BERTH_YAML_MAP)
		return NULL;
	for (const struct berth_yaml_item *i = map->items; i; i = i->next)
		if (strcmp(i->key, key) == 0)
			return i->value;
	return NULL;
}

bool berth_yaml_is_null(const struct berth_yaml *n)
{
	return n->kind == BERTH_YAML_SCALAR && n->plain &&
	       (n->text[0] == '\0' || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0);
}

/* The core schema of YAML 1.2, less its spellings in other cases: "no" and "on" are words. Octal
 * 0o17 and hexadecimal are numbers there, too; nobody needs them here, and they stay words. */
static json_t *plain_to_json(const char *text)
{
	if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
		return json_boolean(text[0] == 't');
	const char *p = text + (*text == '-' || *text == '+');
	if (*p < '0' || *p > '9' || strspn(text, "0123456789+-.eE") != strlen(text))
		return json_string(text);
	char *end = NULL;
	errno = 0;
	if (strspn(p, "0123456789") == strlen(p)) {
		long long v = strtoll(text, &end, 10);
		if (errno == 0 && *end == '\0')
			return json_integer(v);
	} else {
		double v = strtod(text, &end);
		if (errno == 0 && *end == '\0')
			return json_real(v);
	}
	return json_string(text);
}

json_t *berth_yaml_to_json(const struct berth_yaml *n)
{
	json_t *j = NULL;
	switch (n->kind) {
	case BERTH_YAML_SCALAR:
		if (berth_yaml_is_null(n))
			return json_null();
		return n->plain ? plain_to_json(n->text) : json_string(n->text);
	case BERTH_YAML_LIST:
		j = json_array();
		for (const struct berth_yaml_item *i = n->items; i; i = i->next)
			json_array_append_new(j, berth_yaml_to_json(i->value));
		return j;
	case BERTH_YAML_MAP:
		j = json_object();
		for (const struct berth_yaml_item *i = n->items; i; i = i->next)
			json_object_set_new(j, i->key, berth_yaml_to_json(i->value));
		return j;
	}
	return j;
}

const char *berth_yaml_kind_name(const struct berth_yaml *n)
{
	if (n->kind == BERTH_YAML_MAP)
		return "a map";
	if (n->kind == BERTH_YAML_LIST)
		return "a list";
	json_t *j = berth_yaml_to_json(n);
	const char *name = json_is_null(j)      ? "empty"
	                   : json_is_boolean(j) ? "a boolean"
	                   : json_is_number(j)  ? "a number"
	                                        : "text";
	json_decref(j);
	return name;
}
