/* storage-aufs on a kernel with aufs, mounted as the host mounts it; skipped on any other. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "aufs_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-aufs/storage-aufs.so"

static int setup(void **s)
{
	if (no_root || no_aufs)
		return 0;
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	start(PLUGIN, "{}");
	return 0;
}

static void whiteouts_and_opaque_directories_hide(void **s)
{
	NEED_AUFS();
	make_layer("a", NULL,
	        "mkdir -p d/sub o/sub p && echo a >d/f && echo a >o/f && echo a >kept "
	        "&& echo a >gone && echo a >p/x && chmod 700 p");
	make_layer("b", "a",
	        "mkdir o d p && : >.wh.gone && : >o/.wh..wh..opq && echo b >o/new && "
	        ": >d/.wh.sub && echo b >d/f && chmod 755 p");
	mount_snap(PREPARE, "x", "b");
	run(target, "test \"$(ls -A | xargs)\" = 'd kept o p' && test \"$(ls -A o d | xargs)\" = "
	            "'d: f o: new'");
	assert_in(target, "d/f", "b\n");
	/* dirperm1: the mode of the directory above counts, not the 0700 below. */
	run(target, "setpriv --reuid 1000 --clear-groups cat p/x >/dev/null");
	/* Written, deleted, made again, moved: nothing below changes. */
	run(target,
	        "echo x >kept && rm -r d && mkdir d && echo x >d/own && rm o/new && mv kept moved "
	        "&& chmod 600 p/x && test \"$(ls -A d | xargs)\" = own");
	unmount();
	mount_snap(MOUNTS, "x", NULL);
	run(target, "test \"$(ls -A | xargs)\" = 'd moved o p' && test \"$(ls -A d o | xargs)\" = "
	            "'d: own o:'");
	unmount();
	mount_snap(VIEW, "v", "b");
	run(target, "test \"$(ls -A | xargs)\" = 'd kept o p' && ! touch new 2>/dev/null");
	assert_in(target, "kept", "a\n");
	unmount();
	/* What the container did is a layer like any other. */
	commit("x", "c");
	mount_snap(PREPARE, "y", "c");
	run(target, "test \"$(ls -A | xargs)\" = 'd moved o p' && test \"$(ls -A d o | xargs)\" = "
	            "'d: own o:' && test $(stat -c %a p/x) = 600");
	unmount();
}

static void hard_links_of_a_layer_stay_one_file(void **s)
{
	NEED_AUFS();
	make_layer("a", NULL, "cp /bin/true one && ln one two && ln one three");
	mount_snap(PREPARE, "x", "a");
	run(target,
	        "./two && ./three && chmod 700 one && ./two && test $(stat -c %a three) = 700 && "
	        "echo '#' >>three && cmp one two && ./two && rm one && ./three");
	unmount();
}

static void layers_to_the_limit_are_mounted(void **s)
{
	NEED_AUFS();
	_cleanup_free_ char *top = make_chain(LAYERS_MAX - 1);

	for (int i = 0; i < 2; i++) {
		uint64_t begin = berth_now_ns();
		mount_snap(i ? VIEW : PREPARE, i ? "v" : "x", top);
		print_message("%d layers: %s in %u ms\n", LAYERS_MAX - 1, i ? "view" : "prepare",
		        (unsigned int)((berth_now_ns() - begin) / 1000000));
		assert_in(target, "f0", "0\n");
		assert_in(target, "f64", "64\n");
		assert_in(target, "f124", "124\n");
		assert_in(target, "top", "124\n");
		run(target, "test $(ls | wc -l) = 126");
		unmount();
	}
	make_layer("last", top, "echo last >top");
}

