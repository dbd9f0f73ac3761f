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
/* args() of a prepare for a layer. */
struct berth_snap_args layer_args(const char *key, const char *parent);
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
/* A committed layer with a file of its own; of a driver with BERTH_F_DETACHED_LAYERS, else on its
 * parent's content. */
void make_file_layer(const char *name, const char *parent, const char *file, const char *text);
/* A process that makes and removes layers and a container is killed after at most so long, as often
 * as that: after restart() what is there is whole, nothing else is left, and more(n) holds, n the
 * number of snapshots. `more` may be NULL. */
void kill_at_any_instant(
        int rounds, unsigned int most_us, void (*restart)(void), void (*more)(uint32_t n));
/* A container may nest directories deeper than any stack. */
void remove_a_deep_tree(void);

#endif
