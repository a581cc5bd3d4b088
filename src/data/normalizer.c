/* The steps of a normalizer; see normalizer.h.
 *
 * Each step appends its result for a text to another text; two buffers take turns. A step that finds nothing to do
 * still copies: texts are a few hundred kilobytes at most, and a copy is cheap beside a look-up.
 *
 * Precompiled is a double array (Yata 2008, as Darts-clone lays it out: a unit has a label, an offset and a leaf bit)
 * from byte strings to places in a list of NUL-ended replacements. It comes from a file, so every step in it is
 * checked. A grapheme of less than 6 bytes is replaced as a whole by the map of its shortest known prefix, others
 * character by character: that is how `tokenizers` reads the map.
 */
#include "data/normalizer.h"

#include "data/pattern.h"
#include "data/unicode.h"

enum { CLEAN = 1, CJK = 2, ACCENTS = 4, LOWER = 8 };
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2, WHOLE_GRAPHEME = 6, DEEPEST = 8 };

typedef struct step step;
struct step {
    void (*run)(const step *s, const char *text, int64_t length, bool first, tr_text *out);
    int flags; /* BERT's, Strip's, or the form */
    tr_pattern *pattern;
    tr_text from, to; /* Replace, Prepend */
    uint32_t *units;  /* Precompiled */
    int64_t unit_count;
};

struct tr_normalizer {
    step *steps;
    int64_t count, room;
};

static void add_code(tr_text *out, uint32_t code)
{
    char bytes[4];
    tr_text_add(out, bytes, (size_t)tr_utf8_encode(code, bytes));
}

static bool is_space(uint32_t code)
{
    return tr_unicode_class_of(code) == TR_UNICODE_SPACE;
}

/* Calls for each character; a broken byte is copied by itself. */
#define EACH_CHARACTER(text, length, out, code, n)                    \
    for (const char *p = text, *end = text + length; p < end; p += n) \
        if (!(n = tr_utf8_decode(p, end, &code)))                     \
            tr_text_add(out, p, (size_t)(n = 1));                     \
        else

static void run_lower(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    (void)s, (void)first;
    uint32_t code, lower[2];
    int n;
    EACH_CHARACTER(text, length, out, code, n)
    {
        int count = tr_unicode_lower(code, lower);
        for (int i = 0; i < count; i++)
            add_code(out, lower[i]);
    }
}

static void drop_flagged(int flag, const char *text, int64_t length, tr_text *out)
{
    uint32_t code;
    int n;
    EACH_CHARACTER(text, length, out, code, n)
    {
        if (code < 128 || !(tr_unicode_flags(code) & flag))
            tr_text_add(out, p, (size_t)n);
    }
}

static void run_strip_accents(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    (void)s, (void)first;
    drop_flagged(TR_UNICODE_MARK, text, length, out);
}

static void run_form(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    (void)first;
    tr_unicode_normalize((tr_unicode_form)s->flags, text, length, out);
}

static void bert_characters(int flags, const char *text, int64_t length, tr_text *out)
{
    uint32_t code;
    int n;
    EACH_CHARACTER(text, length, out, code, n)
    {
        bool space = is_space(code);
        if ((flags & CLEAN) && !(code == '\t' || code == '\n' || code == '\r') && (code < 32 || code >= 127) &&
            (tr_unicode_flags(code) & TR_UNICODE_BERT_DROP))
            continue;
        bool cjk = (flags & CJK) && tr_unicode_is_cjk(code);
        if (cjk)
            tr_text_add(out, " ", 1);
        if (space && (flags & CLEAN))
            tr_text_add(out, " ", 1);
        else
            tr_text_add(out, p, (size_t)n);
        if (cjk)
            tr_text_add(out, " ", 1);
    }
}

static void run_bert(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    tr_text a = {0}, b = {0};
    tr_text_add(&a, "", 0);
    bert_characters(s->flags, text, length, &a);
    if (s->flags & ACCENTS) {
        tr_unicode_normalize(TR_NFD, a.bytes, (int64_t)a.length, &b);
        a.length = 0;
        drop_flagged(TR_UNICODE_NONSPACING, b.bytes ? b.bytes : "", (int64_t)b.length, &a);
    }
    if (s->flags & LOWER)
        run_lower(s, a.bytes, (int64_t)a.length, first, out);
    else
        tr_text_add(out, a.bytes, a.length);
    tr_text_free(&a);
    tr_text_free(&b);
}

