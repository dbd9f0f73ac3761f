/* core/spec: limits in the files of a cgroup, which are plain files of a directory here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "spec/cpuset.h"
#include "spec/inforce.h"
#include "spec_fixture.h"

#define S(s) ((char *)(uintptr_t)(s))
static int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

struct tree {
	char at[64];
	struct berth_cg_source s;
};

static void tree_put(const struct tree *t, const char *file, const char *text)
{
	char *path = berth_asprintf("%s/%s", t->at, file), *dir = berth_strdup(path);
	*strrchr(dir, '/') = '\0';
	assert_int_equal(berth_mkdir_p(dir, 0700), 0);
	assert_int_equal(berth_write_file_atomic(-1, path, text, strlen(text), 0600, false), 0);
	free(path);
	free(dir);
}

static char *tree_get(const struct tree *t, const char *file)
{
	char *path = berth_asprintf("%s/%s", t->at, file), *text = NULL;
	assert_int_equal(berth_read_file(-1, path, 4096, &text, NULL), 0);
	free(path);
	return text;
}

/* What was written last: unlike the kernel's, a plain file keeps what comes behind it. */
static void tree_has(const struct tree *t, const char *file, const char *text)
{
	char *now = tree_get(t, file);
	assert_int_equal(strncmp(now, text, strlen(text)), 0);
	free(now);
}

static void tree_new(struct tree *t, bool v2)
{
	snprintf(t->at, sizeof(t->at), "/tmp/berth-inforce-XXXXXX");
	assert_non_null(mkdtemp(t->at));
	t->s = (struct berth_cg_source){.mount = t->at, .path = "/pod/ctr", .v2 = v2};
}

static void tree_free(struct tree *t)
{
	assert_int_equal(berth_rm_tree(-1, t->at), 0);
}

static void test_sets_of_the_parent(void **state)
{
	struct fixture *f = *state;
	struct tree t;

	tree_new(&t, true);
	tree_put(&t, "cpuset.cpus.effective", "0-7\n");
	tree_put(&t, "pod/ctr/cpuset.cpus.effective", "6\n");
	/* Without the controller in the pod it is what is above that counts. */
	assert_int_equal(berth_cpuset_check(&t.s, "cpus", "4-7", &f->err), 0);
	tree_put(&t, "pod/cpuset.cpus.effective", "0-3\n");
	assert_int_equal(berth_cpuset_check(&t.s, "cpus", "0,3", &f->err), 0);
	assert_int_equal(berth_cpuset_check(&t.s, "cpus", "3-4", &f->err), -1);
	assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
	assert_string_equal(f->err->msg, "resources.cpuset_cpus: \"3-4\" is not within \"0-3\", "
	                                 "which is what cgroup /pod has");
	f->err = berth_error_free(f->err);
	tree_free(&t);

	tree_new(&t, false);
	tree_put(&t, "cpuset/pod/cpuset.effective_mems", "\n");
	tree_put(&t, "cpuset/pod/cpuset.mems", "0-1\n");
	tree_put(&t, "cpuset/cpuset.effective_mems", "0\n");
	assert_int_equal(berth_cpuset_check(&t.s, "mems", "1", &f->err), -1);
	assert_non_null(strstr(f->err->msg, "cpuset_mems: \"1\" is not within \"0\""));
	tree_free(&t);
}

