/* core/monitor: the log's form and the records. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "monitor/host_internal.h"
#include "monitor/logfmt.h"

#define NOW 1795488953487100781ull
#define H "2026-11-24T02:55:53.487100781Z stdout "

struct env {
	char dir[64], path[80];
	struct mon_log log;
	struct mon_stream s;
};

static int setup(void **state)
{
	struct env *e = berth_new(struct env);
	snprintf(e->dir, sizeof(e->dir), "/tmp/berth-monlog-XXXXXX");
	assert_non_null(mkdtemp(e->dir));
	snprintf(e->path, sizeof(e->path), "%s/0.log", e->dir);
	e->log.fd = e->log.dirfd = -1;
	e->s.name = "stdout";
	assert_int_equal(mon_log_open(&e->log, e->path), 0);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;
	close(e->log.fd);
	close(e->log.dirfd);
	assert_int_equal(berth_rm_tree(AT_FDCWD, e->dir), 0);
	free(e);
	return 0;
}

/* In pieces of at most `piece`, as pipes deliver. */
static void feed(struct env *e, const char *text, size_t n, size_t piece)
{
	while (n > 0) {
		size_t take = piece < BERTH_MON_READ ? piece : BERTH_MON_READ;
		if (take > n)
			take = n;
		memcpy(e->s.buf + e->s.len, text, take);
		e->s.len += take;
		mon_log_lines(&e->log, &e->s, NOW, false);
		text += take;
		n -= take;
	}
}

static void expect(struct env *e, const char *want)
{
	char *text;
	assert_int_equal(berth_read_file(AT_FDCWD, e->path, 64 << 20, &text, NULL), 0);
	assert_string_equal(text, want);
	free(text);
}

static void lines_are_whole_whatever_the_pieces(void **state)
{
	struct env *e = *state;
	static const char text[] = "one\n\ntwo three\nfour";
	for (size_t piece = 1; piece < sizeof(text); piece++) {
		assert_int_equal(truncate(e->path, 0), 0);
		e->s.len = 0;
		feed(e, text, strlen(text), piece);
		expect(e, H "F one\n" H "F \n" H "F two three\n");
		mon_log_lines(&e->log, &e->s, NOW, true);
		expect(e, H "F one\n" H "F \n" H "F two three\n" H "P four\n");
	}
}

static void a_long_line_is_split(void **state)
{
	struct env *e = *state;
	size_t n = BERTH_MON_LINE_MAX * 2 + 5;
	char *text = berth_zalloc(n + 2);
	memset(text, 'x', n);
	text[n] = '\n';
	struct berth_buf want = {0};
	for (int i = 0; i < 2; i++) {
		berth_buf_adds(&want, H "P ");
		berth_buf_add(&want, text, BERTH_MON_LINE_MAX);
		berth_buf_adds(&want, "\n");
	}
	berth_buf_adds(&want, H "F xxxxx\n");
	static const size_t pieces[] = {4096, 5000, BERTH_MON_LINE_MAX, BERTH_MON_READ};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(pieces); i++) {
		assert_int_equal(truncate(e->path, 0), 0);
		feed(e, text, n + 1, pieces[i]);
		expect(e, want.data);
	}
	berth_buf_finish(&want);
	free(text);
}

/* Short lines, long ones, and more than one write can take, in pieces of every size. */
static void no_piece_changes_the_log(void **state)
{
	struct env *e = *state;
	struct berth_buf text = {0}, want = {0};
	uint32_t dice = 7;
	while (text.len < 2000000) {
		dice = dice * 1664525 + 1013904223;
		size_t n = (dice >> 8) % (dice >> 30 == 0 ? 40000 : dice >> 30 == 1 ? 1500 : 90);
		size_t at = text.len;
		for (size_t i = 0; i < n; i++)
			berth_buf_add(&text, "0123456789" + i % 10, 1);
		berth_buf_adds(&text, "\n");
		for (; n >= BERTH_MON_LINE_MAX; n -= BERTH_MON_LINE_MAX) {
			berth_buf_adds(&want, H "P ");
			berth_buf_add(&want, text.data + at, BERTH_MON_LINE_MAX);
			berth_buf_adds(&want, "\n");
			at += BERTH_MON_LINE_MAX;
		}
		berth_buf_adds(&want, H "F ");
		berth_buf_add(&want, text.data + at, n + 1);
	}
	static const size_t pieces[] = {777, 4096, 16385, BERTH_MON_READ};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(pieces); i++) {
		assert_int_equal(truncate(e->path, 0), 0);
		feed(e, text.data, text.len, pieces[i]);
		assert_int_equal(e->s.len, 0);
		expect(e, want.data);
	}
	berth_buf_finish(&text);
	berth_buf_finish(&want);
}

static void many_short_lines_come_through(void **state)
{
	struct env *e = *state;
	size_t n = 20000;
	char *text = berth_zalloc(n + 1);
	memset(text, '\n', n);
	feed(e, text, n, BERTH_MON_READ);
	struct stat st;
	assert_int_equal(stat(e->path, &st), 0);
	assert_int_equal((size_t)st.st_size, n * (strlen(H "F ") + 1));
	free(text);
}

