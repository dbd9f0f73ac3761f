/* Owner, mode, extended attributes and times of what an archive's entry made. */
#ifndef BERTH_PULL_ATTRS_H
#define BERTH_PULL_ATTRS_H

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "base/error.h"
#include "pull/tree.h"

/* UID:GID:MODE, MODE octal, and perhaps more behind a colon: what the file is to be taken for,
 * whose storage driver gives all files one mode. No image may have it. */
#define PULL_OVERRIDE_STAT "user.containers.override_stat"

struct pull_attrs {
	uid_t uid;
	gid_t gid;
	mode_t mode; /* permissions with set-id and sticky bits */
	struct timespec times[2];
};

/* Fails where an id does not fit. */
int pull_attrs_read(struct archive_entry *e, struct pull_attrs *ret,
        struct berth_error **ret_err) BERTH_MUST_CHECK;
/* An open file or directory, all but the times. made_mode: what it was made with. */
int pull_attrs_set_fd(const struct pull_attrs *a, struct archive_entry *e, int fd, bool owner,
        mode_t made_mode, struct berth_error **ret_err) BERTH_MUST_CHECK;
/* A link or special file just made, times too. */
int pull_attrs_set_at(const struct pull_attrs *a, const struct pull_place *pl, bool is_link,
        struct berth_error **ret_err) BERTH_MUST_CHECK;

/* Directories take their times and default ACLs once all is in them, deepest first. */
struct pull_late_dirs;
struct pull_late_dirs *pull_late_dirs_new(void); /* never NULL */
struct pull_late_dirs *pull_late_dirs_free(struct pull_late_dirs *l);
void pull_late_dirs_add(struct pull_late_dirs *l, const char *path, const struct pull_attrs *a,
        struct archive_entry *e);
int pull_late_dirs_apply(
        struct pull_late_dirs *l, int root, struct berth_error **ret_err) BERTH_MUST_CHECK;

#endif
