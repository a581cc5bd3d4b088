/* GPT-2's pre-tokenizer, by hand.
 *
 * It cuts a text into the leftmost matches of
 *     's | 't | 're | 've | 'm | 'll | 'd | " "? L+ | " "? N+ | " "? O+ | S+ (?!\S) | S+
 * where L is a letter, N a number, S white space and O anything else; a byte that is not part of
 * valid UTF-8 is an O. Every byte belongs to exactly one pre-token, and the first alternative that
 * matches wins, so the next pre-token depends only on the text from its start on. The look-ahead
 * means: of a run of white space before something else, the last character is left for the next
 * pre-token.
 *
 * Cost: one table look-up a byte for ASCII.
 */
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

enum {
    O = TR_UNICODE_OTHER,
    L = TR_UNICODE_LETTER,
    N = TR_UNICODE_NUMBER,
    S = TR_UNICODE_SPACE,
    M
};

/* Classes of the bytes below 128; the others (M) need decoding. */
/* clang-format off */
static const uint8_t classes[256] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
};
/* clang-format on */

/* The class of the character at p < end, and its length. */
static inline int class_at(const char *p, const char *end, int *length)
{
    int class = classes[(uint8_t)*p];
    *length = 1;
    if (class != M)
        return class;
    uint32_t code;
    int n = tr_utf8_decode(p, end, &code);
    if (!n)
        return O;
    *length = n;
    return (int)tr_unicode_class_of(code);
}

static inline const char *run(const char *p, const char *end, int class)
{
    int length;
    while (p < end) {
        int c = classes[(uint8_t)*p];
        if (c == class)
            p++;
        else if (c == M && class_at(p, end, &length) == class)
            p += length;
        else
            break;
    }
    return p;
}

/* Length of the contraction at p, where there is an apostrophe, or 0. */
static inline int contraction(const char *p, const char *end)
{
    int64_t left = end - p;
    if (left >= 2 && (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd'))
        return 2;
    if (left >= 3 && ((p[1] == 'r' && p[2] == 'e') || (p[1] == 'v' && p[2] == 'e') ||
                      (p[1] == 'l' && p[2] == 'l')))
        return 3;
    return 0;
}

static inline const char *next(const char *p, const char *end)
{
    int length;
    int class = class_at(p, end, &length);
    if (*p == ' ' && p + 1 < end) {
        int after = class_at(p + 1, end, &length);
        if (after != S)
            return run(p + 1 + length, end, after);
        length = 1;
    } else if (class != S) {
        int taken = *p == '\'' ? contraction(p, end) : 0;
        return taken ? p + taken : run(p + length, end, class);
    }
    const char *last = p, *q = p + length;
    while (q < end && class_at(q, end, &length) == S) {
        last = q;
        q += length;
    }
    return q == end || last == p ? q : last;
}

int64_t tr_split(const char *p, const char *end, const char **ends, int64_t room)
{
    int64_t count = 0;
    while (p < end && count < room)
        ends[count++] = p = next(p, end);
    return count;
}

bool tr_split_safe(const char *text, int64_t length, int64_t at)
{
    if (at <= 0 || at >= length || classes[(uint8_t)text[at]] != S)
        return false;
    /* Back to the lead byte of the character before; a sequence that reaches exactly to `at` from a
     * lead byte is how the pre-tokenizer decodes it too. */
    int64_t lead = at - 1;
    while (lead > 0 && at - lead < 4 && ((uint8_t)text[lead] & 0xC0) == 0x80)
        lead--;
    uint32_t code;
    if (tr_utf8_decode(text + lead, text + at, &code) == at - lead)
        return tr_unicode_class_of(code) != TR_UNICODE_SPACE;
    return classes[(uint8_t)text[at - 1]] != S;
}
