/* storage-btrfs through the ABI, mounted as the host mounts it. */
#include "btrfs_fixture.h"

static void layers_begin_with_their_parents_content(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)}, v = {.size = sizeof(v)};

	make_file_layer("sha256:low", NULL, "gone", "x");
	struct berth_snap_args a = layer_args("k", "sha256:low");
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	const char *d = r.mounts[0]->source;
	assert_in(d, "gone", "x");
	_cleanup_free_ char *gone = berth_asprintf("%s/gone", d);
	assert_int_equal(unlink(gone), 0);
	put_in(d, "kept", "kept");
	assert_int_equal(chmod(d, 0750), 0);
	assert_int_equal(chown(d, 12, 34), 0);
	a = args("k", "sha256:other", "sha256:up");
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_INVALID, "sha256:low");
	a = args("k", "sha256:low", "sha256:up");
	OK(op, ops()->commit(op, testhost_self(h), &a));

	prepare_and_mount("c1", "sha256:up");
	assert_in(target, "gone", NULL);
	struct stat st;
	assert_int_equal(stat(target, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	assert_int_equal(st.st_uid, 12);
	put_in(target, "kept", "changed");
	/* The file system itself is mounted nodev and nosuid. */
	_cleanup_free_ char *null = berth_asprintf("%s/null", target);
	assert_int_equal(mknod(null, S_IFCHR | 0600, 0x103), 0);
	_cleanup_close_ int fd = open(null, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	fd = berth_close(fd);
	unmount();
	restart();
	remount("c1");
	assert_in(target, "kept", "changed");
	unmount();
	a = args("v1", "sha256:up", NULL);
	OK(op, ops()->view(op, testhost_self(h), &a, &v));
	mount_result(&v);
	assert_in(target, "kept", "kept");
	unmount();
	/* Committed is read-only, whatever the mount says. */
	_cleanup_free_ char *f = berth_asprintf("%s/new", v.mounts[0]->source);
	assert_int_equal(open(f, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), -1);
	assert_int_equal(errno, EROFS);
}

static void commit_into_a_taken_name_says_so(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	make_file_layer("sha256:a", NULL, "f", "1");
	struct berth_snap_args a = layer_args("again", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXISTS, "again");
	a = args("again", NULL, "sha256:a");
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_EXISTS, "sha256:a");
	put_in(r.mounts[0]->source, "still", "written");
	remove_snap("again");
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 0);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 1);
	await_empty_trash();
	assert_int_equal(subvolumes(), 1);
}

static void a_layer_in_use_is_not_removed(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	make_file_layer("sha256:a", NULL, "f", "1");
	make_file_layer("sha256:b", "sha256:a", "g", "2");
	struct berth_snap_args a = args("v", "sha256:b", NULL);
	OK(op, ops()->view(op, testhost_self(h), &a, &r));
	a = args("sha256:b", NULL, NULL);
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_PRECONDITION, "'v'");
	restart();
	FAILS(op, ops()->remove(op, testhost_self(h), &a), BERTH_E_PRECONDITION, "'v'");
	remove_snap("v");
	remove_snap("sha256:b");
	remove_snap("sha256:a");
	remove_snap("sha256:a"); /* absent is fine */
	await_empty_trash();
	assert_int_equal(entries("layers") + entries("active") + subvolumes(), 0);
	assert_no_group_is_left();
}

static void bad_arguments_are_named(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	const struct berth_storage_ops *o = ops();
	void *self = testhost_self(h);

	struct berth_snap_args a = args("k", "nothing", NULL);
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_NOT_FOUND, "nothing");
	a = args("k", NULL, NULL);
	a.inode_limit = 1;
	FAILS(op, o->prepare(op, self, &a, &r), BERTH_E_UNIMPLEMENTED, "inodes");
	a = args("sha256:a", NULL, NULL);
	make_file_layer("sha256:a", NULL, "f", "1");
	FAILS(op, o->mounts(op, self, &a, &r), BERTH_E_PRECONDITION, "sha256:a");
	/* A name is a name, not a way out. */
	make_file_layer("../../../etc", NULL, "passwd", "x");
	make_file_layer("..", NULL, "f", "x");
	assert_int_equal(entries("layers"), 3);
	assert_int_equal(entries("new") + entries("active"), 0);
	restart();
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 3);
}

