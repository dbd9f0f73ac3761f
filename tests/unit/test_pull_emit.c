/* core/pull/emit.c and same.c: what of a tree belongs to the layer, and what cannot. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "pull/protocol.h"
#include "pull/tar.h"
#include "pull_fixture.h"

static void an_overlay_layer_says_what_it_hides(void **s)
{
	(void)s;
	assert_int_equal(mkdirat(top, "dir", 0755), 0);
	put_in(top, "dir/new", "n", 0644);
	assert_int_equal(mkdirat(top, "dir/sub", 0755), 0);
	if (mknodat(top, "dir/gone", S_IFCHR, 0) < 0)
		skip();
	struct pull_pathset *opaque = pull_pathset_new();
	pull_pathset_add(opaque, "dir/sub");
	emit(false, opaque);
	pull_pathset_free(opaque);
	/* a directory is told before all in it, and its mark before what it keeps */
	assert_string_equal(names(), "./,dir/,dir/.wh.gone,dir/new,dir/sub/,dir/sub/.wh..wh..opq");
}

static void put_both(const char *name, const char *text)
{
	put_in(below, name, text, 0644);
	put_in(top, name, text, 0644);
}

static void two_trees_give_what_differs(void **s)
{
	(void)s;
	static const struct timespec t[2] = {{50, 0}, {50, 0}};

	for (int i = 0; i < 2; i++) {
		int fd = i ? top : below;
		assert_int_equal(mkdirat(fd, "same", 0755), 0);
		assert_int_equal(mkdirat(fd, "deep", 0755), 0);
		assert_int_equal(mkdirat(fd, "deep/er", 0755), 0);
	}
	put_both("same/f", "f");
	put_both("deep/kept", "f");
	put_both("deep/er/gone", "f");
	assert_int_equal(unlinkat(top, "deep/er/gone", 0), 0);
	put_in(below, "text", "aaaa", 0644);
	put_in(top, "text", "bbbb", 0644); /* the same size and time */
	put_both("mode", "f");
	assert_int_equal(fchmodat(top, "mode", 0600, 0), 0);
	put_both("time", "f");
	assert_int_equal(utimensat(top, "time", t, 0), 0);
	put_in(below, "turns", "f", 0644);
	assert_int_equal(mkdirat(top, "turns", 0755), 0);
	put_in(top, "turns/in", "f", 0644);
	assert_int_equal(mkdirat(below, "tree", 0755), 0);
	put_in(below, "tree/in", "f", 0644);
	put_in(top, "tree", "f", 0644);
	assert_int_equal(symlinkat("one", below, "link"), 0);
	assert_int_equal(symlinkat("two", top, "link"), 0);
	assert_int_equal(utimensat(below, "link", t, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(utimensat(top, "link", t, AT_SYMLINK_NOFOLLOW), 0);
	static const char *const alike[] = {"same", "deep/er", "deep", "."};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(alike); i++) {
		assert_int_equal(utimensat(below, alike[i], t, 0), 0);
		assert_int_equal(utimensat(top, alike[i], t, 0), 0);
	}
	emit(true, NULL);
	assert_string_equal(names(),
	        "link,mode,text,time,tree,deep/,deep/er/,deep/er/.wh.gone,turns/,turns/in");
}

static void names_that_became_one_file(void **s)
{
	(void)s;
	put_both("a", "f");
	put_in(below, "b", "f", 0644);
	assert_int_equal(linkat(top, "a", top, "b", 0), 0);
	/* the other way round one name goes, which is told for itself */
	put_both("c", "g");
	assert_int_equal(linkat(below, "c", below, "d", 0), 0);
	static const struct timespec t[2] = {{50, 0}, {50, 0}};
	assert_int_equal(futimens(below, t), 0);
	assert_int_equal(futimens(top, t), 0);
	emit(true, NULL);
	assert_string_equal(names(), "a,b,.wh.d");
	assert_string_equal(archive_entry_hardlink(entry("b")), "a");
}

static int same(const char *name)
{
	struct stat a = stat_of(top, name), b = stat_of(below, name);
	return pull_same(top, &a, below, &b, name, &err);
}

static void attributes_are_compared(void **s)
{
	(void)s;
	static const struct {
		const char *in_top, *in_below;
		int same;
	} cases[] = {{"user.a", "user.a", 1}, {"user.a", "user.b", 0}, {"user.a", NULL, 0}};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		char name[8];
		snprintf(name, sizeof(name), "f%zu", i);
		put_both(name, "f");
		_cleanup_close_ int a = openat(top, name, O_RDONLY | O_CLOEXEC),
		                    b = openat(below, name, O_RDONLY | O_CLOEXEC);
		if (fsetxattr(a, cases[i].in_top, "v", 1, 0) < 0 && errno == EOPNOTSUPP)
			skip();
		if (cases[i].in_below)
			assert_int_equal(fsetxattr(b, cases[i].in_below, "v", 1, 0), 0);
		assert_int_equal(same(name), cases[i].same);
		if (cases[i].same) {
			assert_int_equal(fsetxattr(b, cases[i].in_below, "w", 1, 0), 0);
			assert_int_equal(same(name), 0);
		}
	}
}

