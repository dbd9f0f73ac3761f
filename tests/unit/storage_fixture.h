/* What the tests of storage drivers share: one instance, its snapshots and their mounts, in few
 * words. All of it fails the test where something goes wrong. */
#ifndef BERTH_TEST_STORAGE_FIXTURE_H
#define BERTH_TEST_STORAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "testhost.h"

extern char *state, *target; /* the plugin's directory, the place of mounts */
extern struct testhost *h;

const struct berth_storage_ops *ops(void);
struct berth_snap_args args(const char *key, const char *parent, const char *name);
void put_file(const char *path, const char *text);
void put_in(const char *d, const char *name, const char *text);
void assert_in(const char *d, const char *name, const char *want); /* NULL: not there */
void mount_result(const struct berth_mounts_result *r);
void unmount(void);
void prepare_and_mount(const char *key, const char *parent);
void remount(const char *key);
void remove_snap(const char *key);
uint32_t count(uint32_t kind);   /* snapshots of that kind in list() */
size_t entries(const char *sub); /* of a directory of the plugin's */
/* What a remove had no time for is deleted in the background. */
void await_empty_trash(void);

#endif
