/* Categories of MCS levels: a process reaches what has no category that it lacks. */
#include <ctype.h>
#include <errno.h>
#include <selinux/context.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/mem.h"
#include "security/selinux.h"

/* "c7", "c7.c9": its ends. What follows, or NULL where it reads otherwise. */
static const char *one_range(const char *s, unsigned long *first, unsigned long *last)
{
	char *end;

	if (s[0] != 'c' || !isdigit((unsigned char)s[1]))
		return NULL;
	*first = *last = strtoul(s + 1, &end, 10);
	if (end[0] != '.')
		return end;
	if (end[1] != 'c' || !isdigit((unsigned char)end[2]))
		return NULL;
	*last = strtoul(end + 2, &end, 10);
	return end;
}

/* Of the categories of a level or, of a range of two, of the higher: is each of the pair? False
 * where there is none, or where it cannot be read, for then it is no level of a pair. */
static bool all_in(const struct berth_mcs *pair, const char *range)
{
	const char *dash = strchr(range, '-');
	const char *s = strchr(dash ? dash : range, ':');

	if (!s)
		return false;
	do {
		unsigned long first, last;
		s = one_range(s + 1, &first, &last);
		/* Of more than two in a row one is not of the pair. */
		if (!s || last < first || last - first > 1 ||
		        (first != pair->low && first != pair->high) ||
		        (last != pair->low && last != pair->high))
			return false;
	} while (*s == ',');
	return *s == '\0';
}

bool berth_mcs_covers(const struct berth_mcs *pair, const char *label)
{
	context_t c = label ? context_new(label) : NULL;
	const char *range = c ? context_range_get(c) : NULL;
	bool covers = range && all_in(pair, range);

	if (c)
		context_free(c);
	return covers;
}

char *berth_mcs_level(const struct berth_mcs *pair, const char *context)
{
	context_t c = context_new(context);
	const char *range = c ? context_range_get(c) : NULL;
	char *level = berth_asprintf("%.*s:c%u,c%u", range ? (int)strcspn(range, ":-") : 2,
	        range ? range : "s0", pair->low, pair->high);

	if (c)
		context_free(c);
	return level;
}

/* The pairs in a row: 0,1 0,2 ... 1,2 ... */
static struct berth_mcs nth(unsigned int categories, unsigned int n)
{
	unsigned int low = 0;

	for (; n >= categories - 1 - low; low++)
		n -= categories - 1 - low;
	return (struct berth_mcs){low, low + 1 + n};
}

int berth_mcs_pick(unsigned int categories,
        bool (*taken)(const struct berth_mcs *pair, const void *arg), const void *arg,
        struct berth_mcs *ret, struct berth_error **ret_err)
{
	unsigned int n = categories * (categories - 1) / 2, start = 0;

	if (getrandom(&start, sizeof(start), 0) != sizeof(start))
		return berth_error_errno(ret_err, errno, "getrandom");
	for (unsigned int i = 0; i < n; i++) {
		struct berth_mcs pair = nth(categories, (start % n + i) % n);
		if (taken(&pair, arg))
			continue;
		*ret = pair;
		return 0;
	}
	return berth_error_set(ret_err, BERTH_RESOURCE_EXHAUSTED,
	        "all %u pairs of SELinux categories are in use", n);
}
