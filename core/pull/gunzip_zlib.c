#include "pull/gunzip.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/mem.h"

struct pull_gunzip {
	z_stream z;
	bool ended;
};

struct pull_gunzip *pull_gunzip_new(void)
{
	struct pull_gunzip *g = berth_new(struct pull_gunzip);
	if (inflateInit2(&g->z, 15 + 16) != Z_OK) /* gzip wrapper alone */
		abort();
	return g;
}

struct pull_gunzip *pull_gunzip_free(struct pull_gunzip *g)
{
	if (g) {
		inflateEnd(&g->z);
		free(g);
	}
	return NULL;
}

const char *pull_gunzip_step(struct pull_gunzip *g, const void *in, size_t in_len, void *out,
        size_t out_cap, size_t *ret_used, size_t *ret_made, bool *ret_end)
{
	if (g->ended) {
		inflateReset(&g->z);
		g->ended = false;
	}
	if (in_len > INT_MAX)
		in_len = INT_MAX;
	g->z.next_in = (Bytef *)in;
	g->z.avail_in = (uInt)in_len;
	g->z.next_out = out;
	g->z.avail_out = (uInt)out_cap;
	int r = inflate(&g->z, Z_NO_FLUSH);
	*ret_used = in_len - g->z.avail_in;
	*ret_made = out_cap - g->z.avail_out;
	*ret_end = g->ended = r == Z_STREAM_END;
	if (r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR)
		return NULL;
	return g->z.msg ? g->z.msg : "damaged gzip data";
}
