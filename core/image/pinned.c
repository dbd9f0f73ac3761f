/* Images that the node keeps. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/image.h"

static bool matches(const char *pattern, const char *name)
{
	size_t n = strlen(pattern);
	bool open_start = n > 0 && pattern[0] == '*', open_end = n > 1 && pattern[n - 1] == '*';
	_cleanup_free_ char *word = berth_strndup(pattern + open_start, n - open_start - open_end);
	size_t w = strlen(word), len = strlen(name);

	if (open_start && open_end)
		return strstr(name, word) != NULL;
	if (open_end)
		return strncmp(name, word, w) == 0;
	if (open_start)
		return len >= w && strcmp(name + len - w, word) == 0;
	return strcmp(name, word) == 0;
}

static bool any_matches(const char *pattern, char *const *names)
{
	for (; names && *names; names++) {
		const char *colon = strrchr(*names, ':'), *slash = strrchr(*names, '/');
		_cleanup_free_ char *bare =
		        colon && (!slash || colon > slash)
		                ? berth_strndup(*names, (size_t)(colon - *names))
		                : NULL;
		if (matches(pattern, *names) || (bare && matches(pattern, bare)))
			return true;
	}
	return false;
}

bool berth_image_pinned(const struct berth_daemon *d, const struct berth_image *i)
{
	if (i->store) /* clearing it up would free nothing */
		return true;
	for (char **p = d->config->images.pinned; p && *p; p++)
		if (matches(*p, i->id) || any_matches(*p, i->tags) || any_matches(*p, i->digests))
			return true;
	return false;
}