static void test_what_was_before(void **state)
{
	struct tree t;
	struct fixture *f = *state;
	json_t *after = json_pack("{sisiss}", "cpu_shares", 5, "memory_limit_in_bytes", 1 << 20,
	               "cpuset_cpus", "0"),
	       *files, *oci = json_object(), *want;

	tree_new(&t, false);
	tree_put(&t, "cpu/pod/ctr/cpu.shares", "1024\n");
	tree_put(&t, "cpu/pod/ctr/cpu.cfs_quota_us", "-1\n");
	tree_put(&t, "memory/pod/ctr/memory.limit_in_bytes", "9223372036854771712\n");
	tree_put(&t, "cpuset/pod/ctr/cpuset.cpus", "0-1\n");
	files = berth_inforce_read(&t.s, after);
	want = json_pack("{ssssss}", "cpu/cpu.shares", "1024", "memory/memory.limit_in_bytes",
	        "9223372036854771712", "cpuset/cpuset.cpus", "0-1");
	assert_true(json_equal(files, want));
	json_decref(want);
	berth_inforce_tell(&t.s, files, oci);
	want = json_pack("{s{siss}}", "cpu", "shares", 1024, "cpus", "0-1");
	assert_true(json_equal(oci, want));
	json_decref(want);
	tree_put(&t, "cpu/pod/ctr/cpu.shares", "5\n");
	tree_put(&t, "cpuset/pod/ctr/cpuset.cpus", "0\n");
	assert_int_equal(berth_inforce_restore(&t.s, files, &f->err), 0);
	tree_has(&t, "cpu/pod/ctr/cpu.shares", "1024\n");
	tree_has(&t, "cpuset/pod/ctr/cpuset.cpus", "0-1\n");
	/* What is gone is told; the others are written all the same. */
	char *path = berth_asprintf("%s/cpu/pod/ctr/cpu.shares", t.at);
	unlink(path);
	free(path);
	tree_put(&t, "cpuset/pod/ctr/cpuset.cpus", "0\n");
	assert_int_equal(berth_inforce_restore(&t.s, files, &f->err), -1);
	assert_non_null(strstr(f->err->msg, "cpu/pod/ctr/cpu.shares"));
	tree_has(&t, "cpuset/pod/ctr/cpuset.cpus", "0-1\n");
	json_decref(files);
	json_decref(oci);
	json_decref(after);
	tree_free(&t);
}

static void test_what_was_before_on_v2(void **state)
{
	struct tree t;
	struct fixture *f = *state;
	json_t *after = json_pack("{sisss{ssssss}s[{sssi}]}", "cpu_quota", 5000, "cpuset_cpus", "0",
	               "unified", "memory.high", "5", "cpu.pressure", "", "io.max", "8:0 rbps=1",
	               "hugepage_limits", "page_size", "2MB", "limit", 0),
	       *files, *oci = json_object(), *want;

	tree_new(&t, true);
	tree_put(&t, "pod/ctr/cpu.max", "max 100000\n");
	tree_put(&t, "pod/ctr/cpu.weight", "100\n");
	tree_put(&t, "pod/ctr/cpu.pressure",
	        "some avg10=0.00\n"); /* it was asked for; it is no limit */
	tree_put(&t, "pod/ctr/cpuset.cpus", "\n");
	tree_put(&t, "pod/ctr/memory.high", "max\n");
	tree_put(&t, "pod/ctr/io.max", "8:16 rbps=7 wbps=max\n8:32 rbps=8 wbps=max\n");
	tree_put(&t, "pod/ctr/hugetlb.2MB.max", "max\n");
	files = berth_inforce_read(&t.s, after);
	want = json_pack("{ssssssssss}", "cpu.max", "max 100000", "cpuset.cpus", "", "memory.high",
	        "max", "io.max", "8:16 rbps=7 wbps=max\n8:32 rbps=8 wbps=max", "hugetlb.2MB.max",
	        "max");
	assert_true(json_equal(files, want));
	json_decref(want);
	/* Neither what is empty, nor several lines, nor what runtimes have another word for. */
	berth_inforce_tell(&t.s, files, oci);
	want = json_pack("{s{ssss}}", "unified", "cpu.max", "max 100000", "memory.high", "max");
	assert_true(json_equal(oci, want));
	json_decref(want);
	tree_put(&t, "pod/ctr/cpuset.cpus", "0\n");
	tree_put(&t, "pod/ctr/hugetlb.2MB.max", "0\n");
	assert_int_equal(berth_inforce_restore(&t.s, files, &f->err), 0);
	tree_has(&t, "pod/ctr/cpuset.cpus", "\n");
	tree_has(&t, "pod/ctr/hugetlb.2MB.max", "max\n");
	json_decref(files);
	json_decref(oci);
	json_decref(after);
	tree_free(&t);
}

