/* storage-overlay through the ABI, mounted as the host mounts it. Needs root; runs in a mount
 * namespace and on a tmpfs of its own. */
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
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "storage_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-overlay/storage-overlay.so"
#define LAYERS 250

static int no_root;
static char dir[] = "/tmp/berth-overlay-XXXXXX";

static int group_setup(void **s)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		no_root = 1;
		return 0;
	}
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("tmpfs", dir, "tmpfs", 0, "mode=755"), 0);
	/* A colon in the path must not part layers. */
	state = berth_asprintf("%s/st:ate", dir);
	target = berth_asprintf("%s/mnt", dir);
	return berth_mkdir_p(target, 0755);
}

static int group_teardown(void **s)
{
	if (no_root)
		return 0;
	free(state);
	free(target);
	umount2(dir, MNT_DETACH);
	return rmdir(dir);
}

static void start(const char *config)
{
	_cleanup_free_ char *msg = NULL;

	h = testhost_new(PLUGIN, state, NULL, config);
	if (testhost_start(h, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	assert_null(testhost_unasked(h));
}

static int setup(void **s)
{
	if (no_root)
		return 0;
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	start("{}");
	return 0;
}

static int teardown(void **s)
{
	if (no_root)
		return 0;
	h = testhost_free(h);
	return berth_rm_tree(AT_FDCWD, state);
}

static void restart(void)
{
	h = testhost_kill(h);
	start("{}");
}

#define NEED_ROOT()             \
	do {                    \
		if (no_root)    \
			skip(); \
	} while (0)

static void layers_come_in_any_order_and_compose(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r1 = {.size = sizeof(r1)}, r2 = r1;
	struct berth_snap_args up = args("k-up", NULL, NULL), low = args("k-low", NULL, NULL);

	up.flags = low.flags = BERTH_SNAP_F_LAYER;
	OK(op, ops()->prepare(op, testhost_self(h), &up, &r1));
	OK(op, ops()->prepare(op, testhost_self(h), &low, &r2));
	put_in(r1.mounts[0]->source, "top", "top");
	_cleanup_free_ char *wh = berth_asprintf("%s/gone", r1.mounts[0]->source);
	assert_int_equal(mknod(wh, S_IFCHR, makedev(0, 0)), 0);
	put_in(r2.mounts[0]->source, "gone", "x");
	put_in(r2.mounts[0]->source, "kept", "kept");
	assert_int_equal(chmod(r1.mounts[0]->source, 0750), 0);
	assert_int_equal(chown(r1.mounts[0]->source, 12, 34), 0);
	struct berth_snap_args c = args("k-up", "sha256:low", "sha256:up");
	FAILS(op, ops()->commit(op, testhost_self(h), &c), BERTH_E_NOT_FOUND, "sha256:low");
	c = args("k-low", NULL, "sha256:low");
	OK(op, ops()->commit(op, testhost_self(h), &c));
	c = args("k-up", "sha256:low", "sha256:up");
	OK(op, ops()->commit(op, testhost_self(h), &c));

	prepare_and_mount("c1", "sha256:up");
	assert_in(target, "top", "top");
	assert_in(target, "kept", "kept");
	assert_in(target, "gone", NULL);
	struct stat st;
	assert_int_equal(stat(target, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	assert_int_equal(st.st_uid, 12);
	assert_int_equal(st.st_gid, 34);
	put_in(target, "kept", "changed");
	unmount();
	remount("c1");
	assert_in(target, "kept", "changed");
	unmount();
	/* The layer below is untouched, and a view shows it without the container's change. */
	struct berth_mounts_result v = {.size = sizeof(v)};
	struct berth_snap_args va = args("v1", "sha256:up", NULL);
	OK(op, ops()->view(op, testhost_self(h), &va, &v));
	mount_result(&v);
	assert_in(target, "kept", "kept");
	_cleanup_free_ char *f = berth_asprintf("%s/new", target);
	assert_int_equal(open(f, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), -1);
	assert_int_equal(errno, EROFS);
	unmount();
}

static void a_layer_may_lie_elsewhere(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_free_ char *out = berth_asprintf("%s/out", dir), *gone = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("k-out", NULL, NULL);
	struct berth_snap_list list = {.size = sizeof(list)};
	struct stat st;

	assert_int_equal(berth_mkdir_p(out, 0755), 0);
	assert_int_equal(chown(out, 12, 34) | chmod(out, 0750), 0);
	put_in(out, "far", "far");
	a.external = "relative";
	a.flags = BERTH_SNAP_F_LAYER;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_INVALID, "absolute");
	testop_free(op);
	op = testop_new(h);
	a.external = out;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(r.n, 0);
	a = args("k-out", NULL, "sha256:out");
	OK(op, ops()->commit(op, testhost_self(h), &a));
	make_file_layer("sha256:near", "sha256:out", "near", "near");
	restart();
	testop_free(op);
	op = testop_new(h);
	OK(op, ops()->list(op, testhost_self(h), &list));
	for (uint32_t i = 0; i < list.n; i++)
		if (strcmp(list.snaps[i]->key, "sha256:out") == 0)
			assert_string_equal(list.snaps[i]->external, out);
		else
			assert_null(list.snaps[i]->external);
	prepare_and_mount("c1", "sha256:near");
	assert_in(target, "far", "far");
	assert_in(target, "near", "near");
	unmount();
	/* Where it has gone, all but a mount goes on. */
	gone = berth_asprintf("%s.gone", out);
	assert_int_equal(rename(out, gone), 0);
	struct berth_snap_info info = {.size = sizeof(info)};
	a = args("sha256:out", NULL, NULL);
	OK(op, ops()->stat(op, testhost_self(h), &a, &info));
	assert_int_equal(info.bytes, 0);
	a = args("c2", "sha256:out", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	_cleanup_free_ char *upper = berth_asprintf("%s/active/c2/fs", state);
	assert_int_equal(stat(upper, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	assert_int_equal(st.st_uid, 12);
	remove_snap("c1");
	remove_snap("c2");
	remove_snap("sha256:near");
	remove_snap("sha256:out");
	assert_in(gone, "far", "far");
	assert_int_equal(berth_rm_tree(AT_FDCWD, gone), 0);
}

static void commit_into_a_taken_name_says_so(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	make_file_layer("sha256:a", NULL, "f", "1");
	struct berth_snap_args a = args("again", NULL, NULL);
	a.flags = BERTH_SNAP_F_LAYER;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXISTS, "again");
	a = args("again", NULL, "sha256:a");
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_EXISTS, "sha256:a");
	remove_snap("again");
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 0);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
	await_empty_trash();
}

static void a_layer_in_use_is_not_removed(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);

	make_file_layer("sha256:a", NULL, "f", "1");
	make_file_layer("sha256:b", "sha256:a", "g", "2");
	struct berth_snap_args a = args("sha256:a", NULL, NULL);
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_PRECONDITION, "sha256:b");
	restart();
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_PRECONDITION, "sha256:b");
	remove_snap("sha256:b");
	remove_snap("sha256:a");
	remove_snap("sha256:a"); /* absent is fine */
	await_empty_trash();
	assert_int_equal(entries("layers") + entries("active"), 0);
}

