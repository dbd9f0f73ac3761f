#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/macros.h"
#include "spec/validate.h"

/* The kernel's numbers: the C library keeps the first two real-time signals for itself, but a
 * container's SIGRTMIN+n is written against glibc's 34. */
enum { RTMIN = 34, RTMAX = 64 };

/* clang-format off */
#define SIGNALS(X)                                                                              \
	X(ABRT) X(ALRM) X(BUS) X(CHLD) X(CLD) X(CONT) X(FPE) X(HUP) X(ILL) X(INT) X(IO) X(IOT)  \
	X(KILL) X(PIPE) X(POLL) X(PROF) X(PWR) X(QUIT) X(SEGV) X(STKFLT) X(STOP) X(SYS) X(TERM) \
	X(TRAP) X(TSTP) X(TTIN) X(TTOU) X(URG) X(USR1) X(USR2) X(VTALRM) X(WINCH) X(XCPU) X(XFSZ)
/* clang-format on */

/* Indexed like CRI's enum Signal, whose 1 to 34 are these in this order. */
static const struct {
	const char *name;
	int number;
} names[] = {
#define X(n) {#n, SIG##n},
        SIGNALS(X)
#undef X
};
_Static_assert(BERTH_ARRAY_LEN(names) == RUNTIME__V1__SIGNAL__SIGXFSZ, "CRI's enum Signal");

int berth_signal_from_cri(Runtime__V1__Signal s)
{
	int n = (int)s;
	if (n == RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT)
		return 0;
	if (n >= 1 && n <= RUNTIME__V1__SIGNAL__SIGXFSZ)
		return names[n - 1].number;
	if (n >= RUNTIME__V1__SIGNAL__SIGRTMIN && n <= RUNTIME__V1__SIGNAL__SIGRTMAX)
		return RTMIN + (n - RUNTIME__V1__SIGNAL__SIGRTMIN);
	return -1;
}

Runtime__V1__Signal berth_signal_to_cri(int signum)
{
	if (signum >= RTMIN && signum <= RTMAX)
		return (Runtime__V1__Signal)(RUNTIME__V1__SIGNAL__SIGRTMIN + signum - RTMIN);
	/* Of two names of one number the usual one. */
	if (signum == SIGCHLD)
		return RUNTIME__V1__SIGNAL__SIGCHLD;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++)
		if (names[i].number == signum)
			return (Runtime__V1__Signal)(i + 1);
	return RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT;
}

/* Up to two digits; -1 where it is something else. */
static int small_number(const char *s)
{
	size_t n = strspn(s, "0123456789");
	return n && n <= 2 && !s[n] ? (int)strtol(s, NULL, 10) : -1;
}

int berth_signal_parse(const char *name)
{
	int n = small_number(name);
	if (n >= 0)
		return n >= 1 && n <= RTMAX ? n : -1;
	if (strncasecmp(name, "SIG", 3) == 0)
		name += 3;
	for (size_t i = 0; i < BERTH_ARRAY_LEN(names); i++)
		if (strcasecmp(names[i].name, name) == 0)
			return names[i].number;
	bool low = strncasecmp(name, "RTMIN", 5) == 0;
	if (!low && strncasecmp(name, "RTMAX", 5) != 0)
		return -1;
	name += 5;
	if (!*name)
		return low ? RTMIN : RTMAX;
	n = *name == (low ? '+' : '-') ? small_number(name + 1) : -1;
	if (n < 0 || n > RTMAX - RTMIN)
		return -1;
	return low ? RTMIN + n : RTMAX - n;
}
