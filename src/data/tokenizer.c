/* The tokenizer object: building it, finding added tokens in a text, dispatch by kind, threads,
 * decoding.
 *
 * Encoding walks a text once: the added tokens ("<|endoftext|>") that occur in it cut it into plain
 * stretches, and each stretch goes to its kind's encoder. The parallel variant collects the
 * stretches first, cuts the long ones where a pre-token ends in any case (tr_split_safe), encodes
 * them in any order and joins the results in the text's order; so the ids do not depend on the
 * number of threads.
 */
#define _GNU_SOURCE
#include "data/tokenizer.h"

#include <omp.h>

#include "data/tokenizer_internal.h"
#include "data/unicode.h"

enum { TASK_BYTES = 1 << 18 };

void tr_ids_free(tr_ids *ids)
{
    free(ids->items);
    *ids = (tr_ids){0};
}

/* Building */

tr_tokenizer *tr_tokenizer_new(tr_tokenizer_kind kind, int32_t vocab_size)
{
    tr_tokenizer *t = tr_alloc_zero(1, sizeof *t);
    t->kind = kind;
    t->vocab_size = vocab_size;
    t->end_of_text = t->unknown = -1;
    memset(t->specials, -1, sizeof t->specials);
    memset(t->byte_id, -1, sizeof t->byte_id);
    size_t count = (size_t)TR_MAX(vocab_size, 1);
    tr_text_add(&t->pool, "", 0);
    t->start = tr_alloc_zero(count, sizeof *t->start);
    t->length = tr_alloc_zero(count, sizeof *t->length);
    t->flags = tr_alloc_zero(count, sizeof *t->flags);
    return t;
}

void tr_tokenizer_free(tr_tokenizer *t)
{
    if (!t)
        return;
    free(t->start);
    free(t->length);
    free(t->flags);
    tr_text_free(&t->pool);
    for (int64_t i = 0; i < t->added_count; i++) {
        free(t->added[i].content);
        tr_text_free(&t->added[i].normal);
    }
    free(t->added);
    for (int i = 0; i < TR_RULES; i++)
        free(t->rules[i]);
    tr_ids_free(&t->before);
    tr_ids_free(&t->after);
    tr_normalizer_free(t->normalizer);
    tr_pretokenizer_end(&t->pre);
    tr_pair_map_free(&t->trie.edges);
    tr_pair_map_free(&t->inner.edges);
    free(t->prefix);
    free(t->scores);
    free(t->merges);
    tr_pair_map_free(&t->ranks);
    tr_pair_map_free(&t->chars);
    free(t->words.slots);
    free(t);
}

void tr_tokenizer_put(tr_tokenizer *t, int32_t id, const char *bytes, int64_t length, int flags)
{
    TR_CHECK(id >= 0 && id < t->vocab_size, "token id %d of %d", id, t->vocab_size);
    t->start[id] = (int64_t)t->pool.length;
    t->length[id] = (int32_t)length;
    t->flags[id] = (uint8_t)(flags | TOKEN_PRESENT);
    tr_text_add(&t->pool, bytes, (size_t)length);
}

void tr_tokenizer_put_added(tr_tokenizer *t, const tr_added *added)
{
    tr_added copy = *added;
    copy.content = tr_alloc((size_t)added->length + 1);
    memcpy(copy.content, added->content, (size_t)added->length);
    copy.content[added->length] = 0;
    copy.normal = (tr_text){0};
    tr_push(t->added, t->added_count, t->added_room) = copy;
    int flags = t->flags[copy.id], special = copy.special ? TOKEN_SPECIAL : 0;
    if ((flags & TOKEN_PRESENT) && t->length[copy.id] == copy.length &&
        memcmp(t->pool.bytes + t->start[copy.id], copy.content, (size_t)copy.length) == 0)
        t->flags[copy.id] |= (uint8_t)special;
    else
        tr_tokenizer_put(t, copy.id, copy.content, copy.length,
                         special | TOKEN_RAW | (flags & TOKEN_PRESENT ? 0 : TOKEN_ADDED));
}

static int by_length(const void *a, const void *b)
{
    const tr_added *x = a, *y = b;
    return x->normal.length != y->normal.length ? (x->normal.length < y->normal.length ? 1 : -1)
                                                : (x->id > y->id) - (x->id < y->id);
}

