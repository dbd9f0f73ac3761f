/* Any bytes as a layer's tar, unpacked into a scratch directory: nothing beside it changes. The
 * first byte chooses the form of whiteouts. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "pull/unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char top[] = "/tmp/berth-fuzz-tar-XXXXXX";
static int top_fd = -1;

static void must(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static void clean_up(void)
{
	int r = berth_rm_tree(AT_FDCWD, top);
	(void)r;
}

static void start(void)
{
	umask(0);
	must(mkdtemp(top) != NULL, "mkdtemp");
	atexit(clean_up);
	top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(top_fd >= 0, top);
	int r = berth_write_file_atomic(top_fd, "outside", "untouched", 9, 0600, false);
	must(r == 0, "outside");
}

struct input {
	const uint8_t *p;
	size_t n, piece;
};

/* In small pieces, too: each may end anywhere. */
static ssize_t next(void *arg, const void **ret)
{
	struct input *in = arg;
	size_t n = in->n < in->piece ? in->n : in->piece;

	*ret = in->p;
	in->p += n;
	in->n -= n;
	return (ssize_t)n;
}

static int opaque(void *arg, int dirfd, struct berth_error **ret_err)
{
	struct stat st;
	must(fstat(dirfd, &st) == 0 && S_ISDIR(st.st_mode), "opaque");
	return 0;
}

static void check_outside(void)
{
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len;
	int entries = 0;

	int r = berth_read_file(top_fd, "outside", 100, &text, &len);
	must(r == 0 && len == 9 && memcmp(text, "untouched", 9) == 0, "outside is changed");
	must(fstatat(top_fd, "outside", &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink == 1 &&
	                st.st_mode == (S_IFREG | 0600),
	        "outside is changed");
	DIR *d = opendir(top);
	must(d != NULL, top);
	for (struct dirent *e; (e = readdir(d));)
		entries += e->d_name[0] != '.';
	closedir(d);
	must(entries == 2, "something is beside the layer");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct berth_error *err = NULL;
	struct pull_unpacked u = {0};

	if (size < 1)
		return 0;
	if (top_fd < 0)
		start();
	must(mkdirat(top_fd, "layer", 0755) == 0, "layer");
	_cleanup_close_ int root = openat(top_fd, "layer", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(root >= 0, "layer");
	struct input in = {data + 1, size - 1, data[0] & 0x80 ? 700 : 65536};
	struct pull_unpack_opts o = {
	        .tree = {.whiteout = (enum pull_whiteout)((data[0] & 0x7f) % 3), .opaque = opaque},
	        .read = next,
	        .read_arg = &in,
	};
	if (pull_unpack(root, &o, &u, &err) < 0) {
		must(err->msg != NULL, "an error without words");
		berth_error_free(err);
	}
	free(u.implied);
	check_outside();
	int r = berth_rm_tree(top_fd, "layer");
	errno = -r;
	must(r == 0, "remove the layer");
	return 0;
}
