#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"

static atomic_int max_level = BERTH_LOG_LVL_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void berth_log_set_level(enum berth_log_level level)
{
	atomic_store(&max_level, (int)level);
}

int berth_log_parse_level(const char *name)
{
	for (size_t i = 0; i < BERTH_ARRAY_LEN(level_names); i++)
		if (strcmp(name, level_names[i]) == 0)
			return (int)i;
	return -1;
}

struct line {
	char text[BERTH_LIMIT_LOG_LINE];
	size_t len;
};

static void put(struct line *l, const char *s, size_t n)
{
	/* Room for the newline stays. */
	size_t room = sizeof(l->text) - 1 - l->len;
	if (n > room)
		n = room;
	memcpy(l->text + l->len, s, n);
	l->len += n;
}

static void put_value(struct line *l, const char *v)
{
	bool plain = *v != '\0';
	for (const unsigned char *p = (const unsigned char *)v; *p && plain; p++)
		if (*p <= ' ' || *p == '"' || *p == '=' || *p == '\\' || *p == 0x7f)
			plain = false;
	if (plain) {
		put(l, v, strlen(v));
		return;
	}
	put(l, "\"", 1);
	for (const unsigned char *p = (const unsigned char *)v; *p; p++) {
		if (*p == '"' || *p == '\\') {
			char esc[2] = {'\\', (char)*p};
			put(l, esc, 2);
		} else if (*p == '\n') {
			put(l, "\\n", 2);
		} else if (*p < ' ' || *p == 0x7f) {
			char esc[5];
			int n = snprintf(esc, sizeof(esc), "\\x%02x", *p);
			put(l, esc, (size_t)n);
		} else {
			put(l, (const char *)p, 1);
		}
	}
	put(l, "\"", 1);
}

void berth_log(enum berth_log_level level, const char *msg, ...)
{
	if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
		return;
	int saved = errno;
	struct line l = {.len = 0};
	struct timespec ts;
	struct tm tm;
	char stamp[64];

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(stamp, sizeof(stamp), "time=%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(stamp + n, sizeof(stamp) - n, ".%06ldZ level=", ts.tv_nsec / 1000);
	put(&l, stamp, n);
	put(&l, level_names[level], strlen(level_names[level]));
	put(&l, " msg=", 5);
	put_value(&l, msg);

	va_list ap;
	va_start(ap, msg);
	for (const char *key; (key = va_arg(ap, const char *));) {
		const char *value = va_arg(ap, const char *);
		if (!value)
			continue;
		put(&l, " ", 1);
		put(&l, key, strlen(key));
		put(&l, "=", 1);
		put_value(&l, value);
	}
	va_end(ap);
	l.text[l.len++] = '\n';
	/* One write per line, so that lines of several threads never mix. A full stderr is nobody's
	 * error. */
	ssize_t w = write(STDERR_FILENO, l.text, l.len);
	(void)w;
	errno = saved;
}
