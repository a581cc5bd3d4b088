/* Regular expressions as tokenizers use them to cut texts into words.
 *
 * A part of Oniguruma's language: alternatives, groups (?: ), (?i: ), (?! ), (?= ), sets [..] with ranges, \p{..}
 * (general categories and their first letters), \s \S \d \r \n \t and other escapes, the quantifiers ? * + {m} {m,}
 * {m,n} with ? or + after them refused; * + {} on single characters and sets only, ? also on groups. So no pattern
 * takes more than polynomial time, of low degree. Whatever else a pattern has is refused with its place.
 *
 * Texts are UTF-8; a byte that is not part of it is a character of no category.
 */
#pragma once
#include "base/error.h"
#include "base/memory.h"

typedef struct tr_pattern tr_pattern;

tr_error *tr_pattern_new(const char *source, const char *where, tr_pattern **out);
void tr_pattern_free(tr_pattern *pattern); /* NULL is fine */
/* The end of the leftmost match that starts at p, the first alternative before the others; NULL: none starts
 * there. The text is [.., end): look-ahead sees nothing after it. */
const char *tr_pattern_match(const tr_pattern *pattern, const char *p, const char *end);