/* The texts by which files name a token of each part, best first. */
static const char *const special_names[TR_SPECIAL_COUNT][4] = {
    [TR_SPECIAL_PAD] = {"[PAD]", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"},
    [TR_SPECIAL_UNKNOWN] = {"[UNK]", "<unk>"},
    [TR_SPECIAL_CLS] = {"[CLS]"},
    [TR_SPECIAL_SEP] = {"[SEP]"},
    [TR_SPECIAL_MASK] = {"[MASK]", "<mask>"},
    [TR_SPECIAL_BOS] = {"<s>", "<|begin_of_text|>", END_OF_TEXT},
    [TR_SPECIAL_EOS] = {END_OF_TEXT, "</s>", "<|end_of_text|>"},
};

/* What a file has not said (tokenizer_config.json, GGUF's ids) is found by name. */
static void finish_specials(tr_tokenizer *t)
{
    for (int which = 0; which < TR_SPECIAL_COUNT; which++)
        for (int i = 0; i < 4 && t->specials[which] < 0 && special_names[which][i]; i++)
            t->specials[which] = tr_tokenizer_find(t, special_names[which][i]);
    if (t->unknown >= 0)
        t->specials[TR_SPECIAL_UNKNOWN] = t->unknown;
    if (t->end_of_text < 0)
        t->end_of_text = t->specials[TR_SPECIAL_EOS] >= 0 ? t->specials[TR_SPECIAL_EOS] : t->specials[TR_SPECIAL_SEP];
}

static void finish_chars(tr_tokenizer *t)
{
    tr_pair_map_init(&t->chars, t->vocab_size);
    for (int i = 0; i < 128; i++)
        t->ascii_id[i] = t->unknown;
    for (int32_t id = 0; id < t->vocab_size; id++) {
        uint32_t code;
        const char *bytes = t->pool.bytes + t->start[id];
        if ((t->flags[id] & (TOKEN_PRESENT | TOKEN_RAW)) != TOKEN_PRESENT ||
            tr_utf8_decode(bytes, bytes + t->length[id], &code) != t->length[id])
            continue;
        if (code < 128)
            t->ascii_id[code] = id;
        else
            tr_pair_map_put(&t->chars, code)->id = id;
    }
}

void tr_tokenizer_finish(tr_tokenizer *t)
{
    for (int64_t i = 0; i < t->added_count; i++) {
        tr_added *added = &t->added[i];
        if (t->normalizer && added->normalized)
            tr_normalizer_run(t->normalizer, added->content, added->length, true, &added->normal);
        else
            tr_text_add(&added->normal, added->content, (size_t)added->length);
        if (!added->normal.length) /* nothing to find */
            added->normal.bytes = tr_strdup("");
    }
    if (t->added_count)
        qsort(t->added, (size_t)t->added_count, sizeof *t->added, by_length);
    for (int64_t i = 0; i < t->added_count; i++) {
        const tr_added *added = &t->added[i];
        if (!added->normal.length)
            continue;
        uint8_t first = (uint8_t)added->normal.bytes[0];
        int group = added->normalized;
        t->added_only[group] =
            t->added_groups & (1 << group) && t->added_only[group] != first ? -1 : first;
        t->added_groups |= (uint8_t)(1 << group);
        t->added_first[first] |= (uint8_t)(1 << group);
        if (strcmp(added->content, END_OF_TEXT) == 0)
            t->end_of_text = added->id;
    }
    if (t->kind == TR_TOKENIZER_CHARS)
        finish_chars(t);
    else if (t->kind != TR_TOKENIZER_BYTES)
        tr_pieces_finish(t);
    finish_specials(t);
}

void tr_tokenizer_gpt2_rules(tr_tokenizer *t, bool prefix_space)
{
    t->pre.byte_level = true;
    t->pre.prefix_space = prefix_space;
    t->pre.stages[0].kind = TR_STAGE_GPT2;
    t->pre.stage_count = 1;
}

tr_tokenizer *tr_tokenizer_bytes_new(void)
{
    tr_tokenizer *t = tr_tokenizer_new(TR_TOKENIZER_BYTES, 257);
    tr_tokenizer_gpt2_rules(t, false);
    for (int i = 0; i < 256; i++)
        tr_tokenizer_put(t, i, &(char){(char)i}, 1, 0);
    tr_added end = {
        .content = END_OF_TEXT, .length = sizeof END_OF_TEXT - 1, .id = 256, .special = true};
    tr_tokenizer_put_added(t, &end);
    tr_tokenizer_finish(t);
    return t;
}

/* Facts */

tr_tokenizer_kind tr_tokenizer_kind_of(const tr_tokenizer *t)
{
    return t->kind;
}

const char *tr_tokenizer_kind_name(tr_tokenizer_kind kind)
{
    static const char *const names[] = {"bpe", "bytes", "chars", "wordpiece", "unigram"};
    return names[kind];
}

int32_t tr_tokenizer_vocab_size(const tr_tokenizer *t)
{
    return t->vocab_size;
}

int64_t tr_tokenizer_merge_count(const tr_tokenizer *t)
{
    return t->merge_count;
}

int32_t tr_tokenizer_end_of_text(const tr_tokenizer *t)
{
    return t->end_of_text;
}

int32_t tr_tokenizer_special(const tr_tokenizer *t, tr_special which)
{
    return t->specials[which];
}

const tr_ids *tr_tokenizer_before(const tr_tokenizer *t)
{
    return &t->before;
}

const tr_ids *tr_tokenizer_after(const tr_tokenizer *t)
{
    return &t->after;
}

int32_t tr_tokenizer_find(const tr_tokenizer *t, const char *text)
{
    int64_t n = (int64_t)strlen(text);
    for (int64_t i = 0; i < t->added_count; i++)
        if (t->added[i].length == n && memcmp(t->added[i].content, text, (size_t)n) == 0)
            return t->added[i].id;
    for (int32_t id = 0; id < t->vocab_size; id++)
        if ((t->flags[id] & TOKEN_PRESENT) && t->length[id] == n &&
            memcmp(t->pool.bytes + t->start[id], text, (size_t)n) == 0)
            return id;
    return -1;
}

bool tr_tokenizer_lossless(const tr_tokenizer *t)
{
    if (t->kind != TR_TOKENIZER_BPE)
        return t->kind == TR_TOKENIZER_BYTES;
    if (!t->pre.byte_level || t->normalizer)
        return false;
    for (int i = 0; i < t->pre.stage_count; i++)
        if (t->pre.stages[i].kind != TR_STAGE_GPT2 && t->pre.stages[i].kind != TR_STAGE_PATTERN)
            return false;
    for (int i = 0; i < 256; i++)
        if (t->byte_id[i] < 0)
            return false;
    for (int64_t i = 0; i < t->added_count; i++)
        if (t->added[i].left_strip || t->added[i].right_strip)
            return false;
    return !t->pre.prefix_space;
}

const char *tr_tokenizer_token_bytes(const tr_tokenizer *t, int32_t id, int64_t *out_length)
{
    if (id < 0 || id >= t->vocab_size || !(t->flags[id] & TOKEN_PRESENT)) {
        *out_length = 0;
        return NULL;
    }
    *out_length = t->length[id];
    return t->pool.bytes + t->start[id];
}

bool tr_tokenizer_is_special(const tr_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab_size && (t->flags[id] & TOKEN_SPECIAL);
}

/* Encoding */

static void encode_chars(const tr_tokenizer *t, const char *p, int64_t length, tr_ids *out)
{
    const char *end = p + length;
    tr_ids_reserve(out, length);
    while (p < end) {
        uint32_t code;
        int n = tr_utf8_decode(p, end, &code), may_go_on;
        int32_t id = t->unknown;
        if (n && code < 128) {
            id = t->ascii_id[code];
        } else if (n) {
            const tr_pair_slot *slot = tr_pair_map_find(&t->chars, code);
            id = slot ? slot->id : t->unknown;
        } else {
            n = tr_utf8_broken(p, end, &may_go_on);
        }
        if (id >= 0)
            out->items[out->count++] = id;
        p += n;
    }
}

/* A stretch without added tokens. `first`: nothing plain is before it since the last added token; `start`: nothing at
 * all is. */
static void encode_plain(tr_encoder *encoder, const char *text, int64_t length, bool first, bool start, tr_ids *out)
{
    switch (encoder->t->kind) {
    case TR_TOKENIZER_BYTES:
        tr_ids_reserve(out, length);
        for (int64_t i = 0; i < length; i++)
            out->items[out->count + i] = (uint8_t)text[i];
        out->count += length;
        break;
    case TR_TOKENIZER_CHARS:
        encode_chars(encoder->t, text, length, out);
        break;
    default:
        tr_pieces_encode(encoder, text, length, first, start, out);
        break;
    }
}

/* A stretch of text: plain when id < 0, otherwise the added token `id`. */
typedef struct span {
    int64_t start, length;
    int32_t id;
    bool first;
} span;

typedef struct walk {
    const tr_tokenizer *t;
    const char *text;
    bool allow_special;
    void (*take)(void *context, span found);
    void *context;
} walk;

/* The white space just before `at`, not before `least`: where it starts. */
static int64_t space_before(const char *text, int64_t least, int64_t at)
{
    while (at > least) {
        int64_t lead = at - 1;
        while (lead > least && at - lead < 4 && ((uint8_t)text[lead] & 0xC0) == 0x80)
            lead--;
        uint32_t code;
        if (tr_utf8_decode(text + lead, text + at, &code) != at - lead ||
            tr_unicode_class_of(code) != TR_UNICODE_SPACE)
            break;
        at = lead;
    }
    return at;
}

static int64_t space_after(const char *text, int64_t at, int64_t end)
{
    uint32_t code;
    int n;
    while (at < end && (n = tr_utf8_decode(text + at, text + end, &code)) > 0 &&
           tr_unicode_class_of(code) == TR_UNICODE_SPACE)
        at += n;
    return at;
}

/* The first added token in text[from, end), the longest of those that start there; NULL: none.
 * `normalized` picks one of the two groups. */
static const tr_added *find_added(const walk *w, int64_t from, int64_t end, bool normalized,
                                  int64_t *out_at)
{
    const tr_tokenizer *t = w->t;
    int bit = 1 << normalized, only = t->added_only[normalized];
    for (int64_t at = from; at < end; at++) {
        if (only >= 0) {
            const char *found = memchr(w->text + at, only, (size_t)(end - at));
            if (!found)
                return NULL;
            at = found - w->text;
        } else if (!(t->added_first[(uint8_t)w->text[at]] & bit)) {
            continue;
        }
        for (int64_t i = 0; i < t->added_count; i++) {
            const tr_added *added = &t->added[i];
            if (added->normalized == normalized && added->normal.length && (int64_t)added->normal.length <= end - at &&
                memcmp(w->text + at, added->normal.bytes, added->normal.length) == 0) {
                *out_at = at;
                return added;
            }
        }
    }
    return NULL;
}

/* Tokens that ask for the text as it is are taken out first, all others from what is left, which is normalized before
 * (take_direct) where there is a normalizer: the order in which Hugging Face's library looks. */
static void walk_range(const walk *w, int64_t from, int64_t end, bool normalized)
{
    const tr_added *added = NULL;
    int64_t at, plain = from, seek = from;
    bool any = w->t->added_groups >> normalized & 1;
    do {
        added = any ? find_added(w, seek, end, normalized, &at) : NULL;
        if (added)
            seek = at + (int64_t)added->normal.length;
        /* Passed over: special ones when they are not wanted, and one that the token before has
         * stripped whole. */
        if (added && ((added->special && !w->allow_special) || seek <= plain))
            continue;
        int64_t stop = added ? at : end;
        if (added && added->left_strip)
            stop = space_before(w->text, plain, at);
        if (stop > plain && !normalized && !w->t->normalizer)
            walk_range(w, plain, stop, true);
        else if (stop > plain)
            w->take(w->context, (span){plain, stop - plain, -1, true});
        if (added) {
            plain = added->right_strip ? space_after(w->text, seek, end) : seek;
            w->take(w->context, (span){at, (int64_t)added->normal.length, added->id, false});
        }
    } while (added);
}

typedef struct direct {
    tr_encoder encoder;
    const char *text;
    tr_ids *out;
    bool start, first; /* of a normalized text: as in encode_plain */
    bool allow_special;
} direct;

static void take_normalized(void *context, span found)
{
    direct *d = context;
    if (found.id < 0)
        encode_plain(&d->encoder, d->text + found.start, found.length, d->first || found.start, d->start && !found.start,
                     d->out);
    else
        tr_push(d->out->items, d->out->count, d->out->room) = found.id;
}

static void take_direct(void *context, span found)
{
    direct *d = context;
    const tr_tokenizer *t = d->encoder.t;
    const char *text = d->text + found.start;
    if (found.id >= 0) {
        tr_push(d->out->items, d->out->count, d->out->room) = found.id;
    } else if (!t->normalizer) {
        encode_plain(&d->encoder, text, found.length, found.first, found.first && !found.start, d->out);
    } else {
        tr_text normal = {0};
        tr_normalizer_run(t->normalizer, text, found.length, found.first, &normal);
        direct inner = {d->encoder, normal.bytes, d->out, found.first && !found.start, found.first, d->allow_special};
        walk w = {t, normal.bytes, d->allow_special, take_normalized, &inner};
        walk_range(&w, 0, (int64_t)normal.length, true);
        d->encoder = inner.encoder;
        tr_text_free(&normal);
    }
}

void tr_tokenizer_encode(const tr_tokenizer *t, const char *text, int64_t length,
                         bool allow_special, tr_ids *out)
{
    direct d = {.text = text, .out = out, .allow_special = allow_special};
    tr_encoder_start(&d.encoder, t, length);
    walk w = {t, text, allow_special, take_direct, &d};
    walk_range(&w, 0, length, false);
    tr_encoder_end(&d.encoder);
}

/* Where a task's ids are: in the buffer of its thread, and in the result. */
typedef struct part {
    int thread;
    int64_t from, count, to;
} part;

bool tr_tokenizer_cuts(const tr_tokenizer *t, const char *text, int64_t length, int64_t at)
{
    if (t->kind == TR_TOKENIZER_BYTES)
        return true;
    if (t->pre.stage_count == 1 && t->pre.stages[0].kind == TR_STAGE_GPT2 && !t->normalizer)
        return tr_split_safe(text, length, at);
    if (t->kind == TR_TOKENIZER_CHARS)
        return (uint8_t)text[at] < 0x80;
    bool words = t->pre.stage_count == 1 && (t->pre.stages[0].kind == TR_STAGE_BERT || t->pre.stages[0].kind == TR_STAGE_MARKER);
    uint8_t before = (uint8_t)text[at - 1], letter = before | 32;
    return words && text[at] == ' ' && ((letter >= 'a' && letter <= 'z') || (before >= '0' && before <= '9'));
}

/* A task is a run of spans of about TASK_BYTES. */
typedef struct collection {
    const tr_tokenizer *t;
    const char *text;
    span *spans;
    int64_t count, room;
    int64_t *tasks; /* the first span of each */
    int64_t task_count, task_room;
    int64_t task_bytes;
} collection;

static void collect_one(collection *c, span found)
{
    if (!c->task_count || c->task_bytes >= TASK_BYTES) {
        tr_push(c->tasks, c->task_count, c->task_room) = c->count;
        c->task_bytes = 0;
    }
    c->task_bytes += found.length;
    tr_push(c->spans, c->count, c->room) = found;
}

static void take_span(void *context, span found)
{
    collection *c = context;
    while (found.id < 0 && found.length > TASK_BYTES + TASK_BYTES / 2) {
        int64_t at = TASK_BYTES;
        while (at < found.length && !tr_tokenizer_cuts(c->t, c->text + found.start, found.length, at))
            at++;
        if (at == found.length)
            break;
        collect_one(c, (span){found.start, at, -1, found.first});
        found = (span){found.start + at, found.length - at, -1, false};
    }
    collect_one(c, found);
}

void tr_tokenizer_encode_parallel(const tr_tokenizer *t, const char *text, int64_t length,
                                  bool allow_special, int threads, tr_ids *out)
{
    if (threads <= 0)
        threads = omp_get_max_threads();
    if (threads == 1 || length < 2 * TASK_BYTES) {
        tr_tokenizer_encode(t, text, length, allow_special, out);
        return;
    }
    collection c = {.t = t, .text = text};
    walk w = {t, text, allow_special, take_span, &c};
    walk_range(&w, 0, length, false);
    part *parts = tr_alloc_zero((size_t)c.task_count + 1, sizeof *parts);
    int64_t total = 0;
#pragma omp parallel num_threads(threads)
    {
        /* A thread writes all its tasks one after another; parts say where each is. */
        tr_ids mine = {0};
        direct d = {.text = text, .out = &mine, .allow_special = allow_special};
        tr_encoder_start(&d.encoder, t, length);
        tr_ids_reserve(&mine, length / threads / 3);
        int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < c.task_count; i++) {
            int64_t last = i + 1 < c.task_count ? c.tasks[i + 1] : c.count;
            int64_t from = mine.count;
            for (int64_t j = c.tasks[i]; j < last; j++)
                take_direct(&d, c.spans[j]);
            parts[i] = (part){thread, from, mine.count - from, 0};
        }
        tr_encoder_end(&d.encoder);
#pragma omp single
        {
            for (int64_t i = 0; i < c.task_count; i++) {
                parts[i].to = total;
                total += parts[i].count;
            }
            tr_ids_reserve(out, total);
        }
        for (int64_t i = 0; i < c.task_count; i++)
            if (parts[i].thread == thread && parts[i].count)
                memcpy(out->items + out->count + parts[i].to, mine.items + parts[i].from,
                       (size_t)parts[i].count * sizeof *out->items);
        tr_ids_free(&mine);
    }
    out->count += total;
    free(parts);
    free(c.spans);
    free(c.tasks);
}

