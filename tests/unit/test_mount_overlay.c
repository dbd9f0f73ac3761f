/* core/mount: overlays of many layers, and owners that are mapped. Needs root. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "mount_fixture.h"

#define LAYERS 250

/* Layers with names so long that no list of them fits a page; each adds a file, and all write one
 * more, so that the order is seen. */
static char *make_layers(const char *prefix, size_t n)
{
	struct berth_buf lowers = {0};

	berth_buf_adds(&lowers, "lowerdir=");
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *name = berth_asprintf("%s-%0100zu:x", prefix, n - 1 - i),
		                    *own = berth_asprintf("%s/l%zu", name, n - 1 - i),
		                    *same = berth_asprintf("%s/same", name),
		                    *text = berth_asprintf("%zu", n - 1 - i);
		make_dir(name);
		make_file(own, text);
		make_file(same, text);
		berth_buf_addf(
		        &lowers, "%s%s/%s-%0100zu\\:x", i ? ":" : "", dir, prefix, n - 1 - i);
	}
	return berth_buf_steal(&lowers);
}

static void overlay_of_many_layers(void)
{
	_cleanup_free_ char *lowers = make_layers("layer", LAYERS);
	make_dir("up");
	make_dir("work");
	make_dir("merged");
	_cleanup_free_ char *up = berth_asprintf("upperdir=%s/up", dir);
	_cleanup_free_ char *work = berth_asprintf("workdir=%s/work", dir);
	const char *options[] = {lowers, up, work, "index=off", "nodev", NULL};
	struct berth_mount m = {.size = sizeof(m), .type = "overlay", .options = options};
	mount_ok(&m, "merged");
	assert_text("merged/l0", "0");
	assert_text("merged/l249", "249");
	assert_text("merged/same", "249");
	make_file("merged/new", "written");
	assert_text("up/new", "written");
	_cleanup_free_ char *t = under("merged");
	struct statvfs st;
	assert_int_equal(statvfs(t, &st), 0);
	assert_true(st.f_flag & ST_NODEV);
	umount_ok("merged");

	const char *read_only[] = {lowers, "ro", NULL};
	m.options = read_only;
	mount_ok(&m, "merged");
	assert_text("merged/l100", "100");
	umount_ok("merged");

	/* As an fd, for somebody who must gain nothing from it. */
	const struct berth_mount *v[] = {&m};
	struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_close_ int fd = berth_mount_clone(&r, true, &err);
	if (fd < 0)
		fail_msg("%s", err->msg);
	_cleanup_free_ char *text = NULL;
	assert_int_equal(berth_read_file(fd, "l249", 100, &text, NULL), 0);
	assert_string_equal(text, "249");
	assert_int_equal(fstatvfs(fd, &st), 0);
	assert_int_equal(
	        st.f_flag & (ST_RDONLY | ST_NOEXEC | ST_NODEV), ST_RDONLY | ST_NOEXEC | ST_NODEV);
	assert_int_equal(berth_is_mount_point(t), 0);
	assert_int_equal(berth_is_mount_point("/proc"), 1);
	assert_int_equal(access("/proc/self/status", F_OK), 0);
	if (berth_mount_attach(fd, t, &err) < 0)
		fail_msg("%s", err->msg);
	assert_text("merged/l0", "0");
	fd = berth_close(fd);
	umount_ok("merged");

	/* A missing layer is named, and nothing stays mounted. */
	_cleanup_free_ char *gone = berth_asprintf("%s:%s/gone", lowers, dir);
	const char *missing[] = {gone, up, work, NULL};
	m.options = missing;
	mount_fails(&m, "merged", BERTH_NOT_FOUND, "/gone");
}

static void overlay_of_250_layers(void **state)
{
	NEED_ROOT();
	overlay_of_many_layers();
}

static void overlay_of_250_layers_by_short_names(void **state)
{
	NEED_ROOT();
	char before[4096], after[4096];
	assert_non_null(getcwd(before, sizeof(before)));
	berth_mount_force_short_names(true);
	overlay_of_many_layers();
	berth_mount_force_short_names(false);
	assert_non_null(getcwd(after, sizeof(after)));
	assert_string_equal(before, after);
}