/* Two files of two file systems that have everything in common, but not the content: the numbers of
 * files and the time of the last change, too. */
static void numbers_and_times_are_no_proof(void **s)
{
	(void)s;
	struct stat a = {0}, b = {0};
	char x[64], y[64];

	snprintf(x, sizeof(x), "%s/x", tmp);
	snprintf(y, sizeof(y), "%s/y", tmp);
	assert_int_equal(mkdir(x, 0755) | mkdir(y, 0755), 0);
	if (mount("none", x, "tmpfs", 0, NULL) < 0)
		skip();
	if (mount("none", y, "tmpfs", 0, NULL) < 0) {
		umount2(x, MNT_DETACH);
		skip();
	}
	int at_x = open(x, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
	    at_y = open(y, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 10000; i++) { /* until both fall into one tick of the clock */
		put_in(at_x, "f", "one", 0644);
		put_in(at_y, "f", "two", 0644);
		a = stat_of(at_x, "f");
		b = stat_of(at_y, "f");
		if (a.st_ctim.tv_nsec == b.st_ctim.tv_nsec)
			break;
		unlinkat(at_x, "f", 0);
		unlinkat(at_y, "f", 0);
	}
	int r = pull_same(at_x, &a, at_y, &b, "f", &err);
	close(at_x);
	close(at_y);
	umount2(x, MNT_DETACH);
	umount2(y, MNT_DETACH);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_ctim.tv_nsec, b.st_ctim.tv_nsec);
	assert_int_equal(r, 0);
}

/* ---- what is refused ---- */

static void names_of_whiteouts_are_refused(void **s)
{
	(void)s;
	assert_int_equal(mkdirat(top, "d", 0755), 0);
	put_in(top, "d/.wh.x", "", 0644);
	emit_fails(BERTH_FAILED_PRECONDITION, "'d/.wh.x' would be taken for a deletion");
}

