/* One gzip member at a time, by zlib or (twice as fast, -Disal) by ISA-L. One thread. */
#ifndef BERTH_PULL_GUNZIP_H
#define BERTH_PULL_GUNZIP_H

#include <stdbool.h>
#include <stddef.h>

struct pull_gunzip;

struct pull_gunzip *pull_gunzip_new(void); /* never NULL */
struct pull_gunzip *pull_gunzip_free(struct pull_gunzip *g);
/* Consumes some of `in` and fills some of `out`. *ret_end is set once the member is complete and
 * its checksum was right; the next call begins the next member. Returns NULL or what is wrong. */
const char *pull_gunzip_step(struct pull_gunzip *g, const void *in, size_t in_len, void *out,
        size_t out_cap, size_t *ret_used, size_t *ret_made, bool *ret_end);

#endif