/* A user namespace that maps `count` ids from 0 on to `host`; -1 where none can be made. */
static int make_userns(unsigned int host, unsigned int count)
{
	int go[2], fd = -1;
	char path[64], map[64];

	if (pipe2(go, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = fork();
	if (pid == 0) {
		char c = unshare(CLONE_NEWUSER) == 0;
		_exit(write(go[1], &c, 1) == 1 && pause());
	}
	char made = 0;
	if (pid > 0 && read(go[0], &made, 1) == 1 && made) {
		snprintf(map, sizeof(map), "0 %u %u", host, count);
		snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)pid);
		int r = berth_write_value(path, map);
		snprintf(path, sizeof(path), "/proc/%d/gid_map", (int)pid);
		if (r == 0)
			r = berth_write_value(path, map);
		snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
		fd = r == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(go[0]);
	close(go[1]);
	return fd;
}

static void assert_owner(const char *name, unsigned int uid)
{
	_cleanup_free_ char *p = under(name);
	struct stat st;
	assert_int_equal(lstat(p, &st), 0);
	assert_int_equal(st.st_uid, uid);
	assert_int_equal(st.st_gid, uid);
}

static void mapped(const struct berth_mount *m, const char *target, int userns)
{
	const struct berth_mount *v[] = {m};
	const struct berth_mounts_result r = {.size = sizeof(r), .n = 1, .mounts = v};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *t = under(target), *scratch = under("scratch");

	const struct berth_mount_how how = {.userns_fd = userns, .scratch = scratch};
	if (berth_mount_apply_as(&r, t, &how, &err) < 0)
		fail_msg("%s", err->msg);
	assert_int_equal(access(scratch, F_OK), -1);
}

static void overlay_with_mapped_layers(int userns)
{
	_cleanup_free_ char *lowers = make_layers("mapped", 60);
	_cleanup_free_ char *up = berth_asprintf("upperdir=%s/mapped-up", dir);
	_cleanup_free_ char *work = berth_asprintf("workdir=%s/mapped-work", dir);
	_cleanup_free_ char *upper = under("mapped-up"), *app = under("mapped/app");
	const char *options[] = {lowers, up, work, "index=off", NULL};
	const char *read_only[] = {lowers, "ro", NULL};
	struct berth_mount m = {.size = sizeof(m), .type = "overlay", .options = options};

	make_dir("mapped-up");
	make_dir("mapped-work");
	make_dir("mapped");
	assert_int_equal(chown(upper, 70000, 70000), 0);
	mapped(&m, "mapped", userns);
	assert_owner("mapped", 70000);
	assert_owner("mapped/l0", 70000);
	assert_owner("mapped/l59", 70000);
	assert_text("mapped/l59", "59");
	/* What is copied up keeps whom it belongs to. */
	make_file("mapped/l0", "changed");
	assert_owner("mapped/l0", 70000);
	assert_owner("mapped-up/l0", 70000);
	make_file("mapped/app", "");
	assert_int_equal(chown(app, 70000 + 33, 70000 + 33), 0);
	assert_owner("mapped-up/app", 70033);
	umount_ok("mapped");

	m.options = read_only;
	mapped(&m, "mapped", userns);
	assert_owner("mapped/l30", 70000);
	umount_ok("mapped");
	_cleanup_free_ char *rm = berth_asprintf("rm -r '%s'/mapped*", dir);
	assert_int_equal(system(rm), 0);
}

static void owners_of_layers_are_mapped(void **state)
{
	NEED_ROOT();
	_cleanup_close_ int userns = make_userns(70000, 65536);
	_cleanup_close_ int fd = open_tree(AT_FDCWD, dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	struct mount_attr a = {
	        .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)(unsigned int)userns};
	/* Not before 6.3. */
	if (userns < 0 || mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof(a)) < 0) {
		print_message("no mapped owners on this kernel's tmpfs\n");
		skip();
	}
	overlay_with_mapped_layers(userns);
	berth_mount_force_short_names(true);
	overlay_with_mapped_layers(userns);
	berth_mount_force_short_names(false);
}