static void many_layers(void **s)
{
	NEED_BTRFS();
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
	assert_in(target, "f99", "f99");
	unmount();
}

/* Owners are mapped by the mount alone. */
static void maps_of_ids_change_nothing_on_the_disk(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	const struct berth_idmap map = {0, 65536, 1000};
	struct stat st;

	make_file_layer("sha256:base", NULL, "f", "1");
	struct berth_snap_args a = args("c1", "sha256:base", NULL);
	a.uid_maps = a.gid_maps = &map;
	a.n_uid_maps = 1;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_INVALID, "group ids");
	a.n_gid_maps = 1;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_string_equal(r.mounts[0]->type, "bind");
	assert_int_equal(stat(r.mounts[0]->source, &st), 0);
	assert_int_equal(st.st_uid, 0);
}

static void what_a_crash_leaves_is_cleaned_up(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);

	make_file_layer("sha256:a", NULL, "f", "1");
	make_file_layer("sha256:b", "sha256:a", "g", "2");
	prepare_and_mount("c1", "sha256:a");
	unmount();
	/* In the middle of prepare; of a remove; a torn meta file after a power cut; a commit
	 * between its meta file and its rename. */
	assert_int_equal(
	        run("cd '%s' && mkdir -p new/77 trash/1 active/half && "
	            "btrfs subvolume create new/77/fs >/dev/null && "
	            "btrfs subvolume snapshot layers/sha256%%3Aa/fs trash/1/fs >/dev/null && "
	            "btrfs subvolume create active/half/fs >/dev/null && : > active/half/meta && "
	            "btrfs property set active/c1/fs ro true && "
	            "sed -i s/active/committed/ active/c1/meta",
	                state),
	        0);
	assert_int_equal(subvolumes(), 6);
	restart();
	assert_int_equal(count(BERTH_SNAP_ACTIVE), 1);
	assert_int_equal(count(BERTH_SNAP_COMMITTED), 2);
	OK(op, ops()->cleanup(op, testhost_self(h)));
	assert_int_equal(entries("trash") + entries("new"), 0);
	assert_int_equal(subvolumes(), 3);
	remount("c1");
	put_in(target, "w", "written");
	unmount();
	assert_no_group_is_left();
}

