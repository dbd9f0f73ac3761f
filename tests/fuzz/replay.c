/* A main() for a fuzz target without libFuzzer: runs it once for each file of a directory. */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 16 << 20 };

int main(int argc, char **argv)
{
	DIR *d = argc == 2 ? opendir(argv[1]) : NULL;
	int n = 0;

	if (!d) {
		fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
		return 2;
	}
	for (struct dirent *e; (e = readdir(d));) {
		_cleanup_free_ char *data = NULL;
		size_t size;
		if (e->d_name[0] == '.')
			continue;
		if (berth_read_file(dirfd(d), e->d_name, INPUT_MAX, &data, &size) < 0) {
			perror(e->d_name);
			return 1;
		}
		/* A copy of the exact size: a read past the end is then seen. */
		_cleanup_free_ uint8_t *exact = berth_memdup(data, size);
		(void)LLVMFuzzerTestOneInput(exact, size);
		n++;
	}
	closedir(d);
	printf("%d inputs\n", n);
	return n ? 0 : 1;
}