/* Decoding */

/* What BERT's decoder takes the space away before, in Hugging Face's words "cleanup". */
static bool joins(const char *text, int64_t length)
{
    static const char *const rows[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    for (int64_t i = 0; i < TR_COUNT(rows); i++)
        if ((int64_t)strlen(rows[i]) == length && memcmp(rows[i], text, (size_t)length) == 0)
            return true;
    return false;
}

/* Appends what the token stands for; `first`: it is the first of a text. */
static void render(const tr_tokenizer *t, int32_t id, const char *bytes, int64_t length, bool first, tr_text *out)
{
    const char *end = bytes + length, *marker = t->pre.marker[0] ? t->pre.marker : "\xE2\x96\x81";
    size_t n = t->render == TR_RENDER_WORDPIECE ? strlen(t->prefix) : strlen(marker);
    if (t->render == TR_RENDER_PLAIN) {
        tr_text_add(out, bytes, (size_t)length);
    } else if (t->render == TR_RENDER_WORDPIECE) {
        bool goes_on = length >= (int64_t)n && memcmp(bytes, t->prefix, n) == 0;
        if (goes_on && !first)
            bytes += n;
        else if (!first && !joins(bytes, length))
            tr_text_add(out, " ", 1);
        tr_text_add(out, bytes, (size_t)(end - bytes));
    } else if (t->byte_fallback && length == 6 && t->byte_id[(uint8_t)strtol((char[]){bytes[3], bytes[4], 0}, NULL, 16)] == id) {
        tr_text_add(out, &(char){(char)strtol((char[]){bytes[3], bytes[4], 0}, NULL, 16)}, 1);
    } else {
        while (bytes < end) {
            const char *found = memmem(bytes, (size_t)(end - bytes), marker, n);
            tr_text_add(out, bytes, (size_t)((found ? found : end) - bytes));
            if (found && !(first && t->strip_first && found == bytes))
                tr_text_add(out, " ", 1);
            bytes = found ? found + n : end;
            first = false;
        }
    }
}

tr_error *tr_tokenizer_decode(const tr_tokenizer *t, const int32_t *ids, int64_t count,
                              tr_text *out)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t length;
        const char *bytes = tr_tokenizer_token_bytes(t, ids[i], &length);
        if (!bytes)
            return tr_error_new(
                TR_USER,
                "token id %d (at position %lld) is not in the vocabulary, whose highest "
                "is %d: was the text encoded with another tokenizer?",
                ids[i], (long long)i, t->vocab_size - 1);
        render(t, ids[i], bytes, length, i == 0, out);
    }
    return NULL;
}

