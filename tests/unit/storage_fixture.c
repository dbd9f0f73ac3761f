#include "storage_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

struct berth_snap_args layer_args(const char *key, const char *parent)
{
	struct berth_snap_args a = args(key, parent, NULL);
	a.flags = BERTH_SNAP_F_LAYER;
	return a;
}

void make_file_layer(const char *name, const char *parent, const char *file, const char *text)
{
	bool detached = testhost_plugin(h)->features & BERTH_F_DETACHED_LAYERS;
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	_cleanup_free_ char *key = berth_asprintf("pull %s", name);
	struct berth_snap_args a = layer_args(key, detached ? NULL : parent);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(r.n, 1);
	assert_string_equal(r.mounts[0]->type, "bind");
	put_in(r.mounts[0]->source, file, text);
	a = args(key, parent, name);
	OK(op, ops()->commit(op, testhost_self(h), &a));
}

/* For ever: a chain of layers comes, a container on it, and all goes again. */
static void churn(void)
{
	for (;;) {
		make_file_layer("sha256:a", NULL, "f", "whole");
		make_file_layer("sha256:b", "sha256:a", "f", "whole");
		_cleanup_op_ struct berth_op *op = testop_new(h);
		struct berth_mounts_result r = {.size = sizeof(r)};
		struct berth_snap_args a = args("c", "sha256:b", NULL);
		OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
		remove_snap("c");
		remove_snap("sha256:b");
		remove_snap("sha256:a");
	}
}

static void clear_all(void)
{
	static const char *const order[] = {
	        "c", "pull sha256:b", "pull sha256:a", "sha256:b", "sha256:a"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(order); i++)
		remove_snap(order[i]);
}

static void kill_churn(useconds_t after)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0)
		churn();
	usleep(after);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("the churn ended with %x", (unsigned int)status);
}

void kill_at_any_instant(
        int rounds, unsigned int most_us, void (*restart)(void), void (*more)(uint32_t n))
{
	unsigned int seed = 20261124;

	for (int round = 0; round < rounds; round++) {
		kill_churn((useconds_t)rand_r(&seed) % most_us);
		restart();
		assert_string_equal(testhost_logged(h), "");
		_cleanup_op_ struct berth_op *op = testop_new(h);
		struct berth_snap_list l = {.size = sizeof(l)};
		OK(op, ops()->list(op, testhost_self(h), &l));
		for (uint32_t i = 0; i < l.n; i++) {
			if (l.snaps[i]->kind != BERTH_SNAP_COMMITTED)
				continue;
			_cleanup_free_ char *fs = berth_asprintf(
			        "%s/layers/sha256%%3A%s/fs", state, l.snaps[i]->key + 7);
			assert_in(fs, "f", "whole");
		}
		OK(op, ops()->cleanup(op, testhost_self(h)));
		assert_int_equal(entries("new") + entries("trash"), 0);
		assert_int_equal(entries("active") + entries("layers"), l.n);
		if (more)
			more(l.n);
		clear_all();
		await_empty_trash();
		assert_int_equal(entries("active") + entries("layers"), 0);
	}
}

void remove_a_deep_tree(void)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("deep", NULL, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	int at = open(r.mounts[0]->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(mkdirat(at, "d", 0700), 0);
		int next = openat(at, "d", O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	close(at);
	remove_snap("deep");
	await_empty_trash();
	assert_int_equal(entries("active"), 0);
}
