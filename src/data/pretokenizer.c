/* Cutting texts into pieces; see pretokenizer.h.
 *
 * A cutter holds for each stage what it has yet to cut, and asks the stage before when that is empty: depth first, so
 * that a text of any length needs no list of pieces.
 */
#define _GNU_SOURCE
#include "data/pretokenizer.h"

#include "data/tokenizer_internal.h"
#include "data/unicode.h"

/* One piece of *left, which is not empty, taken from its front; false: that part is dropped. */

static bool next_gpt2(const tr_stage *s, tr_piece *left, tr_piece *out)
{
    (void)s;
    const char *end;
    tr_split(left->p, left->end, &end, 1);
    *out = (tr_piece){left->p, end};
    left->p = end;
    return true;
}

enum { BERT_WORD, BERT_SPACE, BERT_PUNCT };

static int bert_class(const char *p, const char *end, int *n)
{
    uint32_t code;
    *n = tr_utf8_decode(p, end, &code);
    if (!*n) {
        *n = 1;
        return BERT_WORD;
    }
    if (tr_unicode_class_of(code) == TR_UNICODE_SPACE)
        return BERT_SPACE;
    if (code < 128)
        return code > 32 && code < 127 && !(code >= '0' && code <= '9') && !((code | 32) >= 'a' && (code | 32) <= 'z')
                   ? BERT_PUNCT
                   : BERT_WORD;
    return tr_unicode_flags(code) & TR_UNICODE_PUNCT ? BERT_PUNCT : BERT_WORD;
}

static bool next_bert(const tr_stage *s, tr_piece *left, tr_piece *out)
{
    (void)s;
    int n, class = bert_class(left->p, left->end, &n);
    const char *p = left->p + n;
    while (class != BERT_PUNCT && p < left->end && bert_class(p, left->end, &n) == class)
        p += n;
    *out = (tr_piece){left->p, p};
    left->p = p;
    return class != BERT_SPACE;
}

static bool next_match(const tr_stage *s, tr_piece *left, tr_piece *out)
{
    const char *p = left->p, *stop = tr_pattern_match(s->pattern, p, left->end);
    bool match = stop && stop > p;
    while (!match && ++p < left->end) {
        stop = ((uint8_t)*p & 0xC0) == 0x80 ? NULL : tr_pattern_match(s->pattern, p, left->end);
        if (stop && stop > p)
            break;
    }
    *out = (tr_piece){left->p, match ? stop : p};
    left->p = out->end;
    return s->kind == TR_STAGE_PATTERN || match == (s->kind == TR_STAGE_MATCHES);
}

/* The marker's stage needs the marker. */
static bool next_marker(const tr_pretokenizer *rules, tr_piece *left, tr_piece *out)
{
    size_t n = strlen(rules->marker);
    const char *p = left->p + TR_MIN((int64_t)n, left->end - left->p);
    if (memcmp(left->p, rules->marker, (size_t)(p - left->p)) != 0)
        p = left->p;
    const char *found = left->end > p ? memmem(p, (size_t)(left->end - p), rules->marker, n) : NULL;
    *out = (tr_piece){left->p, found ? found : left->end};
    left->p = out->end;
    return true;
}

static bool next(const tr_pretokenizer *rules, int stage, tr_piece *left, tr_piece *out)
{
    static bool (*const functions[])(const tr_stage *, tr_piece *, tr_piece *) = {
        [TR_STAGE_GPT2] = next_gpt2,     [TR_STAGE_BERT] = next_bert,  [TR_STAGE_PATTERN] = next_match,
        [TR_STAGE_MATCHES] = next_match, [TR_STAGE_GAPS] = next_match,
    };
    const tr_stage *s = &rules->stages[stage];
    return s->kind == TR_STAGE_MARKER ? next_marker(rules, left, out) : functions[s->kind](s, left, out);
}

void tr_cutter_start(tr_cutter *c, const tr_pretokenizer *rules, const char *text, const char *end)
{
    c->rules = rules;
    for (int i = 0; i < TR_MOST_STAGES; i++)
        c->left[i] = (tr_piece){NULL, NULL};
    c->left[0] = (tr_piece){text, end};
}

static bool pull(tr_cutter *c, int stage, tr_piece *out)
{
    for (;;) {
        while (c->left[stage].p < c->left[stage].end)
            if (next(c->rules, stage, &c->left[stage], out))
                return true;
        if (stage == 0 || !pull(c, stage - 1, &c->left[stage]))
            return false;
    }
}

