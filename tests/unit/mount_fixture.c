#include "mount_fixture.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

int no_root;
char *dir;

char *under(const char *name)
{
	return berth_asprintf("%s/%s", dir, name);
}

void make_dir(const char *name)
{
	_cleanup_free_ char *p = under(name);
	assert_int_equal(berth_mkdir_p(p, 0755), 0);
}

void make_file(const char *name, const char *text)
{
	_cleanup_free_ char *p = under(name);
	_cleanup_close_ int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

void assert_text(const char *name, const char *want)
{
	_cleanup_free_ char *p = under(name), *got = NULL;
	assert_int_equal(berth_read_file(AT_FDCWD, p, 4096, &got, NULL), 0);
	assert_string_equal(got, want);
}

int setup(void **state)
{
	char name[] = "/tmp/berth-mount-XXXXXX";

	/* A place that cannot be unshared cannot be mounted in, either. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
		no_root = 1;
		return 0;
	}
	assert_non_null(mkdtemp(name));
	assert_int_equal(mount("tmpfs", name, "tmpfs", 0, "mode=755"), 0);
	dir = berth_strdup(name);
	return 0;
}

int teardown(void **state)
{
	struct berth_error *err = NULL;

	if (no_root)
		return 0;
	assert_int_equal(berth_umount_tree(dir, false, &err), 0);
	assert_int_equal(rmdir(dir), 0);
	free(dir);
	return 0;
}

void mount_ok(const struct berth_mount *m, const char *target)
{
	const struct berth_mount *v[] = {m};
	struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *t = under(target);

	if (berth_mount_apply(&r, t, &err) < 0)
		fail_msg("%s", err->msg);
}

void mount_fails(
        const struct berth_mount *m, const char *target, enum berth_code code, const char *part)
{
	const struct berth_mount *v[] = {m};
	struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *t = under(target);

	assert_int_equal(berth_mount_apply(&r, t, &err), -1);
	if (err->code != code || !strstr(err->msg, part))
		fail_msg("%s: %s", berth_code_name(err->code), err->msg);
	assert_int_equal(berth_is_mount_point(t), 0);
}

void umount_ok(const char *target)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *t = under(target);

	if (berth_umount(t, false, &err) < 0)
		fail_msg("%s", err->msg);
	assert_int_equal(berth_is_mount_point(t), 0);
	assert_int_equal(berth_umount(t, false, &err), 0); /* again is fine */
}
