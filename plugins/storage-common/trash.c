/* What was removed: it is renamed into the trash at once, and deleted from there. */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PART ".part"
#define SWEEP_AGAIN_NS 5000000000ull
#define SWEEP_SELDOM_NS 600000000000ull

static int move_to(struct store *st, int dirfd, const char *name, int to_dir, const char *ending,
        char ret_name[TRASH_NAME])
{
	char to[TRASH_NAME];

	do {
		snprintf(to, sizeof(to), "%llu%s",
		        (unsigned long long)__atomic_add_fetch(
		                &st->own->serial, 1, __ATOMIC_RELAXED),
		        ending);
		if (renameat2(dirfd, name, to_dir, to, RENAME_NOREPLACE) == 0) {
			if (ret_name)
				memcpy(ret_name, to, sizeof(to));
			return 0;
		}
	} while (errno == EEXIST); /* of an earlier run */
	return -errno;
}

int trash_add(struct store *st, int dirfd, const char *name, enum trash_what what,
        char ret_name[TRASH_NAME])
{
	return move_to(st, dirfd, name, st->trash_fd, what == TRASH_PART ? PART : "", ret_name);
}

/* Others delete what they find in the trash, and nobody what is in new/ but a start, which has
 * synced the directory that it came from by then. */
int trash_add_surely(struct store *st, struct berth_op *op, int dirfd, const char *name,
        char ret_name[TRASH_NAME], bool *ret_gone)
{
	char tmp[TRASH_NAME];
	int r = move_to(st, dirfd, name, st->new_fd, "", tmp);

	if (r == 0 && fsync(dirfd) < 0) {
		r = -errno;
		if (renameat2(st->new_fd, tmp, dirfd, name, RENAME_NOREPLACE) < 0 && ret_gone)
			*ret_gone = true;
	}
	if (r < 0)
		return r;
	if (ret_gone)
		*ret_gone = true;
	r = trash_add(st, st->new_fd, tmp, TRASH_SNAPSHOT, ret_name);
	if (r < 0 && trash_delete_at(st, op, st->new_fd, tmp) == 0) {
		if (ret_name)
			*ret_name = '\0';
		r = 0;
	}
	return r;
}

int store_discard(struct store *st, int dirfd, const char *name)
{
	return trash_add(st, dirfd, name, TRASH_PART, NULL);
}

/* How long a deletion may go on. */
struct sweep {
	struct store *st;
	struct berth_op *op;
	uint64_t until_ns; /* 0: to its end */
};

int store_give_up(struct store *st, struct berth_op *op)
{
	bool stopping = __atomic_load_n(&st->own->stopping, __ATOMIC_RELAXED);

	return stopping || st->host->op_cancelled(op) ? -ECANCELED : 0;
}

static int give_up(const struct sweep *s)
{
	int r = store_give_up(s->st, s->op);

	if (r < 0)
		return r;
	return s->until_ns && store_now_ns(CLOCK_MONOTONIC) > s->until_ns ? -ETIME : 0;
}

static int remove_dir(const struct sweep *s, int parent, const char *name, int depth);

static int remove_entry(const struct sweep *s, int dirfd, const struct dirent *e, int depth)
{
	int r = give_up(s);

	if (r < 0)
		return r;
	if (e->d_type != DT_DIR) {
		if (unlinkat(dirfd, e->d_name, 0) == 0 || errno == ENOENT)
			return 0;
		if (errno != EISDIR)
			return -errno;
	}
	return remove_dir(s, dirfd, e->d_name, depth);
}

/* A tree of a container's making may be deeper than any stack or table of files: what lies deeper
 * than DEPTH_MAX is moved up to the top of the trash and deleted from there. */
