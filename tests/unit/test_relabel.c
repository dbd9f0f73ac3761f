/* Labels of files and of what is mounted. SELinux itself is not needed: files keep any label. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "mount/relabel.h"

static char dir[64];

#define LABEL "u:object_r:container_file_t:s0:c1,c2"

static char *under(const char *name)
{
	return berth_asprintf("%s/%s", dir, name);
}

static void make(const char *name)
{
	_cleanup_free_ char *path = under(name);
	_cleanup_free_ char *parent = berth_strdup(path);
	*strrchr(parent, '/') = '\0';
	assert_int_equal(berth_mkdir_p(parent, 0755), 0);
	assert_int_equal(berth_write_file_atomic(AT_FDCWD, path, "x", 1, 0644, false), 0);
}

static const char *label_of(const char *name)
{
	static char text[256];
	_cleanup_free_ char *path = under(name);
	ssize_t n = lgetxattr(path, "security.selinux", text, sizeof(text) - 1);

	text[n < 0 ? 0 : n] = '\0';
	return text;
}

static void link_at(const char *to, const char *name)
{
	_cleanup_free_ char *path = under(name);
	assert_int_equal(symlink(to, path), 0);
}

static void relabelled(const char *name)
{
	_cleanup_free_ char *path = under(name);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	if (berth_relabel(path, LABEL, NULL, NULL, &err) < 0)
		fail_msg("%s", err->msg);
}

static void test_a_tree(void **state)
{
	_cleanup_free_ char *outside = under("outside"), *below = under("v/mounted");
	(void)state;

	make("outside/secret");
	make("v/f");
	make("v/d/e/g");
	make("v/mounted/hidden");
	link_at(outside, "v/dir-link");
	link_at("../outside/secret", "v/d/file-link");
	_cleanup_free_ char *fifo = under("v/fifo");
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(mount(outside, below, NULL, MS_BIND, NULL), 0);
	relabelled("v");
	assert_int_equal(umount(below), 0);
	static const char *const labelled[] = {
	        "v", "v/f", "v/d", "v/d/e", "v/d/e/g", "v/dir-link", "v/d/file-link", "v/fifo"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(labelled); i++)
		if (strcmp(label_of(labelled[i]), LABEL) != 0)
			fail_msg("%s: %s", labelled[i], label_of(labelled[i]));
	static const char *const left[] = {"outside", "outside/secret", "v/mounted/hidden"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(left); i++)
		assert_string_equal(label_of(left[i]), "");
	/* The top is right: whatever came since is taken as it is. */
	make("v/later");
	relabelled("v");
	assert_string_equal(label_of("v/later"), "");
	make("single");
	relabelled("single");
	assert_string_equal(label_of("single"), LABEL);
	_cleanup_free_ char *by_link = under("v/dir-link/secret");
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	assert_int_equal(berth_relabel(by_link, LABEL, NULL, NULL, &err), -1);
	assert_string_equal(label_of("outside/secret"), "");
}

static void test_a_tree_that_cannot_be_written(void **state)
{
	_cleanup_free_ char *path = under("ro");
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	(void)state;

	make("ro/f");
	assert_int_equal(mount(path, path, NULL, MS_BIND, NULL), 0);
	assert_int_equal(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
	int r = berth_relabel(path, LABEL, NULL, NULL, &err);
	umount(path);
	assert_int_equal(r, -1);
	assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
	assert_non_null(strstr(err->msg, "/ro/f: Read-only"));
}

static bool twice(void *arg)
{
	int *n = arg;
	return (*n)++ < 2;
}

static void test_a_tree_that_is_not_wanted(void **state)
{
	_cleanup_free_ char *path = under("half");
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	int asked = 0;
	(void)state;

	for (int i = 0; i < 20; i++) {
		char name[32];
		snprintf(name, sizeof(name), "half/%d", i);
		make(name);
	}
	assert_int_equal(berth_relabel(path, LABEL, twice, &asked, &err), -1);
	assert_int_equal(err->code, BERTH_CANCELLED);
	assert_int_equal(asked, 3);
	/* Not taken for one that is done. */
	assert_string_equal(label_of("half"), "");
	relabelled("half");
	assert_string_equal(label_of("half/0"), LABEL);
	assert_string_equal(label_of("half"), LABEL);
}

static void test_a_tree_too_deep(void **state)
{
	_cleanup_free_ char *path = under("deep");
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)state;

	for (int i = 0; i <= BERTH_LIMIT_RELABEL_DEPTH; i++) {
		assert_int_equal(mkdirat(at, i ? "d" : "deep", 0755), 0);
		int next = openat(at, i ? "d" : "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(at);
		at = next;
	}
	close(at);
	assert_int_equal(berth_relabel(path, LABEL, NULL, NULL, &err), -1);
	assert_int_equal(err->code, BERTH_RESOURCE_EXHAUSTED);
	assert_string_equal(label_of("deep"), "");
}

static void test_what_is_the_nodes(void **state)
{
	static const char *const no[] = {"/", "/etc", "/etc/shadow", "/usr", "/usr/local/x",
	        "/home", "/root", "/var/lib", "/proc/1", "/lib64", "/run"},
	                         *const yes[] = {"/etc/app", "/home/x",
	                                 "/var/lib/kubelet/pods/1/volumes/v", "/usrlocal", "/data",
	                                 "/tmp/v"};
	(void)state;

	for (size_t i = 0; i < BERTH_ARRAY_LEN(no); i++)
		if (berth_relabel_allowed(no[i]))
			fail_msg("%s", no[i]);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(yes); i++)
		if (!berth_relabel_allowed(yes[i]))
			fail_msg("%s", yes[i]);
	make("other-name/f");
	_cleanup_free_ char *other = under("other-name");
	assert_true(berth_relabel_allowed(other));
	assert_int_equal(mount("/media", other, NULL, MS_BIND, NULL), 0);
	bool allowed = berth_relabel_allowed(other);
	umount(other);
	assert_false(allowed);
}

