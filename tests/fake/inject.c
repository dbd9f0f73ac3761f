#include "fake.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "berth/util.h"

static const char *const keys[] = {"fail_op", "fail_status", "fail_count", "delay_op", "delay_ms",
        "delay_hard", "kill_op", "kill_when", "kill_how", "mounts", "ignore_term", "exit_after_ms",
        "exit_code", "not_ready"};
#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

void inject_init(struct fake *f, const struct berth_conf *c)
{
	char number[32];

	/* A number or a truth value is taken as well as its text. */
	for (size_t i = 0; i < N_KEYS; i++) {
		const char *v = f->host->conf_str(c, keys[i], NULL);
		int64_t n = f->host->conf_i64(c, keys[i], INT64_MIN);
		int32_t b = f->host->conf_bool(c, keys[i], -1);
		if (!v && n != INT64_MIN) {
			snprintf(number, sizeof(number), "%lld", (long long)n);
			v = number;
		} else if (!v && b != -1) {
			v = b ? "1" : "0";
		}
		f->conf[i] = v ? strdup(v) : NULL;
	}
}

void inject_finish(struct fake *f)
{
	for (size_t i = 0; i < N_KEYS; i++)
		free(f->conf[i]);
}

const char *inject_get(struct fake *f, const char *key, char out[VALUE_LIMIT])
{
	struct row *r = calloc(1, sizeof(*r));

	out[0] = '\0';
	if (r && row_load(f->run, ".", "inject", r) == 0)
		row_get(r, key, out);
	free(r);
	for (size_t i = 0; !*out && i < N_KEYS; i++)
		if (strcmp(keys[i], key) == 0 && f->conf[i])
			snprintf(out, VALUE_LIMIT, "%s", f->conf[i]);
	return out;
}

int64_t inject_number(struct fake *f, const char *key)
{
	char v[VALUE_LIMIT];

	return strtoll(inject_get(f, key, v), NULL, 10);
}

/* Is "storage.commit" or "commit" in the list? */
static bool named(struct fake *f, const char *key, const char *name)
{
	char list[VALUE_LIMIT], *save = NULL;
	const char *bare = strchr(name, '.') + 1;

	inject_get(f, key, list);
	for (char *o = strtok_r(list, ", ", &save); o; o = strtok_r(NULL, ", ", &save))
		if (strcmp(o, name) == 0 || strcmp(o, bare) == 0)
			return true;
	return false;
}

static berth_status wait_ms(struct fake *f, struct berth_op *op, const char *name)
{
	int64_t ms = inject_number(f, "delay_ms");
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	if (inject_number(f, "delay_hard")) {
		nanosleep(&t, NULL);
		return BERTH_OK;
	}
	struct pollfd p = {f->host->op_cancel_fd(op), POLLIN, 0};
	if (poll(&p, 1, (int)ms) > 0 || f->host->op_cancelled(op))
		return berth_fail(
		        f->host, op, BERTH_E_CANCELLED, "fake %s: cancelled while it waited", name);
	return BERTH_OK;
}

static void maybe_die(struct fake *f, const char *name, const char *when)
{
	char v[VALUE_LIMIT];

	if (!named(f, "kill_op", name))
		return;
	inject_get(f, "kill_when", v);
	if (strcmp(*v ? v : "before", when) != 0)
		return;
	inject_get(f, "kill_how", v);
	if (strcmp(v, "fault") == 0)
		*(volatile uint64_t *)(uintptr_t)4096 = 0; /* nothing is ever mapped there */
	else if (strcmp(v, "abort") == 0)
		abort();
	kill(getpid(), SIGKILL);
}

berth_status inject_before(struct fake *f, struct berth_op *op, const char *name)
{
	maybe_die(f, name, "before");
	if (named(f, "delay_op", name)) {
		berth_status st = wait_ms(f, op, name);
		if (st != BERTH_OK)
			return st;
	}
	if (!named(f, "fail_op", name))
		return BERTH_OK;
	int64_t most = inject_number(f, "fail_count"), code = inject_number(f, "fail_status");
	if (most > 0 && __atomic_fetch_add(&f->failed, 1, __ATOMIC_RELAXED) >= (uint64_t)most)
		return BERTH_OK;
	errno = 0;
	return berth_fail(f->host, op,
	        code > 0 && code < 17 ? (berth_status)-code : BERTH_E_INTERNAL,
	        "fake %s: failed as it was told to", name);
}

void inject_after(struct fake *f, const char *name)
{
	maybe_die(f, name, "after");
}
