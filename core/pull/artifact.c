#include "pull/artifact.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pull/protocol.h"

#define BLOCK 512
#define OCTAL_SIZE_MAX 077777777777ull /* what eleven octal digits hold */

int pull_artifact_name(const struct pull_desc *d, char **ret, struct berth_error **ret_err)
{
	const char *t = d->title;
	const char *why = NULL;

	if (!t || !*t) {
		*ret = berth_strdup(strchr(d->digest, ':') + 1);
		return 0;
	}
	if (strnlen(t, BERTH_LIMIT_PATH) >= BERTH_LIMIT_PATH)
		why = "it is too long";
	else if (*t == '/' || t[strlen(t) - 1] == '/')
		why = "it begins or ends with a slash";
	for (const char *p = t; !why && *p; p += strcspn(p, "/"), p += *p == '/') {
		size_t n = strcspn(p, "/");
		if (n == 0 || (n <= 2 && strspn(p, ".") >= n))
			why = "it has an empty part, \".\" or \"..\" in it";
		else if (strncmp(p, ".wh.", 4) == 0) /* in a layer it would delete something */
			why = "a part of it begins with \".wh.\"";
	}
	for (const char *p = t; !why && *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			why = "it has a control character in it";
	if (why)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "blob %s: its title \"%.256s\" is no name of a file: %s", d->digest, t,
		        why);
	*ret = berth_strdup(t);
	return 0;
}

int pull_artifact_config(
        const struct pull_manifest *m, struct pull_config *ret, struct berth_error **ret_err)
{
	if (pull_config_parse("{}", 2, ret, ret_err) < 0)
		return -1;
	free(ret->diff_ids);
	ret->n_diff_ids = 0;
	ret->diff_ids = berth_reallocarray_zero(m->n_layers, sizeof(*ret->diff_ids));
	for (size_t i = 0; i < m->n_layers; i++) {
		_cleanup_free_ char *name = NULL;
		if (pull_artifact_name(&m->layers[i], &name, ret_err) < 0) {
			pull_config_finish(ret);
			return -1;
		}
		_cleanup_free_ char *id =
		        berth_asprintf("berth artifact %s %s", m->layers[i].digest, name);
		pull_digest_of(id, strlen(id), ret->diff_ids[ret->n_diff_ids++]);
	}
	json_object_set_new(ret->record, "artifact", json_string(m->artifact));
	return 0;
}

/* A header of the ustar form that GNU tar and libarchive read: a size beyond the octal digits is
 * in base 256. */
static void header(char block[BLOCK], const char *name, uint64_t size, char type)
{
	unsigned int sum = 0;

	memset(block, 0, BLOCK);
	memcpy(block, name, strnlen(name, 100));
	memcpy(block + 100, "0000644", 8);
	memcpy(block + 108, "0000000", 8); /* owner and group: root */
	memcpy(block + 116, "0000000", 8);
	memcpy(block + 136, "00000000000", 12); /* time */
	block[156] = type;
	memcpy(block + 257, "ustar  ", 8);
	if (size <= OCTAL_SIZE_MAX) {
		(void)snprintf(block + 124, 12, "%011llo", (unsigned long long)size);
	} else {
		block[124] = (char)0x80;
		for (int i = 0; i < 8; i++)
			block[128 + i] = (char)(size >> (56 - 8 * i));
	}
	memset(block + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += (unsigned char)block[i];
	(void)snprintf(block + 148, 7, "%06o", sum);
}

static size_t padding(uint64_t size)
{
	return (size_t)((BLOCK - size % BLOCK) % BLOCK);
}

char *pull_artifact_head(const char *name, uint64_t size, size_t *ret_len)
{
	size_t n = strlen(name) + 1, len = 0;
	char *head = berth_zalloc(3 * BLOCK + n);

	if (n > 100) { /* a longer name goes before its file */
		header(head, "././@LongLink", n, 'L');
		memcpy(head + BLOCK, name, n);
		len = BLOCK + n + padding(n);
	}
	header(head + len, name, size, '0');
	*ret_len = len + BLOCK;
	return head;
}

char *pull_artifact_tail(uint64_t size, size_t *ret_len)
{
	*ret_len = padding(size) + 2 * BLOCK;
	return berth_zalloc(*ret_len);
}