/* As a container does: nested, some of them read-only, deep, and full. */
static void subvolumes_made_inside_are_deleted(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("c", NULL, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(
	        run("cd '%s' && exec >/dev/null && btrfs subvolume create a && mkdir -p a/d/e && "
	            "btrfs subvolume create a/d/e/b && btrfs subvolume create a/d/e/b/c && "
	            "echo x > a/d/e/b/c/f && btrfs subvolume snapshot -r a/d/e/b a/d/snap && "
	            "btrfs property set a/d/e/b ro true && btrfs property set a ro true && "
	            "i=0; while [ $i -lt 60 ]; do btrfs subvolume create deep && cd deep; "
	            "i=$((i+1)); done",
	                r.mounts[0]->source),
	        0);
	assert_int_equal(subvolumes(), 65);
	remove_snap("c");
	await_empty_trash();
	assert_int_equal(subvolumes(), 0);
	assert_no_group_is_left();
}

/* A container may nest directories deeper than any stack. */
static void a_deep_tree_is_removed(void **s)
{
	NEED_BTRFS();
	remove_a_deep_tree();
}

static void a_mount_left_inside_is_not_emptied(void **s)
{
	NEED_BTRFS();
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *vol = berth_asprintf("%s/volume", dir);

	make_file_layer("sha256:a", NULL, "f", "1");
	prepare_and_mount("m", "sha256:a");
	_cleanup_free_ char *in = berth_asprintf("%s/active/m/fs/vol", state);
	assert_int_equal(berth_mkdir_p(in, 0755), 0);
	assert_int_equal(berth_mkdir_p(vol, 0755), 0);
	put_in(vol, "precious", "data");
	assert_int_equal(berth_mount_bind(vol, in, false, false, &err), 0);
	remove_snap("m");
	await_empty_trash();
	assert_in(vol, "precious", "data");
	unmount();
}

static void another_file_system_is_refused_with_its_name(void **s)
{
	NEED_BTRFS();
	_cleanup_free_ char *msg = NULL, *other = berth_asprintf("%s/other", dir), *conf = NULL;

	assert_int_equal(berth_mkdir_p(other, 0755), 0);
	struct testhost *bad = testhost_new(PLUGIN, other, NULL, "{}");
	assert_int_equal(testhost_start(bad, &msg), BERTH_E_PRECONDITION);
	assert_non_null(strstr(msg, other));
	assert_non_null(strstr(msg, "tmpfs"));
	testhost_kill(bad);
	/* Nothing was made there. */
	assert_int_equal(rmdir(other), 0);
	assert_int_equal(berth_mkdir_p(other, 0755), 0);
	/* A root of its own, on btrfs. */
	conf = berth_asprintf("{\"root\": \"%s/elsewhere\"}", fs);
	bad = testhost_new(PLUGIN, other, NULL, conf);
	free(berth_take(msg));
	if (testhost_start(bad, &msg) != BERTH_OK)
		fail_msg("%s", msg);
	testhost_free(bad);
	assert_int_equal(run("test -d '%s/elsewhere/layers'", fs), 0);
	static const struct {
		const char *conf, *part;
	} wrong[] = {{"{\"root\": \"rel\"}", "absolute"}, {"{\"quota\": \"yes\"}", "'yes'"}};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(wrong); i++) {
		bad = testhost_new(PLUGIN, state, NULL, wrong[i].conf);
		free(berth_take(msg));
		assert_int_equal(testhost_start(bad, &msg), BERTH_E_INVALID);
		assert_non_null(strstr(msg, wrong[i].part));
		testhost_kill(bad);
	}
}

static void a_thousand_are_listed_at_once(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_snap_list l = {.size = sizeof(l)};
	struct berth_mounts_result r = {.size = sizeof(r)};

	make_file_layer("sha256:a", NULL, "f", "1");
	for (int i = 0; i < 999; i++) {
		_cleanup_free_ char *key = berth_asprintf("v%d", i);
		struct berth_snap_args a = args(key, "sha256:a", NULL);
		OK(op, ops()->view(op, testhost_self(h), &a, &r));
	}
	restart();
	uint64_t begin = berth_now_ns();
	OK(op, ops()->list(op, testhost_self(h), &l));
	uint64_t took = berth_now_ns() - begin;
	assert_int_equal(l.n, 1000);
	if (took > 100000000ull) /* 10 ms, where nothing else runs and nothing is instrumented */
		fail_msg("%llu us", (unsigned long long)took / 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(layers_begin_with_their_parents_content),
	        T(commit_into_a_taken_name_says_so),
	        T(a_layer_in_use_is_not_removed),
	        T(bad_arguments_are_named),
	        T(many_layers),
	        T(maps_of_ids_change_nothing_on_the_disk),
	        T(what_a_crash_leaves_is_cleaned_up),
	        T(subvolumes_made_inside_are_deleted),
	        T(a_deep_tree_is_removed),
	        T(a_mount_left_inside_is_not_emptied),
	        T(another_file_system_is_refused_with_its_name),
	        T(a_thousand_are_listed_at_once),
	};
	return cmocka_run_group_tests_name("storage-btrfs", tests, group_setup, group_teardown);
}
