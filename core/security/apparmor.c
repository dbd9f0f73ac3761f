#include "security/apparmor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

#define ENABLED "/sys/module/apparmor/parameters/enabled"
#define PROFILES "/sys/kernel/security/apparmor/profiles"

bool berth_apparmor_enabled(void)
{
	_cleanup_free_ char *text = NULL;
	return berth_read_file(-1, ENABLED, 64, &text, NULL) == 0 && text[0] == 'Y';
}

int berth_apparmor_loaded(const char *profile)
{
	FILE *f = fopen(PROFILES, "re");
	if (!f)
		return -errno;
	_cleanup_free_ char *line = NULL;
	size_t cap = 0, want = strlen(profile);
	int found = 0;
	/* Each line is "NAME (MODE)"; a name may hold spaces and parentheses. */
	while (!found && getline(&line, &cap, f) > 0) {
		const char *mode = strrchr(line, '(');
		found = mode && mode > line && (size_t)(mode - line) == want + 1 &&
		        mode[-1] == ' ' && memcmp(line, profile, want) == 0;
	}
	if (!found && ferror(f))
		found = -EIO;
	fclose(f);
	return found;
}