static void run_strip(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    const char *p = text, *end = text + length;
    uint32_t code;
    int n;
    while ((s->flags & STRIP_LEFT) && first && (n = tr_utf8_decode(p, end, &code)) > 0 && is_space(code))
        p += n;
    while ((s->flags & STRIP_RIGHT) && end > p) {
        const char *lead = end - 1;
        while (lead > p && end - lead < 4 && ((uint8_t)*lead & 0xC0) == 0x80)
            lead--;
        if (tr_utf8_decode(lead, end, &code) != end - lead || !is_space(code))
            break;
        end = lead;
    }
    tr_text_add(out, p, (size_t)(end - p));
}

static void run_replace(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    (void)first;
    const char *end = text + length, *p = text;
    while (p < end) {
        const char *stop = NULL;
        if (s->pattern)
            stop = tr_pattern_match(s->pattern, p, end);
        else if (end - p >= (int64_t)s->from.length && memcmp(p, s->from.bytes, s->from.length) == 0)
            stop = p + s->from.length;
        if (stop && stop > p) {
            tr_text_add(out, s->to.bytes, s->to.length);
            p = stop;
        } else {
            tr_text_add(out, p++, 1);
        }
    }
}

static void run_prepend(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    if (first && length)
        tr_text_add(out, s->to.bytes, s->to.length);
    tr_text_add(out, text, (size_t)length);
}

/* The replacement of the shortest prefix of text[0, length) that the map knows, or NULL. */
static const char *in_charsmap(const step *s, const char *text, int64_t length)
{
    uint32_t unit = s->units[0], at = 0;
#define OFFSET(u) (((u) >> 10) << (((u) & 1u << 9) >> 6))
    at ^= OFFSET(unit);
    for (int64_t i = 0; i < length; i++) {
        uint8_t c = (uint8_t)text[i];
        at ^= c;
        if (!c || at >= s->unit_count)
            return NULL;
        unit = s->units[at];
        if ((unit & (1u << 31 | 0xFF)) != c)
            return NULL;
        at ^= OFFSET(unit);
        if (at >= s->unit_count)
            return NULL;
        if (unit >> 8 & 1) {
            uint32_t place = s->units[at] & 0x7FFFFFFF;
            return place < s->to.length ? s->to.bytes + place : NULL;
        }
    }
    return NULL;
}

/* The end of the grapheme at p, as far as graphemes of less than WHOLE_GRAPHEME bytes go: emoji, Hangul and Indic
 * sequences are longer. */
static const char *grapheme_end(const char *p, const char *end)
{
    uint32_t code;
    bool prepend = true;
    while (prepend && p < end) {
        int n = tr_utf8_decode(p, end, &code);
        if (!n)
            return p + 1;
        if (code == '\r' && p + 1 < end && p[1] == '\n')
            return p + 2;
        int flags = code < 128 ? (code < 32 || code == 127 ? TR_UNICODE_CONTROL : 0) : tr_unicode_flags(code);
        p += n;
        if (flags & TR_UNICODE_CONTROL)
            return p;
        prepend = flags & TR_UNICODE_PREPEND;
        int after;
        while (p < end && (uint8_t)*p >= 128 && (after = tr_utf8_decode(p, end, &code)) > 0 &&
               (tr_unicode_flags(code) & TR_UNICODE_EXTEND)) {
            prepend = false;
            p += after;
        }
        if (prepend && p < end && (n = tr_utf8_decode(p, end, &code)) > 0 &&
            (code < 32 || code == 127 || (tr_unicode_flags(code) & TR_UNICODE_CONTROL)))
            prepend = false;
    }
    return p;
}

static void run_charsmap(const step *s, const char *text, int64_t length, bool first, tr_text *out)
{
    (void)first;
    const char *p = text, *end = text + length;
    while (p < end) {
        const char *stop = grapheme_end(p, end);
        const char *to = stop - p < WHOLE_GRAPHEME ? in_charsmap(s, p, stop - p) : NULL;
        if (to) {
            tr_text_add(out, to, strlen(to));
            p = stop;
        }
        while (p < stop) {
            uint32_t code;
            int n = tr_utf8_decode(p, stop, &code);
            n = n ? n : 1;
            to = in_charsmap(s, p, n);
            tr_text_add(out, to ? to : p, to ? strlen(to) : (size_t)n);
            p += n;
        }
    }
}

