/* Learning a unigram tokenizer (Kudo 2018, "Subword Regularization").
 *
 * The texts are cut into words, counted. Candidates are all substrings of words that occur often enough, the best by
 * count times length. Then, until few enough are left:
 *   EM     the expected count of each piece over all ways to cut all words (forward and backward sums); its score is
 *          digamma(count) - digamma(total), which is Bayesian's shrinking of rare pieces; pieces of almost no count
 * go prune  a piece's loss is what the likelihood loses when its occurrences are cut in the second best way; a
 * quarter of the pieces, those of the least loss, go. Single characters never go. Ids: <pad> 0, </s> 1, <unk> 2,
 * pieces by falling score, then the sentinels, <extra_id_0> the last: T5's order.
 *
 * Cost: a pass takes a trie look-up for each byte of each candidate at each place of each unique word.
 */
#include <math.h>

#include "data/tokenizer_internal.h"
#include "data/unicode.h"
#include "data/word_count.h"

enum { LONGEST = 16, EM_PASSES = 2, SPECIALS = 3, MOST_SEEDS = 1000000, LEAST_COUNT = 2 };
static const double SHRINK = 0.75, COVERAGE = 0.9995, RARE = 0.5;

static const char normalizer_json[] =
    "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}, {\"type\": \"Replace\", "
    "\"pattern\": {\"Regex\": \"\\\\s+\"}, \"content\": \" \"}, {\"type\": \"Strip\", "
    "\"strip_left\": true, \"strip_right\": true}]}";
static const char metaspace_json[] =
    "{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", \"split\": true}";

typedef struct piece {
    const char *bytes;
    int32_t length;
    bool single; /* one character: never goes */
    double score, value;
} piece;

typedef struct word {
    const char *bytes;
    int64_t length;
    double count;
} word;

typedef struct learner {
    piece *pieces;
    int64_t count, room;
    word *words;
    int64_t word_count, longest;
    tr_trie trie;
    double *forward, *backward; /* room for the longest word */
    int32_t *from, *best;
} learner;

/* In the order of their bytes, so that nothing depends on the order of a hash table. */
static int compare_bytes(const char *a, int64_t n, const char *b, int64_t m)
{
    int order = memcmp(a, b, (size_t)TR_MIN(n, m));
    return order ? order : (n > m) - (n < m);
}

static int words_by_bytes(const void *a, const void *b)
{
    const word *x = a, *y = b;
    return compare_bytes(x->bytes, x->length, y->bytes, y->length);
}

static int by_value(const void *a, const void *b)
{
    const piece *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    return compare_bytes(x->bytes, x->length, y->bytes, y->length);
}

static inline int step(const char *p, const char *end)
{
    uint32_t code;
    return TR_MAX(tr_utf8_decode(p, end, &code), 1);
}

/* Seeds */

static void count_substrings(const learner *l, tr_string_map *map)
{
    for (int64_t w = 0; w < l->word_count; w++) {
        const char *end = l->words[w].bytes + l->words[w].length;
        for (const char *p = l->words[w].bytes; p < end; p += step(p, end)) {
            int characters = 0;
            for (const char *q = p; q < end && characters < LONGEST; characters++) {
                q += step(q, end);
                tr_string_put(map, p, q - p)->value += (int64_t)l->words[w].count;
            }
        }
    }
}

/* Characters beyond the coverage, if they are more than an eighth of the vocabulary, are left out: they will be
 * unknown. */
static void seed(learner *l, int64_t vocab)
{
    tr_string_map map = {0};
    count_substrings(l, &map);
    piece *singles = NULL;
    int64_t single_count = 0, single_room = 0;
    double total = 0, seen = 0;
    for (int64_t i = 0; i < map.room; i++) {
        const tr_string_slot *s = &map.slots[i];
        if (!s->bytes)
            continue;
        uint32_t code;
        piece made = {s->bytes, (int32_t)s->length, false, 0, (double)s->value};
        if (step(s->bytes, s->bytes + s->length) == s->length) {
            made.single = tr_utf8_decode(s->bytes, s->bytes + s->length, &code) > 0;
            total += made.single ? made.value : 0;
            if (made.single)
                tr_push(singles, single_count, single_room) = made;
        } else if (s->value >= LEAST_COUNT) {
            made.value *= (double)s->length;
            tr_push(l->pieces, l->count, l->room) = made;
        }
    }
    if (l->count)
        qsort(l->pieces, (size_t)l->count, sizeof *l->pieces, by_value);
    l->count = TR_MIN(l->count, TR_MAX(10 * vocab, TR_MIN(MOST_SEEDS, 200000)));
    if (single_count)
        qsort(singles, (size_t)single_count, sizeof *singles, by_value);
    for (int64_t i = 0; i < single_count && (seen < COVERAGE * total || i < vocab / 8); i++) {
        seen += singles[i].value;
        tr_push(l->pieces, l->count, l->room) = singles[i];
    }
    double sum = 0;
    for (int64_t i = 0; i < l->count; i++)
        sum += l->pieces[i].value;
    for (int64_t i = 0; i < l->count; i++)
        l->pieces[i].score = log(l->pieces[i].value) - log(sum);
    free(singles);
    tr_string_map_free(&map);
}

