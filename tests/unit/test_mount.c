/* core/mount: what a driver describes becomes a mount, and goes away again. Mounting needs root. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount_fixture.h"

static void mountinfo_lines_are_read(void **state)
{
	struct berth_mountinfo mi;
	char a[] = "36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime shared:7 master:1 - ext3 /dev/r "
	           "rw,errors=continue\n";
	assert_int_equal(berth_mountinfo_parse(a, &mi), 0);
	assert_int_equal(mi.id, 36);
	assert_int_equal(mi.parent_id, 35);
	assert_int_equal(mi.major, 98);
	assert_string_equal(mi.root, "/mnt1");
	assert_string_equal(mi.target, "/mnt 2\\x");
	assert_int_equal(mi.shared, 7);
	assert_int_equal(mi.master, 1);
	assert_string_equal(mi.type, "ext3");
	assert_string_equal(mi.source, "/dev/r");
	assert_string_equal(mi.super_options, "rw,errors=continue");

	char b[] = "36 35 0:5 / /t rw unbindable - tmpfs  rw"; /* the source is empty */
	assert_int_equal(berth_mountinfo_parse(b, &mi), 0);
	assert_string_equal(mi.source, "");
	assert_true(mi.unbindable);
	assert_int_equal(mi.shared, 0);

	static const char *const bad[] = {"", "x", "36", "36 35 98 /a /b rw - t s o",
	        "36 35 98:0 /a /b rw", "36 35 98:0 /a /b rw -", "36 35 98:0 /a /b rw - t s",
	        "36 -5 98:0 /a /b rw - t s o", "36 35 98:0 /a /b rw shared:x - t s o",
	        "99999999999999999999999 35 98:0 /a /b rw - t s o"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		_cleanup_free_ char *line = berth_strdup(bad[i]);
		assert_int_equal(berth_mountinfo_parse(line, &mi), -EINVAL);
	}
}

static void bind_takes_attributes(void **state)
{
	NEED_ROOT();
	make_dir("src");
	make_dir("dst");
	make_file("src/f", "hello");
	_cleanup_free_ char *src = under("src"), *file = under("dst/new"), *dst = under("dst");
	const char *options[] = {"ro", "nosuid", "nodev", "noatime", NULL};
	struct berth_mount m = {
	        .size = sizeof(m), .type = "bind", .source = src, .options = options};
	mount_ok(&m, "dst");
	assert_text("dst/f", "hello");
	assert_int_equal(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), -1);
	assert_int_equal(errno, EROFS);
	struct statvfs st;
	assert_int_equal(statvfs(dst, &st), 0);
	assert_int_equal(st.f_flag & (ST_NOSUID | ST_NODEV | ST_NOATIME | ST_NOEXEC),
	        ST_NOSUID | ST_NODEV | ST_NOATIME);
	umount_ok("dst");

	const char *typo[] = {"nosiud", NULL};
	m.options = typo;
	mount_fails(&m, "dst", BERTH_INVALID_ARGUMENT, "nosiud");
	m.options = NULL;
	_cleanup_free_ char *none = under("none");
	m.source = none;
	mount_fails(&m, "dst", BERTH_NOT_FOUND, none);
}

static void stacked_mounts_are_all_unmounted_and_busy_is_told(void **state)
{
	NEED_ROOT();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	make_dir("stack");
	_cleanup_free_ char *t = under("stack"), *f = under("stack/f");
	for (int i = 0; i < 3; i++)
		assert_int_equal(berth_mount_tmpfs(t, 1 << 20, 01777, NULL, &err), 0);
	struct stat st;
	assert_int_equal(stat(t, &st), 0);
	assert_int_equal(st.st_mode & 07777, 01777);
	int fd = open(f, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(berth_umount(t, false, &err), -1);
	assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
	assert_non_null(strstr(err->msg, t));
	close(fd);
	umount_ok("stack");
}

static void tmpfs_size_is_a_limit(void **state)
{
	NEED_ROOT();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	make_dir("shm");
	_cleanup_free_ char *t = under("shm");
	assert_int_equal(berth_mount_tmpfs(t, 1 << 16, 01777, NULL, &err), 0);
	struct statvfs st;
	assert_int_equal(statvfs(t, &st), 0);
	assert_int_equal(st.f_blocks * st.f_frsize, 1 << 16);
	assert_int_equal(
	        st.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC), ST_NOSUID | ST_NODEV | ST_NOEXEC);
	umount_ok("shm");
}

