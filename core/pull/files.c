#include "pull/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uthash.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/protocol.h"
#include "pull/tree.h"

enum { CHUNK = 256 * 1024, LINK_DEPTH = 8 };

/* An archive's entry. Of equal names the last counts, as for tar itself. */
struct member {
	UT_hash_handle hh;
	uint64_t ordinal;
	int64_t size; /* -1: not a regular file */
	char *link;   /* clean path within, NULL where it is no link */
	char name[];
};

struct pull_files {
	int fd;
	bool is_dir;
	struct member *members;
};

/* Each reader has a position of its own, so that several threads read one archive. */
struct reader {
	int fd;
	off_t at;
	char *buf;
};

static la_ssize_t read_chunk(struct archive *a, void *arg, const void **ret)
{
	struct reader *r = arg;
	ssize_t n;

	do
		n = pread(r->fd, r->buf, CHUNK, r->at);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		archive_set_error(a, errno, "read: %s", strerror(errno));
		return ARCHIVE_FATAL;
	}
	r->at += n;
	*ret = r->buf;
	return n;
}

static la_int64_t skip(struct archive *a, void *arg, la_int64_t n)
{
	struct reader *r = arg;
	r->at += n;
	return n;
}

static void reader_finish(struct reader *r, struct archive *a)
{
	archive_read_free(a);
	free(r->buf);
}

static int reader_open(struct reader *r, int fd, struct archive **ret, struct berth_error **ret_err)
{
	*r = (struct reader){.fd = fd, .buf = berth_reallocarray(NULL, 1, CHUNK)};
	struct archive *a = archive_read_new();
	if (!a || archive_read_support_format_tar(a) < ARCHIVE_WARN ||
	        archive_read_support_filter_gzip(a) < ARCHIVE_WARN ||
	        archive_read_support_filter_zstd(a) < ARCHIVE_WARN ||
	        archive_read_open2(a, r, NULL, read_chunk, skip, NULL) != ARCHIVE_OK) {
		berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it is no readable tar archive: %s",
		        a ? archive_error_string(a) : "no memory");
		reader_finish(r, a);
		return -1;
	}
	*ret = a;
	return 0;
}

/* Where a link leads: relative to its own directory, ".." allowed as far as the archive's root.
 * NULL where it leads out. */
static char *link_target(const char *name, const char *text, bool symbolic)
{
	struct berth_buf b = {0};
	const char *slash = strrchr(name, '/');

	if (*text == '/')
		return NULL;
	if (symbolic && slash)
		berth_buf_add(&b, name, (size_t)(slash - name));
	for (const char *p = text; *p; p += strspn(p, "/")) {
		size_t len = strcspn(p, "/");
		if (len == 2 && memcmp(p, "..", 2) == 0) {
			char *up = b.len ? strrchr(b.data, '/') : NULL;
			if (b.len == 0) {
				berth_buf_finish(&b);
				return NULL;
			}
			b.len = up ? (size_t)(up - b.data) : 0;
			b.data[b.len] = '\0';
		} else if (!(len == 1 && *p == '.')) {
			if (b.len)
				berth_buf_adds(&b, "/");
			berth_buf_add(&b, p, len);
		}
		p += len;
	}
	return berth_buf_steal(&b);
}

static void add_member(struct pull_files *f, struct archive_entry *e, uint64_t ordinal)
{
	char name[BERTH_LIMIT_PATH];
	struct member *m;

	/* What has no place in an image's archive is not found later, which is all that is needed.
	 */
	if (pull_tree_clean(archive_entry_pathname(e), name) || !*name)
		return;
	HASH_FIND_STR(f->members, name, m);
	if (!m) {
		size_t n = strlen(name) + 1;
		m = berth_zalloc(sizeof(*m) + n);
		memcpy(m->name, name, n);
		HASH_ADD_STR(f->members, name, m);
	}
	m->ordinal = ordinal;
	m->size = -1;
	free(berth_take(m->link));
	if (archive_entry_hardlink(e))
		m->link = link_target(name, archive_entry_hardlink(e), false);
	else if (archive_entry_filetype(e) == AE_IFLNK && archive_entry_symlink(e))
		m->link = link_target(name, archive_entry_symlink(e), true);
	else if (archive_entry_filetype(e) == AE_IFREG)
		m->size = archive_entry_size(e);
}

static int read_index(struct pull_files *f, struct berth_error **ret_err)
{
	struct reader r;
	struct archive *a;
	struct archive_entry *e;
	int result = 0, h;

	if (reader_open(&r, f->fd, &a, ret_err) < 0)
		return -1;
	for (uint64_t n = 0;
	        (h = archive_read_next_header(a, &e)) == ARCHIVE_OK || h == ARCHIVE_WARN; n++) {
		if (n == BERTH_LIMIT_IMPORT_FILES) {
			result = berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
			        "the archive has more than %d entries", BERTH_LIMIT_IMPORT_FILES);
			break;
		}
		add_member(f, e, n);
	}
	if (result == 0 && h != ARCHIVE_EOF)
		result = berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it is no readable tar archive: %s", archive_error_string(a));
	reader_finish(&r, a);
	return result;
}

