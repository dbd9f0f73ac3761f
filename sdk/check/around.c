/* What is looked at in each call into the plugin, on the worker that makes it: is the thread as it
 * was, how much of the stack was used, did a failing op say why? */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#include "around.h"
#include "base/fd.h"
#include "check.h"
#include "plugin/internal.h"

#define STACK_LIMIT (256u << 10) /* what the ABI promises an op */
#define STACK_PAINTED (512u << 10)
#define STACK_GAP 4096u /* of our own frames */
#define PAINT 0x5ca1ab1e5ca1ab1eull
#define BROKEN_MAX 64

/* ---- what was broken ---- */

static struct {
	pthread_mutex_t lock;
	char *text[BROKEN_MAX];
	enum rule rule[BROKEN_MAX];
	unsigned int n;
	uint64_t stack;
	char stack_op[64];
} found = {.lock = PTHREAD_MUTEX_INITIALIZER};

void broken(enum rule r, const char *fmt, ...)
{
	static const char *const rules[RULE_COUNT] = {[RULE_STATE] = "thread state",
	        [RULE_STACK] = "stack",
	        [RULE_FAIL] = "fail()",
	        [RULE_STATUS] = "status",
	        [RULE_SIZE] = "size"};
	va_list ap;

	va_start(ap, fmt);
	_cleanup_free_ char *what = berth_vasprintf(fmt, ap);
	va_end(ap);
	char *text = berth_asprintf("%s: %s", rules[r], what);
	pthread_mutex_lock(&found.lock);
	bool known = found.n == BROKEN_MAX;
	for (unsigned int i = 0; i < found.n && !known; i++)
		known = strcmp(found.text[i], text) == 0;
	if (!known) {
		found.rule[found.n] = r;
		found.text[found.n++] = berth_take(text);
	}
	pthread_mutex_unlock(&found.lock);
	free(text);
}

void rules_noted(void)
{
	pthread_mutex_lock(&found.lock);
	for (unsigned int i = 0; i < found.n; i++)
		note("%s", found.text[i]);
	pthread_mutex_unlock(&found.lock);
}

void rules_hold(unsigned int rules)
{
	const char *first = NULL;

	pthread_mutex_lock(&found.lock);
	for (unsigned int i = 0; i < found.n; i++) {
		if (!(rules & BIT(found.rule[i])))
			continue;
		if (!first)
			first = found.text[i];
	}
	pthread_mutex_unlock(&found.lock);
	if (first)
		fail("%s", first);
}

uint64_t around_stack(char op_name[64])
{
	pthread_mutex_lock(&found.lock);
	uint64_t n = found.stack;
	memcpy(op_name, found.stack_op, sizeof(found.stack_op));
	pthread_mutex_unlock(&found.lock);
	return n;
}

/* ---- the thread ---- */

struct thread_view {
	char *status; /* lines of /proc/thread-self/status that an op has no business with */
	sigset_t mask;
	uint64_t dirs[2]; /* working directory and root */
	uint64_t ns[8];
};
static const char *const namespaces[] = {
        "mnt", "net", "ipc", "uts", "user", "pid_for_children", "cgroup", "time_for_children"};

static uint64_t identity(const char *name)
{
	char path[96];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/thread-self/%s", name);
	return stat(path, &st) == 0 ? (uint64_t)st.st_ino ^ (uint64_t)st.st_dev << 40 : 0;
}

static char *status_lines(void)
{
	static const char *const kept[] = {"Name:", "Umask:", "Uid:", "Gid:", "Groups:", "CapInh:",
	        "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:",
	        "Cpus_allowed_list:", "SigIgn:", "SigCgt:"};
	_cleanup_free_ char *text = NULL;
	struct berth_buf b = {0};
	char *save = NULL;

	if (berth_read_file(AT_FDCWD, "/proc/thread-self/status", BERTH_KIB(64), &text, NULL) < 0)
		return NULL;
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		for (size_t i = 0; i < BERTH_ARRAY_LEN(kept); i++)
			if (strncmp(l, kept[i], strlen(kept[i])) == 0)
				berth_buf_addf(&b, "%s\n", l);
	return berth_buf_steal(&b);
}