static void paths_that_nothing_takes_are_refused(void **s)
{
	(void)s;
	char part[251];
	int at = dup(top);
	memset(part, 'p', sizeof(part));
	part[250] = '\0';
	for (size_t len = 0; len <= BERTH_LIMIT_PATH; len += 251) {
		assert_int_equal(mkdirat(at, part, 0755), 0);
		int next = openat(at, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	close(at);
	const struct pull_emit e = {.top = top, .below = -1, .sink = gather};
	assert_int_equal(pull_emit(&e, &err), -1);
}

static void sockets_are_in_no_image(void **s)
{
	(void)s;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/top/sock", tmp);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	put_in(top, "f", "", 0644);
	emit(false, NULL);
	assert_string_equal(names(), "./,f");
}

static void a_file_that_changes_is_an_error(void **s)
{
	(void)s;
	put_in(top, "f", "four", 0644);
	struct stat st = stat_of(top, "f");
	st.st_size = 5;
	struct pull_tar *t = pull_tar_new(gather, NULL);
	assert_int_equal(pull_tar_add(t, top, "f", "f", &st, NULL, &err), -1);
	assert_int_equal(err->code, BERTH_DATA_LOSS);
	err = berth_error_free(err);
	st = stat_of(top, "f");
	assert_int_equal(unlinkat(top, "f", 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", top, "f"), 0); /* is not followed */
	assert_int_equal(pull_tar_add(t, top, "f", "f", &st, NULL, &err), -1);
	assert_non_null(strstr(err->msg, strerror(ELOOP)));
	size_t len = stream.len;
	pull_tar_free(t);
	assert_int_equal(stream.len, len); /* no end is made of it */
}

/* ---- a container's own layer ---- */

static char told[256];

static int note(void *arg, const char *path, struct berth_error **ret_err)
{
	(void)arg, (void)ret_err;
	snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s,", path);
	return 0;
}

static void deletions_are_told_aside(void **s)
{
	(void)s;
	struct pull_pathset *opaque = pull_pathset_new(), *skip = pull_pathset_new();
	for (int i = 0; i < 2; i++) {
		int fd = i ? top : below;
		assert_int_equal(mkdirat(fd, "hides", 0755) | mkdirat(fd, "hides/sub", 0755) |
		                         mkdirat(fd, "plain", 0755),
		        0);
	}
	put_both("hides/both", "f");
	put_in(below, "hides/gone", "f", 0644);
	put_in(below, "hides/sub/gone", "f", 0644);
	put_in(below, "hides/over", "f", 0644);
	put_in(below, "plain/kept", "f", 0644);
	put_in(top, "mounted", "f", 0644);
	if (mknodat(top, "white", S_IFCHR, 0) < 0)
		skip();
	pull_pathset_add(opaque, "hides");
	pull_pathset_add(skip, "mounted");
	pull_pathset_add(skip, "hides/over");
	told[0] = '\0';
	const struct pull_emit e = {.top = top,
	        .below = -1,
	        .hidden = below,
	        .opaque = opaque,
	        .skip = skip,
	        .deleted = note,
	        .sink = gather};
	assert_int_equal(pull_emit(&e, &err), 0);
	pull_pathset_free(opaque);
	pull_pathset_free(skip);
	assert_string_equal(names(), "./,hides/,hides/both,hides/sub/,plain/");
	assert_string_equal(told, "white,hides/gone,hides/sub/gone,");
}

static void owners_are_turned_back(void **s)
{
	(void)s;
	static const struct {
		const char *name;
		uid_t uid;
		gid_t gid;
		int in_uid, in_gid;
	} cases[] = {{"root", 70000, 80000, 0, 0}, {"last", 70009, 80004, 9, 4},
	        {"beyond", 70010, 80005, 70010, 80005}, {"second", 90001, 80000, 101, 0}};
	static const struct pull_owners uids[] = {{0, 70000, 10}, {100, 90000, 5}},
	                                gids[] = {{0, 80000, 5}};

	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		put_in(top, cases[i].name, "f", 0644);
		if (fchownat(top, cases[i].name, cases[i].uid, cases[i].gid, 0) < 0)
			skip();
	}
	const struct pull_emit e = {.top = top,
	        .below = -1,
	        .uids = uids,
	        .gids = gids,
	        .n_uids = BERTH_ARRAY_LEN(uids),
	        .n_gids = BERTH_ARRAY_LEN(gids),
	        .sink = gather};
	assert_int_equal(pull_emit(&e, &err), 0);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		assert_int_equal(archive_entry_uid(entry(cases[i].name)), cases[i].in_uid);
		assert_int_equal(archive_entry_gid(entry(cases[i].name)), cases[i].in_gid);
	}
}

static int takes_nothing(void *arg, const void *p, size_t n)
{
	(void)arg, (void)p, (void)n;
	return -1;
}

static void a_reader_that_left_ends_it(void **s)
{
	(void)s;
	put_in(top, "f", "four", 0644);
	const struct pull_emit e = {.top = top, .below = -1, .sink = takes_nothing};
	assert_int_equal(pull_emit(&e, &err), -1);
	assert_int_equal(err->code, BERTH_CANCELLED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {T(an_overlay_layer_says_what_it_hides),
	        T(two_trees_give_what_differs), T(names_that_became_one_file),
	        T(attributes_are_compared), T(numbers_and_times_are_no_proof),
	        T(names_of_whiteouts_are_refused), T(paths_that_nothing_takes_are_refused),
	        T(sockets_are_in_no_image), T(a_file_that_changes_is_an_error),
	        T(deletions_are_told_aside), T(owners_are_turned_back),
	        T(a_reader_that_left_ends_it)};
	return cmocka_run_group_tests_name("pull-emit", tests, NULL, NULL);
}