static void a_full_disk_loses_lines_and_no_more(void **state)
{
	struct env *e = *state;
	struct rlimit old, small = {.rlim_cur = 100};
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	feed(e, "a\n", 2, 100);
	feed(e, "b\nthis one is too long for it\nc\n", 32, 100); /* b fits, what follows does not */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_true(e->log.lost > 0);
	feed(e, "again\n", 6, 100);
	expect(e, H "F a\n" H "F b\n" H "F again\n");
}

static void a_rotated_log_is_reopened(void **state)
{
	struct env *e = *state;
	char old[128];
	snprintf(old, sizeof(old), "%s.1", e->path);
	feed(e, "before\n", 7, 100);
	assert_int_equal(rename(e->path, old), 0);
	feed(e, "between\n", 8, 100);
	assert_int_equal(mon_log_reopen(&e->log), 0);
	feed(e, "after\n", 6, 100);
	expect(e, H "F after\n");
	/* Something else has taken the name: the open file stays. */
	assert_int_equal(unlink(e->path), 0);
	assert_int_equal(symlink("/dev/null", e->path), 0);
	assert_int_equal(mon_log_reopen(&e->log), -ELOOP);
	assert_true(e->log.fd >= 0);
}

static void stamps_agree_with_libc(void **state)
{
	struct env *e = *state;
	char mine[64], theirs[64];
	for (int64_t s = 0; s < 5000000000ll; s += 40000003) {
		time_t t = (time_t)s;
		struct tm tm;
		gmtime_r(&t, &tm);
		size_t n = mon_log_header(
		        &e->log, mine, "stderr", (uint64_t)s * 1000000000ull + 7, 'P');
		mine[n] = '\0';
		strftime(theirs, sizeof(theirs), "%Y-%m-%dT%H:%M:%S.000000007Z stderr P ", &tm);
		assert_string_equal(mine, theirs);
	}
}

#define BOOT "b4d6cbd1-2970-4d43-ba15-341af27ee417"

static void records_are_read_strictly(void **state)
{
	struct berth_mon_record r;
	(void)state;
	static const char good[] =
	        "{\"v\":1,\"boot_id\":\"" BOOT "\",\"monitor_pid\":10,\"monitor_start\":20,"
	        "\"pid\":30,\"pid_start\":40,\"created_ns\":50}";
	assert_int_equal(berth_mon_parse_record(good, strlen(good), &r), 0);
	assert_string_equal(r.boot_id, BOOT);
	assert_int_equal(r.monitor_pid, 10);
	assert_int_equal(r.pid_start, 40);
	static const char *const bad[] = {"", "{}", "[1]", "{\"v\":2}",
	        "{\"v\":1,\"boot_id\":\"short\",\"monitor_pid\":10,\"monitor_start\":20,\"pid\":30,"
	        "\"pid_start\":40,\"created_ns\":50}",
	        "{\"v\":1,\"boot_id\":\"" BOOT "\",\"monitor_pid\":1,\"monitor_start\":20,"
	        "\"pid\":30,\"pid_start\":40,\"created_ns\":50}",
	        "{\"v\":1,\"boot_id\":\"" BOOT "\",\"monitor_pid\":10,\"monitor_start\":20,"
	        "\"pid\":-30,\"pid_start\":40,\"created_ns\":50}",
	        "{\"v\":1,\"boot_id\":\"" BOOT "\",\"monitor_pid\":10,\"monitor_start\":20,"
	        "\"pid\":4294967297,\"pid_start\":40,\"created_ns\":50}"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++)
		assert_int_equal(berth_mon_parse_record(bad[i], strlen(bad[i]), &r), -EBADMSG);
	for (size_t i = 0; i < strlen(good); i++)
		assert_int_equal(berth_mon_parse_record(good, i, &r), -EBADMSG);
}

static int parse_exit(const char *text, struct berth_mon_exit *e)
{
	*e = (struct berth_mon_exit){.exit = {.flags = 99, .code = 99}};
	return berth_mon_parse_exit(text, strlen(text), e);
}

static void an_unknown_exit_is_never_zero(void **state)
{
	struct berth_mon_exit e;
	(void)state;
	assert_int_equal(parse_exit("{\"v\":1,\"known\":true,\"code\":0,\"oom\":false,"
	                            "\"finished_ns\":5}",
	                         &e),
	        0);
	assert_int_equal(e.exit.flags, BERTH_EXIT_KNOWN);
	assert_int_equal(e.exit.code, 0);
	assert_int_equal(parse_exit("{\"v\":1,\"known\":true,\"signal\":9,\"oom\":true,"
	                            "\"finished_ns\":5}",
	                         &e),
	        0);
	assert_int_equal(e.exit.flags, BERTH_EXIT_KNOWN | BERTH_EXIT_SIGNALLED | BERTH_EXIT_OOM);
	assert_int_equal(e.exit.code, 9);
	assert_int_equal(parse_exit("{\"v\":1,\"known\":false,\"finished_ns\":5}", &e), 0);
	assert_int_equal(e.exit.flags, 0);
	static const char *const bad[] = {"{\"v\":1,\"known\":true,\"finished_ns\":5}",
	        "{\"v\":1,\"known\":true,\"code\":256,\"finished_ns\":5}",
	        "{\"v\":1,\"known\":true,\"signal\":0,\"finished_ns\":5}",
	        "{\"v\":1,\"known\":true,\"code\":0}", "{\"v\":1,\"known\":true,\"code\":\"0\"}"};
	for (size_t i = 0; i < BERTH_ARRAY_LEN(bad); i++) {
		assert_int_equal(parse_exit(bad[i], &e), -EBADMSG);
		assert_int_equal(e.exit.flags, 99);
	}
}

