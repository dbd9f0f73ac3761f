#include "stats/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "stats/kept.h"

#define FILE_MAX BERTH_KIB(64)
#define NO_LIMIT (1ull << 60) /* v1 says "none" with the largest page count */

int berth_cg_open(const struct berth_cg_source *s, const char *controller, const char *file)
{
	_cleanup_free_ char *path =
	        s->v2 ? berth_asprintf("%s%s/%s", s->mount, s->path, file)
	              : berth_asprintf("%s/%s%s/%s", s->mount, controller, s->path, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

char *berth_cg_text(const struct berth_cg_source *s, const char *controller, const char *file)
{
	char *text = NULL;

	if (s->kept)
		return berth_kept_text(s->kept, s, controller, file, FILE_MAX, &text) == 0 ? text
		                                                                           : NULL;
	_cleanup_close_ int fd = berth_cg_open(s, controller, file);
	return fd >= 0 && berth_read_fd(fd, FILE_MAX, &text, NULL) == 0 ? text : NULL;
}

bool berth_cg_number(
        const struct berth_cg_source *s, const char *controller, const char *file, uint64_t *ret)
{
	_cleanup_free_ char *text = berth_cg_text(s, controller, file);
	char *end;
	if (!text)
		return false;
	unsigned long long n = strtoull(text, &end, 10);
	*ret = end == text ? 0 : n; /* "max" is no limit */
	return true;
}

uint64_t berth_cg_field(const char *text, const char *key)
{
	size_t n = strlen(key);
	for (const char *line = text; line && *line;) {
		if (strncmp(line, key, n) == 0 && line[n] == ' ')
			return strtoull(line + n + 1, NULL, 10);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return 0;
}

uint64_t berth_cg_limit(uint64_t n)
{
	return n >= NO_LIMIT ? 0 : n;
}