/* Lattices: calls that walk the pieces which start at p. */

static void make_trie(learner *l)
{
    tr_pair_map_free(&l->trie.edges);
    l->trie = (tr_trie){0};
    for (int64_t i = 0; i < l->count; i++)
        tr_trie_put(&l->trie, l->pieces[i].bytes, l->pieces[i].length, (int32_t)i);
}

#define EACH_PIECE(l, p, end, slot, q)                                                                     \
    for (int32_t node_ = 0, once_ = 1; once_; once_ = 0)                                                   \
        for (const char *q = p;                                                                            \
             q < end && (slot = tr_pair_map_find(&l->trie.edges, PAIR_KEY(node_, (uint8_t)*q))) != NULL && \
             (node_ = slot->rank, true);                                                                   \
             q++)                                                                                          \
            if (slot->id >= 0)

static inline double add_logs(double a, double b)
{
    if (a == -INFINITY)
        return b;
    double high = TR_MAX(a, b), low = TR_MIN(a, b);
    return high + log1p(exp(low - high));
}

/* A character that no piece has: what it costs matters little, it is in every way to cut the word. */
static const double UNKNOWN = -30;

/* Adds the expected counts of a word's pieces to their values. */
static void expect(learner *l, const word *w)
{
    const char *text = w->bytes, *end = text + w->length;
    const tr_pair_slot *slot;
    for (int64_t i = 0; i <= w->length; i++)
        l->forward[i] = l->backward[i] = -INFINITY;
    l->forward[0] = l->backward[w->length] = 0;
    for (const char *p = text; p < end;) {
        int n = step(p, end);
        double so_far = l->forward[p - text];
        bool single = false;
        EACH_PIECE(l, p, end, slot, q)
        {
            int64_t to = q + 1 - text;
            l->forward[to] = add_logs(l->forward[to], so_far + l->pieces[slot->id].score);
            single = single || q + 1 - p == n;
        }
        if (!single)
            l->forward[p + n - text] = add_logs(l->forward[p + n - text], so_far + UNKNOWN);
        p += n;
    }
    for (int64_t at = w->length - 1; at >= 0; at--) {
        const char *p = text + at;
        if (l->forward[at] == -INFINITY)
            continue;
        int n = step(p, end);
        bool single = false;
        EACH_PIECE(l, p, end, slot, q)
        {
            l->backward[at] = add_logs(l->backward[at], l->backward[q + 1 - text] + l->pieces[slot->id].score);
            single = single || q + 1 - p == n;
        }
        if (!single)
            l->backward[at] = add_logs(l->backward[at], l->backward[at + n] + UNKNOWN);
    }
    double whole = l->forward[w->length];
    for (const char *p = text; p < end; p += step(p, end)) {
        EACH_PIECE(l, p, end, slot, q)
        {
            double log_p = l->forward[p - text] + l->pieces[slot->id].score + l->backward[q + 1 - text] - whole;
            l->pieces[slot->id].value += w->count * exp(log_p);
        }
    }
}

/* The best way to cut a text without the piece `without` (-1: none forbidden): from[] and best[] by place. False when
 * it needs an unknown character. */
static bool viterbi(learner *l, const char *text, int64_t length, int32_t without)
{
    const char *end = text + length;
    const tr_pair_slot *slot;
    for (int64_t i = 0; i <= length; i++) {
        l->forward[i] = -INFINITY;
        l->from[i] = -1;
    }
    l->forward[0] = 0;
    for (const char *p = text; p < end;) {
        int n = step(p, end);
        double so_far = l->forward[p - text];
        bool single = false;
        EACH_PIECE(l, p, end, slot, q)
        {
            int64_t to = q + 1 - text;
            if (slot->id == without)
                continue;
            single = single || q + 1 - p == n;
            if (l->from[to] < 0 || so_far + l->pieces[slot->id].score > l->forward[to]) {
                l->forward[to] = so_far + l->pieces[slot->id].score;
                l->from[to] = (int32_t)(p - text);
                l->best[to] = slot->id;
            }
        }
        int64_t to = p + n - text;
        if (!single && (l->from[to] < 0 || so_far + UNKNOWN > l->forward[to])) {
            l->forward[to] = so_far + UNKNOWN;
            l->from[to] = (int32_t)(p - text);
            l->best[to] = -1;
        }
        p += n;
    }
    for (int64_t at = length; at > 0; at = l->from[at])
        if (l->best[at] < 0)
            return false;
    return true;
}