/* A grandchild: its parent reaps it when told to, or never. */
struct family {
	pid_t parent, child;
	int go, pidfd;
	uint64_t start;
};

static struct family raise_family(int code, bool reaps)
{
	struct family f;
	int report[2], go[2];
	assert_int_equal(pipe(report), 0);
	assert_int_equal(pipe(go), 0);
	f.parent = fork();
	if (f.parent == 0) {
		char c;
		pid_t child = fork();
		if (child == 0) {
			close(go[1]);
			_exit(read(go[0], &c, 1) == 1 ? code : 99);
		}
		close(go[1]);
		if (write(report[1], &child, sizeof(child)) < 0)
			_exit(1);
		if (reaps)
			waitpid(child, NULL, 0);
		pause();
		_exit(0);
	}
	assert_int_equal(read(report[0], &f.child, sizeof(f.child)), sizeof(f.child));
	close(report[0]);
	close(report[1]);
	close(go[0]);
	f.go = go[1];
	assert_int_equal(berth_pid_start_time(f.child, &f.start), 0);
	f.pidfd = berth_mon_open_process(f.child, f.start);
	assert_true(f.pidfd >= 0);
	assert_int_equal(berth_mon_open_process(f.child, f.start + 1), -ESRCH);
	return f;
}

static void end_family(struct family *f)
{
	kill(f->parent, SIGKILL);
	waitpid(f->parent, NULL, 0);
	close(f->pidfd);
}

static void the_second_witness_knows_the_code(void **state)
{
	int status = 0;
	(void)state;
	/* A zombie that nobody reaps. */
	struct family f = raise_family(17, false);
	assert_false(berth_mon_pidfd_ended(f.pidfd));
	assert_int_equal(write(f.go, "x", 1), 1);
	for (int i = 0; i < 5000 && !berth_mon_pidfd_ended(f.pidfd); i++)
		usleep(1000);
	assert_int_equal(berth_mon_exit_status(f.child, f.start, f.pidfd, &status), 0);
	assert_int_equal(status, 17 << 8);
	assert_int_equal(berth_mon_open_process(f.child, f.start), -ESRCH);
	close(f.go);
	end_family(&f);
	/* One that its parent has reaped: new kernels still know, old ones say that they do not. */
	f = raise_family(18, true);
	assert_int_equal(write(f.go, "x", 1), 1);
	while (kill(f.child, 0) == 0)
		usleep(1000);
	int r = berth_mon_exit_status(f.child, f.start, f.pidfd, &status);
	if (r == 0)
		assert_int_equal(status, 18 << 8);
	else
		assert_int_equal(r, -ENODATA);
	close(f.go);
	end_family(&f);
	/* And our own child. */
	pid_t pid = fork();
	if (pid == 0) {
		raise(SIGKILL);
		_exit(0);
	}
	int fd = berth_pidfd_open(pid);
	while (!berth_mon_pidfd_ended(fd))
		usleep(1000);
	assert_int_equal(berth_mon_exit_status(pid, 0, fd, &status), 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(fd);
}

static void directories_of_bundles(void **state)
{
	static const char *const cases[][2] = {{"/run/c/bundle", "/run/c"},
	        {"/run/c//bundle//", "/run/c"}, {"/bundle", "/"}, {"bundle", "."}};
	(void)state;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(cases); i++) {
		char *d = berth_mon_dir_of(cases[i][0]);
		assert_string_equal(d, cases[i][1]);
		free(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(
	                lines_are_whole_whatever_the_pieces, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_long_line_is_split, setup, teardown),
	        cmocka_unit_test_setup_teardown(no_piece_changes_the_log, setup, teardown),
	        cmocka_unit_test_setup_teardown(many_short_lines_come_through, setup, teardown),
	        cmocka_unit_test_setup_teardown(
	                a_full_disk_loses_lines_and_no_more, setup, teardown),
	        cmocka_unit_test_setup_teardown(a_rotated_log_is_reopened, setup, teardown),
	        cmocka_unit_test_setup_teardown(stamps_agree_with_libc, setup, teardown),
	        cmocka_unit_test(records_are_read_strictly),
	        cmocka_unit_test(an_unknown_exit_is_never_zero),
	        cmocka_unit_test(the_second_witness_knows_the_code),
	        cmocka_unit_test(directories_of_bundles),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