/* The upper directory begins as what lies below it will look. */
static void owners_of_the_root_are_mapped(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	const struct berth_idmap uids[] = {{100, 5000, 1}, {0, 65536, 50}},
	                         gids[] = {{0, 131072, 50}};
	struct stat st;

	make_file_layer("sha256:base", NULL, "f", "1");
	_cleanup_free_ char *lower = berth_asprintf("%s/layers/sha256%%3Abase/fs", state);
	_cleanup_free_ char *upper = berth_asprintf("%s/active/c1/fs", state);
	assert_int_equal(chown(lower, 7, 8), 0);
	struct berth_snap_args a = args("c1", "sha256:base", NULL);
	a.uid_maps = uids;
	a.n_uid_maps = 2;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_INVALID, "group ids");
	a.gid_maps = gids;
	a.n_gid_maps = 1;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(stat(upper, &st), 0);
	assert_int_equal(st.st_uid, 65543);
	assert_int_equal(st.st_gid, 131080);
	assert_int_equal(stat(lower, &st), 0);
	assert_int_equal(st.st_uid, 7);
	remove_snap("c1");
	assert_int_equal(chown(lower, 99, 8), 0);
	_cleanup_op_ struct berth_op *again = testop_new(h);
	FAILS(again, ops()->prepare(again, testhost_self(h), &a, &r), BERTH_E_INTERNAL, "c1");
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 0);
}

static void bad_arguments_are_named(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	char longer[300];

	memset(longer, 'k', sizeof(longer));
	longer[299] = '\0';
	const struct berth_storage_ops *o = ops();
	void *self = testhost_self(h);
	struct berth_snap_args a = args(longer, NULL, NULL);
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_INVALID, "kkkk");
	a = args("", NULL, NULL);
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_INVALID, "empty");
	a = args("a\nb", NULL, NULL);
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_INVALID, "control");
	a = args("k", "nothing", NULL);
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_NOT_FOUND, "nothing");
	a = args("k", NULL, NULL);
	a.flags = 0x80;
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_INVALID, "0x80");
	a = args("k", NULL, NULL);
	a.size_limit = 1;
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_PRECONDITION, "no quota"); /* a tmpfs */
	a = args("none", NULL, "x");
	FAILS(op, o->mounts(op, self, &a, &r), BERTH_E_NOT_FOUND, "none");
	FAILS(op, o->commit(op, self, &a), BERTH_E_NOT_FOUND, "none");
	make_file_layer("sha256:a", NULL, "f", "1");
	a = args("sha256:a", NULL, NULL);
	FAILS(op, o->mounts(op, self, &a, &r), BERTH_E_PRECONDITION, "sha256:a");
	/* A name is a name, not a way out. */
	make_file_layer("../../../etc", NULL, "passwd", "x");
	make_file_layer("..", NULL, "f", "x");
	assert_int_equal(entries("layers"), 3);
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 3);
}