/* log's slope of the gamma function, by its asymptotic series above 6. */
static double digamma(double x)
{
    double result = 0;
    for (; x < 7; x++)
        result -= 1 / x;
    double r = 1 / (x * x);
    return result + log(x) - 0.5 / x - r * (1. / 12 - r * (1. / 120 - r * (1. / 252 - r / 240)));
}

static void em(learner *l)
{
    make_trie(l);
    for (int64_t i = 0; i < l->count; i++)
        l->pieces[i].value = 0;
    for (int64_t w = 0; w < l->word_count; w++)
        expect(l, &l->words[w]);
    int64_t kept = 0;
    double total = 0;
    for (int64_t i = 0; i < l->count; i++)
        if (l->pieces[i].value >= RARE || l->pieces[i].single) {
            l->pieces[kept] = l->pieces[i];
            l->pieces[kept].value = TR_MAX(l->pieces[kept].value, RARE);
            total += l->pieces[kept++].value;
        }
    l->count = kept;
    for (int64_t i = 0; i < l->count; i++)
        l->pieces[i].score = digamma(l->pieces[i].value) - digamma(total);
}

/* Keeps `wanted` pieces at most, but all single characters: those whose loss would be the greatest. */
static void prune(learner *l, int64_t wanted)
{
    make_trie(l);
    double *counts = tr_alloc_zero((size_t)l->count, sizeof *counts), sum = 0;
    for (int64_t w = 0; w < l->word_count; w++) {
        viterbi(l, l->words[w].bytes, l->words[w].length, -1);
        for (int64_t at = l->words[w].length; at > 0; at = l->from[at])
            if (l->best[at] >= 0) {
                counts[l->best[at]] += l->words[w].count;
                sum += l->words[w].count;
            }
    }
    for (int64_t i = 0; i < l->count; i++) {
        piece *p = &l->pieces[i];
        p->value = INFINITY; /* has no other way to be cut, or may not go */
        if (p->single || !viterbi(l, p->bytes, p->length, (int32_t)i))
            continue;
        if (l->forward[p->length] > p->score || counts[i] == 0) {
            p->value = -INFINITY; /* is never taken */
            continue;
        }
        int64_t parts = 0;
        for (int64_t at = p->length; at > 0; at = l->from[at])
            parts++;
        double other = 0, other_sum = log(sum + counts[i] * (double)(parts - 1));
        for (int64_t at = p->length; at > 0; at = l->from[at])
            other += log(counts[l->best[at]] + counts[i]) - other_sum;
        p->value = counts[i] / sum * (log(counts[i]) - log(sum) - other);
    }
    free(counts);
    qsort(l->pieces, (size_t)l->count, sizeof *l->pieces, by_value);
    int64_t kept = TR_MIN(l->count, wanted);
    while (kept < l->count && l->pieces[kept].value == INFINITY)
        kept++;
    l->count = kept;
}

static int by_score(const void *a, const void *b)
{
    const piece *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return compare_bytes(x->bytes, x->length, y->bytes, y->length);
}

static json_t *vocab_json(const learner *l, int32_t sentinels)
{
    static const char *const specials[SPECIALS] = {"<pad>", "</s>", "<unk>"};
    json_t *vocab = json_array();
    for (int i = 0; i < SPECIALS; i++)
        json_array_append_new(vocab, json_pack("[s, f]", specials[i], 0.0));
    for (int64_t i = 0; i < l->count; i++)
        json_array_append_new(
            vocab, json_pack("[s%, f]", l->pieces[i].bytes, (size_t)l->pieces[i].length, l->pieces[i].score));
    for (int32_t i = sentinels - 1; i >= 0; i--) {
        char *text = tr_format("<extra_id_%d>", i);
        json_array_append_new(vocab, json_pack("[s, f]", text, 0.0));
        free(text);
    }
    return vocab;
}

static json_t *added_json(const json_t *vocab, int32_t sentinels)
{
    json_t *added = json_array();
    for (size_t id = 0; id < json_array_size(vocab); id++)
        if (id < SPECIALS || id >= json_array_size(vocab) - (size_t)sentinels)
            json_array_append_new(added,
                                  json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                                            json_array_get(json_array_get(vocab, id), 0), "single_word", 0, "lstrip",
                                            0, "rstrip", 0, "normalized", 0, "special", 1));
    return added;
}