/* Of a plain file the last line that was written is what is left: a device that had no limit. */
static void test_devices_that_had_none(void **state)
{
	static const struct {
		const char *file, *now, *line;
	} v[] = {{"io.max", "8:0 rbps=1 wbps=max\n", "8:0 rbps=max wbps=max\n"},
	        {"io.latency", "8:0 target=75\n", "8:0 target=0\n"},
	        {"io.weight", "8:0 50\n", "8:0 default\n"}};
	struct fixture *f = *state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++) {
		struct tree t;
		char file[64];
		json_t *files = json_pack("{ss}", v[i].file, "");
		tree_new(&t, true);
		snprintf(file, sizeof(file), "pod/ctr/%s", v[i].file);
		tree_put(&t, file, v[i].now);
		(void)!berth_inforce_restore(&t.s, files, &f->err);
		f->err = berth_error_free(f->err);
		tree_has(&t, file, v[i].line);
		json_decref(files);
		tree_free(&t);
	}
}

static void test_beside_the_runtime(void **state)
{
	struct tree t;
	struct fixture *f = *state;
	json_t *after = json_pack("{sis[{sssi}]}", "cpu_quota", -1, "hugepage_limits", "page_size",
	        "2MB", "limit", 4 << 20);

	tree_new(&t, true);
	/* A container that is kept elsewhere. */
	assert_int_equal(berth_inforce_write(&t.s, after, &f->err), 0);
	tree_put(&t, "pod/ctr/cpu.max", "5000 100000");
	tree_put(&t, "pod/ctr/hugetlb.2MB.max", "0");
	tree_put(&t, "pod/ctr/hugetlb.2MB.rsvd.max", "max");
	assert_int_equal(berth_inforce_write(&t.s, after, &f->err), 0);
	tree_has(&t, "pod/ctr/cpu.max", "max");
	tree_has(&t, "pod/ctr/hugetlb.2MB.max", "4194304");
	tree_has(&t, "pod/ctr/hugetlb.2MB.rsvd.max", "max");
	/* What unified says is the last word. */
	json_object_set_new(
	        after, "unified", json_pack("{ssss}", "cpu.max", "5000", "hugetlb.2MB.max", "0"));
	tree_put(&t, "pod/ctr/cpu.max", "5000 100000");
	tree_put(&t, "pod/ctr/hugetlb.2MB.max", "0");
	assert_int_equal(berth_inforce_write(&t.s, after, &f->err), 0);
	tree_has(&t, "pod/ctr/cpu.max", "5000 100000");
	tree_has(&t, "pod/ctr/hugetlb.2MB.max", "0");
	json_object_del(after, "unified");
	tree_put(&t, "pod/ctr/hugetlb.2MB.rsvd.max", "1");
	assert_int_equal(berth_inforce_write(&t.s, after, &f->err), 0);
	tree_has(&t, "pod/ctr/hugetlb.2MB.rsvd.max", "4194304");
	json_decref(after);
	tree_free(&t);
}

static void test_unified_names_of_files(void **state)
{
	struct tree t;
	struct fixture *f = *state;
	Runtime__V1__LinuxContainerResources change = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	Runtime__V1__LinuxContainerResources__UnifiedEntry e, *unified[] = {&e};
	static const struct {
		const char *key;
		mode_t mode;
		bool good;
	} v[] = {{"memory.high", 0644, true}, {"memory.current", 0444, false},
	        {"memory.reclaim", 0200, false}, {"cpu.pressure", 0644, false},
	        {"memory.none", 0, false}};

	runtime__v1__linux_container_resources__unified_entry__init(&e);
	e.value = S("1");
	change.unified = unified;
	change.n_unified = 1;
	tree_new(&t, true);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(v); i++) {
		e.key = S(v[i].key);
		if (v[i].mode) {
			char *file = berth_asprintf("pod/ctr/%s", v[i].key),
			     *path = berth_asprintf("%s/%s", t.at, file);
			tree_put(&t, file, "1\n");
			assert_int_equal(chmod(path, v[i].mode), 0);
			free(file);
			free(path);
		}
		assert_int_equal(berth_inforce_check(&t.s, t.s.path, &f->host, &change, &f->err),
		        v[i].good ? 0 : -1);
		if (v[i].good)
			continue;
		assert_int_equal(f->err->code, BERTH_INVALID_ARGUMENT);
		assert_non_null(strstr(f->err->msg, v[i].key));
		f->err = berth_error_free(f->err);
	}
	tree_free(&t);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_sets_of_the_parent), T(test_what_was_before),
	        T(test_what_was_before_on_v2), T(test_devices_that_had_none),
	        T(test_beside_the_runtime), T(test_unified_names_of_files)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
