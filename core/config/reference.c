/* config-reference [--update] FILE: is what follows the marker in FILE the reference of all keys?
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/mem.h"
#include "config/config.h"

#define MARKER "<!-- config-reference writes what follows. -->\n"

static int update(const char *path, const char *head, size_t head_len, const char *keys)
{
	FILE *f = fopen(path, "we");
	if (!f)
		return 1;
	fwrite(head, 1, head_len, f);
	fputs(keys, f);
	return fclose(f) != 0;
}

int main(int argc, char **argv)
{
	bool write = argc == 3 && strcmp(argv[1], "--update") == 0;
	const char *path = argv[argc - 1];
	_cleanup_free_ char *text = NULL, *keys = NULL;
	size_t n = 0;

	if (argc != 2 && !write)
		return 2;
	if (berth_read_file(AT_FDCWD, path, BERTH_LIMIT_CONFIG_FILE, &text, &n) < 0) {
		fprintf(stderr, "cannot read %s\n", path);
		return 1;
	}
	char *at = strstr(text, MARKER);
	if (!at) {
		fprintf(stderr, "%s lacks the line %s", path, MARKER);
		return 1;
	}
	at += strlen(MARKER);
	FILE *f = open_memstream(&keys, &n);
	berth_config_print_reference(f);
	fclose(f);
	if (strcmp(at, keys) == 0)
		return 0;
	if (write)
		return update(path, text, (size_t)(at - text), keys);
	fprintf(stderr, "%s is out of date: run config-reference --update on it\n", path);
	return 1;
}
