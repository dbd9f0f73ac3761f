/* What storage-aufs describes, on any kernel: a driver without its probe. And that a kernel without
 * aufs is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount/mount.h"
#include "aufs_fixture.h"

#define PLUGIN BERTH_TEST_PLUGINS "/storage-aufs/storage-aufs.so"

static const char *unprobed;

static int setup(void **s)
{
	if (no_root)
		return 0;
	assert_int_equal(berth_mkdir_p(state, 0700), 0);
	start(unprobed, "{}");
	return 0;
}

static void assert_options(const struct berth_mounts_result *r, const char *const *want)
{
	assert_int_equal(r->n, 1);
	assert_string_equal(r->mounts[0]->type, "aufs");
	for (size_t i = 0; want[i] || r->mounts[0]->options[i]; i++) {
		const char *got = r->mounts[0]->options[i];
		const char *tail = got ? strstr(got, state) : NULL;
		_cleanup_free_ char *text = !got    ? berth_strdup("nothing")
		                            : !tail ? berth_strdup(got)
		                                    : berth_asprintf("%.*s@%s", (int)(tail - got),
		                                              got, tail + strlen(state));
		assert_string_equal(text, want[i] ? want[i] : "nothing more");
	}
}

static void branches_are_described_from_the_top(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};

	assert_int_equal(
	        testhost_plugin(h)->features, BERTH_F_DETACHED_LAYERS | BERTH_F_WHITEOUT_AUFS);
	make_layer("a", NULL, "true");
	make_layer("b", "a", "true");
	make_layer("c", "b", "chmod 750 . && chown 12:34 .");
	struct berth_snap_args a = args("x", "c", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_options(&r, (const char *[]){"br=@/active/x/fs=rw", "append=@/layers/c/fs=ro+wh",
	                           "append=@/layers/b/fs=ro+wh", "append=@/layers/a/fs=ro+wh",
	                           "xino=@/active/x/work/xino", "dirperm1", "udba=none", "acl",
	                           "dio", "nowarn_perm", NULL});
	_cleanup_free_ char *top = berth_asprintf("%s/active/x/fs", state);
	struct stat st;
	assert_int_equal(stat(top, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	assert_int_equal(st.st_uid, 12);
	assert_int_equal(st.st_gid, 34);
	a = args("v", "b", NULL);
	OK(op, ops()->view(op, testhost_self(h), &a, &r));
	assert_options(&r, (const char *[]){"br=@/layers/b/fs=ro+wh", "append=@/layers/a/fs=ro+wh",
	                           "ro", "xino=@/active/v/work/xino", "dirperm1", "udba=none",
	                           "acl", "dio", "nowarn_perm", NULL});
	a = args("none", NULL, NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	assert_string_equal(r.mounts[0]->type, "bind");

	h = testhost_free(h);
	start(unprobed, "{\"mount_options\": \"udba=reval,verbose\", \"xino_dir\": \"/xino\"}");
	a = args("x", NULL, NULL);
	_cleanup_op_ struct berth_op *again = testop_new(h);
	OK(again, ops()->mounts(again, testhost_self(h), &a, &r));
	assert_options(&r, (const char *[]){"br=@/active/x/fs=rw", "append=@/layers/c/fs=ro+wh",
	                           "append=@/layers/b/fs=ro+wh", "append=@/layers/a/fs=ro+wh",
	                           "xino=/xino/x", "dirperm1", "udba=none", "acl", "dio",
	                           "nowarn_perm", "udba=reval", "verbose", NULL});
}

static void more_layers_than_branches_are_refused(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	_cleanup_free_ char *top = make_chain(LAYERS_MAX - 1), *name = NULL;

	make_layer("last", top, "true");
	struct berth_snap_args a = args("x", "last", NULL);
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_EXHAUSTED, "126 layers");
	FAILS(op, ops()->view(op, testhost_self(h), &a, &r), BERTH_E_EXHAUSTED, "126 layers");
	a.flags = BERTH_SNAP_F_LAYER;
	a.parent = NULL;
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	a = args("x", "last", "one too many");
	FAILS(op, ops()->commit(op, testhost_self(h), &a), BERTH_E_EXHAUSTED, "126 layers");
	remove_snap("x");
	a = args("x", top, NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
}

static void the_kernels_own_files_are_no_content(void **s)
{
	NEED_ROOT();
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	struct berth_snap_info i = {.size = sizeof(i)};

	make_layer("a", NULL, "true");
	struct berth_snap_args a = args("x", "a", NULL);
	OK(op, ops()->prepare(op, testhost_self(h), &a, &r));
	_cleanup_free_ char *fs = berth_asprintf("%s/active/x/fs", state);
	run(fs, "mkdir .wh..wh.orph .wh..wh.plnk d && : >.wh..wh.aufs && ln .wh..wh.aufs .wh.gone "
	        "&& ln .wh..wh.aufs .wh..wh..opq && ln .wh..wh.aufs d/.wh..wh.x && "
	        "head -c 40960 /dev/zero >.wh..wh.orph/big && echo 1 >f");
	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	assert_int_equal(i.inodes, 3); /* d, f and what whiteouts are links of */
	assert_int_equal(i.bytes, 4096);
	commit("x", "b");
	_cleanup_free_ char *layer = berth_asprintf("%s/layers/b", state);
	run(layer, "test \"$(ls -A | xargs)\" = 'fs meta' && "
	           "test \"$(ls -A fs | xargs)\" = '.wh..wh..opq .wh.gone d f'");
	a = args("b", NULL, NULL);
	OK(op, ops()->stat(op, testhost_self(h), &a, &i));
	assert_int_equal(i.inodes, 3);
}

