#include <string.h>

#include "ctl/ctl.h"

#define GAP 3

void ctl_table_init(struct ctl_table *t, size_t columns, const char *const *heads)
{
	*t = (struct ctl_table){.columns = columns};
	ctl_table_add(t, heads);
}

void ctl_table_add(struct ctl_table *t, const char *const *cells)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 16;
		t->cells = berth_reallocarray(t->cells, t->cap, t->columns * sizeof(*t->cells));
	}
	for (size_t i = 0; i < t->columns; i++)
		t->cells[t->n * t->columns + i] = cells[i] ? cells[i] : "";
	t->n++;
}

/* Columns on a terminal: the continuation bytes of UTF-8 take none. */
static size_t width(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void ctl_table_print(struct ctl_table *t, FILE *f)
{
	for (size_t row = 0; row < t->n; row++) {
		for (size_t i = 0; i < t->columns; i++) {
			const char *cell = t->cells[row * t->columns + i];
			size_t widest = 0;
			for (size_t r = 0; r < t->n; r++)
				if (width(t->cells[r * t->columns + i]) > widest)
					widest = width(t->cells[r * t->columns + i]);
			fputs(cell, f);
			if (i + 1 < t->columns)
				fprintf(f, "%*s", (int)(widest - width(cell) + GAP), "");
		}
		fputc('\n', f);
	}
	free(t->cells);
	*t = (struct ctl_table){0};
}