/* Base64 */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void tr_base64_add(tr_text *out, const char *bytes, int64_t length)
{
    for (int64_t i = 0; i < length; i += 3) {
        uint32_t word = 0;
        for (int64_t j = 0; j < 3; j++)
            word = word << 8 | (i + j < length ? (uint8_t)bytes[i + j] : 0u);
        char four[4] = {digits[word >> 18], digits[word >> 12 & 63], digits[word >> 6 & 63], digits[word & 63]};
        for (int64_t j = length - i + 1; j < 4; j++)
            four[j] = '=';
        tr_text_add(out, four, 4);
    }
}

static bool from_base64(const char *text, tr_text *out)
{
    uint32_t word = 0;
    int bits = 0;
    for (; *text && *text != '='; text++) {
        const char *digit = strchr(digits, *text);
        if (!digit)
            return false;
        word = word << 6 | (uint32_t)(digit - digits);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            tr_text_add(out, &(char){(char)(word >> bits)}, 1);
        }
    }
    return strspn(text, "=") == strlen(text);
}

/* Reading */

static tr_error *flag(const json_t *json, const char *key, bool otherwise, const char *where, bool *out)
{
    const json_t *value = json_object_get(json, key);
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return tr_error_new(TR_USER, "%s: the normalizer's \"%s\" must be true or false", where, key);
    *out = value && json_is_boolean(value) ? json_is_true(value) : otherwise;
    return NULL;
}

static tr_error *read_bert(const json_t *json, const char *where, step *s)
{
    bool clean, cjk, lower, accents;
    TR_TRY(flag(json, "clean_text", true, where, &clean));
    TR_TRY(flag(json, "handle_chinese_chars", true, where, &cjk));
    TR_TRY(flag(json, "lowercase", true, where, &lower));
    TR_TRY(flag(json, "strip_accents", lower, where, &accents));
    s->flags = (clean ? CLEAN : 0) | (cjk ? CJK : 0) | (accents ? ACCENTS : 0) | (lower ? LOWER : 0);
    s->run = run_bert;
    return NULL;
}

static tr_error *read_strip(const json_t *json, const char *where, step *s)
{
    bool left, right;
    TR_TRY(flag(json, "strip_left", true, where, &left));
    TR_TRY(flag(json, "strip_right", true, where, &right));
    s->flags = (left ? STRIP_LEFT : 0) | (right ? STRIP_RIGHT : 0);
    s->run = run_strip;
    return NULL;
}