static void many_layers(void **s)
{
	NEED_ROOT();
	_cleanup_free_ char *parent = NULL;

	for (int i = 0; i < LAYERS; i++) {
		char *name = berth_asprintf("sha256:%064d", i);
		_cleanup_free_ char *file = berth_asprintf("f%d", i);
		make_file_layer(name, parent, file, file);
		free(parent);
		parent = name;
	}
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), LAYERS);
	prepare_and_mount("c", parent);
	assert_in(target, "f0", "f0");
	assert_in(target, "f249", "f249");
	unmount();
	berth_mount_force_short_names(true);
	remount("c");
	assert_in(target, "f125", "f125");
	unmount();
	berth_mount_force_short_names(false);
}

static void what_a_crash_leaves_is_cleaned_up(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);

	make_file_layer("sha256:a", NULL, "f", "1");
	make_file_layer("sha256:b", "sha256:a", "g", "2");
	make_file_layer("sha256:c", "sha256:b", "g", "2");
	prepare_and_mount("c1", "sha256:a");
	unmount();
	/* In the middle of prepare; of a remove; a torn meta file of an active one after a power
	 * cut; a commit between its meta file and its rename. */
	_cleanup_free_ char *cmd =
	        berth_asprintf("cd '%s' && mkdir -p new/77/fs trash/1/deep/er active/half/fs && "
	                       "echo x > trash/1/deep/er/f && : > active/half/meta && "
	                       "sed -i s/active/committed/ active/c1/meta",
	                state);
	assert_int_equal(system(cmd), 0);
	restart();
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 1);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 3);
	assert_int_equal(entries("new"), 0);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(entries("trash"), 0);
	remount("c1");
	unmount();

	/* A layer without its meta file is none, nor is what stands on it; both names are free. */
	_cleanup_free_ char *rm = berth_asprintf("rm '%s/layers/sha256%%3Ab/meta'", state);
	assert_int_equal(system(rm), 0);
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
	assert_non_null(strstr(testhost_logged(h), "sha256%3Ab"));
	assert_non_null(strstr(testhost_logged(h), "sha256:c"));
	make_file_layer("sha256:b", "sha256:a", "new", "3");
	make_file_layer("sha256:c", "sha256:b", "g", "2");
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 3);
}

