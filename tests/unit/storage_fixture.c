#include "storage_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"

char *state, *target;
struct testhost *h;

const struct berth_storage_ops *ops(void)
{
	return testhost_plugin(h)->storage;
}

struct berth_snap_args args(const char *key, const char *parent, const char *name)
{
	return (struct berth_snap_args){
	        .size = sizeof(struct berth_snap_args), .key = key, .parent = parent, .name = name};
}

void put_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(berth_write_all(fd, text, strlen(text)), 0);
}

void put_in(const char *d, const char *name, const char *text)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", d, name);
	put_file(p, text);
}

void assert_in(const char *d, const char *name, const char *want)
{
	_cleanup_free_ char *p = berth_asprintf("%s/%s", d, name), *got = NULL;
	int r = berth_read_file(AT_FDCWD, p, 4096, &got, NULL);
	if (!want) {
		assert_int_equal(r, -ENOENT);
		return;
	}
	if (r != 0)
		fail_msg("%s: %s", p, strerror(-r));
	assert_string_equal(got, want);
}

void mount_result(const struct berth_mounts_result *r)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	if (berth_mount_apply(r, target, &err) < 0)
		fail_msg("%s", err->msg);
}

void unmount(void)
{
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	if (berth_umount(target, false, &err) < 0)
		fail_msg("%s", err->msg);
}

void prepare_and_mount(const char *key, const char *parent)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args(key, parent, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	mount_result(&r);
}

void remount(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args(key, NULL, NULL);

	OK(op, ops()->mounts(op, testhost_self(h), &a, &r));
	mount_result(&r);
}

void remove_snap(const char *key)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, NULL);
	OK(op, ops()->remove(op, testhost_self(h), &a));
}

uint32_t count(uint32_t kind)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_list l = {.size = sizeof(l)};
	uint32_t n = 0;

	OK(op, ops()->list(op, testhost_self(h), &l));
	for (uint32_t i = 0; i < l.n; i++)
		n += l.snaps[i]->kind == kind;
	return n;
}

size_t entries(const char *sub)
{
	_cleanup_free_ char *cmd = berth_asprintf("ls -A '%s/%s' | wc -l", state, sub);
	FILE *p = popen(cmd, "re");
	size_t n = 0;
	assert_non_null(p);
	assert_int_equal(fscanf(p, "%zu", &n), 1);
	pclose(p);
	return n;
}

/* What a remove had no time for is deleted in the background. */
void await_empty_trash(void)
{
	for (int i = 0; i < 200 && entries("trash") > 0; i++)
		testhost_dispatch(h, 50);
	assert_int_equal(entries("trash"), 0);
}
