/* Which storage driver has which layers, and so which images. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/pull.h"
#include "image/shared.h"

struct berth_layer {
	char *chain_id;
	uint32_t in; /* a bit for each of d->storages */
	uint32_t external_in;
	char *external; /* where it lies for those */
	UT_hash_handle hh;
};

static uint32_t bit_of(const struct berth_daemon *d, const struct berth_instance *storage)
{
	for (size_t i = 0; i < d->n_storages; i++)
		if (d->storages[i] == storage)
			return 1u << i;
	return 0;
}

static struct berth_layer *find(const struct berth_daemon *d, const char *chain_id)
{
	struct berth_layer *l = NULL;

	if (chain_id)
		HASH_FIND_STR(d->images->layers, chain_id, l);
	return l;
}

bool berth_layer_known(
        const struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id)
{
	struct berth_layer *l = find(d, chain_id);
	return l && (l->in & bit_of(d, storage));
}

void berth_layer_add(
        struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id)
{
	struct berth_layer *l = find(d, chain_id);

	if (!l) {
		l = berth_new(struct berth_layer);
		l->chain_id = berth_strdup(chain_id);
		HASH_ADD_KEYPTR(hh, d->images->layers, l->chain_id, strlen(l->chain_id), l);
	}
	l->in |= bit_of(d, storage);
}

void berth_layer_add_external(struct berth_daemon *d, const struct berth_instance *storage,
        const char *chain_id, const char *path)
{
	berth_layer_add(d, storage, chain_id);
	struct berth_layer *l = find(d, chain_id);
	free(l->external);
	l->external = berth_strdup(path);
	l->external_in |= bit_of(d, storage);
}

static void forget(struct berth_images *s, struct berth_layer *l)
{
	HASH_DEL(s->layers, l);
	free(l->chain_id);
	free(l->external);
	free(l);
}

void berth_layer_drop(
        struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id)
{
	struct berth_layer *l = find(d, chain_id);

	if (!l)
		return;
	l->in &= ~bit_of(d, storage);
	l->external_in &= l->in;
	if (!l->in)
		forget(d->images, l);
}

void berth_layers_free(struct berth_images *s)
{
	struct berth_layer *l, *tmp;
	HASH_ITER (hh, s->layers, l, tmp) {
		forget(s, l);
	}
}

/* ---- images ---- */

const char *berth_layers_top(const json_t *record)
{
	json_t *layers = json_object_get(record, "layers");
	size_t n = json_array_size(layers);
	if (n == 0)
		return NULL;
	return json_string_value(json_object_get(json_array_get(layers, n - 1), "chain_id"));
}

const char *berth_image_chain_id(const struct berth_image *i)
{
	return berth_layers_top(i->record);
}

/* A driver commits a layer only upon the one below: its top says it, but for what was damaged. */
static bool all_in(
        const struct berth_daemon *d, const json_t *record, const struct berth_instance *storage)
{
	size_t n;
	json_t *l;
	json_array_foreach (json_object_get(record, "layers"), n, l) {
		const char *chain = json_string_value(json_object_get(l, "chain_id"));
		if (!berth_layer_known(d, storage, chain))
			return false;
	}
	return true;
}

struct berth_instance *berth_layers_home(
        const struct berth_daemon *d, const json_t *record, struct berth_instance *wanted)
{
	if (wanted && all_in(d, record, wanted))
		return wanted;
	for (size_t i = 0; i < d->n_storages; i++)
		if (all_in(d, record, d->storages[i]))
			return d->storages[i];
	return NULL;
}

bool berth_image_in(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage)
{
	return all_in(d, i->record, storage);
}

bool berth_image_elsewhere(
        const struct berth_daemon *d, const struct berth_image *i, const struct berth_instance *but)
{
	for (size_t n = 0; n < d->n_storages; n++)
		if (d->storages[n] != but && berth_image_in(d, i, d->storages[n]))
			return true;
	return false;
}

struct berth_instance *berth_image_home(
        const struct berth_daemon *d, const struct berth_image *i, struct berth_instance *wanted)
{
	return berth_layers_home(d, i->record, wanted);
}

const char *berth_image_external(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage, size_t n)
{
	const json_t *l = json_array_get(json_object_get(i->record, "layers"), n);
	struct berth_layer *at = find(d, json_string_value(json_object_get(l, "chain_id")));

	return at && (at->external_in & bit_of(d, storage)) ? at->external : NULL;
}

int berth_image_usable(const struct berth_daemon *d, const struct berth_image *i,
        const struct berth_instance *storage, struct berth_error **ret_err)
{
	size_t n = json_array_size(json_object_get(i->record, "layers"));

	for (size_t k = 0; k < n; k++) {
		const char *path = berth_image_external(d, i, storage, k);
		if (path && berth_shared_usable(d, path, ret_err) < 0)
			return -1;
	}
	return 0;
}

char **berth_image_drivers(
        const struct berth_daemon *d, const json_t *record, const struct berth_instance *storage)
{
	char **v = NULL;

	for (size_t i = 0; i < d->n_storages; i++)
		if (d->storages[i] == storage || all_in(d, record, d->storages[i]))
			v = berth_strv_append(v, berth_instance_name(d->storages[i]));
	return v;
}

bool berth_layers_have(const json_t *record, const char *chain_id)
{
	size_t n;
	json_t *l;
	json_array_foreach (json_object_get(record, "layers"), n, l) {
		if (strcmp(json_string_value(json_object_get(l, "chain_id")), chain_id) == 0)
			return true;
	}
	return false;
}

bool berth_image_layer_used(
        struct berth_daemon *d, const struct berth_instance *storage, const char *chain_id)
{
	struct berth_image *i, *tmp;
	HASH_ITER (hh, d->images->by_id, i, tmp) {
		if (berth_layers_have(i->record, chain_id) && berth_image_in(d, i, storage))
			return true;
	}
	return false;
}