/* A kernel without SELinux knows no context=: so it is seen to come where it belongs. */
static void applied(
        const struct berth_mount *m, const char *target, enum berth_code code, const char *text)
{
	const struct berth_mount *v[] = {m};
	const struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	_cleanup_free_ char *t = under(target), *scratch = under("scratch");
	const struct berth_mount_how how = {.userns_fd = -1, .context = LABEL, .scratch = scratch};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	assert_int_equal(berth_mkdir_p(t, 0755), 0);
	int done = berth_mount_apply_as(&r, t, &how, &err);
	assert_int_equal(done < 0 ? err->code : BERTH_OK_, code);
	if (done < 0 && !strstr(err->msg, text))
		fail_msg("%s", err->msg);
	assert_int_equal(berth_is_mount_point(t), done == 0);
	assert_int_equal(access(scratch, F_OK), -1);
	_cleanup_free_ char *empty = under("scratch.empty");
	assert_int_equal(access(empty, F_OK) == 0, strcmp(target, "m1") == 0);
	if (access(empty, F_OK) == 0)
		assert_int_equal(rmdir(empty), 0);
	if (done == 0)
		umount2(t, MNT_DETACH);
}

static void test_mounts_with_a_label(void **state)
{
	_cleanup_free_ char *source = under("layer");
	const char *rw[] = {"bind", NULL}, *ro[] = {"bind", "ro", NULL};
	const char *own[] = {"context=mine", NULL}, *none[] = {NULL};
	const struct berth_mount written = {
	        .size = sizeof(written), .type = "bind", .source = source, .options = rw};
	const struct berth_mount view = {
	        .size = sizeof(view), .type = "bind", .source = source, .options = ro};
	const struct berth_mount inside = {.size = sizeof(inside),
	        .type = "bind",
	        .source = source,
	        .target = "sub",
	        .options = rw};
	const struct berth_mount fs = {
	        .size = sizeof(fs), .type = "tmpfs", .source = "tmpfs", .options = none};
	const struct berth_mount fs_own = {
	        .size = sizeof(fs), .type = "tmpfs", .source = "tmpfs", .options = own};
	(void)state;

	if (access("/sys/fs/selinux/enforce", F_OK) == 0)
		skip();
	make("layer/f");
	applied(&view, "m1", BERTH_INVALID_ARGUMENT, "overlay");
	assert_string_equal(label_of("layer/f"), "");
	applied(&fs, "m2", BERTH_INVALID_ARGUMENT, "'context=" LABEL "'");
	applied(&fs_own, "m3", BERTH_INVALID_ARGUMENT, "'context=mine'");
	applied(&inside, "m4", BERTH_FAILED_PRECONDITION, "cannot have an SELinux label");
	assert_string_equal(label_of("layer/f"), "");
	applied(&written, "m5", BERTH_OK_, "");
	assert_string_equal(label_of("layer/f"), LABEL);
}

static int start(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/berth-relabel-XXXXXX");
	if (!mkdtemp(dir) || mount("tmpfs", dir, "tmpfs", 0, NULL) < 0)
		return -1;
	return 0;
}

static int end(void **state)
{
	(void)state;
	umount2(dir, MNT_DETACH);
	return rmdir(dir);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, start, end)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_a_tree), T(test_a_tree_that_cannot_be_written),
	        T(test_a_tree_that_is_not_wanted), T(test_a_tree_too_deep),
	        T(test_what_is_the_nodes), T(test_mounts_with_a_label)};

	if (geteuid() != 0)
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
