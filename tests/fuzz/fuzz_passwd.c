/* An image's /etc/passwd and /etc/group. Input: a name up to a line end, then the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "spec/passwd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	const char *nl = size ? memchr(text, '\n', size) : NULL;
	size_t n = nl ? (size_t)(nl - text) : size;
	_cleanup_free_ char *name = berth_strndup(text, n);
	struct berth_passwd_entry e = {0};
	_cleanup_free_ uint32_t *gids = NULL;
	size_t n_gids = 0;
	uint32_t gid;

	text += n + (nl ? 1 : 0);
	size -= n + (nl ? 1 : 0);
	if (berth_passwd_find(text, size, name, 0, &e)) {
		if (strcmp(e.name, name) != 0 || e.uid > INT32_MAX || e.gid > INT32_MAX)
			abort();
		uint32_t uid = e.uid;
		berth_passwd_entry_finish(&e);
		/* Who is found by name has a number by which somebody is found. */
		if (!berth_passwd_find(text, size, NULL, uid, &e) || e.uid != uid)
			abort();
		berth_passwd_entry_finish(&e);
	}
	if (berth_group_find(text, size, name, &gid) && gid > INT32_MAX)
		abort();
	bool all = berth_group_members(text, size, name, 100, &gids, &n_gids);
	if (n_gids > 100 || (!all && n_gids != 100))
		abort();
	return 0;
}
