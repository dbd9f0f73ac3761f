#include "stats/kept.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "stats/files.h"

#define ABSENT_NS 60000000000ull /* a controller, or pressure, that this kernel does not have */

struct berth_kept_file {
	const char *controller, *file;
	int fd;             /* -1 = not open */
	uint64_t absent_ns; /* CLOCK_MONOTONIC: until then it is not looked for */
};

/* ---- the cap ---- */

void berth_kept_cap_init(struct berth_kept_cap *cap)
{
	struct rlimit r;

	cap->max = BERTH_LIMIT_KEPT_FILES;
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur / 4 < cap->max)
		cap->max = (unsigned int)(r.rlim_cur / 4);
	atomic_init(&cap->n, 0);
}

bool berth_kept_cap_take(struct berth_kept_cap *cap, bool seldom)
{
	unsigned int max = seldom ? cap->max / 2 : cap->max;

	if (atomic_fetch_add(&cap->n, 1) < max)
		return true;
	atomic_fetch_sub(&cap->n, 1);
	return false;
}

void berth_kept_cap_give(struct berth_kept_cap *cap, unsigned int n)
{
	atomic_fetch_sub(&cap->n, n);
}

/* ---- files ---- */

int berth_read_again(int fd, size_t max, char **ret)
{
	struct berth_buf b = {0};
	char chunk[4096];

	for (;;) {
		ssize_t n = pread(fd, chunk, sizeof(chunk), (off_t)b.len);
		if (n < 0 && errno == EINTR)
			continue;
		int r = n < 0 ? -errno : b.len + (size_t)n > max ? -EFBIG : 0;
		if (r < 0) {
			berth_buf_finish(&b);
			return r;
		}
		if (n == 0)
			break;
		berth_buf_add(&b, chunk, (size_t)n);
	}
	*ret = berth_buf_steal(&b);
	return 0;
}

static struct berth_kept_file *find(struct berth_kept *k, const char *controller, const char *file)
{
	for (unsigned int i = 0; i < k->n_files; i++) {
		struct berth_kept_file *f = &k->files[i];
		if (strcmp(f->file, file) == 0 && strcmp(f->controller, controller) == 0)
			return f;
	}
	k->files = berth_reallocarray(k->files, k->n_files + 1, sizeof(*k->files));
	struct berth_kept_file *f = &k->files[k->n_files++];
	*f = (struct berth_kept_file){.controller = controller, .file = file, .fd = -1};
	return f;
}

static void close_file(struct berth_kept *k, struct berth_kept_file *f)
{
	if (f->fd < 0)
		return;
	f->fd = berth_close(f->fd);
	berth_kept_cap_give(k->cap, 1);
}

int berth_kept_text(struct berth_kept *k, const struct berth_cg_source *s, const char *controller,
        const char *file, size_t max, char **ret)
{
	struct berth_kept_file *f = k->off ? NULL : find(k, controller, file);

	if (f && f->fd >= 0) {
		if (berth_read_again(f->fd, max, ret) == 0)
			return 0;
		/* It went with its cgroup (ENODEV), or was hidden; one of that name may be there
		 * anew. */
		close_file(k, f);
	}
	if (f && s->present && f->absent_ns > berth_now_ns())
		return -ENOENT;
	_cleanup_close_ int fd = berth_cg_open(s, controller, file);
	int r = fd < 0 ? fd : berth_read_again(fd, max, ret);
	if (!f)
		return r;
	f->absent_ns = r < 0 && s->present ? berth_now_ns() + ABSENT_NS : 0;
	if (r == 0 && berth_kept_cap_take(k->cap, s->seldom))
		f->fd = berth_take_fd(&fd);
	return r;
}

void berth_kept_close(struct berth_kept *k)
{
	for (unsigned int i = 0; i < k->n_files; i++)
		close_file(k, &k->files[i]);
	free(k->files);
	k->files = NULL;
	k->n_files = 0;
}
