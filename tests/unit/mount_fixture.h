/* What the tests of core/mount share: a tmpfs in a mount namespace of their own, files in it, and
 * mounts that succeed or fail. */
#ifndef BERTH_TEST_MOUNT_FIXTURE_H
#define BERTH_TEST_MOUNT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "mount/mount.h"

extern int no_root;
extern char *dir; /* the tmpfs */

#define NEED_ROOT()             \
	do {                    \
		if (no_root)    \
			skip(); \
	} while (0)

int setup(void **state);
int teardown(void **state);

/* Names are of the tmpfs. */
char *under(const char *name); /* the caller frees */
void make_dir(const char *name);
void make_file(const char *name, const char *text);
void assert_text(const char *name, const char *want);

void mount_ok(const struct berth_mount *m, const char *target);
void mount_fails(
        const struct berth_mount *m, const char *target, enum berth_code code, const char *part);
void umount_ok(const char *target);

#endif
