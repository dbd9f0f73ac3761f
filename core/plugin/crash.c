#include "plugin/crash.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/macros.h"
#include "plugin/internal.h"

static const struct {
	int number;
	const char *name;
} faults[] = {{SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGILL, "SIGILL"},
        {SIGABRT, "SIGABRT"}};

static struct sigaction before[BERTH_ARRAY_LEN(faults)];

struct line {
	char text[1024];
	size_t len;
};

static void put(struct line *l, const char *s)
{
	for (; s && *s && l->len < sizeof(l->text) - 1; s++)
		l->text[l->len++] = *s;
}

/* An object's name may be a peer's text: it ends neither its quotes nor the line. */
static void put_quoted(struct line *l, const char *key, const char *s)
{
	put(l, key);
	put(l, "=\"");
	for (; *s && l->len < sizeof(l->text) - 2; s++)
		l->text[l->len++] = *s < ' ' || *s == '"' || *s == '\\' || *s == 0x7f ? '?' : *s;
	put(l, "\"");
}

static void put_hex(struct line *l, uintptr_t v)
{
	char digits[2 * sizeof(v) + 1];
	size_t i = sizeof(digits) - 1;

	digits[i] = '\0';
	do
		digits[--i] = "0123456789abcdef"[v % 16];
	while ((v /= 16) && i > 0);
	put(l, "0x");
	put(l, digits + i);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	const struct berth_call *c = berth_call_current();
	struct line l = {.len = 0};
	int saved = errno;
	size_t i = 0;

	(void)context;
	while (i < BERTH_ARRAY_LEN(faults) - 1 && faults[i].number != number)
		i++;
	put(&l, "level=error msg=\"berthd crashed\" signal=");
	put(&l, faults[i].name);
	if (info->si_code > 0) {
		put(&l, " address=");
		put_hex(&l, (uintptr_t)info->si_addr);
	}
	if (c) {
		put_quoted(&l, " plugin", c->instance->file->name);
		put_quoted(&l, " op", c->name);
		if (c->object)
			put_quoted(&l, " object", c->object);
	} else {
		char thread[16] = "";
		prctl(PR_GET_NAME, thread);
		put_quoted(&l, " thread", thread);
	}
	l.text[l.len++] = '\n';
	(void)!write(STDERR_FILENO, l.text, l.len);
	/* The instruction faults again at the return; a signal that was sent comes again. */
	sigaction(number, &before[i], NULL);
	if (info->si_code <= 0)
		raise(number);
	errno = saved;
}

void berth_crash_init(void)
{
	static char stack[16384];
	stack_t s = {.ss_sp = stack, .ss_size = sizeof(stack)}, have;

	/* A sanitizer has brought one of its own. */
	if (sigaltstack(NULL, &have) == 0 && (have.ss_flags & SS_DISABLE))
		sigaltstack(&s, NULL);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(faults); i++) {
		struct sigaction a = {
		        .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
		sigaction(faults[i].number, &a, &before[i]);
	}
}
