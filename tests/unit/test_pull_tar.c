/* core/pull/tar.c: files in a tar stream, as libarchive and the unpacker read them. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "pull_fixture.h"

static void names_and_targets_of_any_length(void **s)
{
	(void)s;
	char part[231], target[1001];
	memset(part, 'p', sizeof(part));
	part[230] = '\0';
	memset(target, 't', sizeof(target));
	target[1000] = '\0';
	_cleanup_free_ char *dir = berth_asprintf("%s-1", part);
	_cleanup_free_ char *file = berth_asprintf("%s/%s-2", dir, part);
	_cleanup_free_ char *link = berth_asprintf("%s/%s-3", dir, part);

	assert_int_equal(mkdirat(top, dir, 0711), 0);
	put_in(top, file, "far", 0640);
	assert_int_equal(linkat(top, file, top, link, 0), 0);
	assert_int_equal(symlinkat(target, top, "link"), 0);
	put_in(top, "\xff\xfe raw", "", 0600);
	put_in(top, "a\xcc\x88 not composed", "", 0600); /* no normalising */
	emit(false, NULL);
	assert_string_equal(archive_entry_symlink(entry("link")), target);
	assert_string_equal(archive_entry_hardlink(entry(link)), file);
	entry("\xff\xfe raw");
	entry("a\xcc\x88 not composed");
	unpack();
	assert_same(file);
	assert_same(link);
	assert_same("link");
	assert_same("\xff\xfe raw");
	assert_int_equal(stat_of(out, file).st_ino, stat_of(out, link).st_ino);
}

static void numbers_beyond_old_headers(void **s)
{
	(void)s;
	static const struct timespec times[][2] = {{{0, UTIME_OMIT}, {-5, 250000000}},
	        {{0, UTIME_OMIT}, {1LL << 33, 1}}, {{0, UTIME_OMIT}, {1600000000, 999999999}}};
	static const char *const files[] = {"old", "late", "fine"};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++) {
		put_in(top, files[i], "", 07555 & 0777);
		assert_int_equal(fchmodat(top, files[i], 06755, 0), 0);
		if (is_root())
			assert_int_equal(fchownat(top, files[i], 3000000000u, 2097152, 0), 0);
		assert_int_equal(utimensat(top, files[i], times[i], 0), 0);
	}
	emit(false, NULL);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++) {
		struct archive_entry *e = entry(files[i]);
		assert_int_equal(archive_entry_mtime(e), times[i][1].tv_sec);
		assert_int_equal(archive_entry_mtime_nsec(e), times[i][1].tv_nsec);
		assert_int_equal(archive_entry_uid(e), is_root() ? 3000000000u : geteuid());
		assert_int_equal(archive_entry_gid(e), is_root() ? 2097152 : getegid());
	}
	if (!is_root())
		return;
	unpack();
	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++)
		assert_same(files[i]);
}

static void attributes_of_files_and_directories(void **s)
{
	(void)s;
	char big[2000];
	memset(big, 'b', sizeof(big));
	put_in(top, "f", "x", 0644);
	assert_int_equal(mkdirat(top, "d", 0755), 0);
	for (int i = 0; i < 2; i++) {
		_cleanup_close_ int fd = openat(top, i ? "d" : "f", O_RDONLY | O_CLOEXEC);
		if (fsetxattr(fd, "user.bytes", "\0=\n\xff", 4, 0) < 0 && errno == EOPNOTSUPP)
			skip();
		assert_int_equal(fsetxattr(fd, "user.empty", "", 0, 0), 0);
		assert_int_equal(fsetxattr(fd, "user.big", big, sizeof(big), 0), 0);
	}
	emit(false, NULL);
	unpack();
	for (int i = 0; i < 2; i++) {
		char value[4096];
		_cleanup_close_ int fd = openat(out, i ? "d" : "f", O_RDONLY | O_CLOEXEC);
		assert_int_equal(fgetxattr(fd, "user.bytes", value, sizeof(value)), 4);
		assert_memory_equal(value, "\0=\n\xff", 4);
		assert_int_equal(fgetxattr(fd, "user.empty", value, sizeof(value)), 0);
		assert_int_equal(fgetxattr(fd, "user.big", value, sizeof(value)), sizeof(big));
		assert_memory_equal(value, big, sizeof(big));
	}
}

