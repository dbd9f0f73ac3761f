/* A tree of files that stands for cgroups, and how many files the test has open. */
#ifndef BERTH_TEST_STATS_FIXTURE_H
#define BERTH_TEST_STATS_FIXTURE_H

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"

/* Another file of that name: an fd of the one before does not see it. */
static inline void put_at(const char *dir, const char *name, const char *text)
{
	_cleanup_free_ char *path = berth_asprintf("%s/%s", dir, name);
	_cleanup_free_ char *parent = berth_strdup(path);
	*strrchr(parent, '/') = '\0';
	assert_int_equal(berth_mkdir_p(parent, 0755), 0);
	assert_int_equal(
	        berth_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0644, false), 0);
}

static inline unsigned int open_fds(void)
{
	unsigned int n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

#endif