static void the_kernels_own_words_are_told(void **state)
{
	NEED_ROOT();
	make_dir("merged");
	const char *options[] = {"no_such_option=1", NULL};
	struct berth_mount m = {.size = sizeof(m), .type = "overlay", .options = options};
	mount_fails(&m, "merged", BERTH_INVALID_ARGUMENT, "no_such_option");
	m.type = "no-such-fs";
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	const struct berth_mount *v[] = {&m};
	struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	_cleanup_free_ char *t = under("merged");
	assert_int_equal(berth_mount_apply(&r, t, &err), -1);
	assert_non_null(strstr(err->msg, "no-such-fs"));
}

static void many_mounts_are_undone_together(void **state)
{
	NEED_ROOT();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	make_dir("multi");
	make_dir("base/sub");
	make_dir("extra");
	make_file("extra/e", "extra");
	_cleanup_free_ char *t = under("multi"), *base = under("base"), *extra = under("extra");
	struct berth_mount one = {.size = sizeof(one), .type = "bind", .source = base};
	struct berth_mount two = {
	        .size = sizeof(two), .type = "bind", .source = extra, .target = "/sub"};
	struct berth_mount bad = {
	        .size = sizeof(bad), .type = "bind", .source = extra, .target = "../up"};
	const struct berth_mount *v[] = {&one, &two, &bad};
	struct berth_mounts_result r = {.size = sizeof(r), .n = 3, .mounts = v};
	assert_int_equal(berth_mount_apply(&r, t, &err), -1);
	assert_non_null(strstr(err->msg, "../up"));
	assert_int_equal(berth_is_mount_point(t), 0);
	err = berth_error_free(err);

	r.n = 2;
	assert_int_equal(berth_mount_apply(&r, t, &err), 0);
	assert_text("multi/sub/e", "extra");
	assert_int_equal(berth_umount_tree(t, false, &err), 0);
	assert_int_equal(berth_is_mount_point(t), 0);

	/* A link in the tree leads nowhere. */
	_cleanup_free_ char *link = under("base/link");
	assert_int_equal(symlink("/tmp", link), 0);
	two.target = "link";
	assert_int_equal(berth_mount_apply(&r, t, &err), -1);
	assert_int_equal(err->errnum, ELOOP);
	assert_int_equal(berth_is_mount_point(t), 0);
}

static void clone_is_restricted_and_attached_nowhere(void **state)
{
	NEED_ROOT();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	make_dir("layer");
	_cleanup_free_ char *p = under("layer"), *dev = under("layer/dev");
	int fd = berth_mount_clone_path(p, true, &err);
	assert_true(fd >= 0);
	assert_int_equal(mknodat(fd, "dev", S_IFCHR | 0666, makedev(1, 3)), 0);
	assert_int_equal(openat(fd, "dev", O_RDONLY | O_CLOEXEC), -1);
	assert_int_equal(errno, EACCES); /* nodev */
	int direct = open(dev, O_RDONLY | O_CLOEXEC);
	assert_true(direct >= 0);
	close(direct);
	struct stat here, above; /* there is no way up from it */
	assert_int_equal(fstat(fd, &here), 0);
	assert_int_equal(fstatat(fd, "../..", &above, 0), 0);
	assert_int_equal(here.st_ino, above.st_ino);
	struct statvfs st;
	assert_int_equal(fstatvfs(fd, &st), 0);
	assert_int_equal(
	        st.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC), ST_NOSUID | ST_NODEV | ST_NOEXEC);
	close(fd);
	assert_int_equal(berth_is_mount_point(p), 0);
	_cleanup_free_ char *none = under("nothing");
	assert_int_equal(berth_mount_clone_path(none, true, &err), -1);
	assert_int_equal(err->code, BERTH_NOT_FOUND);
}

