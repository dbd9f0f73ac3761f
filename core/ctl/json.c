/* Messages of protobuf-c to and from JSON, by their descriptors. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "config/tree.h"
#include "cri/fields.h"
#include "ctl/ctl.h"

#define DEPTH_MAX 32

static char *camel_case(const char *name)
{
	char *out = berth_zalloc(strlen(name) + 1), *p = out;
	bool up = false;
	for (; *name; name++) {
		if (*name == '_') {
			up = true;
			continue;
		}
		*p++ = up ? (char)toupper((unsigned char)*name) : *name;
		up = false;
	}
	return out;
}

static json_t *bytes_to_json(const ProtobufCBinaryData *b)
{
	static const char digits[] =
	        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	struct berth_buf out = {0};
	for (size_t i = 0; i < b->len; i += 3) {
		uint32_t v = (uint32_t)b->data[i] << 16;
		v |= i + 1 < b->len ? (uint32_t)b->data[i + 1] << 8 : 0;
		v |= i + 2 < b->len ? b->data[i + 2] : 0;
		char four[4] = {digits[v >> 18], digits[v >> 12 & 63],
		        i + 1 < b->len ? digits[v >> 6 & 63] : '=',
		        i + 2 < b->len ? digits[v & 63] : '='};
		berth_buf_add(&out, four, 4);
	}
	json_t *j = json_string(out.data ? out.data : "");
	berth_buf_finish(&out);
	return j;
}

static json_t *number_text(bool negative, uint64_t v)
{
	return json_sprintf("%s%llu", negative ? "-" : "", (unsigned long long)v);
}

static json_t *value_to_json(const ProtobufCFieldDescriptor *f, const void *at)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return json_integer(*(const int32_t *)at);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return json_integer(*(const uint32_t *)at);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64: {
		int64_t v = *(const int64_t *)at;
		return number_text(v < 0, v < 0 ? -(uint64_t)v : (uint64_t)v);
	}
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return number_text(false, *(const uint64_t *)at);
	case PROTOBUF_C_TYPE_FLOAT:
		return json_real((double)*(const float *)at);
	case PROTOBUF_C_TYPE_DOUBLE:
		return json_real(*(const double *)at);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)at);
	case PROTOBUF_C_TYPE_ENUM: {
		const ProtobufCEnumValue *v =
		        protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)at);
		return v ? json_string(v->name) : json_integer(*(const int *)at);
	}
	case PROTOBUF_C_TYPE_STRING: {
		const char *s = *(char *const *)at;
		json_t *j = json_string(s ? s : "");
		return j ? j : json_string("(not UTF-8)");
	}
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_to_json(at);
	case PROTOBUF_C_TYPE_MESSAGE: {
		const ProtobufCMessage *m = *(ProtobufCMessage *const *)at;
		return m ? ctl_to_json(m) : json_null();
	}
	}
	return json_null();
}

static json_t *list_to_json(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	size_t n = *(const size_t *)(const void *)((const char *)m + f->quantifier_offset);
	const char *first = *(char *const *)(const void *)((const char *)m + f->offset);
	bool map = berth_cri_is_map(f);
	json_t *j = map ? json_object() : json_array();

	for (size_t i = 0; i < n; i++) {
		const void *at = first + i * berth_cri_value_size(f->type);
		if (!map) {
			json_array_append_new(j, value_to_json(f, at));
			continue;
		}
		const ProtobufCMessage *entry = *(ProtobufCMessage *const *)at;
		const ProtobufCFieldDescriptor *k = &entry->descriptor->fields[0], *v = k + 1;
		const char *key = *(char *const *)(const void *)((const char *)entry + k->offset);
		json_object_set_new(
		        j, key ? key : "", value_to_json(v, (const char *)entry + v->offset));
	}
	return j;
}

json_t *ctl_to_json(const ProtobufCMessage *m)
{
	json_t *j = json_object();
	for (unsigned int i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		const char *quantifier = (const char *)m + f->quantifier_offset;
		_cleanup_free_ char *name = camel_case(f->name);
		if (f->label == PROTOBUF_C_LABEL_REPEATED)
			json_object_set_new(j, name, list_to_json(m, f));
		else if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
		         *(const uint32_t *)(const void *)quantifier == f->id)
			json_object_set_new(j, name, value_to_json(f, (const char *)m + f->offset));
	}
	return j;
}

void ctl_print_json(json_t *j)
{
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

/* `info` of a verbose answer is a map of JSON texts: people want to read them. */
static void open_info(json_t *j)
{
	json_t *info = json_object_get(j, "info"), *value;
	const char *key;
	void *next;

	json_object_foreach_safe(info, next, key, value)
	{
		const char *text = json_string_value(value);
		json_t *inner = text ? json_loads(text, 0, NULL) : NULL;
		if (inner)
			json_object_set_new(info, key, inner);
	}
}