int64_t tr_cutter_next(tr_cutter *c, tr_piece *pieces, int64_t room)
{
    int64_t count = 0;
    int last = c->rules->stage_count - 1;
    if (last < 0) {
        pieces[0] = c->left[0];
        c->left[0].p = c->left[0].end;
        return pieces[0].p < pieces[0].end;
    }
    if (last == 0 && c->rules->stages[0].kind == TR_STAGE_GPT2) {
        const char *ends[128];
        count = tr_split(c->left[0].p, c->left[0].end, ends, TR_MIN(room, TR_COUNT(ends)));
        for (int64_t i = 0; i < count; i++) {
            pieces[i] = (tr_piece){c->left[0].p, ends[i]};
            c->left[0].p = ends[i];
        }
        return count;
    }
    while (count < room && pull(c, last, &pieces[count]))
        count++;
    return count;
}

/* Rewriting */

bool tr_pretokenizer_rewrites(const tr_pretokenizer *r)
{
    return r->metaspace || r->prefix_space;
}

static void rewrite_words(const tr_pretokenizer *r, const char *text, int64_t length, tr_text *out)
{
    size_t n = strlen(r->marker);
    const char *p = text, *end = text + length;
    while (p < end) {
        int step;
        if (bert_class(p, end, &step) == BERT_SPACE) {
            p += step;
            continue;
        }
        const char *stop = p;
        while (stop < end && bert_class(stop, end, &step) != BERT_SPACE)
            stop += step;
        if (stop - p < (int64_t)n || memcmp(p, r->marker, n) != 0)
            tr_text_add(out, r->marker, n);
        tr_text_add(out, p, (size_t)(stop - p));
        p = stop;
    }
}

void tr_pretokenizer_rewrite(const tr_pretokenizer *r, const char *text, int64_t length, bool first, bool start,
                             tr_text *out)
{
    if (!length)
        return;
    if (r->words) {
        rewrite_words(r, text, length, out);
        return;
    }
    if (r->prefix_space) {
        if (first && text[0] != ' ')
            tr_text_add(out, " ", 1);
        tr_text_add(out, text, (size_t)length);
        return;
    }
    size_t n = strlen(r->marker);
    bool marked = text[0] == ' ' || (length >= (int64_t)n && memcmp(text, r->marker, n) == 0);
    if (!marked && (r->prepend == TR_PREPEND_ALWAYS ? first : r->prepend == TR_PREPEND_FIRST && start))
        tr_text_add(out, r->marker, n);
    for (const char *p = text, *end = text + length; p < end;) {
        const char *space = memchr(p, ' ', (size_t)(end - p));
        tr_text_add(out, p, (size_t)((space ? space : end) - p));
        if (space)
            tr_text_add(out, r->marker, n);
        p = space ? space + 1 : end;
    }
}

/* Reading */

static tr_error *flag(const json_t *json, const char *key, bool otherwise, const char *where, bool *out)
{
    const json_t *value = json_object_get(json, key);
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return tr_error_new(TR_USER, "%s: the pre-tokenizer's \"%s\" must be true or false", where, key);
    *out = value && json_is_boolean(value) ? json_is_true(value) : otherwise;
    return NULL;
}

static tr_error *add_stage(tr_pretokenizer *out, tr_stage_kind kind, const char *pattern, const char *where)
{
    if (out->stage_count == TR_MOST_STAGES)
        return tr_error_new(TR_USER, "%s: the pre-tokenizer has more than %d steps, which is not supported", where,
                            TR_MOST_STAGES);
    tr_stage *s = &out->stages[out->stage_count++];
    *s = (tr_stage){kind, NULL};
    return pattern ? tr_pattern_new(pattern, where, &s->pattern) : NULL;
}

static tr_error *read_byte_level(const json_t *json, const char *where, tr_pretokenizer *out)
{
    bool prefix, split;
    TR_TRY(flag(json, "add_prefix_space", true, where, &prefix));
    TR_TRY(flag(json, "use_regex", true, where, &split));
    if (prefix && out->stage_count)
        return tr_error_new(
            TR_USER, "%s: a ByteLevel with add_prefix_space after other pre-tokenizers is not supported", where);
    out->byte_level = true;
    out->prefix_space = prefix;
    return split ? add_stage(out, TR_STAGE_GPT2, NULL, where) : NULL;
}

static tr_error *read_bert(const json_t *json, const char *where, tr_pretokenizer *out)
{
    (void)json;
    return add_stage(out, TR_STAGE_BERT, NULL, where);
}

static tr_error *read_digits(const json_t *json, const char *where, tr_pretokenizer *out)
{
    bool each;
    TR_TRY(flag(json, "individual_digits", false, where, &each));
    return add_stage(out, TR_STAGE_PATTERN, each ? "\\p{N}" : "\\p{N}+", where);
}

/* A text as a pattern that matches it. */
static char *literal(const char *text)
{
    tr_text out = {0};
    tr_text_add(&out, "", 0);
    for (; *text; text++) {
        if ((uint8_t)*text < 128 && strchr("\\^$.|?*+()[]{}-", *text))
            tr_text_add(&out, "\\", 1);
        tr_text_add(&out, text, 1);
    }
    return out.bytes;
}

