/* "Did you mean": the candidate nearest to `word` by edit distance, or NULL when none is near. */
#pragma once
#include <stdint.h>
const char *tr_suggest(const char *word, const char *const *candidates, int64_t count);
