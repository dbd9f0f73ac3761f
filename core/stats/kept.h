/* Files of /proc and cgroups that stay open from one sample to the next: no path is walked to read
 * them again. The kernel keeps 5 KiB for each, so all of a process have a cap together; what is
 * beyond it is opened for each read. */
#ifndef BERTH_STATS_KEPT_H
#define BERTH_STATS_KEPT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* How many of them: 110 pods with 4 containers each. */
#define BERTH_LIMIT_KEPT_FILES 8192

/* Shared by all threads that keep files. [any] */
struct berth_kept_cap {
	unsigned int max;
	atomic_uint n;
};
/* As many as the limit allows, and at most a quarter of what RLIMIT_NOFILE does. */
void berth_kept_cap_init(struct berth_kept_cap *cap);
/* seldom: a file that is not read by each sample, half of the cap is out of its reach. */
bool berth_kept_cap_take(struct berth_kept_cap *cap, bool seldom);
void berth_kept_cap_give(struct berth_kept_cap *cap, unsigned int n);

/* The files of one cgroup; all zero but for cap: none. Of one thread at a time. */
struct berth_kept {
	struct berth_kept_cap *cap;
	struct berth_kept_file *files;
	unsigned int n_files;
	bool off; /* nothing is kept, and what is read has no fd afterwards */
};
struct berth_cg_source;

/* The text of a cgroup's file, at most `max` bytes; controller and file: literals. Returns 0 (the
 * caller frees), or a negative errno. */
int berth_kept_text(struct berth_kept *k, const struct berth_cg_source *s, const char *controller,
        const char *file, size_t max, char **ret);
/* Closes them all; it can be used again. */
void berth_kept_close(struct berth_kept *k);

/* The whole text of an open file, whatever its offset. -EFBIG where it is longer. [any] */
int berth_read_again(int fd, size_t max, char **ret);

#endif