static void owners_of_a_tree_are_mapped(void **state)
{
	NEED_ROOT();
	_cleanup_close_ int userns = make_userns(70000, 65536);
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;
	_cleanup_free_ char *source = under("tree"), *stage = under("stage"),
	                    *at = under("stage/0"), *proc = under("tree/proc"),
	                    *file = under("tree/f"), *at1 = under("stage/1"), *copy = under("copy");
	const struct berth_stage how = {.rec = true, .readonly = true, .userns_fd = userns};

	if (userns < 0)
		skip();
	make_dir("tree/proc");
	make_file("tree/f", "text");
	/* /proc maps nothing, and keeps nobody from the rest. */
	assert_int_equal(mount("/proc", proc, NULL, MS_BIND | MS_REC, NULL), 0);
	assert_int_equal(berth_mount_stage_dir(stage, &err), 0);
	_cleanup_close_ int fd = open(source, O_PATH | O_CLOEXEC);
	if (berth_mount_stage(fd, "tree", at, &how, &err) < 0) {
		print_message("no mapped owners on this kernel's tmpfs: %s\n", err->msg);
		err = berth_error_free(err);
	} else {
		assert_owner("stage/0/f", 70000);
		assert_owner("stage/0/proc/1", 0);
		assert_text("stage/0/f", "text");
		_cleanup_free_ char *no = under("stage/0/no");
		assert_int_equal(mkdir(no, 0755), -1);
		assert_int_equal(errno, EROFS);
	}
	_cleanup_close_ int pfd = open("/proc", O_PATH | O_CLOEXEC);
	assert_int_equal(berth_mount_stage(pfd, "/proc", at1, &how, &err), -1);
	assert_int_equal(err->code, BERTH_FAILED_PRECONDITION);
	assert_non_null(strstr(err->msg, "/proc"));
	err = berth_error_free(err);
	/* A file becomes a file. */
	const struct berth_stage plain = {.userns_fd = -1};
	_cleanup_close_ int ffd = open(file, O_PATH | O_CLOEXEC);
	assert_int_equal(berth_mount_stage(ffd, "f", at1, &plain, &err), 0);
	assert_text("stage/1", "text");
	/* None of it is in a copy of what lies above. */
	make_dir("copy");
	assert_int_equal(berth_mount_bind(dir, copy, true, false, &err), 0);
	_cleanup_free_ char *seen = under("copy/stage/1");
	assert_int_equal(berth_is_mount_point(seen), 0);
	assert_int_equal(berth_umount_tree(copy, true, &err), 0);
	assert_int_equal(berth_umount_tree(stage, true, &err), 0);
	assert_int_equal(berth_umount_tree(proc, true, &err), 0);
}

static void overlay_takes_paths_over_the_limit_of_a_value(void **state)
{
	NEED_ROOT();
	char part[201];
	memset(part, 'p', 200);
	part[200] = '\0';
	_cleanup_free_ char *base = berth_asprintf("deep/%s/%s", part, part),
	                    *up = berth_asprintf("%s/u\\p", base),
	                    *work = berth_asprintf("%s/w", base),
	                    *low = berth_asprintf("%s/l", base), *f = berth_asprintf("%s/f", low);
	make_dir(up);
	make_dir(work);
	make_dir(low);
	make_file(f, "deep");
	make_dir("merged");
	_cleanup_free_ char *o1 = berth_asprintf("lowerdir+=%s/%s", dir, low),
	                    *o2 = berth_asprintf("upperdir=%s/%s", dir, up),
	                    *o3 = berth_asprintf("workdir=%s/%s", dir, work);
	const char *options[] = {o1, o2, o3, NULL};
	struct berth_mount m = {.size = sizeof(m), .type = "overlay", .options = options};
	mount_ok(&m, "merged");
	assert_text("merged/f", "deep");
	make_file("merged/g", "up");
	_cleanup_free_ char *g = berth_asprintf("%s/g", up);
	assert_text(g, "up");
	umount_ok("merged");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(overlay_of_250_layers),
	        cmocka_unit_test(overlay_of_250_layers_by_short_names),
	        cmocka_unit_test(owners_of_layers_are_mapped),
	        cmocka_unit_test(owners_of_a_tree_are_mapped),
	        cmocka_unit_test(overlay_takes_paths_over_the_limit_of_a_value),
	};
	return cmocka_run_group_tests_name("mount-overlay", tests, setup, teardown);
}