static tr_error *read_split(const json_t *json, const char *where, tr_pretokenizer *out)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *text = json_string_value(json_object_get(pattern, "String"));
    const char *behavior = json_string_value(json_object_get(json, "behavior"));
    bool invert;
    TR_TRY(flag(json, "invert", false, where, &invert));
    if ((!regex && (!text || !*text)) || !behavior)
        return tr_error_new(TR_USER, "%s: the pre-tokenizer Split needs a \"pattern\" and a \"behavior\"", where);
    bool removed = strcmp(behavior, "Removed") == 0;
    if (!removed && strcmp(behavior, "Isolated") != 0)
        return tr_error_new(TR_USER,
                            "%s: a Split whose behavior is \"%s\" is not supported: Isolated and Removed are", where,
                            behavior);
    tr_stage_kind kind = !removed ? TR_STAGE_PATTERN : invert ? TR_STAGE_MATCHES : TR_STAGE_GAPS;
    char *quoted = regex ? NULL : literal(text);
    tr_error *error = add_stage(out, kind, regex ? regex : quoted, where);
    free(quoted);
    return error;
}

static tr_error *read_metaspace(const json_t *json, const char *where, tr_pretokenizer *out)
{
    static const char *const schemes[] = {"never", "first", "always"};
    const char *marker = json_string_value(json_object_get(json, "replacement"));
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    bool prefix, split;
    TR_TRY(flag(json, "add_prefix_space", true, where, &prefix));
    TR_TRY(flag(json, "split", true, where, &split));
    uint32_t code;
    size_t n = marker ? strlen(marker) : 0;
    if (!n || n > 4 || tr_utf8_decode(marker, marker + n, &code) != (int)n)
        return tr_error_new(TR_USER, "%s: the Metaspace's \"replacement\" must be one character", where);
    if (out->metaspace || out->byte_level || out->stage_count)
        return tr_error_new(TR_USER, "%s: a Metaspace after other pre-tokenizers is not supported", where);
    out->prepend = prefix ? TR_PREPEND_ALWAYS : TR_PREPEND_NEVER;
    for (int i = 0; scheme && i < 3; i++)
        if (strcmp(schemes[i], scheme) == 0)
            out->prepend = (tr_prepend)i;
    if (out->words && (out->prepend != TR_PREPEND_ALWAYS || !split))
        return tr_error_new(TR_USER,
                            "%s: a WhitespaceSplit is supported only before a Metaspace that marks each word", where);
    memcpy(out->marker, marker, n);
    out->metaspace = true;
    return split ? add_stage(out, TR_STAGE_MARKER, NULL, where) : NULL;
}

static tr_error *read_words(const json_t *json, const char *where, tr_pretokenizer *out)
{
    (void)json;
    if (out->stage_count || out->metaspace || out->byte_level)
        return tr_error_new(TR_USER, "%s: a WhitespaceSplit after other pre-tokenizers is not supported", where);
    out->words = true;
    return NULL;
}

static tr_error *read_any(const json_t *json, const char *where, int depth, tr_pretokenizer *out)
{
    static const struct {
        const char *type;
        tr_error *(*read)(const json_t *, const char *, tr_pretokenizer *);
    } rows[] = {{"ByteLevel", read_byte_level}, {"BertPreTokenizer", read_bert}, {"Digits", read_digits},
                {"Split", read_split},          {"Metaspace", read_metaspace},   {"WhitespaceSplit", read_words}};
    const char *type = json_string_value(json_object_get(json, "type"));
    if (type && strcmp(type, "Sequence") == 0 && depth < 4) {
        const json_t *list = json_object_get(json, "pretokenizers"), *item;
        size_t i;
        json_array_foreach(list, i, item) TR_TRY(read_any(item, where, depth + 1, out));
        return NULL;
    }
    if (out->byte_level)
        return tr_error_new(TR_USER, "%s: a pre-tokenizer after ByteLevel is not supported", where);
    for (int64_t i = 0; i < TR_COUNT(rows); i++)
        if (type && strcmp(rows[i].type, type) == 0)
            return rows[i].read(json, where, out);
    return tr_error_new(TR_USER,
                        "%s: the pre-tokenizer \"%s\" is not supported: ByteLevel, Split, Digits, BertPreTokenizer, "
                        "Metaspace and WhitespaceSplit before it are",
                        where, type ? type : "");
}

tr_error *tr_pretokenizer_read(const json_t *json, const char *where, tr_pretokenizer *out)
{
    if (!json || json_is_null(json))
        return NULL;
    TR_TRY(read_any(json, where, 0, out));
    if (out->words && !out->metaspace)
        return tr_error_new(TR_USER, "%s: a WhitespaceSplit is supported only before a Metaspace", where);
    return NULL;
}

void tr_pretokenizer_end(tr_pretokenizer *r)
{
    for (int i = 0; i < r->stage_count; i++)
        tr_pattern_free(r->stages[i].pattern);
    r->stage_count = 0;
}
