/* /etc/passwd and /etc/group of a root file system. The files are the image's: bounded, regular
 * files only, resolved inside the root. [worker] */
#ifndef BERTH_SPEC_PASSWD_H
#define BERTH_SPEC_PASSWD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/macros.h"

struct berth_passwd_entry {
	char *name, *home; /* caller frees with berth_passwd_entry_finish() */
	uint32_t uid, gid;
};
void berth_passwd_entry_finish(struct berth_passwd_entry *e);

/* The text of a file in the root, at most `max` bytes. A file that is not there is empty (*ret
 * NULL, *ret_len 0). FAILED_PRECONDITION where it is no regular file or too large. */
int berth_passwd_read(int rootfd, const char *path, size_t max, char **ret, size_t *ret_len,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Finds the first entry of that name (name not NULL) or that uid. Lines of a wrong form are passed
 * over. */
bool berth_passwd_find(const char *text, size_t len, const char *name, uint32_t uid,
        struct berth_passwd_entry *ret);
/* The gid of the first group of that name. */
bool berth_group_find(const char *text, size_t len, const char *name, uint32_t *ret_gid);
/* Adds the gids of all groups with that member to an array that it grows, at most `max` in all;
 * false where there are more. */
bool berth_group_members(
        const char *text, size_t len, const char *member, size_t max, uint32_t **gids, size_t *n);
/* A decimal id, 0 to 2^31-1: -1 where it is none. */
int64_t berth_parse_id(const char *s, size_t len);

#endif
