#include "base/size.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int berth_size_parse(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGTP";
	size_t digits = strspn(text, "0123456789");
	const char *unit = text + digits;
	uint64_t by = 1;

	if (digits == 0)
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(text, NULL, 10);
	if (errno != 0)
		return -ERANGE;
	if (*unit) {
		const char *u = *unit == 'k' ? units : strchr(units, *unit);
		bool binary = u && unit[1] == 'i';
		if (!u || (binary ? unit[2] && strcmp(unit + 2, "B") != 0 : unit[1] != '\0'))
			return -EINVAL;
		for (const char *p = units; p <= u; p++)
			by *= binary ? 1024 : 1000;
	}
	if (v > UINT64_MAX / by)
		return -ERANGE;
	*ret = v * by;
	return 0;
}