struct seen {
	size_t n;
	char *last;
};

static int see(const struct berth_mountinfo *mi, void *arg)
{
	struct seen *s = arg;
	s->n++;
	free(s->last);
	s->last = berth_strdup(mi->target);
	return 0;
}

static void mounts_under_knows_names_and_borders(void **state)
{
	NEED_ROOT();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	make_dir("list/a b\n\\c");
	make_dir("list-not");
	_cleanup_free_ char *l = under("list"), *odd = under("list/a b\n\\c"),
	                    *not = under("list-not");
	assert_int_equal(berth_mount_tmpfs(odd, 0, 0755, NULL, &err), 0);
	assert_int_equal(berth_mount_tmpfs(not, 0, 0755, NULL, &err), 0);
	struct seen s = {0};
	assert_int_equal(berth_mounts_under(l, see, &s, &err), 0);
	assert_int_equal(s.n, 1);
	assert_string_equal(s.last, odd);
	free(s.last);
	umount_ok("list/a b\n\\c");
	umount_ok("list-not");
}

static void propagation_is_that_of_the_mount(void **state)
{
	NEED_ROOT();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_propagation p;
	make_dir("prop/in/side");
	_cleanup_free_ char *t = under("prop"), *in = under("prop/in"),
	                    *side = under("prop/in/side");
	assert_int_equal(berth_mount_bind(t, t, false, false, &err), 0);
	assert_int_equal(berth_mount_propagation(side, &p, &err), 0);
	assert_int_equal(p.shared, 0);
	assert_int_equal(p.master, 0);
	assert_int_equal(mount(NULL, t, NULL, MS_SHARED, NULL), 0);
	assert_int_equal(berth_mount_propagation(side, &p, &err), 0);
	assert_true(p.shared > 0);
	uint32_t group = p.shared;
	const char *options[] = {"rslave", NULL};
	struct berth_mount m = {.size = sizeof(m), .type = "bind", .source = t, .options = options};
	make_dir("slave");
	mount_ok(&m, "slave");
	_cleanup_free_ char *slave = under("slave");
	assert_int_equal(berth_mount_propagation(slave, &p, &err), 0);
	assert_int_equal(p.shared, 0);
	assert_int_equal(p.master, group);
	/* What is not asked for is private, whatever the source is. */
	umount_ok("slave");
	m.options = NULL;
	mount_ok(&m, "slave");
	assert_int_equal(berth_mount_propagation(slave, &p, &err), 0);
	assert_int_equal(p.shared + p.master, 0);
	umount_ok("slave");
	assert_int_equal(mount(NULL, t, NULL, MS_PRIVATE, NULL), 0);
	umount_ok("prop");
	assert_int_equal(berth_mount_propagation(in, &p, &err), 0);
	assert_int_equal(berth_mount_propagation("/no/such/path", &p, &err), -1);
	assert_int_equal(err->code, BERTH_NOT_FOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(mountinfo_lines_are_read),
	        cmocka_unit_test(bind_takes_attributes),
	        cmocka_unit_test(stacked_mounts_are_all_unmounted_and_busy_is_told),
	        cmocka_unit_test(tmpfs_size_is_a_limit),
	        cmocka_unit_test(the_kernels_own_words_are_told),
	        cmocka_unit_test(many_mounts_are_undone_together),
	        cmocka_unit_test(clone_is_restricted_and_attached_nowhere),
	        cmocka_unit_test(mounts_under_knows_names_and_borders),
	        cmocka_unit_test(propagation_is_that_of_the_mount),
	};
	return cmocka_run_group_tests_name("mount", tests, setup, teardown);
}
