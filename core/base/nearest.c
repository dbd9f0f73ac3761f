#include "base/nearest.h"

#include <stdint.h>
#include <string.h>

#define WORD_MAX_LEN 64

/* Levenshtein over two rows; words longer than the table are never close. */
static size_t distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	size_t row[WORD_MAX_LEN + 1];

	if (la > WORD_MAX_LEN || lb > WORD_MAX_LEN)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

const char *berth_nearest(const char *word, const char *const *words)
{
	const char *found = NULL;
	size_t best = strlen(word) / 2 + 1; /* half of it wrong is another word */

	for (; *words; words++) {
		size_t d = distance(word, *words);
		if (d < best) {
			best = d;
			found = *words;
		}
	}
	return found;
}