static void put_sparse(const char *name, off_t size, const off_t *parts, size_t n)
{
	_cleanup_close_ int fd = openat(top, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(pwrite(fd, "data", 4, parts[i]), 4);
}

/* Instead of the C library's: a file system may know of no holes. */
static bool no_holes;

off_t lseek(int fd, off_t at, int whence)
{
	struct stat st;

	if (no_holes && (whence == SEEK_HOLE || whence == SEEK_DATA) && fstat(fd, &st) == 0)
		return whence == SEEK_HOLE ? st.st_size : at;
	return syscall(SYS_lseek, fd, at, whence);
}

static void holes_that_are_not_told_stay_holes(void **s)
{
	(void)s;
	static const off_t ends[] = {0, 16 * MIB - 4}, middle[] = {5 * MIB, 5 * MIB + 100000};

	put_sparse("ends", 16 * MIB, ends, 2);
	put_sparse("middle", 16 * MIB, middle, 2);
	put_sparse("none", 16 * MIB, NULL, 0);
	put_sparse("odd", 3 * MIB + 5, middle, 0);
	if (stat_of(top, "none").st_blocks > 100)
		skip();
	no_holes = true;
	emit(false, NULL);
	no_holes = false;
	assert_true(stream.len < MIB);
	unpack();
	static const char *const files[] = {"ends", "middle", "none", "odd"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++) {
		assert_same(files[i]);
		assert_true(stat_of(out, files[i]).st_blocks < 1000);
	}
}

static void holes_stay_holes(void **s)
{
	(void)s;
	static const off_t huge = 9LL * 1024 * MIB; /* more than eleven octal digits say */
	static const off_t first[] = {0}, middle[] = {5 * MIB, 7 * MIB}, last[] = {16 * MIB - 4},
	                   far[] = {9LL * 1024 * MIB - 4};

	put_sparse("first", 16 * MIB, first, 1);
	put_sparse("middle", 16 * MIB, middle, 2);
	put_sparse("last", 16 * MIB, last, 1);
	put_sparse("none", 16 * MIB, NULL, 0);
	put_sparse("huge", huge, far, 1);
	if (stat_of(top, "none").st_blocks > 100)
		skip(); /* this file system has no holes */
	emit(false, NULL);
	assert_int_equal(archive_entry_size(entry("huge")), huge);
	assert_true(stream.len < MIB);
	unpack();
	static const char *const files[] = {"first", "middle", "last", "none"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++) {
		assert_same(files[i]);
		assert_true(stat_of(out, files[i]).st_blocks < 1000);
	}
	char data[4];
	_cleanup_close_ int fd = openat(out, "huge", O_RDONLY | O_CLOEXEC);
	assert_int_equal(stat_of(out, "huge").st_size, huge);
	assert_int_equal(pread(fd, data, 4, huge - 4), 4);
	assert_memory_equal(data, "data", 4);
}

static void one_mode_for_all_is_undone(void **s)
{
	(void)s;
	assert_int_equal(mkdirat(top, "d", 0755), 0);
	put_in(top, "f", "x", 0755);
	put_in(top, "bad", "x", 0755);
	_cleanup_close_ int d = openat(top, "d", O_RDONLY | O_CLOEXEC),
	                    f = openat(top, "f", O_RDONLY | O_CLOEXEC),
	                    bad = openat(top, "bad", O_RDONLY | O_CLOEXEC);
	static const char name[] = "user.containers.override_stat";
	if (fsetxattr(d, name, "3000000000:8:01777", 18, 0) < 0 && errno == EOPNOTSUPP)
		skip();
	assert_int_equal(fsetxattr(f, name, "5:6:04711:file", 14, 0), 0);
	emit(false, NULL);
	struct archive_entry *e = entry("d/");
	assert_int_equal(archive_entry_uid(e), 3000000000u);
	assert_int_equal(archive_entry_gid(e), 8);
	assert_int_equal(archive_entry_mode(e), S_IFDIR | 01777);
	e = entry("f");
	assert_int_equal(archive_entry_uid(e), 5);
	assert_int_equal(archive_entry_mode(e), S_IFREG | 04711);
	assert_int_equal(archive_entry_xattr_count(e), 0);
	assert_int_equal(fsetxattr(bad, name, "5:6", 3, 0), 0);
	emit_fails(BERTH_DATA_LOSS, "override_stat");
}

static void devices_and_links(void **s)
{
	(void)s;
	if (!is_root())
		skip();
	assert_int_equal(mknodat(top, "block", S_IFBLK | 0640, makedev(259, 70000)), 0);
	if (mknodat(top, "null", S_IFCHR | 0666, makedev(1, 3)) < 0)
		skip(); /* a user namespace's root */
	assert_int_equal(mkfifoat(top, "fifo", 0600), 0);
	assert_int_equal(fchownat(top, "fifo", 7, 8, 0), 0);
	assert_int_equal(symlinkat("nowhere", top, "sym"), 0);
	assert_int_equal(fchownat(top, "sym", 3, 4, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(linkat(top, "null", top, "null2", 0), 0);
	emit(false, NULL);
	assert_string_equal(archive_entry_hardlink(entry("null2")), "null");
	unpack();
	static const char *const files[] = {"block", "null", "null2", "fifo", "sym"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(files); i++)
		assert_same(files[i]);
	assert_int_equal(stat_of(out, "null").st_ino, stat_of(out, "null2").st_ino);
}

int main(void)
{
	const struct CMUnitTest tests[] = {T(names_and_targets_of_any_length),
	        T(numbers_beyond_old_headers), T(attributes_of_files_and_directories),
	        T(holes_that_are_not_told_stay_holes), T(holes_stay_holes),
	        T(one_mode_for_all_is_undone), T(devices_and_links)};
	return cmocka_run_group_tests_name("pull-tar", tests, NULL, NULL);
}
