#include "pull/gunzip.h"

#include <isa-l/igzip_lib.h>
#include <limits.h>
#include <stdlib.h>

#include "base/mem.h"

struct pull_gunzip {
	struct inflate_state s;
	bool ended;
};

static void restart(struct pull_gunzip *g)
{
	isal_inflate_init(&g->s);
	g->s.crc_flag = ISAL_GZIP; /* reads the header, checks the trailer */
	g->ended = false;
}

struct pull_gunzip *pull_gunzip_new(void)
{
	struct pull_gunzip *g = berth_new(struct pull_gunzip);
	restart(g);
	return g;
}

struct pull_gunzip *pull_gunzip_free(struct pull_gunzip *g)
{
	free(g);
	return NULL;
}

static const char *text_of(int r)
{
	switch (r) {
	case ISAL_INVALID_WRAPPER:
		return "invalid gzip header";
	case ISAL_UNSUPPORTED_METHOD:
		return "unknown compression method";
	case ISAL_INCORRECT_CHECKSUM:
		return "incorrect data check";
	default:
		return "damaged gzip data";
	}
}

const char *pull_gunzip_step(struct pull_gunzip *g, const void *in, size_t in_len, void *out,
        size_t out_cap, size_t *ret_used, size_t *ret_made, bool *ret_end)
{
	if (g->ended)
		restart(g);
	if (in_len > INT_MAX)
		in_len = INT_MAX;
	g->s.next_in = (uint8_t *)in;
	g->s.avail_in = (uint32_t)in_len;
	g->s.next_out = out;
	g->s.avail_out = (uint32_t)out_cap;
	int r = isal_inflate(&g->s);
	*ret_used = in_len - g->s.avail_in;
	*ret_made = out_cap - g->s.avail_out;
	*ret_end = g->ended = r >= 0 && g->s.block_state == ISAL_BLOCK_FINISH;
	return r < 0 ? text_of(r) : NULL;
}