int pull_files_open(int fd, struct pull_files **ret, struct berth_error **ret_err)
{
	struct stat st;
	struct pull_files *f = berth_new(struct pull_files);
	f->fd = fd;

	int r = 0;
	if (fstat(fd, &st) < 0)
		r = berth_error_errno(ret_err, errno, "stat");
	else if (S_ISDIR(st.st_mode))
		f->is_dir = true;
	else if (S_ISREG(st.st_mode))
		r = read_index(f, ret_err);
	else
		r = berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "it is neither a regular file nor a directory");
	if (r < 0) {
		pull_files_free(f);
		return -1;
	}
	*ret = f;
	return 0;
}

struct pull_files *pull_files_free(struct pull_files *f)
{
	struct member *m, *next;

	if (!f)
		return NULL;
	HASH_ITER (hh, f->members, m, next) {
		HASH_DEL(f->members, m);
		free(m->link);
		free(m);
	}
	berth_close(f->fd);
	free(f);
	return NULL;
}

static int open_in_dir(struct pull_files *f, const char *name)
{
	struct open_how how = {
	        .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
	        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	struct stat st;
	int fd;

	do
		fd = (int)syscall(SYS_openat2, f->fd, name, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return -ENOENT;
	}
	return fd;
}

static const struct member *find(struct pull_files *f, const char *raw)
{
	char name[BERTH_LIMIT_PATH];
	const struct member *m = NULL;

	if (pull_tree_clean(raw, name))
		return NULL;
	const char *at = name;
	for (int depth = 0; at && depth < LINK_DEPTH; depth++) {
		HASH_FIND_STR(f->members, at, m);
		if (!m || m->size >= 0)
			return m;
		at = m->link;
	}
	return NULL;
}

int64_t pull_files_size(struct pull_files *f, const char *name)
{
	if (!f->is_dir) {
		const struct member *m = find(f, name);
		return m ? m->size : -1;
	}
	struct stat st;
	_cleanup_close_ int fd = open_in_dir(f, name);
	return fd >= 0 && fstat(fd, &st) == 0 ? st.st_size : -1;
}

static int fail_sink(struct berth_error **ret_err)
{
	return berth_error_set(ret_err, BERTH_CANCELLED, "reading was ended");
}

static int stream_file(
        int fd, const char *name, pull_sink sink, void *arg, struct berth_error **ret_err)
{
	_cleanup_free_ char *buf = berth_reallocarray(NULL, 1, CHUNK);

	for (;;) {
		ssize_t n = read(fd, buf, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return berth_error_errno(ret_err, errno, "read '%s'", name);
		if (n == 0)
			return 0;
		if (sink(arg, buf, (size_t)n) < 0)
			return fail_sink(ret_err);
	}
}

static int stream_member(struct pull_files *f, const struct member *m, pull_sink sink, void *arg,
        struct berth_error **ret_err)
{
	struct reader r;
	struct archive *a;
	struct archive_entry *e;
	int result = 0, h = ARCHIVE_OK;

	if (reader_open(&r, f->fd, &a, ret_err) < 0)
		return -1;
	for (uint64_t n = 0; n <= m->ordinal && h >= ARCHIVE_WARN && h != ARCHIVE_EOF; n++)
		h = archive_read_next_header(a, &e);
	la_int64_t done = 0;
	while (result == 0 && h != ARCHIVE_EOF) {
		const void *p;
		size_t n;
		la_int64_t at = done;
		h = h >= ARCHIVE_WARN ? archive_read_data_block(a, &p, &n, &at) : h;
		if (h < ARCHIVE_WARN || at != done) /* a hole: no blob is sparse */
			result = berth_error_set(ret_err, BERTH_DATA_LOSS, "read '%s': %s", m->name,
			        at != done ? "it is sparse" : archive_error_string(a));
		else if (h != ARCHIVE_EOF && n > 0 && sink(arg, p, n) < 0)
			result = fail_sink(ret_err);
		else if (h != ARCHIVE_EOF)
			done += (la_int64_t)n;
	}
	if (result == 0 && done != m->size)
		result = berth_error_set(
		        ret_err, BERTH_DATA_LOSS, "read '%s': it ends early", m->name);
	reader_finish(&r, a);
	return result;
}

int pull_files_stream(struct pull_files *f, const char *name, pull_sink sink, void *arg,
        struct berth_error **ret_err)
{
	if (!f->is_dir) {
		const struct member *m = find(f, name);
		if (!m)
			return berth_error_set(ret_err, BERTH_NOT_FOUND, "there is no '%s'", name);
		return stream_member(f, m, sink, arg, ret_err);
	}
	_cleanup_close_ int fd = open_in_dir(f, name);
	if (fd == -ENOENT)
		return berth_error_set(ret_err, BERTH_NOT_FOUND, "there is no '%s'", name);
	if (fd < 0)
		return berth_error_errno(ret_err, fd, "open '%s'", name);
	return stream_file(fd, name, sink, arg, ret_err);
}

int pull_files_read(struct pull_files *f, const char *name, size_t max, char **ret, size_t *ret_len,
        struct berth_error **ret_err)
{
	struct pull_collect c = {.max = max};
	_cleanup_(berth_error_freep) struct berth_error *err = NULL;

	int r = pull_files_stream(f, name, pull_collect, &c, &err);
	if (c.too_big)
		r = berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
		        "'%s' is larger than %zu bytes", name, max);
	else if (r < 0)
		berth_error_move(ret_err, &err);
	if (r < 0) {
		berth_buf_finish(&c.b);
		return -1;
	}
	*ret_len = c.b.len;
	*ret = berth_buf_steal(&c.b);
	return 0;
}