static void what_it_cannot_do_is_refused(void **s)
{
	NEED_ROOT();
	static const struct {
		const char *config, *part;
	} bad[] = {
	        {"{\"mount_options\": \"verbose,br=/x\"}", "'br' is the driver's own"},
	        {"{\"mount_options\": \"append:/x\"}", "'append' is the driver's own"},
	        {"{\"mount_options\": \"noplink\"}", "'noplink' is the driver's own"},
	        {"{\"mount_options\": \"noxino\"}", "'noxino' is the driver's own"},
	        {"{\"mount_options\": \"a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\"}", "more than 16"},
	        {"{\"xino_dir\": \"xino\"}", "absolute"},
	};
	_cleanup_op_ struct berth_op *op = testop_new(h);
	struct berth_mounts_result r = {.size = sizeof(r)};
	const struct berth_idmap ids = {0, 65536, 65536};
	struct berth_snap_args a = args("x", NULL, NULL);

	a.uid_maps = a.gid_maps = &ids;
	a.n_uid_maps = a.n_gid_maps = 1;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_UNIMPLEMENTED,
	        "maps no ids");
	a = args("x", NULL, NULL);
	a.size_limit = 1;
	FAILS(op, ops()->prepare(op, testhost_self(h), &a, &r), BERTH_E_UNIMPLEMENTED, "quota");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		_cleanup_free_ char *msg = NULL;
		struct testhost *b = testhost_new(unprobed, state, NULL, bad[i].config);
		assert_int_equal(testhost_start(b, &msg), BERTH_E_INVALID);
		if (!strstr(msg, bad[i].part))
			fail_msg("%s", msg);
		testhost_kill(b);
	}
}

static void a_kernel_without_aufs_is_told(void **s)
{
	NEED_ROOT();
	_cleanup_free_ char *msg = NULL;

	if (!no_aufs)
		skip();
	struct testhost *b = testhost_new(PLUGIN, state, NULL, "{}");
	assert_int_equal(testhost_start(b, &msg), BERTH_E_PRECONDITION);
	assert_non_null(strstr(msg, "storage-aufs in '"));
	assert_non_null(strstr(msg, "this kernel has no aufs file system"));
	testhost_kill(b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, aufs_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        T(branches_are_described_from_the_top),
	        T(more_layers_than_branches_are_refused),
	        T(the_kernels_own_files_are_no_content),
	        T(what_it_cannot_do_is_refused),
	        T(a_kernel_without_aufs_is_told),
	};

	if (argc < 2)
		return 2;
	unprobed = argv[1];
	return cmocka_run_group_tests_name(
	        "storage-aufs", tests, aufs_group_setup, aufs_group_teardown);
}
