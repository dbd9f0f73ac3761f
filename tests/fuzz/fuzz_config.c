/* Any text as a configuration: it is refused, or what is printed of it loads to the same again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *printed(const struct berth_config *c, size_t *ret_len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_len);
	berth_config_print(f, c);
	fclose(f);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct berth_config *a = NULL, *b = NULL;
	struct berth_error *err = NULL;
	size_t n = 0, m = 0;

	if (berth_config_parse("fuzz", (const char *)data, size, &a, &err)) {
		berth_error_free(err);
		return 0;
	}
	char *first = printed(a, &n);
	if (berth_config_parse("fuzz", first, n, &b, &err)) {
		fprintf(stderr, "%s\n%s\n", err->msg, first);
		abort();
	}
	char *second = printed(b, &m);
	if (n != m || memcmp(first, second, n) != 0) {
		fprintf(stderr, "%s\n%s\n", first, second);
		abort();
	}
	free(first);
	free(second);
	berth_config_free(a);
	berth_config_free(b);
	return 0;
}