static tr_error *read_replace(const json_t *json, const char *where, step *s)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const char *to = json_string_value(json_object_get(json, "content"));
    const char *from = json_string_value(json_object_get(pattern, "String"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    if (!to || (!from && !regex) || (from && !*from))
        return tr_error_new(TR_USER, "%s: the normalizer Replace needs a \"pattern\" and a \"content\"", where);
    tr_text_add(&s->to, to, strlen(to));
    tr_text_add(&s->from, from ? from : "", from ? strlen(from) : 0);
    s->run = run_replace;
    return regex ? tr_pattern_new(regex, where, &s->pattern) : NULL;
}

static tr_error *read_prepend(const json_t *json, const char *where, step *s)
{
    const char *to = json_string_value(json_object_get(json, "prepend"));
    if (!to)
        return tr_error_new(TR_USER, "%s: the normalizer Prepend needs a text \"prepend\"", where);
    tr_text_add(&s->to, to, strlen(to));
    s->run = run_prepend;
    return NULL;
}

static tr_error *read_charsmap(const json_t *json, const char *where, step *s)
{
    const char *text = json_string_value(json_object_get(json, "precompiled_charsmap"));
    tr_text bytes = {0};
    uint32_t size = 0;
    bool good = text && from_base64(text, &bytes) && bytes.length >= 4;
    if (good)
        memcpy(&size, bytes.bytes, 4);
    good = good && size >= 4 && size % 4 == 0 && size <= bytes.length - 4;
    if (good) {
        s->unit_count = size / 4;
        s->units = tr_alloc(size);
        memcpy(s->units, bytes.bytes + 4, size);
        tr_text_add(&s->to, bytes.bytes + 4 + size, bytes.length - 4 - size);
        s->run = run_charsmap;
    }
    tr_text_free(&bytes);
    return good ? NULL : tr_error_new(TR_USER, "%s: the normalizer's \"precompiled_charsmap\" is damaged", where);
}

static tr_error *read_plain(const json_t *json, const char *where, step *s)
{
    static const struct {
        const char *type;
        void (*run)(const step *, const char *, int64_t, bool, tr_text *);
        int flags;
    } rows[] = {
        {"NFD", run_form, TR_NFD},   {"NFKD", run_form, TR_NFKD}, {"NFC", run_form, TR_NFC},
        {"NFKC", run_form, TR_NFKC}, {"Lowercase", run_lower, 0}, {"StripAccents", run_strip_accents, 0},
    };
    const char *type = json_string_value(json_object_get(json, "type"));
    for (int64_t i = 0; i < TR_COUNT(rows); i++)
        if (type && strcmp(rows[i].type, type) == 0) {
            s->run = rows[i].run;
            s->flags = rows[i].flags;
            return NULL;
        }
    return tr_error_new(
        TR_USER,
        "%s: the normalizer \"%s\" is not supported: BertNormalizer, NFC, NFD, NFKC, NFKD, Lowercase, "
        "StripAccents, Strip, Replace, Prepend and Precompiled are",
        where, type ? type : "");
}

static tr_error *read_steps(const json_t *json, const char *where, int depth, tr_normalizer *out)
{
    static const struct {
        const char *type;
        tr_error *(*read)(const json_t *, const char *, step *);
    } rows[] = {{"BertNormalizer", read_bert},
                {"Strip", read_strip},
                {"Replace", read_replace},
                {"Prepend", read_prepend},
                {"Precompiled", read_charsmap}};
    const char *type = json_string_value(json_object_get(json, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, "normalizers"), *item;
        size_t i;
        if (depth == DEEPEST)
            return tr_error_new(TR_USER, "%s: the normalizer has Sequences too deep in each other", where);
        json_array_foreach(list, i, item) TR_TRY(read_steps(item, where, depth + 1, out));
        return NULL;
    }
    tr_error *(*read)(const json_t *, const char *, step *) = read_plain;
    for (int64_t i = 0; i < TR_COUNT(rows); i++)
        if (type && strcmp(rows[i].type, type) == 0)
            read = rows[i].read;
    tr_push(out->steps, out->count, out->room) = (step){0};
    return read(json, where, &out->steps[out->count - 1]);
}

tr_error *tr_normalizer_read(const json_t *json, const char *where, tr_normalizer **out)
{
    *out = NULL;
    if (!json || json_is_null(json))
        return NULL;
    tr_normalizer *made = tr_alloc_zero(1, sizeof *made);
    tr_error *error = read_steps(json, where, 0, made);
    if (error || !made->count) {
        tr_normalizer_free(made);
        return error;
    }
    *out = made;
    return NULL;
}

void tr_normalizer_free(tr_normalizer *n)
{
    if (!n)
        return;
    for (int64_t i = 0; i < n->count; i++) {
        tr_pattern_free(n->steps[i].pattern);
        tr_text_free(&n->steps[i].from);
        tr_text_free(&n->steps[i].to);
        free(n->steps[i].units);
    }
    free(n->steps);
    free(n);
}

void tr_normalizer_run(const tr_normalizer *n, const char *text, int64_t length, bool first, tr_text *out)
{
    tr_text buffers[2] = {0};
    for (int64_t i = 0; i < n->count; i++) {
        tr_text *to = i + 1 == n->count ? out : &buffers[i & 1];
        if (to != out)
            to->length = 0;
        tr_text_add(to, "", 0);
        n->steps[i].run(&n->steps[i], text, length, first, to);
        text = to->bytes;
        length = (int64_t)to->length;
    }
    tr_text_free(&buffers[0]);
    tr_text_free(&buffers[1]);
}
