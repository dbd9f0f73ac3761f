/* "Did you mean": the known word that is closest to a mistyped one. [any] */
#ifndef BERTH_BASE_NEAREST_H
#define BERTH_BASE_NEAREST_H

/* Returns the element of the NULL-terminated `words` with the smallest edit distance to `word`, or
 * NULL where none is close enough to be meant. */
const char *berth_nearest(const char *word, const char *const *words);

#endif
