/* Properties of code points, lower case and normal forms; see unicode.h. tools/unicode_maps.py writes the tables.
 *
 * A normal form works run by run: a run is a starter (combining class 0) and the marks after it. Its code points are
 * decomposed into a buffer, sorted by class, composed where the form asks for it, and written out when the next
 * starter that cannot compose with them comes. A byte that is not part of valid UTF-8 is a starter of its own, BROKEN
 * plus its value. Hangul syllables are arithmetic (Unicode 3.12). Cost: a binary search for each code point that is
 * not ASCII; ASCII alone is copied.
 */
#include "data/unicode.h"

#include "data/unicode_maps.h"

enum { BROKEN = 0x110000 };
enum { L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7, S_BASE = 0xAC00, L_COUNT = 19, V_COUNT = 21, T_COUNT = 28 };
enum { S_COUNT = L_COUNT * V_COUNT * T_COUNT };

_Static_assert((int)BERT_DROP == (int)TR_UNICODE_BERT_DROP && (int)BERT_PUNCT == (int)TR_UNICODE_PUNCT &&
                   (int)NONSPACING == (int)TR_UNICODE_NONSPACING && (int)MARK == (int)TR_UNICODE_MARK &&
                   (int)EXTEND == (int)TR_UNICODE_EXTEND && (int)PREPEND == (int)TR_UNICODE_PREPEND &&
                   (int)CONTROL == (int)TR_UNICODE_CONTROL,
               "the script and unicode.h number the flags alike");

