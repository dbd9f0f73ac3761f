/* A layer's trees in a directory of the test's own, its tar stream, and what comes out of that. */
#ifndef BERTH_TESTS_PULL_FIXTURE_H
#define BERTH_TESTS_PULL_FIXTURE_H

#include <archive.h>
#include <archive_entry.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/mem.h"
#include "pull/emit.h"

#define MIB (1 << 20)
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

extern char tmp[];
/* The layer, what lies below it, and what the unpacker makes of the stream. */
extern int top, below, out;
extern struct berth_buf stream;
extern struct berth_error *err;

int set_up(void **s);
int tear_down(void **s);
bool is_root(void);

/* A file whose time is that of all others. */
void put_in(int dir, const char *name, const char *text, mode_t mode);
struct stat stat_of(int dir, const char *name);

int gather(void *arg, const void *p, size_t n); /* the sink that fills `stream` */
void emit(bool with_below, const struct pull_pathset *opaque);
void emit_fails(enum berth_code code, const char *text);

/* What libarchive reads in the stream: the names, by commas; an entry, until the next call. */
const char *names(void);
struct archive_entry *entry(const char *path);

void unpack(void);
/* The unpacked one is as that of the layer. */
void assert_same(const char *name);

#endif