static int remove_dir(const struct sweep *s, int parent, const char *name, int depth)
{
	if (depth > DEPTH_MAX) {
		int moved = trash_add(s->st, parent, name, TRASH_PART, NULL);
		return moved == -ENOENT ? 0 : moved;
	}
	int fd = tree_open(parent, name), r = 0;
	if (fd == -ENOENT)
		return 0;
	if (fd == -ENOTDIR || fd == -ELOOP)
		return unlinkat(parent, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	if (fd < 0)
		return fd;
	DIR *dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	struct dirent *e;
	while (r == 0 && (e = readdir(dir)))
		if (!tree_dots(e->d_name))
			r = remove_entry(s, fd, e, depth + 1);
	closedir(dir);
	if (r == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

int store_delete_tree(struct store *st, struct berth_op *op, int dirfd, const char *name)
{
	const struct sweep s = {.st = st, .op = op};

	return remove_dir(&s, dirfd, name, 0);
}

bool trash_is_part(const char *name)
{
	size_t n = strlen(name), part = strlen(PART);

	return n > part && strcmp(name + n - part, PART) == 0;
}

/* m: what its meta file says; NULL where it has none. */
static int call_destroy(const struct sweep *s, int dirfd, const struct meta *m)
{
	struct store_own *own = s->st->own;

	/* Who has little time does not wait for another's destroy() for longer. By the clock of the
	 * day, for the thread sanitizer knows no lock by another. */
	uint64_t now = store_now_ns(CLOCK_MONOTONIC);
	uint64_t until_ns =
	        store_now_ns(CLOCK_REALTIME) + (s->until_ns > now ? s->until_ns - now : 0);
	const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000ull),
	        .tv_nsec = (long)(until_ns % 1000000000ull)};
	if (!s->until_ns)
		pthread_mutex_lock(&own->destroying);
	else if (pthread_mutex_timedlock(&own->destroying, &until) != 0)
		return -ETIME;
	int r = s->st->driver->destroy(s->st, s->op, dirfd, m);
	pthread_mutex_unlock(&own->destroying);
	return r;
}

/* What the meta file names is lost with it: one that cannot be read now, or by this version, stays
 * with its content. */
static int destroy_content(const struct sweep *s, int dirfd)
{
	struct meta m;
	int r = meta_read(dirfd, &m);

	if (r < 0 && !meta_is_none(r) && r != META_FOREIGN)
		return r;
	return call_destroy(s, dirfd, r == 0 ? &m : NULL);
}

/* One entry of the trash. */
static int remove_one(const struct sweep *s, const char *name)
{
	int r = 0;

	if (s->st->driver->destroy && !trash_is_part(name)) {
		int fd = tree_open(s->st->trash_fd, name);
		if (fd >= 0) {
			r = destroy_content(s, fd);
			close(fd);
		} else if (fd != -ENOENT && fd != -ENOTDIR && fd != -ELOOP) {
			r = fd;
		}
	}
	if (r == 0)
		r = remove_dir(s, s->st->trash_fd, name, 0);
	/* Else a crash brings back what names something that is gone, or another's by then. */
	if (r == 0 && s->st->driver->outside && fsync(s->st->trash_fd) < 0)
		r = -errno;
	return r;
}

/* One look at everything in the trash. Returns how much of it was deleted. */
static uint64_t empty_once(const struct sweep *s, DIR *dir, int *err, char where[NAME_LIMIT + 1])
{
	uint64_t deleted = 0;
	struct dirent *e;

	*err = 0;
	rewinddir(dir);
	while ((errno = 0, e = readdir(dir)) && give_up(s) == 0) {
		if (tree_dots(e->d_name))
			continue;
		int r = remove_one(s, e->d_name);
		if (r == 0) {
			deleted++;
		} else if (*err == 0) {
			*err = r;
			snprintf(where, NAME_LIMIT + 1, "%s", e->d_name);
		}
	}
	if (!e && errno && *err == 0)
		*err = -errno;
	return deleted;
}

static int sweep_all(const struct sweep *s, char where[NAME_LIMIT + 1])
{
	int fd = openat(s->st->trash_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	where[0] = '\0';
	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	/* A deep tree comes back in pieces. */
	while (empty_once(s, dir, &r, where) > 0)
		;
	closedir(dir);
	return r == 0 ? give_up(s) : r;
}

int trash_empty(struct store *st, struct berth_op *op, char where[NAME_LIMIT + 1])
{
	const struct sweep s = {.st = st, .op = op};

	return sweep_all(&s, where);
}

int trash_delete(struct store *st, struct berth_op *op, const char *name, uint64_t budget_ns)
{
	char where[NAME_LIMIT + 1];
	uint64_t before = __atomic_load_n(&st->own->serial, __ATOMIC_RELAXED);
	const struct sweep s = {
	        .st = st, .op = op, .until_ns = store_now_ns(CLOCK_MONOTONIC) + budget_ns};
	int r = remove_one(&s, name);

	if (r == 0 && __atomic_load_n(&st->own->serial, __ATOMIC_RELAXED) != before)
		r = sweep_all(&s, where);
	return r;
}

int trash_disown(int dirfd, const char *name)
{
	int fd = tree_open(dirfd, name), r = 0;

	if (fd < 0)
		return fd;
	if ((unlinkat(fd, "meta", 0) < 0 && errno != ENOENT) || fsync(fd) < 0)
		r = -errno;
	close(fd);
	return r;
}

int trash_delete_at(struct store *st, struct berth_op *op, int dirfd, const char *name)
{
	const struct sweep s = {.st = st, .op = op};
	int fd = tree_open(dirfd, name), r = 0;

	if (fd < 0)
		return fd;
	if (st->driver->destroy)
		r = destroy_content(&s, fd);
	close(fd);
	return r < 0 ? r : remove_dir(&s, dirfd, name, 0);
}

void trash_sweep_soon(struct store *st, bool after_failure)
{
	if (st->own->sweeper)
		st->host->rearm(st->own->sweeper, 0, after_failure ? SWEEP_AGAIN_NS : 0);
}

void trash_sweep(struct berth_op *op, struct berth_watch *w, uint32_t events, void *arg)
{
	struct store *st = arg;
	struct store_own *own = st->own;
	char where[NAME_LIMIT + 1], msg[512];

	(void)events;
	int r = trash_empty(st, op, where);
	if (__atomic_load_n(&own->stopping, __ATOMIC_RELAXED))
		return;
	if (r == -ECANCELED) /* the op's own deadline */
		st->host->rearm(w, 0, SWEEP_AGAIN_NS);
	if (r == 0)
		own->sweep_pause_ns = 0;
	if (r == 0 || r == -ECANCELED)
		return;
	if (!own->sweep_pause_ns) { /* told once */
		snprintf(msg, sizeof(msg), "%s: delete '%s/trash/%s': %s; tried again",
		        st->host->plugin_name, st->root, where, strerror(-r));
		st->host->log(st->host, op, BERTH_LOG_WARN, msg);
	}
	uint64_t pause = own->sweep_pause_ns ? own->sweep_pause_ns * 2 : SWEEP_AGAIN_NS;
	own->sweep_pause_ns = pause < SWEEP_SELDOM_NS ? pause : SWEEP_SELDOM_NS;
	st->host->rearm(w, 0, own->sweep_pause_ns);
}