void ctl_print_message(const void *m)
{
	json_t *j = ctl_to_json(m);
	open_info(j);
	ctl_print_json(j);
}

struct from {
	struct berth_arena *arena;
	struct berth_error **err;
};

static int wrong(struct from *from, const char *path, const char *want)
{
	return berth_error_set(from->err, BERTH_INVALID_ARGUMENT, "%s must be %s", path, want);
}

static int read_message(struct from *from, const ProtobufCMessageDescriptor *type, const json_t *j,
        const char *path, int depth, ProtobufCMessage **ret);

static bool number_of(const json_t *j, int64_t *ret)
{
	if (json_is_integer(j)) {
		*ret = json_integer_value(j);
		return true;
	}
	const char *s = json_string_value(j);
	char *end = NULL;
	errno = 0;
	if (!s || !*s)
		return false;
	*ret = strtoll(s, &end, 10);
	return errno == 0 && *end == '\0';
}

static int read_number(struct from *from, const ProtobufCFieldDescriptor *f, const json_t *j,
        const char *path, void *at)
{
	int64_t v = 0;
	bool is64 = berth_cri_value_size(f->type) == 8;
	bool is_unsigned = f->type == PROTOBUF_C_TYPE_UINT32 || f->type == PROTOBUF_C_TYPE_UINT64;
	if (!number_of(j, &v))
		return wrong(from, path, "a whole number");
	if (is_unsigned && v < 0)
		return wrong(from, path, "0 or more");
	if (is64)
		*(int64_t *)at = v;
	else if (is_unsigned ? v > UINT32_MAX : v < INT32_MIN || v > INT32_MAX)
		return wrong(from, path, "a number of 32 bits");
	else
		*(uint32_t *)at = (uint32_t)v;
	return 0;
}

static int read_enum(struct from *from, const ProtobufCFieldDescriptor *f, const json_t *j,
        const char *path, void *at)
{
	const ProtobufCEnumDescriptor *d = f->descriptor;
	const ProtobufCEnumValue *v = NULL;
	int64_t n = 0;
	if (json_is_string(j))
		v = protobuf_c_enum_descriptor_get_value_by_name(d, json_string_value(j));
	else if (number_of(j, &n) && n >= INT32_MIN && n <= INT32_MAX)
		v = protobuf_c_enum_descriptor_get_value(d, (int)n);
	if (!v) {
		_cleanup_free_ char *want = berth_asprintf("one of %s", d->values[0].name);
		for (unsigned int i = 1; i < d->n_values; i++) {
			char *more = berth_asprintf("%s, %s", want, d->values[i].name);
			free(want);
			want = more;
		}
		return wrong(from, path, want);
	}
	*(int *)at = v->value;
	return 0;
}

static int read_value(struct from *from, const ProtobufCFieldDescriptor *f, const json_t *j,
        const char *path, int depth, void *at)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_BOOL:
		if (!json_is_boolean(j))
			return wrong(from, path, "true or false");
		*(protobuf_c_boolean *)at = json_is_true(j);
		return 0;
	case PROTOBUF_C_TYPE_FLOAT:
	case PROTOBUF_C_TYPE_DOUBLE:
		if (!json_is_number(j))
			return wrong(from, path, "a number");
		if (f->type == PROTOBUF_C_TYPE_FLOAT)
			*(float *)at = (float)json_number_value(j);
		else
			*(double *)at = json_number_value(j);
		return 0;
	case PROTOBUF_C_TYPE_ENUM:
		return read_enum(from, f, j, path, at);
	case PROTOBUF_C_TYPE_STRING:
		if (!json_is_string(j))
			return wrong(from, path, "text");
		*(char **)at = berth_arena_strdup(from->arena, json_string_value(j));
		return 0;
	case PROTOBUF_C_TYPE_BYTES: {
		/* The CRI's one field of bytes in a request is an environment variable's value,
		 * which people write as the text it is. */
		ProtobufCBinaryData *b = at;
		if (!json_is_string(j))
			return wrong(from, path, "text");
		b->len = json_string_length(j);
		b->data = (uint8_t *)berth_arena_strdup(from->arena, json_string_value(j));
		return 0;
	}
	case PROTOBUF_C_TYPE_MESSAGE:
		return read_message(from, f->descriptor, j, path, depth + 1, at);
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return read_number(from, f, j, path, at);
	}
	return 0;
}