static void thread_look(struct thread_view *v)
{
	char path[64];

	memset(v, 0, sizeof(*v));
	pthread_sigmask(SIG_SETMASK, NULL, &v->mask);
	v->dirs[0] = identity("cwd");
	v->dirs[1] = identity("root");
	for (size_t i = 0; i < BERTH_ARRAY_LEN(namespaces); i++) {
		snprintf(path, sizeof(path), "ns/%s", namespaces[i]);
		v->ns[i] = identity(path);
	}
	v->status = status_lines();
}

static void compare_status(const char *call, char *before, char *now)
{
	char *a = NULL, *b = NULL;
	char *l = strtok_r(before, "\n", &a), *m = strtok_r(now, "\n", &b);

	for (; l && m; l = strtok_r(NULL, "\n", &a), m = strtok_r(NULL, "\n", &b))
		if (strcmp(l, m) != 0)
			broken(RULE_STATE, "%s changed \"%s\" to \"%s\"", call, l, m);
}

static void thread_compare(const char *call, struct thread_view *before)
{
	struct thread_view now;

	thread_look(&now);
	if (memcmp(&before->mask, &now.mask, sizeof(now.mask)) != 0) {
		broken(RULE_STATE, "%s changed the signal mask", call);
		pthread_sigmask(SIG_SETMASK, &before->mask, NULL); /* the dispatcher would abort */
	}
	if (before->dirs[0] != now.dirs[0])
		broken(RULE_STATE, "%s changed the working directory", call);
	if (before->dirs[1] != now.dirs[1])
		broken(RULE_STATE, "%s changed the root directory", call);
	for (size_t i = 0; i < BERTH_ARRAY_LEN(namespaces); i++)
		if (before->ns[i] != now.ns[i])
			broken(RULE_STATE, "%s changed the namespace %s", call, namespaces[i]);
	if (before->status && now.status)
		compare_status(call, before->status, now.status);
	free(before->status);
	free(now.status);
}

/* ---- the stack ---- */

#define UNCHECKED __attribute__((noinline, no_sanitize("address", "thread", "undefined")))

/* The lowest address of this thread's stack that can be written; a little is left alone. */
static char *stack_low(void)
{
	static _Thread_local char *low;
	pthread_attr_t attr;
	size_t size;
	void *start;

	if (!low && pthread_getattr_np(pthread_self(), &attr) == 0) {
		if (pthread_attr_getstack(&attr, &start, &size) == 0)
			low = (char *)start + 16384;
		pthread_attr_destroy(&attr);
	}
	return low;
}

static UNCHECKED void paint(volatile uint64_t *low, volatile uint64_t *high)
{
	for (; low < high; low++)
		*low = PAINT;
}

static UNCHECKED const volatile uint64_t *first_used(
        const volatile uint64_t *low, const volatile uint64_t *high)
{
	while (low < high && *low == PAINT)
		low++;
	return low;
}

static UNCHECKED berth_status on_paint(
        struct berth_call *c, berth_status (*invoke)(struct berth_call *c), uint64_t *ret_used)
{
	char *here = __builtin_frame_address(0), *low = stack_low();

	if (!low || check.sanitized || here - low < (ptrdiff_t)STACK_GAP * 2)
		return invoke(c);
	if (here - low > (ptrdiff_t)(STACK_PAINTED + STACK_GAP))
		low = here - STACK_GAP - STACK_PAINTED;
	volatile uint64_t *from = (volatile uint64_t *)((uintptr_t)low & ~(uintptr_t)15);
	volatile uint64_t *to =
	        (volatile uint64_t *)((uintptr_t)(here - STACK_GAP) & ~(uintptr_t)15);
	paint(from, to);
	berth_status st = invoke(c);
	const volatile uint64_t *used = first_used(from, to);
	*ret_used = (uint64_t)(here - (const char *)(uintptr_t)used);
	return st;
}

static void note_stack(const struct berth_call *c, const char *call, uint64_t used)
{
	pthread_mutex_lock(&found.lock);
	if (used > found.stack) {
		found.stack = used;
		snprintf(found.stack_op, sizeof(found.stack_op), "%s", c->name);
	}
	pthread_mutex_unlock(&found.lock);
	if (used > STACK_LIMIT)
		broken(RULE_STACK, "%s used %llu KiB of its stack, of %u that it may count on",
		        call, (unsigned long long)used >> 10, STACK_LIMIT >> 10);
}

/* ---- memory of ops ---- */

