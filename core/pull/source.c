#include "pull/source.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void pull_desc_finish(struct pull_desc *d)
{
	free(berth_take(d->media_type));
	free(berth_take(d->path));
	free(berth_take(d->title));
}

int pull_collect(void *arg, const void *p, size_t n)
{
	struct pull_collect *c = arg;

	if (n > c->max - c->b.len) {
		c->too_big = true;
		return -1;
	}
	berth_buf_add(&c->b, p, n);
	return 0;
}

static int check(const struct pull_desc *d, const struct pull_collect *c, const char *what,
        struct berth_error **ret_err)
{
	char digest[PULL_DIGEST_SIZE];

	if (d->path)
		return 0;
	pull_digest_of(c->b.data, c->b.len, digest);
	if (strcmp(digest, d->digest) != 0)
		return berth_error_set(ret_err, BERTH_DATA_LOSS,
		        "%s %s: the content's digest is %s", what, d->digest, digest);
	return 0;
}

int pull_source_read(struct pull_source *s, const struct pull_desc *d, const char *what, size_t max,
        char **ret, size_t *ret_len, struct berth_error **ret_err)
{
	struct pull_collect c = {.max = max};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	int r = s->stream(s, d, 0, pull_collect, &c, &err);
	if (c.too_big)
		r = berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "%s %s is larger than %zu bytes", what, d->path ? d->path : d->digest, max);
	else if (r < 0)
		r = berth_error_move(ret_err, &err);
	else
		r = check(d, &c, what, ret_err);
	if (r < 0) {
		berth_buf_finish(&c.b);
		return -1;
	}
	*ret_len = c.b.len;
	*ret = berth_buf_steal(&c.b);
	return 0;
}
