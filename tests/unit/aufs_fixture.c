#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "aufs_fixture.h"

int no_root, no_aufs;
char dir[] = "/tmp/berth-aufs-XXXXXX";

static int kernel_has_aufs(void)
{
	int fd = fsopen("aufs", FSOPEN_CLOEXEC);

	berth_close(fd);
	return fd >= 0;
}

int aufs_group_setup(void **s)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
		no_root = 1;
		print_message("skipped: needs root\n");
		return 0;
	}
	no_aufs = !kernel_has_aufs();
	if (no_aufs)
		print_message("what is mounted is skipped: this kernel has no aufs\n");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("tmpfs", dir, "tmpfs", 0, "mode=755"), 0);
	/* What parts branches and ends their paths in aufs' own words. */
	state = berth_asprintf("%s/st:a=te", dir);
	target = berth_asprintf("%s/mnt", dir);
	return berth_mkdir_p(target, 0755);
}

int aufs_group_teardown(void **s)
{
	if (no_root)
		return 0;
	free(state);
	free(target);
	umount2(dir, MNT_DETACH);
	return rmdir(dir);
}

void start(const char *plugin, const char *config)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_new(plugin, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

int aufs_teardown(void **s)
{
	if (no_root)
		return 0;
	h = testhost_free(h);
	return berth_rm_tree(AT_FDCWD, state);
}

void run(const char *in, const char *command)
{
	_cleanup_free_ char *line = berth_asprintf("cd '%s' && { %s; }", in, command);
	if (system(line) != 0)
		fail_msg("%s", line);
}

void make_layer(const char *name, const char *parent, const char *command)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	_cleanup_free_ char *key = berth_asprintf("pull %s", name);
	struct berth_snap_args a = args(key, NULL, NULL);

	a.flags = BERTH_SNAP_F_LAYER;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(r.n, 1);
	assert_string_equal(r.mounts[0]->type, "bind");
	run(r.mounts[0]->source, command);
	a = args(key, parent, name);
	OK(op, ops()->commit(op, testhost_self(h), &a));
}

char *make_chain(int n)
{
	char *parent = NULL;

	for (int i = 0; i < n; i++) {
		char *name = berth_asprintf("sha256:%064d", i);
		_cleanup_free_ char *command =
		        berth_asprintf("echo %d >f%d; echo %d >top", i, i, i);
		make_layer(name, parent, command);
		free(parent);
		parent = name;
	}
	return parent;
}

void commit(const char *key, const char *name)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_args a = args(key, NULL, name);
	OK(op, ops()->commit(op, testhost_self(h), &a));
}

int try_mount(const struct berth_mounts_result *r, struct berth_error **ret_err)
{
	return berth_mount_apply(r, target, ret_err);
}

void mount_snap(enum how how, const char *key, const char *parent)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args(key, parent, NULL);

	OK(op, (how == PREPARE       ? ops()->prepare
	               : how == VIEW ? ops()->view
	                             : ops()->mounts)(op, testhost_self(h), &a, &r));
	if (try_mount(&r, &err) < 0)
		fail_msg("%s", err->msg);
}
