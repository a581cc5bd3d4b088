/* "Did you mean": the candidate nearest to `word` by edit distance, or NULL when none is near. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
const char *tr_suggest(const char *word, const char *const *candidates, int64_t count);
/* Is `word` among the words of `list`, which stand between spaces? */
bool tr_word_in(const char *list, const char *word);
