/* What the tests of storage-devmapper share: pools on loop files, the plugin, its snapshots. All of
 * it fails the test where something goes wrong. */
#ifndef BERTH_TEST_DM_FIXTURE_H
#define BERTH_TEST_DM_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "storage_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-devmapper/storage-devmapper.so"
#define LOOP "{\"loop_size\": \"256M\", \"base_size\": \"64M\"}"
#define MIB (1024ull * 1024)

extern const char *lacking; /* what this machine lacks, or NULL */
extern char dir[];          /* of all tests */

#define NEED()                  \
	do {                    \
		if (lacking)    \
			skip(); \
	} while (0)

__attribute__((format(printf, 1, 2))) int sh(const char *format, ...);
__attribute__((format(printf, 1, 2))) long long number(const char *format, ...);
const char *what_is_lacking(void);
int active(void);
void pool_name(char name[64]);
int devices_in(const char *pool);
int devices(void);
void forget_pools(void);
int group_setup(void **s);
int group_teardown(void **s);
void start(const char *config);
void refused(const char *config, berth_status want, const char *part);
int setup(void **s);
int teardown(void **s);
void restart(const char *config);
void do_mount(const struct berth_mounts_result *m);
void do_umount(void);
void take(bool view, uint32_t flags, const char *key, const char *parent);
void mount_again(const char *key);
void commit(const char *key, const char *name);
struct berth_snap_info stat_snap(const char *key);
berth_status prepare_only(const char *key, const char *parent, uint64_t size, char **ret_msg);
void put(const char *name, const char *text);
void assert_there(const char *name, const char *want);
int fill(const char *name, int n);
void unlink_there(const char *name);
void layer(const char *name, const char *parent, const char *file, const char *text);
void run_watches(int ms);

#endif
