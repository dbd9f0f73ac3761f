#include "cri/same.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cri/fields.h"

static const void *at(const ProtobufCMessage *m, unsigned int offset)
{
	return (const char *)m + offset;
}

static int bytes_cmp(size_t n, const uint8_t *x, size_t m, const uint8_t *y)
{
	if (n != m)
		return n < m ? -1 : 1;
	return n ? memcmp(x, y, n) : 0;
}

/* x, y: where the values are. */
static bool same_value(ProtobufCType type, const void *x, const void *y)
{
	if (type == PROTOBUF_C_TYPE_STRING) {
		const char *s = *(char *const *)x, *t = *(char *const *)y;
		return strcmp(s ? s : "", t ? t : "") == 0;
	}
	if (type == PROTOBUF_C_TYPE_BYTES) {
		const ProtobufCBinaryData *s = x, *t = y;
		return bytes_cmp(s->len, s->data, t->len, t->data) == 0;
	}
	if (type == PROTOBUF_C_TYPE_MESSAGE) {
		const ProtobufCMessage *s = *(ProtobufCMessage *const *)x,
		                       *t = *(ProtobufCMessage *const *)y;
		return s && t ? berth_cri_same(s, t) : s == t;
	}
	return memcmp(x, y, berth_cri_value_size(type)) == 0;
}

struct entry {
	const char *key;
	size_t place;
	const ProtobufCMessage *m;
};

/* Of entries with one key the last counts, so these stay in their order. */
static int entry_cmp(const void *x, const void *y)
{
	const struct entry *a = x, *b = y;
	int r = strcmp(a->key, b->key);
	return r ? r : a->place < b->place ? -1 : 1;
}

static struct entry *sorted(size_t n, ProtobufCMessage *const *all)
{
	struct entry *e = berth_new_array(struct entry, n + 1);

	for (size_t i = 0; i < n; i++) {
		const char *key = *(char *const *)at(all[i], all[i]->descriptor->fields[0].offset);
		e[i] = (struct entry){.key = key ? key : "", .place = i, .m = all[i]};
	}
	qsort(e, n, sizeof(*e), entry_cmp);
	return e;
}

static bool same_map(size_t n, ProtobufCMessage *const *a, ProtobufCMessage *const *b)
{
	_cleanup_free_ struct entry *x = sorted(n, a), *y = sorted(n, b);

	for (size_t i = 0; i < n; i++) {
		if (!berth_cri_same(x[i].m, y[i].m))
			return false;
	}
	return true;
}

static bool same_list(
        const ProtobufCFieldDescriptor *f, const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	size_t n = *(const size_t *)at(a, f->quantifier_offset),
	       size = berth_cri_value_size(f->type);
	const char *x = *(char *const *)at(a, f->offset), *y = *(char *const *)at(b, f->offset);

	if (n != *(const size_t *)at(b, f->quantifier_offset))
		return false;
	if (berth_cri_is_map(f))
		return same_map(n, (const void *)x, (const void *)y);
	for (size_t i = 0; i < n; i++) {
		if (!same_value(f->type, x + i * size, y + i * size))
			return false;
	}
	return true;
}

static bool same_field(
        const ProtobufCFieldDescriptor *f, const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return same_list(f, a, b);
	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		uint32_t of_a = *(const uint32_t *)at(a, f->quantifier_offset);
		if (of_a != *(const uint32_t *)at(b, f->quantifier_offset))
			return false;
		if (of_a != f->id)
			return true; /* another field's turn to tell */
	} else if (f->quantifier_offset) {
		protobuf_c_boolean has = *(const protobuf_c_boolean *)at(a, f->quantifier_offset);
		if (has != *(const protobuf_c_boolean *)at(b, f->quantifier_offset))
			return false;
		if (!has)
			return true;
	}
	return same_value(f->type, at(a, f->offset), at(b, f->offset));
}

static int unknown_cmp(const void *x, const void *y)
{
	const ProtobufCMessageUnknownField *a = x, *b = y;

	if (a->tag != b->tag)
		return a->tag < b->tag ? -1 : 1;
	return bytes_cmp(a->len, a->data, b->len, b->data);
}

static ProtobufCMessageUnknownField *unknown(const ProtobufCMessage *m)
{
	unsigned int n = m->n_unknown_fields;
	ProtobufCMessageUnknownField *u = berth_new_array(ProtobufCMessageUnknownField, n + 1);

	if (n)
		memcpy(u, m->unknown_fields, n * sizeof(*u));
	qsort(u, n, sizeof(*u), unknown_cmp);
	return u;
}

/* What a newer client says may be a map. */
static bool same_unknown(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	if (a->n_unknown_fields != b->n_unknown_fields)
		return false;
	if (a->n_unknown_fields == 0)
		return true;
	_cleanup_free_ ProtobufCMessageUnknownField *x = unknown(a), *y = unknown(b);
	for (unsigned int i = 0; i < a->n_unknown_fields; i++) {
		if (unknown_cmp(&x[i], &y[i]) != 0)
			return false;
	}
	return true;
}

bool berth_cri_same(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	if (a->descriptor != b->descriptor)
		return false;
	for (unsigned int i = 0; i < a->descriptor->n_fields; i++) {
		if (!same_field(&a->descriptor->fields[i], a, b))
			return false;
	}
	return same_unknown(a, b);
}