static void hold(tr_detokenizer *state, const char *bytes, int64_t count)
{
    memcpy(state->held, bytes, (size_t)count);
    state->count = (int32_t)count;
}

void tr_detokenizer_push(tr_detokenizer *state, const tr_tokenizer *t, int32_t id, tr_text *out)
{
    int64_t length;
    const char *bytes = tr_tokenizer_token_bytes(t, id, &length);
    if (!bytes || !length)
        return;
    /* What is held and the token's bytes, as one text. */
    tr_text all = {0};
    tr_text_add(&all, state->held, (size_t)state->count);
    render(t, id, bytes, length, false, &all);
    bytes = all.bytes;
    length = (int64_t)all.length;
    state->count = 0;
    const char *p = bytes, *end = bytes + length;
    while (p < end) {
        uint32_t code;
        int n = tr_utf8_decode(p, end, &code), may_go_on;
        if (n) {
            tr_text_add(out, p, (size_t)n);
            p += n;
            continue;
        }
        n = tr_utf8_broken(p, end, &may_go_on);
        if (may_go_on)
            hold(state, p, n);
        else
            tr_text_add(out, UNKNOWN_CHAR, sizeof UNKNOWN_CHAR - 1);
        p += n;
    }
    tr_text_free(&all);
}

void tr_detokenizer_finish(tr_detokenizer *state, tr_text *out)
{
    if (state->count)
        tr_text_add(out, UNKNOWN_CHAR, sizeof UNKNOWN_CHAR - 1);
    state->count = 0;
}
