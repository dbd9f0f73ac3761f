#include "pull_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "pull/unpack.h"

char tmp[] = "/var/tmp/berth-pull-tar.XXXXXX";
int top, below, out;
struct berth_buf stream;
struct berth_error *err;

static int make_dir(const char *name)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", tmp, name);
	assert_int_equal(mkdir(path, 0755), 0);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

int set_up(void **s)
{
	(void)s;
	strcpy(tmp + strlen(tmp) - 6, "XXXXXX");
	assert_non_null(mkdtemp(tmp));
	top = make_dir("top");
	below = make_dir("below");
	out = make_dir("out");
	return 0;
}

int tear_down(void **s)
{
	(void)s;
	close(top);
	close(below);
	close(out);
	berth_buf_finish(&stream);
	err = berth_error_free(err);
	return berth_rm_tree(AT_FDCWD, tmp);
}

void put_in(int dir, const char *name, const char *text, mode_t mode)
{
	const struct timespec t[2] = {{1000, 5}, {1000, 5}};
	_cleanup_close_ int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
	assert_int_equal(futimens(fd, t), 0);
}

int gather(void *arg, const void *p, size_t n)
{
	(void)arg;
	berth_buf_add(&stream, p, n);
	return 0;
}

void emit(bool with_below, const struct pull_pathset *opaque)
{
	const struct pull_emit e = {
	        .top = top, .below = with_below ? below : -1, .opaque = opaque, .sink = gather};
	int r = pull_emit(&e, &err);
	if (r < 0)
		fail_msg("%s", err->msg);
}

void emit_fails(enum berth_code code, const char *text)
{
	const struct pull_emit e = {.top = top, .below = -1, .sink = gather};
	assert_int_equal(pull_emit(&e, &err), -1);
	assert_int_equal(err->code, code);
	if (!strstr(err->msg, text))
		fail_msg("'%s' is not in: %s", text, err->msg);
}

/* ---- what libarchive reads ---- */

static struct archive *reader(void)
{
	struct archive *a = archive_read_new();
	assert_int_equal(archive_read_support_format_tar(a), ARCHIVE_OK);
	assert_int_equal(archive_read_open_memory(a, stream.data, stream.len), ARCHIVE_OK);
	return a;
}

/* The names in the stream, by commas. */
const char *names(void)
{
	static char all[4096];
	struct archive *a = reader();
	struct archive_entry *e;

	all[0] = '\0';
	while (archive_read_next_header(a, &e) == ARCHIVE_OK) {
		if (*all)
			strcat(all, ",");
		strcat(all, archive_entry_pathname(e));
	}
	archive_read_free(a);
	return all;
}

/* The entry, until the next call. */
struct archive_entry *entry(const char *path)
{
	static struct archive_entry *found;
	struct archive *a = reader();
	struct archive_entry *e;

	archive_entry_free(found);
	found = NULL;
	while (!found && archive_read_next_header(a, &e) <= ARCHIVE_OK && archive_entry_pathname(e))
		if (strcmp(archive_entry_pathname(e), path) == 0)
			found = archive_entry_clone(e);
	archive_read_free(a);
	if (!found && path)
		fail_msg("no '%s' in the stream: %s", path, names());
	return found;
}

/* ---- what the unpacker makes of it ---- */

static ssize_t all_at_once(void *arg, const void **ret)
{
	bool *done = arg;
	*ret = stream.data;
	ssize_t n = *done ? 0 : (ssize_t)stream.len;
	*done = true;
	return n;
}

static int no_mark(void *arg, int fd, struct berth_error **ret_err)
{
	(void)arg, (void)fd, (void)ret_err;
	return 0;
}

void unpack(void)
{
	bool done = false;
	const struct pull_unpack_opts o = {
	        .tree = {.whiteout = PULL_WHITEOUT_DELETE, .opaque = no_mark},
	        .read = all_at_once,
	        .read_arg = &done};
	struct pull_unpacked u = {0};
	if (pull_unpack(out, &o, &u, &err) < 0)
		fail_msg("%s", err->msg);
	free(u.implied);
}

struct stat stat_of(int dir, const char *name)
{
	struct stat st;
	assert_int_equal(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st;
}

void assert_same(const char *name)
{
	struct stat a = stat_of(top, name), b = stat_of(out, name);
	if (pull_same(top, &a, out, &b, name, &err) != 1)
		fail_msg("'%s' did not come out as it went in", name);
}

bool is_root(void)
{
	return geteuid() == 0;
}
