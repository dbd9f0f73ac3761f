/* What the tests of storage-aufs share: a mount namespace, a tmpfs with the driver's state
 * directory, layers and mounts in few words. Include cmocka.h before it. */
#ifndef BERTH_TEST_AUFS_FIXTURE_H
#define BERTH_TEST_AUFS_FIXTURE_H

#include <berth/plugin.h>
#include <string.h>

#include "base/error.h"
#include "storage_fixture.h"

#define LAYERS_MAX 126

extern int no_root, no_aufs;
extern char dir[]; /* the tmpfs */

#define NEED_ROOT()             \
	do {                    \
		if (no_root)    \
			skip(); \
	} while (0)
#define NEED_AUFS()                     \
	do {                            \
		if (no_root || no_aufs) \
			skip();         \
	} while (0)

int aufs_group_setup(void **s);
int aufs_group_teardown(void **s);
int aufs_teardown(void **s);
void start(const char *plugin, const char *config);
void run(const char *in, const char *command); /* must succeed */
/* A committed layer; `command` fills it. */
void make_layer(const char *name, const char *parent, const char *command);
/* n layers, each with a file of its own; returns the top one's name (the caller frees it). */
char *make_chain(int n);
void commit(const char *key, const char *name);
int try_mount(const struct berth_mounts_result *r, struct berth_error **ret_err);
enum how { PREPARE, VIEW, MOUNTS };
void mount_snap(enum how how, const char *key, const char *parent);

#endif