static void a_volatile_upper_is_trusted_within_one_boot(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	make_file_layer("sha256:a", NULL, "f", "1");
	struct berth_snap_args a = args("c", "sha256:a", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	bool is_volatile = false;
	for (size_t i = 0; r.mounts[0]->options[i]; i++)
		is_volatile = is_volatile || strcmp(r.mounts[0]->options[i], "volatile") == 0;
	assert_true(is_volatile);
	mount_result(&r);
	put_in(target, "w", "written");
	umount2(target, MNT_DETACH); /* the mark stays */
	restart();
	remount("c");
	assert_in(target, "w", "written");
	unmount();
	_cleanup_free_ char *cmd =
	        berth_asprintf("sed -i 's/^boot=.*/boot=another/' '%s/active/c/meta'", state);
	assert_int_equal(system(cmd), 0);
	restart();
	FAILS(op, ops()->mounts(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, "restarted");
	remove_snap("c");

	h = testhost_free(h);
	start("{\"volatile\": false, \"mount_options\": \"nodev,metacopy=off\"}");
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	bool nodev = false;
	for (size_t i = 0; r.mounts[0]->options[i]; i++) {
		assert_string_not_equal(r.mounts[0]->options[i], "volatile");
		nodev = nodev || strcmp(r.mounts[0]->options[i], "nodev") == 0;
	}
	assert_true(nodev);
	mount_result(&r);
	unmount();
}

static void usage_counts_what_is_in_the_layer(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_info i = {.size = sizeof(i)};

	make_file_layer("sha256:a", NULL, "f", "1");
	struct berth_snap_args a = args("k", NULL, NULL);
	a.flags = BERTH_SNAP_F_LAYER;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	const char *d = r.mounts[0]->source;
	static char big[40960];
	memset(big, 'b', sizeof(big) - 1);
	put_in(d, "big", big);
	_cleanup_free_ char *from = berth_asprintf("%s/big", d), *to = berth_asprintf("%s/link", d);
	assert_int_equal(link(from, to), 0);
	a = args("k", "sha256:a", "sha256:b");
	OK(op, ops()->commit(op, testhost_self(h), &a));
	a = args("sha256:b", NULL, NULL);
	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	assert_int_equal(i.kind, BERTH_SNAP_COMMITTED);
	assert_string_equal(i.key, "sha256:b");
	assert_string_equal(i.parent, "sha256:a");
	assert_int_equal(i.inodes, 1);
	assert_int_equal(i.bytes, 40960);
	assert_true(i.created_ns > 1500000000ull * 1000000000ull);
}

static void killed_at_any_instant_it_comes_up_whole(void **s)
{
	NEED_ROOT();
	kill_at_any_instant(60, 8000, restart, NULL);
}

/* A container may nest directories deeper than any stack. */
static void a_deep_tree_is_removed(void **s)
{
	NEED_ROOT();
	remove_a_deep_tree();
}

static void a_big_tree_does_not_hold_up_its_remove(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("big", NULL, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	int at = open(r.mounts[0]->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 60000; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%d", i);
		assert_int_equal(mknodat(at, name, S_IFREG | 0600, 0), 0);
	}
	close(at);
	uint64_t begin = berth_now_ns();
	remove_snap("big");
	uint64_t took = berth_now_ns() - begin;
	assert_int_equal(entries("active"), 0);
	if (took > 2000000000ull)
		fail_msg("%llu ms", (unsigned long long)took / 1000000);
	/* Stopped in the middle, the next start goes on. */
	h = testhost_free(h);
	start("{}");
	await_empty_trash();
}

static void a_mount_left_inside_is_not_emptied(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("m", NULL, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	_cleanup_free_ char *in = berth_asprintf("%s/vol", r.mounts[0]->source),
	                    *vol = berth_asprintf("%s/volume", dir);
	assert_int_equal(berth_mkdir_p(in, 0755), 0);
	assert_int_equal(berth_mkdir_p(vol, 0755), 0);
	put_in(vol, "precious", "data");
	assert_int_equal(berth_mount_bind(vol, in, false, false, &err), 0);
	remove_snap("m");
	assert_in(vol, "precious", "data");
	assert_non_null(strstr(testhost_logged(h), "'m'"));
	FAILS(op, ops()->cleanup(op, testhost_self(h)), BERTH_E_INTERNAL, "busy");
	_cleanup_free_ char *trash = berth_asprintf("%s/trash", state);
	assert_int_equal(berth_umount_tree(trash, false, &err), 0);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(entries("trash"), 0);
	assert_in(vol, "precious", "data");
}

static void an_unfit_file_system_is_refused_with_the_reason(void **s)
{
	NEED_ROOT();
	_cleanup_free_ char *msg = NULL, *on = berth_asprintf("%s/onoverlay", dir), *cmd = NULL;

	/* An overlay's upper directory cannot be on an overlay. */
	cmd = berth_asprintf("cd '%s' && mkdir -p onoverlay l u w && mount -t overlay overlay "
	                     "-o lowerdir=l,upperdir=u,workdir=w onoverlay",
	        dir);
	assert_int_equal(system(cmd), 0);
	struct testhost *bad = testhost_new(PLUGIN, on, NULL, "{}");
	assert_int_equal(testhost_start(bad, &msg), BERTH_E_PRECONDITION);
	assert_non_null(strstr(msg, on));
	testhost_kill(bad);
	free(berth_take(msg));
	bad = testhost_new(PLUGIN, "/proc", NULL, "{}");
	assert_int_equal(testhost_start(bad, &msg), BERTH_E_PRECONDITION);
	assert_non_null(strstr(msg, "/proc"));
	testhost_kill(bad);
	assert_int_equal(umount(on), 0);
	free(berth_take(msg));
	bad = testhost_new(PLUGIN, state, NULL, "{\"mount_options\": \"upperdir=/x\"}");
	assert_int_equal(testhost_start(bad, &msg), BERTH_E_INVALID);
	testhost_kill(bad);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(layers_come_in_any_order_and_compose),
	        T(a_layer_may_lie_elsewhere),
	        T(commit_into_a_taken_name_says_so),
	        T(a_layer_in_use_is_not_removed),
	        T(owners_of_the_root_are_mapped),
	        T(bad_arguments_are_named),
	        T(many_layers),
	        T(what_a_crash_leaves_is_cleaned_up),
	        T(a_volatile_upper_is_trusted_within_one_boot),
	        T(usage_counts_what_is_in_the_layer),
	        T(killed_at_any_instant_it_comes_up_whole),
	        T(a_deep_tree_is_removed),
	        T(a_big_tree_does_not_hold_up_its_remove),
	        T(a_mount_left_inside_is_not_emptied),
	        T(an_unfit_file_system_is_refused_with_the_reason),
	};
	return cmocka_run_group_tests_name("storage-overlay", tests, group_setup, group_teardown);
}
