/* Protobuf messages from bytes that a peer chose. */
#include <string.h>

#include "grpc/wire.h"

struct budget {
	struct berth_arena *arena;
	size_t left;
	bool exceeded;
};

static void *budget_alloc(void *data, size_t n)
{
	struct budget *b = data;
	if (n > b->left) {
		b->exceeded = true;
		return NULL;
	}
	b->left -= n;
	return berth_arena_alloc(b->arena, n);
}

static void budget_free(void *data, void *p)
{
	(void)data;
	(void)p; /* goes with the arena */
}

/* Follows RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool valid_utf8(const char *text)
{
	const unsigned char *p = (const unsigned char *)text;
	while (*p) {
		size_t more = *p < 0x80 ? 0 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : 3;
		unsigned int first = *p, second = more ? p[1] : 0;
		if (first >= 0x80 && (first < 0xc2 || first > 0xf4))
			return false;
		if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
		        (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f))
			return false;
		for (size_t i = 1; i <= more; i++)
			if ((p[i] & 0xc0) != 0x80)
				return false;
		p += 1 + more;
	}
	return true;
}

static int check_message(const ProtobufCMessage *m, struct berth_error **ret_err);

static int check_value(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
        const void *value, struct berth_error **ret_err)
{
	if (!value)
		return 0;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return check_message(value, ret_err);
	if (!valid_utf8(value))
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "field %s of %s is not valid UTF-8", f->name, m->descriptor->name);
	return 0;
}

/* Only as deep as the types nest: those of the CRI do not contain themselves. */
static int check_message(const ProtobufCMessage *m, struct berth_error **ret_err)
{
	for (unsigned int i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		const char *at = (const char *)m + f->offset;
		const char *quantifier = (const char *)m + f->quantifier_offset;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE && f->type != PROTOBUF_C_TYPE_STRING)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)(const void *)quantifier;
			void *const *values = *(void **const *)(const void *)at;
			for (size_t j = 0; j < n; j++)
				if (check_value(m, f, values[j], ret_err))
					return -1;
			continue;
		}
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		        *(const uint32_t *)(const void *)quantifier != f->id)
			continue;
		if (check_value(m, f, *(void *const *)(const void *)at, ret_err))
			return -1;
	}
	return 0;
}

ProtobufCMessage *berth_grpc_unpack(const ProtobufCMessageDescriptor *type,
        struct berth_arena *arena, size_t max_memory, const uint8_t *data, size_t len,
        struct berth_error **ret_err)
{
	struct budget budget = {.arena = arena, .left = max_memory};
	ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
	static const uint8_t nothing[1];

	ProtobufCMessage *m =
	        protobuf_c_message_unpack(type, &allocator, len, data ? data : nothing);
	if (!m && budget.exceeded)
		berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "%s takes more than %zu bytes of memory", type->name, max_memory);
	else if (!m)
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "%zu bytes are not a message of type %s", len, type->name);
	else if (check_message(m, ret_err))
		return NULL;
	return m;
}