struct owner {
	const struct berth_call *call;
	struct guard *guard;
	UT_hash_handle hh;
};
static struct owner *owners;
static pthread_mutex_t owners_lock = PTHREAD_MUTEX_INITIALIZER;

struct guard *around_guard(const struct berth_call *c)
{
	struct owner *o;

	pthread_mutex_lock(&owners_lock);
	HASH_FIND_PTR(owners, &c, o);
	if (!o) {
		o = berth_new(struct owner);
		o->call = c;
		o->guard = guard_new();
		HASH_ADD_PTR(owners, call, o);
	}
	pthread_mutex_unlock(&owners_lock);
	return o->guard;
}

void around_forget(const struct berth_call *c)
{
	struct owner *o;

	pthread_mutex_lock(&owners_lock);
	HASH_FIND_PTR(owners, &c, o);
	if (o)
		HASH_DEL(owners, o);
	pthread_mutex_unlock(&owners_lock);
	if (o)
		guard_spoil(o->guard);
	free(o);
}

static void *guarded_alloc(struct berth_op *op, uint64_t n)
{
	return guard_alloc(around_guard(call_of(op)), n);
}

/* ---- create(), with a host's table of another size ---- */

static struct {
	berth_status (*create)(
	        struct berth_op *, const struct berth_host *, const struct berth_conf *, void **);
	enum sizes how;
	struct guard **tables; /* one for each create(); they stay */
	size_t n_tables;
} real;

static berth_status create_with_table(
        struct berth_op *op, const struct berth_host *h, const struct berth_conf *c, void **self)
{
	size_t first = offsetof(struct berth_host, extension) + sizeof(h->extension);
	size_t n = real.how == SIZES_FIRST    ? first
	           : real.how == SIZES_LARGER ? sizeof(*h) + 64
	                                      : sizeof(*h);

	struct guard *g = guard_new();
	pthread_mutex_lock(&owners_lock);
	real.tables = berth_reallocarray(real.tables, real.n_tables + 1, sizeof(*real.tables));
	real.tables[real.n_tables++] = g;
	pthread_mutex_unlock(&owners_lock);
	char *p = (char *)guard_alloc(g, (n + 15) & ~(size_t)15);
	p += (((n + 15) & ~(size_t)15) - n) / 8 * 8;
	memset(p, 0xa5, n);
	memcpy(p, h, n < sizeof(*h) ? n : sizeof(*h));
	struct berth_host *table = (void *)p;
	table->size = (uint32_t)n;
	table->op_alloc = guarded_alloc;
	if (real.how == SIZES_LARGER)
		table->abi_minor = BERTH_ABI_MINOR + 1;
	guard_seal(g);
	return real.create(op, table, c, self);
}

/* ---- a call ---- */

static void check_status(const struct berth_call *c, const char *call, berth_status st)
{
	if (st > 0 || st < -(berth_status)BERTH_UNAUTHENTICATED) {
		broken(RULE_STATUS, "%s returned %d, which is no status", call, (int)st);
		return;
	}
	if (st == BERTH_OK)
		return;
	if (!c->error)
		broken(RULE_FAIL, "%s failed (%s) and did not say why", call,
		        berth_code_name((enum berth_code) - st));
	else if ((enum berth_code) - st != c->error->code)
		broken(RULE_STATUS, "%s returned %s and gave fail() %s: \"%s\"", call,
		        berth_code_name((enum berth_code) - st), berth_code_name(c->error->code),
		        c->error->msg);
}

static berth_status around(struct berth_call *c, berth_status (*invoke)(struct berth_call *c))
{
	struct thread_view before;
	uint64_t used = 0;
	_cleanup_free_ char *call = berth_asprintf(
	        "%s%s%s", c->name, c->object ? " of " : "", c->object ? c->object : "");

	if (c->instance->file->desc.create != create_with_table) {
		real.create = c->instance->file->desc.create;
		c->instance->file->desc.create = create_with_table;
	}
	thread_look(&before);
	berth_status st = on_paint(c, invoke, &used);
	thread_compare(call, &before);
	note_stack(c, call, used);
	check_status(c, call, st);
	if (c->opcode < 0)
		around_forget(c);
	return st;
}

void around_init(struct session *s)
{
	real.how = s->table;
	berth_dispatch_around = around;
}