static int in_ranges(const range *ranges, int64_t count, uint32_t code)
{
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (ranges[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && ranges[low].first <= code ? ranges[low].value : 0;
}

int tr_unicode_flags(uint32_t code)
{
    return in_ranges(unicode_flags, TR_COUNT(unicode_flags), code);
}

int tr_unicode_category(uint32_t code)
{
    return in_ranges(unicode_categories, TR_COUNT(unicode_categories), code);
}

int tr_unicode_category_named(const char *name)
{
    static const char *const names[] = {UNICODE_CATEGORIES};
    for (int i = 0; i < (int)TR_COUNT(names); i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

bool tr_unicode_is_cjk(uint32_t code)
{
    static const uint32_t blocks[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                         {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                         {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (int64_t i = 0; i < TR_COUNT(blocks); i++)
        if (code >= blocks[i][0] && code <= blocks[i][1])
            return true;
    return false;
}

int tr_unicode_lower(uint32_t code, uint32_t out[2])
{
    out[0] = code;
    if (code < 128) {
        out[0] += code >= 'A' && code <= 'Z' ? 32 : 0;
        return 1;
    }
    int64_t low = 0, high = TR_COUNT(unicode_lower);
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (unicode_lower[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == TR_COUNT(unicode_lower) || unicode_lower[low].code != code)
        return 1;
    out[0] = unicode_lower[low].lower;
    out[1] = unicode_lower[low].second;
    return out[1] ? 2 : 1;
}

static int combining(uint32_t code)
{
    return code < 0x300 ? 0 : in_ranges(unicode_combining, TR_COUNT(unicode_combining), code);
}

/* The code point that two compose to, or 0. */
static uint32_t compose(uint32_t first, uint32_t second)
{
    if (first >= L_BASE && first < L_BASE + L_COUNT && second >= V_BASE && second < V_BASE + V_COUNT)
        return S_BASE + ((first - L_BASE) * V_COUNT + (second - V_BASE)) * T_COUNT;
    if (first >= S_BASE && first < S_BASE + S_COUNT && (first - S_BASE) % T_COUNT == 0 && second > T_BASE &&
        second < T_BASE + T_COUNT)
        return first + (second - T_BASE);
    int64_t low = 0, high = TR_COUNT(unicode_compositions);
    while (low < high) {
        int64_t middle = (low + high) / 2;
        const composition *c = &unicode_compositions[middle];
        if (c->first < first || (c->first == first && c->second < second))
            low = middle + 1;
        else
            high = middle;
    }
    const composition *c = &unicode_compositions[low];
    return low < TR_COUNT(unicode_compositions) && c->first == first && c->second == second ? c->whole : 0;
}

typedef struct run {
    uint32_t *codes;
    uint8_t *classes;
    int64_t count, room;
    tr_text *out;
    bool composed;
} run;

static void put(tr_text *out, uint32_t code)
{
    char bytes[4];
    if (code >= BROKEN) {
        bytes[0] = (char)(code - BROKEN);
        tr_text_add(out, bytes, 1);
    } else {
        tr_text_add(out, bytes, (size_t)tr_utf8_encode(code, bytes));
    }
}

/* Composes the run in place: each code point with the last starter, unless one of its class or higher is between. */
static void compose_run(run *r)
{
    int64_t kept = 0, starter = -1;
    for (int64_t i = 0; i < r->count; i++) {
        int before = kept > starter + 1 ? r->classes[kept - 1] : -1;
        bool free = starter >= 0 && before < (int)r->classes[i];
        uint32_t whole = free ? compose(r->codes[starter], r->codes[i]) : 0;
        if (whole) {
            r->codes[starter] = whole;
            continue;
        }
        if (!r->classes[i])
            starter = kept;
        r->codes[kept] = r->codes[i];
        r->classes[kept++] = r->classes[i];
    }
    r->count = kept;
}

/* Writes the run out; `last`, the starter that may go on composing, stays when `keep`. */
static void flush(run *r, bool keep)
{
    if (r->composed)
        compose_run(r);
    int64_t left = 0, stop = r->count;
    if (keep && r->composed) {
        while (stop > 0 && r->classes[stop - 1])
            stop--;
        stop = TR_MAX(stop - 1, 0);
        left = r->count - stop;
        if (left > 1) { /* a mark that did not compose is between: the starter is done */
            stop = r->count;
            left = 0;
        }
    }
    for (int64_t i = 0; i < stop; i++)
        put(r->out, r->codes[i]);
    memmove(r->codes, r->codes + stop, (size_t)left * sizeof *r->codes);
    memmove(r->classes, r->classes + stop, (size_t)left);
    r->count = left;
}

static void take(run *r, uint32_t code)
{
    int class = combining(code);
    if (!class && r->count)
        flush(r, true);
    if (r->count == r->room) {
        r->room = TR_MAX(2 * r->room, 32);
        r->codes = tr_realloc(r->codes, (size_t)r->room, sizeof *r->codes);
        r->classes = tr_realloc(r->classes, (size_t)r->room, sizeof *r->classes);
    }
    int64_t at = r->count++;
    while (class && at > 0 && r->classes[at - 1] > class) {
        r->codes[at] = r->codes[at - 1];
        r->classes[at] = r->classes[at - 1];
        at--;
    }
    r->codes[at] = code;
    r->classes[at] = (uint8_t)class;
}

static void decompose(run *r, uint32_t code, bool compatible)
{
    if (code < 0xA0 || code >= BROKEN) {
        take(r, code);
        return;
    }
    if (code >= S_BASE && code < S_BASE + S_COUNT) {
        uint32_t s = code - S_BASE;
        take(r, L_BASE + s / (V_COUNT * T_COUNT));
        take(r, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT);
        if (s % T_COUNT)
            take(r, T_BASE + s % T_COUNT);
        return;
    }
    int64_t low = 0, high = TR_COUNT(unicode_decompositions);
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (unicode_decompositions[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    const decomposition *d = &unicode_decompositions[low];
    if (low == TR_COUNT(unicode_decompositions) || d->code != code) {
        take(r, code);
        return;
    }
    int place = compatible ? d->compatible : d->canonical,
        length = compatible ? d->compatible_length : d->canonical_length;
    for (int i = 0; i < length; i++)
        take(r, unicode_pool[place + i]);
}

void tr_unicode_normalize(tr_unicode_form form, const char *text, int64_t length, tr_text *out)
{
    const char *p = text, *end = text + length;
    while (p < end && (uint8_t)*p < 128)
        p++;
    if (p == end) {
        tr_text_add(out, text, (size_t)length);
        return;
    }
    run r = {.out = out, .composed = form == TR_NFC || form == TR_NFKC};
    for (p = text; p < end;) {
        uint32_t code;
        int n = tr_utf8_decode(p, end, &code);
        decompose(&r, n ? code : (uint32_t)BROKEN + (uint8_t)*p, form == TR_NFKD || form == TR_NFKC);
        p += n ? n : 1;
    }
    flush(&r, false);
    free(r.codes);
    free(r.classes);
}
