/* Memory of which each use after its time, or beyond its end, is a fault at the place where it
 * happens. It is taken from one long range of addresses, none of which is ever used again. */
#include "check.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RANGE (64ull << 30)
#define FENCED 512                 /* allocations of one guard that have pages of their own */
#define CHUNK (size_t)(256 * 1024) /* for those after */

static struct {
	pthread_mutex_t lock;
	char *at, *end;
	size_t page;
} range = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct piece {
	struct piece *next;
	char *start;
	size_t len;
};

struct guard {
	pthread_mutex_t lock;
	struct piece *pieces;
	unsigned int n;
	char *chunk;
	size_t left;
};

void guard_init(void)
{
	void *p = mmap(NULL, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	expect(p != MAP_FAILED, "no address space");
	range.at = p;
	range.end = range.at + RANGE;
	range.page = (size_t)sysconf(_SC_PAGESIZE);
}

struct guard *guard_new(void)
{
	struct guard *g = berth_new(struct guard);

	pthread_mutex_init(&g->lock, NULL);
	return g;
}

/* Whole pages, and one behind them that is never there. */
static char *take_pages(struct guard *g, size_t len)
{
	len = (len + range.page - 1) & ~(range.page - 1);
	pthread_mutex_lock(&range.lock);
	char *p = range.at;
	range.at += len + range.page;
	bool fits = range.at <= range.end;
	pthread_mutex_unlock(&range.lock);
	expect(fits, "more memory was asked for than this program keeps addresses for");
	expect(mprotect(p, len, PROT_READ | PROT_WRITE) == 0, "no memory");
	struct piece *piece = berth_new(struct piece);
	*piece = (struct piece){.next = g->pieces, .start = p, .len = len};
	g->pieces = piece;
	return p;
}

void *guard_alloc(struct guard *g, uint64_t n)
{
	size_t len = ((size_t)(n ? n : 1) + 15) & ~(size_t)15;
	char *p;

	pthread_mutex_lock(&g->lock);
	if (g->n++ < FENCED || len > CHUNK) {
		p = take_pages(g, len);
		p += ((len + range.page - 1) & ~(range.page - 1)) - len;
	} else {
		if (g->left < len) {
			g->chunk = take_pages(g, CHUNK);
			g->left = CHUNK;
		}
		p = g->chunk;
		g->chunk += len;
		g->left -= len;
	}
	pthread_mutex_unlock(&g->lock);
	return p;
}

void guard_seal(struct guard *g)
{
	for (struct piece *p = g->pieces; p; p = p->next)
		expect(mprotect(p->start, p->len, PROT_READ) == 0, "mprotect");
}

void guard_spoil(struct guard *g)
{
	if (!g)
		return;
	for (struct piece *p = g->pieces, *next; p; p = next) {
		next = p->next;
		(void)madvise(p->start, p->len, MADV_DONTNEED);
		expect(mprotect(p->start, p->len, PROT_NONE) == 0, "mprotect");
		free(p);
	}
	pthread_mutex_destroy(&g->lock);
	free(g);
}