static int read_map(struct from *from, const ProtobufCFieldDescriptor *f, const json_t *j,
        const char *path, int depth, ProtobufCMessage *m)
{
	const ProtobufCMessageDescriptor *entry = f->descriptor;
	const char *key;
	json_t *value;
	size_t n = 0;

	if (!json_is_object(j))
		return wrong(from, path, "a map");
	ProtobufCMessage **all =
	        berth_arena_alloc(from->arena, (json_object_size(j) + 1) * sizeof(*all));
	json_object_foreach ((json_t *)(uintptr_t)j, key, value) {
		_cleanup_free_ char *where = berth_asprintf("%s.%s", path, key);
		ProtobufCMessage *e = berth_arena_alloc(from->arena, entry->sizeof_message);
		protobuf_c_message_init(entry, e);
		*(char **)(void *)((char *)e + entry->fields[0].offset) =
		        berth_arena_strdup(from->arena, key);
		if (read_value(from, &entry->fields[1], value, where, depth,
		            (char *)e + entry->fields[1].offset))
			return -1;
		all[n++] = e;
	}
	*(size_t *)(void *)((char *)m + f->quantifier_offset) = n;
	*(void **)(void *)((char *)m + f->offset) = all;
	return 0;
}

static int read_list(struct from *from, const ProtobufCFieldDescriptor *f, const json_t *j,
        const char *path, int depth, ProtobufCMessage *m)
{
	size_t n = json_array_size(j), size = berth_cri_value_size(f->type);
	if (!json_is_array(j))
		return wrong(from, path, "a list");
	char *all = berth_arena_alloc(from->arena, (n + 1) * size);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *where = berth_asprintf("%s[%zu]", path, i);
		if (read_value(from, f, json_array_get(j, i), where, depth, all + i * size))
			return -1;
	}
	*(size_t *)(void *)((char *)m + f->quantifier_offset) = n;
	*(void **)(void *)((char *)m + f->offset) = all;
	return 0;
}

static const ProtobufCFieldDescriptor *find_field(
        const ProtobufCMessageDescriptor *type, const char *key)
{
	for (unsigned int i = 0; i < type->n_fields; i++) {
		_cleanup_free_ char *camel = camel_case(type->fields[i].name);
		if (strcmp(key, camel) == 0 || strcmp(key, type->fields[i].name) == 0)
			return &type->fields[i];
	}
	return NULL;
}

static int read_message(struct from *from, const ProtobufCMessageDescriptor *type, const json_t *j,
        const char *path, int depth, ProtobufCMessage **ret)
{
	const char *key;
	json_t *value;

	if (!json_is_object(j))
		return wrong(from, path, "a map of fields");
	if (depth > DEPTH_MAX)
		return wrong(from, path, "less deeply nested");
	ProtobufCMessage *m = berth_arena_alloc(from->arena, type->sizeof_message);
	protobuf_c_message_init(type, m);
	json_object_foreach ((json_t *)(uintptr_t)j, key, value) {
		const ProtobufCFieldDescriptor *f = find_field(type, key);
		_cleanup_free_ char *where = berth_asprintf("%s%s%s", path, *path ? "." : "", key);
		if (!f)
			return berth_error_set(from->err, BERTH_INVALID_ARGUMENT,
			        "%s: %s has no such field", where, type->short_name);
		if (json_is_null(value))
			continue;
		if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
			*(uint32_t *)(void *)((char *)m + f->quantifier_offset) = f->id;
		int r = berth_cri_is_map(f) ? read_map(from, f, value, where, depth, m)
		        : f->label == PROTOBUF_C_LABEL_REPEATED
		                ? read_list(from, f, value, where, depth, m)
		                : read_value(from, f, value, where, depth, (char *)m + f->offset);
		if (r)
			return -1;
	}
	*ret = m;
	return 0;
}

ProtobufCMessage *ctl_from_json(struct berth_arena *a, const ProtobufCMessageDescriptor *type,
        const json_t *j, struct berth_error **err)
{
	struct from from = {a, err};
	ProtobufCMessage *m = NULL;
	return read_message(&from, type, j, "", 0, &m) == 0 ? m : NULL;
}

static json_t *parse_text(struct berth_arena *a, const char *path, const char *text, size_t len,
        struct berth_error **err)
{
	json_error_t where;
	struct berth_yaml *tree = NULL;

	if (text[strspn(text, " \t\r\n")] == '{') {
		json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
		if (!j)
			berth_error_set(err, BERTH_INVALID_ARGUMENT, "%s:%d: %s", path, where.line,
			        where.text);
		return j;
	}
	if (berth_yaml_parse(a, path, text, len, &tree, err))
		return NULL;
	return tree ? berth_yaml_to_json(tree) : json_object();
}

ProtobufCMessage *ctl_from_file(struct berth_arena *a, const ProtobufCMessageDescriptor *type,
        const char *path, struct berth_error **err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, &len);
	if (r < 0) {
		berth_error_errno(err, r, "%s", path);
		return NULL;
	}
	json_t *j = parse_text(a, path, text, len, err);
	if (!j)
		return NULL;
	ProtobufCMessage *m = ctl_from_json(a, type, j, err);
	json_decref(j);
	if (!m)
		berth_error_wrap(err, "%s", path);
	return m;
}
