/* storage-btrfs: usage, limits. */
#include "btrfs_fixture.h"

static void usage_is_what_was_written(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	struct berth_snap_args a = layer_args("k", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(fill(r.mounts[0]->source, "low", 8 * MIB), 0);
	a = args("k", NULL, "sha256:a");
	OK(op, ops()->commit(op, testhost_self(h), &a));
	a = layer_args("k", "sha256:a");
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(fill(r.mounts[0]->source, "up", 3 * MIB), 0);
	a = args("k", "sha256:a", "sha256:b");
	OK(op, ops()->commit(op, testhost_self(h), &a));
	prepare_and_mount("c", "sha256:b");
	assert_int_equal(fill(target, "w", 2 * MIB), 0);
	assert_about(usage("sha256:a"), 8 * MIB);
	assert_about(usage("sha256:b"), 3 * MIB);
	assert_about(usage("c"), 2 * MIB);
	/* A second one writes as much: shared with the first is what lies below both, as before. */
	unmount();
	prepare_and_mount("d", "sha256:b");
	_cleanup_free_ char *from = berth_asprintf("%s/low", target),
	                    *to = berth_asprintf("%s/clone", target);
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ioctl(out, FICLONE, in), 0);
	out = berth_close(out);
	in = berth_close(in);
	assert_about(usage("d"), 0);
	assert_int_equal(run("btrfs subvolume create '%s/own' >/dev/null", target), 0);
	_cleanup_free_ char *own = berth_asprintf("%s/own", target);
	assert_int_equal(fill(own, "f", MIB), 0);
	restart();
	assert_about(usage("d"), MIB);
	assert_about(usage("sha256:b"), 3 * MIB);
	/* Committed by a version that did not note it. */
	assert_int_equal(run("sed -i '/bytes=/s/bytes=[0-9]*//' '%s'/layers/*/meta", state), 0);
	restart();
	assert_about(usage("sha256:a"), 8 * MIB);
	assert_about(usage("sha256:b"), 3 * MIB);
	/* Without quotas the trees are walked. */
	restart_with("{\"quota\": \"off\"}");
	assert_about(usage("sha256:b"), 3 * MIB);
	assert_about(usage("c"), 2 * MIB);
	a = args("e", "sha256:b", NULL);
	a.size_limit = MIB;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION, "quota: off");
	unmount();
}

static void limited(const char *key, uint64_t bytes)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args(key, "sha256:a", NULL);

	a.size_limit = bytes;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	mount_result(&r);
}

static void try_limit(bool nested)
{
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = layer_args("k", NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(fill(r.mounts[0]->source, "low", 8 * MIB), 0);
	a = args("k", NULL, "sha256:a");
	OK(op, ops()->commit(op, testhost_self(h), &a));

	/* What lies below does not count. */
	limited("c", 4 * MIB);
	assert_int_equal(fill(target, "w", 3 * MIB), 0);
	assert_int_equal(fill(target, "w2", 3 * MIB), EDQUOT);
	_cleanup_free_ char *w = berth_asprintf("%s/w", target),
	                    *w2 = berth_asprintf("%s/w2", target);
	assert_int_equal(unlink(w) + unlink(w2), 0);
	assert_int_equal(run("btrfs filesystem sync %s", fs), 0);
	assert_int_equal(fill(target, "w", 2 * MIB), 0);
	if (nested) {
		_cleanup_free_ char *own = berth_asprintf("%s/own", target);
		assert_int_equal(run("btrfs subvolume create '%s' >/dev/null", own), 0);
		assert_int_equal(fill(own, "f", 3 * MIB), EDQUOT);
	}
	unmount();
	restart();
	remount("c");
	assert_int_equal(fill(target, "w3", 5 * MIB), EDQUOT);
	unmount();
	/* What stands on it has no limit. */
	_cleanup_free_ char *path = berth_asprintf("%s/active/c/fs", state);
	assert_int_equal(run("rm -rf '%s'/w*", path), 0);
	if (nested)
		assert_int_equal(run("btrfs subvolume delete '%s/own' >/dev/null", path), 0);
	a = args("c", NULL, "sha256:c");
	OK(op, ops()->commit(op, testhost_self(h), &a));
	prepare_and_mount("d", "sha256:c");
	assert_int_equal(fill(target, "w", 6 * MIB), 0);
	assert_about(usage("d"), 6 * MIB);
	unmount();
	limited("e", 4 * MIB);
	unmount();
	remove_snap("e");
	remove_snap("d");
	remove_snap("sha256:c");
	remove_snap("sha256:a");
	await_empty_trash();
	assert_int_equal(subvolumes(), 0);
	assert_no_group_is_left();
}

static void a_limit_is_of_what_is_written(void **s)
{
	NEED_BTRFS();
	try_limit(false);
}

static void a_simple_limit_holds_in_subvolumes_too(void **s)
{
	NEED_BTRFS();
	_cleanup_free_ char *msg = NULL;

	h = testhost_free(h);
	assert_int_equal(run("btrfs quota disable %s", fs), 0);
	h = testhost_new(PLUGIN, state, NULL, "{\"quota\": \"simple\"}");
	if (testhost_start(h, &msg) != BERTH_OK) {
		assert_non_null(strstr(msg, "Linux 6.7"));
		print_message("skipped: this kernel has no simple quotas\n");
		h = testhost_kill(h);
		start("{}");
		skip();
	}
	try_limit(true); /* restarts with the default: what the file system has is used */
}

static void quotas_are_not_enabled_unasked(void **s)
{
	NEED_BTRFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	h = testhost_free(h);
	assert_int_equal(run("btrfs quota disable %s", fs), 0);
	start("{}");
	assert_int_not_equal(run("btrfs qgroup show %s >/dev/null 2>&1", fs), 0);
	struct berth_snap_args a = args("c", NULL, NULL);
	a.size_limit = MIB;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_PRECONDITION,
	        "quota: full or simple");
	prepare_and_mount("d", NULL);
	assert_int_equal(fill(target, "w", 2 * MIB), 0);
	assert_about(usage("d"), 2 * MIB);
	unmount();
	remove_snap("d");
	await_empty_trash();
	assert_int_equal(subvolumes(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(usage_is_what_was_written),
	        T(a_limit_is_of_what_is_written),
	        T(a_simple_limit_holds_in_subvolumes_too),
	        T(quotas_are_not_enabled_unasked),
	};
	return cmocka_run_group_tests_name(
	        "storage-btrfs-quota", tests, group_setup, group_teardown);
}