static void a_writable_branch_is_mounted_once(void **s)
{
	NEED_AUFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_args a = args("x", "a", NULL);

	make_layer("a", NULL, "echo 1 >f");
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_int_equal(try_mount(&r, &err), 0);
	assert_int_equal(try_mount(&r, &err), -1);
	assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
	assert_non_null(strstr(err->msg, "mounted writable already"));
	err = berth_error_free(err);
	unmount();
	assert_int_equal(berth_is_mount_point(target), 0);
	/* One that is made at this moment. */
	_cleanup_free_ char *fs = berth_asprintf("%s/active/x/fs", state);
	_cleanup_close_ int fd = open(fs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(try_mount(&r, &err), -1);
	assert_non_null(strstr(err->msg, "is being made"));
	err = berth_error_free(err);
	fd = berth_close(fd);
	/* Views and other containers of the same layers are welcome. */
	assert_int_equal(try_mount(&r, &err), 0);
	mount_snap(VIEW, "v", "a");
	mount_snap(PREPARE, "y", "a");
	unmount();
	assert_int_equal(berth_is_mount_point(target), 0);
}

static void a_branch_that_is_missing_undoes_the_mount(void **s)
{
	NEED_AUFS();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	struct berth_mounts_result r = {.size = sizeof(r)};
	_cleanup_free_ char *top = make_chain(100);
	struct berth_snap_args a = args("x", top, NULL);

	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	/* The bottom comes last, when the mount is there already. */
	_cleanup_free_ char *layers = berth_asprintf("%s/layers", state);
	run(layers, "mv sha256%3A*00/fs away");
	assert_int_equal(try_mount(&r, &err), -1);
	assert_non_null(strstr(err->msg, "/fs'"));
	assert_int_equal(berth_is_mount_point(target), 0);
	run(layers, "mv away $(echo sha256%3A*00)/fs");
	err = berth_error_free(err);
	if (try_mount(&r, &err) < 0) /* the writable branch is free again */
		fail_msg("%s", err->msg);
	unmount();
}

static void paths_may_be_long(void **s)
{
	NEED_AUFS();
	char part[200];

	h = testhost_free(h);
	memset(part, 'p', sizeof(part));
	part[199] = '\0';
	_cleanup_free_ char *was = berth_strdup(state);
	free(state);
	state = berth_asprintf("%s/%s/%s", was, part, part);
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	start(PLUGIN, "{}");
	make_layer("a", NULL, "echo a >f");
	mount_snap(PREPARE, "x", "a");
	assert_in(target, "f", "a\n");
	put_in(target, "g", "x");
	unmount();
	h = testhost_free(h);
	free(state);
	state = berth_take(was);
}

static void an_unfit_place_is_refused_with_the_reason(void **s)
{
	NEED_AUFS();
	static const struct {
		const char *config, *part;
	} bad[] = {
	        {"{\"mount_options\": \"no_such_option\"}", "refuses 'no_such_option'"},
	        {"{\"mount_options\": \"udba=often\"}", "refuses 'udba=often'"},
	        {"{\"xino_dir\": \"/proc\"}", "refuses 'xino_dir'"},
	        {"{\"xino_dir\": \"/no/such\"}", "refuses 'xino_dir'"},
	};
	_cleanup_free_ char *on = berth_asprintf("%s/union", dir);

	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		_cleanup_free_ char *msg = NULL;
		struct testhost *b = testhost_new(PLUGIN, state, NULL, bad[i].config);
		assert_int_equal(testhost_start(b, &msg), BERTH_E_PRECONDITION);
		if (!strstr(msg, bad[i].part))
			fail_msg("%s", msg);
		testhost_kill(b);
	}
	for (int i = 0; i < 2; i++) {
		_cleanup_free_ char *msg = NULL;
		run(dir, i ? "mkdir -p union l u && mount -t aufs -o br=u=rw:l=ro+wh none union"
		           : "mkdir -p union l u w && mount -t overlay overlay -o "
		             "lowerdir=l,upperdir=u,workdir=w union");
		struct testhost *b = testhost_new(PLUGIN, on, NULL, "{}");
		assert_int_equal(testhost_start(b, &msg), BERTH_E_PRECONDITION);
		assert_non_null(strstr(msg, "union of file systems"));
		testhost_kill(b);
		assert_int_equal(umount(on), 0);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, aufs_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(whiteouts_and_opaque_directories_hide),
	        T(hard_links_of_a_layer_stay_one_file),
	        T(layers_to_the_limit_are_mounted),
	        T(a_writable_branch_is_mounted_once),
	        T(a_branch_that_is_missing_undoes_the_mount),
	        T(paths_may_be_long),
	        T(an_unfit_place_is_refused_with_the_reason),
	};

	return cmocka_run_group_tests_name(
	        "storage-aufs-mounts", tests, aufs_group_setup, aufs_group_teardown);
}
