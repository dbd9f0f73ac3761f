/* SPDY frames and header blocks of a client, in pieces as the first byte says. */
#include <stdint.h>
#include <stdlib.h>

#include "stream/spdy_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t got; /* of data frames: never more than was fed */

static int on_syn(
        void *arg, uint32_t id, bool fin, bool one_way, const struct berth_spdy_headers *h)
{
	size_t sum = 0, n = 0;
	(void)arg;
	(void)id;
	(void)fin;
	(void)one_way;
	for (size_t i = 0; i < h->n; i++) {
		for (size_t j = 0; j < h->pair[i].value_len; j++)
			sum += (unsigned char)h->pair[i].value[j];
		n += h->pair[i].name_len + h->pair[i].value_len;
	}
	if (n > BERTH_SPDY_HEADERS_MAX || h->n > BERTH_SPDY_PAIRS_MAX || sum > 255 * n)
		abort();
	(void)berth_spdy_header(h, "streamtype", &n);
	return 0;
}
static int on_data(void *arg, uint32_t id, const char *p, size_t n, bool fin)
{
	(void)arg;
	(void)fin;
	(void)p;
	if (id > 0x7fffffff)
		abort();
	got += n;
	return 0;
}
static int on_id(void *arg, uint32_t id)
{
	(void)arg;
	(void)id;
	return 0;
}
static int on_two(void *arg, uint32_t id, uint32_t v)
{
	(void)arg;
	(void)id;
	(void)v;
	return 0;
}
static int on_none(void *arg)
{
	(void)arg;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct berth_spdy_events events = {
	        on_syn, on_data, on_id, on_two, on_two, on_id, on_none, on_two};
	struct berth_spdy_in in;

	if (size == 0)
		return 0;
	size_t piece = data[0] ? data[0] : size;
	got = 0;
	berth_spdy_in_init(&in, &events, NULL);
	for (size_t i = 1; i < size; i += piece) {
		size_t n = size - i < piece ? size - i : piece;
		if (berth_spdy_in_feed(&in, (const char *)data + i, n) < 0)
			break;
	}
	if (got > size)
		abort();
	berth_spdy_in_finish(&in);
	return 0;
}
