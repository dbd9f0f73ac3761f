/* gRPC framing and the messages of the CRI: the first byte chooses the type, the rest comes in as
 * the body of a request, in two pieces. */
#include <stdlib.h>

#include "cri.pb-c.h"
#include "grpc/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT 65536

static const ProtobufCMessageDescriptor *const types[] = {
        &runtime__v1__version_request__descriptor,
        &runtime__v1__run_pod_sandbox_request__descriptor,
        &runtime__v1__create_container_request__descriptor,
        &runtime__v1__list_containers_request__descriptor,
        &runtime__v1__exec_sync_request__descriptor,
        &runtime__v1__pull_image_request__descriptor,
        &runtime__v1__update_container_resources_request__descriptor,
        &runtime__v1__update_runtime_config_request__descriptor,
};

static void unpack(const ProtobufCMessageDescriptor *type, const uint8_t *p, size_t n)
{
	struct berth_error *err = NULL;
	struct berth_arena *arena = berth_arena_new();
	ProtobufCMessage *m = berth_grpc_unpack(type, arena, 1 << 20, p, n, &err);
	if (m) {
		size_t packed = protobuf_c_message_get_packed_size(m);
		uint8_t *out = malloc(packed + 1);
		if (protobuf_c_message_pack(m, out) != packed)
			abort();
		free(out);
	}
	berth_error_free(err);
	berth_arena_free(arena);
}

static void message(const ProtobufCMessageDescriptor *type, const struct berth_grpc_reader *r)
{
	struct berth_error *err = NULL;
	uint8_t *inflated = NULL;
	size_t n = 0;

	if (!berth_grpc_reader_compressed(r))
		unpack(type, r->data, r->size);
	else if (berth_grpc_inflate(r->data, r->size, LIMIT, &inflated, &n, &err) == 0)
		unpack(type, inflated, n);
	if (n > LIMIT)
		abort();
	berth_error_free(err);
	free(inflated);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct berth_grpc_reader r = {.limit = LIMIT};
	struct berth_error *err = NULL;

	if (size < 2)
		return 0;
	const ProtobufCMessageDescriptor *type = types[data[0] % BERTH_ARRAY_LEN(types)];
	size_t first = data[1];
	data += 2;
	size -= 2;
	if (first > size)
		first = size;
	const uint8_t *p = data;
	size_t n = first;
	for (int piece = 0; piece < 2 && !err; piece++) {
		while (n > 0 && !err) {
			bool complete = false;
			if (berth_grpc_reader_feed(&r, &p, &n, &complete, &err))
				break;
			if (complete) {
				message(type, &r);
				berth_grpc_reader_reset(&r);
			}
		}
		n = size - first;
	}
	berth_error_free(err);
	berth_grpc_reader_reset(&r);
	return 0;
}