static tr_error *finish(const learner *l, int32_t sentinels, tr_tokenizer **out)
{
    json_t *vocab = vocab_json(l, sentinels);
    json_t *end = json_pack(
        "{s:s, s:[{s:{s:s,s:i}},{s:{s:s,s:i}}], s:[{s:{s:s,s:i}},{s:{s:s,s:i}},{s:{s:s,s:i}},{s:{s:s,s:i}}], "
        "s:{s:{s:s, s:[i], s:[s]}}}",
        "type", "TemplateProcessing", "single", "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", "</s>",
        "type_id", 0, "pair", "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", "</s>", "type_id", 0,
        "Sequence", "id", "B", "type_id", 0, "SpecialToken", "id", "</s>", "type_id", 0, "special_tokens", "</s>",
        "id", "</s>", "ids", 1, "tokens", "</s>");
    json_t *root = json_pack("{s:o, s:o, s:o, s:o, s:o, s:{s:s, s:i, s:b, s:o}}", "added_tokens",
                             added_json(vocab, sentinels), "normalizer", json_loads(normalizer_json, 0, NULL),
                             "pre_tokenizer", json_loads(metaspace_json, 0, NULL), "post_processor", end, "decoder",
                             json_loads(metaspace_json, 0, NULL), "model", "type", "Unigram", "unk_id", 2,
                             "byte_fallback", 0, "vocab", vocab);
    TR_CHECK(root, "a learnt vocabulary that is no JSON");
    tr_error *error = tr_tokenizer_build(root, "the learnt vocabulary", out);
    json_decref(root);
    return error;
}

static tr_error *learn(learner *l, const tr_tokenizer_training *options, tr_tokenizer **out)
{
    int64_t wanted = options->vocab_size - SPECIALS - options->sentinels, singles = 0;
    seed(l, options->vocab_size);
    for (int64_t i = 0; i < l->count; i++)
        singles += l->pieces[i].single;
    if (singles > wanted || !singles)
        return tr_error_new(
            TR_USER,
            "a vocabulary of %d tokens: %d special ones, %d sentinels and the %lld characters of these texts "
            "need at least %lld",
            options->vocab_size, SPECIALS, options->sentinels, (long long)singles,
            (long long)(SPECIALS + options->sentinels + singles));
    for (;;) {
        for (int i = 0; i < EM_PASSES; i++)
            em(l);
        if (l->count <= wanted + wanted / 10)
            break;
        int64_t before = l->count;
        prune(l, TR_MAX((int64_t)(SHRINK * (double)l->count), wanted + wanted / 10));
        if (l->count == before)
            break;
    }
    for (int64_t i = 0; i < l->count; i++)
        l->pieces[i].value = l->pieces[i].single ? INFINITY : l->pieces[i].score;
    qsort(l->pieces, (size_t)l->count, sizeof *l->pieces, by_value);
    l->count = TR_MIN(l->count, wanted);
    qsort(l->pieces, (size_t)l->count, sizeof *l->pieces, by_score);
    return finish(l, options->sentinels, out);
}

tr_error *tr_tokenizer_train_unigram(const char *const *texts, const int64_t *lengths, int64_t count,
                                     const tr_tokenizer_training *options, tr_tokenizer **out)
{
    tr_tokenizer *rules = tr_tokenizer_new(TR_TOKENIZER_UNIGRAM, 0);
    json_t *normalizer = json_loads(normalizer_json, 0, NULL), *pre = json_loads(metaspace_json, 0, NULL);
    tr_arena *arena = tr_arena_new();
    tr_string_map map = {0};
    learner l = {0};
    tr_error *error = NULL;
    TR_GO(tr_normalizer_read(normalizer, "training", &rules->normalizer));
    TR_GO(tr_pretokenizer_read(pre, "training", &rules->pre));
    tr_count_words(rules, texts, lengths, count, arena, &map);
    l.words = tr_alloc_zero((size_t)map.count + 1, sizeof *l.words);
    for (int64_t i = 0; i < map.room; i++)
        if (map.slots[i].bytes) {
            l.words[l.word_count++] = (word){map.slots[i].bytes, map.slots[i].length, (double)map.slots[i].value};
            l.longest = TR_MAX(l.longest, map.slots[i].length);
        }
    if (l.word_count)
        qsort(l.words, (size_t)l.word_count, sizeof *l.words, words_by_bytes);
    l.forward = tr_alloc_zero((size_t)l.longest + 1, sizeof *l.forward);
    l.backward = tr_alloc_zero((size_t)l.longest + 1, sizeof *l.backward);
    l.from = tr_alloc_zero((size_t)l.longest + 1, sizeof *l.from);
    l.best = tr_alloc_zero((size_t)l.longest + 1, sizeof *l.best);
    error = learn(&l, options, out);
done:
    free(l.pieces);
    free(l.words);
    free(l.forward);
    free(l.backward);
    free(l.from);
    free(l.best);
    tr_pair_map_free(&l.trie.edges);
    tr_string_map_free(&map);
    tr_arena_free(arena);
    tr_tokenizer_free(rules);
    json_decref(normalizer);
    json_decref(pre);
    return error;
}
