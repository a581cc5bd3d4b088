/* "Did you mean"; see suggest.h.
 *
 * The distance is the least number of letters inserted, dropped, changed or swapped with a
 * neighbour (optimal string alignment), ignoring case and taking '-' for '_'. Near means: at most a
 * third of the longer word, at least 1. A word that begins with the candidate, or the other way
 * round, also counts as near. Cost: length of word x length of candidate, each.
 */
#include "base/suggest.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST = 63 };

static int letter(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A' + 'a';
    return c == '-' ? '_' : (unsigned char)c;
}

static int distance(const char *a, int na, const char *b, int nb)
{
    int rows[3][LONGEST + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (int j = 0; j <= nb; j++)
        above[j] = before[j] = j;
    for (int i = 1; i <= na; i++) {
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int same = letter(a[i - 1]) == letter(b[j - 1]);
            int best = above[j - 1] + !same;
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && letter(a[i - 1]) == letter(b[j - 2]) &&
                letter(a[i - 2]) == letter(b[j - 1]) && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
        int *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[nb];
}

static int common_prefix(const char *a, const char *b)
{
    int n = 0;
    while (a[n] && b[n] && letter(a[n]) == letter(b[n]))
        n++;
    return n;
}

const char *tr_suggest(const char *word, const char *const *candidates, int64_t count)
{
    size_t length = strnlen(word, LONGEST + 1);
    const char *best = NULL;
    int best_distance = LONGEST;
    if (length == 0 || length > LONGEST)
        return NULL;
    for (int64_t i = 0; i < count; i++) {
        size_t other = strnlen(candidates[i], LONGEST + 1);
        if (other == 0 || other > LONGEST)
            continue;
        int d = distance(word, (int)length, candidates[i], (int)other);
        int longer = (int)(length > other ? length : other);
        int shorter = (int)(length < other ? length : other);
        int limit = longer / 3 > 1 ? longer / 3 : 1;
        if (shorter >= 3 && common_prefix(word, candidates[i]) == shorter && d > limit)
            d = limit; /* a prefix is near, however much is missing */
        /* One letter for another is no typing error of a one-letter word, it is another word. */
        if (d <= limit && d < longer && d < best_distance) {
            best = candidates[i];
            best_distance = d;
        }
    }
    return best;
}

bool tr_word_in(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; n && (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
            return true;
    return false;
}
