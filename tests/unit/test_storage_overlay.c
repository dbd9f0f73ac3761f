/* storage-overlay through the ABI, mounted as the host mounts it. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "mount/mount.h"
#include "overlay_fixture.h"

#define LAYERS 250

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
	        T(usage_counts_what_is_in_the_layer),
	        T(an_unfit_file_system_is_refused_with_the_reason),
	};
	return cmocka_run_group_tests_name("storage-overlay", tests, group_setup, group_teardown);
}
