/* Learning tokenizers from texts.
 *
 * Byte pair encoding. The texts are cut into pre-tokens as in encoding ("<|endoftext|>" in a text
 * is a document's end and not learnt from); equal ones are counted once. Then the most frequent
 * adjacent pair of symbols, the one with the smallest ids among equals, becomes a token and is
 * replaced everywhere, until the vocabulary is full. Ids: "<|endoftext|>", the 256 bytes in the
 * order of GPT-2's characters for them, then one a merge.
 *
 * A pair's count is kept up to date as words change. The queue holds (count, pair, words that may
 * have it); an entry whose count is no longer true goes back with the true one, so the top that is
 * true is the greatest. A merge visits only the words of its entry. Cost about O(unique bytes + all
 * visits x log pairs).
 *
 * Two pairs can make the same token ("ab"+"c", "a"+"bc"); the second then adds a merge, but no
 * token.
 *
 * Characters: the code points of the texts in their order, after U+FFFD (unknown), before
 * "<|endoftext|>".
 */
#define _GNU_SOURCE
#include "base/file.h"
#include "data/tokenizer_internal.h"
#include "data/unicode.h"
#include "data/word_count.h"

enum { SPLIT_BATCH = 128, ALPHABET = 257 };

/* A word is a unique pre-token: its symbols, which shrink in place, and how often it occurs. */
typedef struct word {
    int32_t *symbols;
    int64_t length, count;
} word;

/* The words that a queue entry visits; each once. */
typedef struct places {
    int64_t *items;
    int64_t count, room;
} places;

typedef struct pair_state {
    int64_t count;
    int64_t round; /* the round whose new words are in `fresh` */
    places fresh;
    int32_t left, right;
} pair_state;

typedef struct entry {
    int64_t count, serial;
    int64_t pair;
    places where;
} entry;

typedef struct trainer {
    word *words;
    int64_t word_count;
    int32_t *symbols;  /* what the words' symbols point into */
    tr_pair_map index; /* pair of ids to its place in `pairs`; grows with them */
    pair_state *pairs;
    int64_t pair_count, pair_room;
    int64_t *changed; /* pairs that gained words in this round */
    int64_t changed_count, changed_room;
    entry *queue;
    int64_t queue_count, queue_room, serial;
    int64_t round;
} trainer;

static pair_state *pair_of(trainer *r, int32_t left, int32_t right)
{
    if (2 * r->pair_count >= (int64_t)r->index.mask) {
        tr_pair_map_free(&r->index);
        tr_pair_map_init(&r->index, TR_MAX(2 * r->pair_count, 1 << 14));
        for (int64_t i = 0; i < r->pair_count; i++)
            tr_pair_map_put(&r->index, PAIR_KEY(r->pairs[i].left, r->pairs[i].right))->rank =
                (int32_t)i;
    }
    tr_pair_slot *slot = tr_pair_map_put(&r->index, PAIR_KEY(left, right));
    if (slot->rank < 0) {
        TR_CHECK(r->pair_count < INT32_MAX, "too many pairs");
        slot->rank = (int32_t)r->pair_count;
        tr_push(r->pairs, r->pair_count, r->pair_room) =
            (pair_state){.round = -1, .left = left, .right = right};
    }
    return &r->pairs[slot->rank];
}

/* Changes a pair's count by that of one occurrence in word `w`. */
static void change(trainer *r, int32_t left, int32_t right, int64_t w, int sign)
{
    pair_state *pair = pair_of(r, left, right);
    pair->count += sign * r->words[w].count;
    if (sign < 0)
        return;
    if (pair->round != r->round) {
        pair->round = r->round;
        tr_push(r->changed, r->changed_count, r->changed_room) = pair - r->pairs;
    }
    places *fresh = &pair->fresh;
    if (!fresh->count || fresh->items[fresh->count - 1] != w)
        tr_push(fresh->items, fresh->count, fresh->room) = w;
}

/* The greater count first, then the smaller pair, then the older entry. */
static bool goes_before(const trainer *r, const entry *a, const entry *b)
{
    if (a->count != b->count)
        return a->count > b->count;
    const pair_state *x = &r->pairs[a->pair], *y = &r->pairs[b->pair];
    if (x->left != y->left)
        return x->left < y->left;
    return x->right != y->right ? x->right < y->right : a->serial < b->serial;
}

static void queue_push(trainer *r, entry moved)
{
    tr_push(r->queue, r->queue_count, r->queue_room) = moved;
    int64_t i = r->queue_count - 1;
    while (i > 0 && goes_before(r, &moved, &r->queue[(i - 1) / 2])) {
        r->queue[i] = r->queue[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    r->queue[i] = moved;
}

static entry queue_pop(trainer *r)
{
    entry top = r->queue[0], moved = r->queue[--r->queue_count];
    int64_t i = 0, count = r->queue_count;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && goes_before(r, &r->queue[child + 1], &r->queue[child]))
            child++;
        if (!goes_before(r, &r->queue[child], &moved))
            break;
        r->queue[i] = r->queue[child];
        i = child;
    }
    r->queue[i] = moved;
    return top;
}

/* The end of a round: every pair that gained words gets an entry with them. */
static void queue_changed(trainer *r)
{
    for (int64_t i = 0; i < r->changed_count; i++) {
        pair_state *pair = &r->pairs[r->changed[i]];
        if (pair->count > 0)
            queue_push(r, (entry){pair->count, r->serial++, r->changed[i], pair->fresh});
        else
            free(pair->fresh.items);
        pair->fresh = (places){0};
    }
    r->changed_count = 0;
    r->round++;
}

/* Replaces (left, right) by `result` in a word, from the left. */
static void merge_word(trainer *r, int64_t w, int32_t left, int32_t right, int32_t result)
{
    int32_t *s = r->words[w].symbols;
    int64_t n = r->words[w].length, kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s[i] != left || i + 1 >= n || s[i + 1] != right) {
            s[kept++] = s[i];
            continue;
        }
        if (kept > 0) {
            change(r, s[kept - 1], left, w, -1);
            change(r, s[kept - 1], result, w, 1);
        }
        if (i + 2 < n) {
            change(r, right, s[i + 2], w, -1);
            change(r, result, s[i + 2], w, 1);
        }
        s[kept++] = result;
        i++;
    }
    r->words[w].length = kept;
}

/* The pre-tokens of the texts, counted; slot->value is the count. */
static void count_words(const char *const *texts, const int64_t *lengths, int64_t count,
                        tr_string_map *map)
{
    for (int64_t i = 0; i < count; i++) {
        const char *p = texts[i], *end = p + lengths[i];
        while (p < end) {
            const char *stop = memmem(p, (size_t)(end - p), END_OF_TEXT, sizeof END_OF_TEXT - 1);
            const char *document = stop ? stop : end, *ends[SPLIT_BATCH];
            int64_t pieces;
            while ((pieces = tr_split(p, document, ends, SPLIT_BATCH)) > 0)
                for (int64_t j = 0; j < pieces; p = ends[j++])
                    tr_string_put(map, p, ends[j] - p)->value++;
            p = stop ? stop + sizeof END_OF_TEXT - 1 : end;
        }
    }
}

/* The symbols that a word starts as, at most one a byte, into out; their number is returned. */
typedef int64_t (*symbols_of)(const void *context, const char *bytes, int64_t length, int32_t *out);

static int64_t byte_symbols(const void *context, const char *bytes, int64_t length, int32_t *out)
{
    const int32_t *byte_id = context;
    for (int64_t i = 0; i < length; i++)
        out[i] = byte_id[(uint8_t)bytes[i]];
    return length;
}

/* The words, their symbols, and the first counts. */
static void start(trainer *r, const tr_string_map *map, symbols_of symbols, const void *context)
{
    int64_t total = 0;
    for (int64_t i = 0; i < map->room; i++)
        total += map->slots[i].length;
    r->symbols = tr_realloc(NULL, (size_t)total + 1, sizeof *r->symbols);
    r->words = tr_realloc(NULL, (size_t)map->count + 1, sizeof *r->words);
    int32_t *next = r->symbols;
    for (int64_t i = 0; i < map->room; i++) {
        const tr_string_slot *slot = &map->slots[i];
        if (!slot->bytes)
            continue;
        int64_t n = symbols(context, slot->bytes, slot->length, next);
        r->words[r->word_count++] = (word){next, n, slot->value};
        next += n;
    }
    tr_pair_map_init(&r->index, 1 << 14);
    for (int64_t w = 0; w < r->word_count; w++)
        for (int64_t j = 0; j + 1 < r->words[w].length; j++)
            change(r, r->words[w].symbols[j], r->words[w].symbols[j + 1], w, 1);
    queue_changed(r);
}

static void trainer_free(trainer *r)
{
    for (int64_t i = 0; i < r->queue_count; i++)
        free(r->queue[i].where.items);
    for (int64_t i = 0; i < r->pair_count; i++)
        free(r->pairs[i].fresh.items);
    free(r->queue);
    free(r->pairs);
    free(r->changed);
    free(r->words);
    free(r->symbols);
    tr_pair_map_free(&r->index);
}

/* Bytes in the order of the characters that stand for them. */
static void order_bytes(uint8_t *order)
{
    int n = 0;
    for (uint32_t code = 0; n < 256; code++) {
        int byte = tr_char_byte(code);
        if (byte >= 0)
            order[n++] = (uint8_t)byte;
    }
}

static tr_added end_of_text(int32_t id)
{
    return (tr_added){
        .content = END_OF_TEXT, .length = sizeof END_OF_TEXT - 1, .id = id, .special = true};
}

/* Learns merges until there are `vocab_size` tokens. tokens[id] are the bytes of each, of which there are `count`
 * already. What a merge makes is the left token and the right one without its first `prefix` bytes. */
static int32_t learn(trainer *r, const tr_tokenizer_training *options, tr_text *tokens, int32_t count, size_t prefix,
                     tr_tokenizer *t)
{
    tr_string_map known = {0};
    for (int32_t id = 0; id < count; id++)
        tr_string_put(&known, tokens[id].bytes, (int64_t)tokens[id].length)->value = id;
    while (count < options->vocab_size && r->queue_count) {
        entry top = queue_pop(r);
        pair_state pair = r->pairs[top.pair];
        if (top.count != pair.count) {
            top.count = pair.count;
            queue_push(r, top);
            continue;
        }
        if (top.count < TR_MAX(options->min_count, 1)) {
            free(top.where.items);
            break;
        }
        tr_text text = {0};
        tr_text_add(&text, tokens[pair.left].bytes, tokens[pair.left].length);
        tr_text_add(&text, tokens[pair.right].bytes + prefix, tokens[pair.right].length - prefix);
        int64_t before = known.count;
        tr_string_slot *slot = tr_string_put(&known, text.bytes, (int64_t)text.length);
        int32_t result = (int32_t)slot->value;
        if (known.count > before) {
            slot->value = result = count;
            tokens[count++] = text;
        } else {
            tr_text_free(&text);
        }
        tr_push(t->merges, t->merge_count, t->merge_room) =
            (tr_merge){pair.left, pair.right, result};
        for (int64_t i = 0; i < top.where.count; i++)
            merge_word(r, top.where.items[i], pair.left, pair.right, result);
        free(top.where.items);
        queue_changed(r);
    }
    tr_string_map_free(&known);
    return count;
}

static tr_error *train_bpe(const char *const *texts, const int64_t *lengths, int64_t count,
                           const tr_tokenizer_training *options, tr_tokenizer **out)
{
    if (options->vocab_size < ALPHABET || options->vocab_size > 1 << 24)
        return tr_error_new(TR_USER,
                            "a vocabulary of %d tokens: it must have at least %d (" END_OF_TEXT
                            " and the 256 bytes) and at most %d",
                            options->vocab_size, ALPHABET, 1 << 24);
    tr_text *tokens = tr_alloc_zero((size_t)options->vocab_size, sizeof *tokens);
    uint8_t order[256];
    int32_t byte_id[256];
    order_bytes(order);
    tr_text_add(&tokens[0], END_OF_TEXT, sizeof END_OF_TEXT - 1);
    for (int i = 0; i < 256; i++) {
        byte_id[order[i]] = i + 1;
        tr_text_add(&tokens[i + 1], &(char){(char)order[i]}, 1);
    }
    tr_string_map map = {0};
    trainer r = {0};
    count_words(texts, lengths, count, &map);
    start(&r, &map, byte_symbols, byte_id);
    tr_tokenizer *merges = tr_tokenizer_new(TR_TOKENIZER_BPE, 0);
    int32_t size = learn(&r, options, tokens, ALPHABET, 0, merges);
    tr_tokenizer *t = tr_tokenizer_new(TR_TOKENIZER_BPE, size);
    tr_tokenizer_gpt2_rules(t, false);
    t->merges = merges->merges;
    t->merge_count = merges->merge_count;
    t->merge_room = merges->merge_room;
    merges->merges = NULL;
    for (int32_t id = 0; id < size; id++) {
        tr_tokenizer_put(t, id, tokens[id].bytes, (int64_t)tokens[id].length, 0);
        tr_text_free(&tokens[id]);
    }
    tr_added end = end_of_text(0);
    tr_tokenizer_put_added(t, &end);
    tr_tokenizer_finish(t);
    tr_tokenizer_free(merges);
    trainer_free(&r);
    tr_string_map_free(&map);
    free(tokens);
    *out = t;
    return NULL;
}

static tr_tokenizer *train_chars(const char *const *texts, const int64_t *lengths, int64_t count)
{
    uint8_t *seen = tr_alloc_zero(0x110000, 1);
    for (int64_t i = 0; i < count; i++) {
        const char *p = texts[i], *end = p + lengths[i];
        while (p < end) {
            uint32_t code;
            int n = tr_utf8_decode(p, end, &code), may_go_on;
            if (n && code == '<' && end - p >= (int64_t)sizeof END_OF_TEXT - 1 &&
                memcmp(p, END_OF_TEXT, sizeof END_OF_TEXT - 1) == 0)
                n = sizeof END_OF_TEXT - 1;
            else if (n)
                seen[code] = 1;
            p += n ? n : tr_utf8_broken(p, end, &may_go_on);
        }
    }
    seen[0xFFFD] = 0; /* has id 0 */
    seen[0] = 0;      /* JSON readers refuse a key with a zero byte */
    int32_t size = 2;
    for (int32_t code = 0; code < 0x110000; code++)
        size += seen[code];
    tr_tokenizer *t = tr_tokenizer_new(TR_TOKENIZER_CHARS, size);
    tr_tokenizer_put(t, 0, UNKNOWN_CHAR, sizeof UNKNOWN_CHAR - 1, 0);
    t->unknown = 0;
    int32_t id = 1;
    for (uint32_t code = 0; code < 0x110000; code++)
        if (seen[code]) {
            char bytes[4];
            int n = tr_utf8_encode(code, bytes);
            tr_tokenizer_put(t, id++, bytes, n, 0);
        }
    tr_added end = end_of_text(id);
    tr_tokenizer_put_added(t, &end);
    tr_tokenizer_finish(t);
    free(seen);
    return t;
}

/* WordPiece, as `tokenizers` learns it: merges of the most frequent pair, over characters, of which those inside of a
 * word have the prefix "##". */

#define PREFIX "##"
static const char *const bert_specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
enum { BERT_SPECIALS = 5, MOST_CHARACTERS = 4000 };

static int64_t character_symbols(const void *context, const char *bytes, int64_t length, int32_t *out)
{
    tr_string_map *known = (tr_string_map *)context;
    int64_t n = 0;
    for (const char *p = bytes, *end = bytes + length; p < end;) {
        uint32_t code;
        int step = TR_MAX(tr_utf8_decode(p, end, &code), 1);
        char text[sizeof PREFIX + 4];
        memcpy(text, PREFIX, sizeof PREFIX - 1);
        memcpy(text + sizeof PREFIX - 1, p, (size_t)step);
        bool inside = p > bytes;
        const char *symbol = inside ? text : p;
        const tr_string_slot *slot = tr_string_find(known, symbol, step + (inside ? (int)sizeof PREFIX - 1 : 0));
        if (!slot) /* a character outside of the alphabet: the word ends */
            return n;
        out[n++] = (int32_t)slot->value;
        p += step;
    }
    return n;
}

typedef struct letter {
    uint32_t code;
    int64_t count;
} letter;

static int by_count(const void *a, const void *b)
{
    const letter *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return (x->code > y->code) - (x->code < y->code);
}

static int by_code(const void *a, const void *b)
{
    const letter *x = a, *y = b;
    return (x->code > y->code) - (x->code < y->code);
}

/* The most frequent characters of the words, in the order of their codes; the caller frees. */
static letter *alphabet_of(const tr_string_map *words, int64_t most, int64_t *out_count)
{
    int64_t *counts = tr_alloc_zero(0x110000, sizeof *counts), n = 0;
    for (int64_t i = 0; i < words->room; i++) {
        const tr_string_slot *slot = &words->slots[i];
        for (int64_t at = 0; slot->bytes && at < slot->length;) {
            uint32_t code;
            int step = tr_utf8_decode(slot->bytes + at, slot->bytes + slot->length, &code);
            if (step)
                counts[code] += slot->value;
            at += TR_MAX(step, 1);
        }
    }
    letter *letters = NULL;
    int64_t room = 0;
    for (uint32_t code = 1; code < 0x110000; code++)
        if (counts[code])
            tr_push(letters, n, room) = (letter){code, counts[code]};
    if (n)
        qsort(letters, (size_t)n, sizeof *letters, by_count);
    n = TR_MIN(n, most);
    if (n)
        qsort(letters, (size_t)n, sizeof *letters, by_code);
    free(counts);
    *out_count = n;
    return letters;
}

static tr_error *train_wordpiece(const char *const *texts, const int64_t *lengths, int64_t count,
                                 const tr_tokenizer_training *options, tr_tokenizer **out)
{
    tr_tokenizer *rules = tr_tokenizer_new(TR_TOKENIZER_WORDPIECE, 0), *merges = tr_tokenizer_new(TR_TOKENIZER_BPE, 0);
    tr_arena *arena = tr_arena_new();
    tr_string_map words = {0}, known = {0};
    trainer r = {0};
    tr_error *error = NULL;
    json_t *normalizer = json_pack("{s:s, s:b, s:b, s:n, s:b}", "type", "BertNormalizer", "clean_text", 1,
                                   "handle_chinese_chars", 1, "strip_accents", "lowercase", 1);
    json_t *pre = json_pack("{s:s}", "type", "BertPreTokenizer");
    tr_text *tokens = tr_alloc_zero((size_t)options->vocab_size + 1, sizeof *tokens), lines = {0};
    TR_GO(tr_normalizer_read(normalizer, "training", &rules->normalizer));
    TR_GO(tr_pretokenizer_read(pre, "training", &rules->pre));
    tr_count_words(rules, texts, lengths, count, arena, &words);
    int64_t letters;
    letter *alphabet = alphabet_of(&words, MOST_CHARACTERS, &letters);
    if (BERT_SPECIALS + 2 * letters > options->vocab_size) {
        free(alphabet);
        error = tr_error_new(TR_USER,
                             "a vocabulary of %d tokens: these texts have %lld characters, so it must have at least %lld",
                             options->vocab_size, (long long)letters, (long long)(BERT_SPECIALS + 2 * letters));
        goto done;
    }
    int32_t size = 0;
    for (; size < BERT_SPECIALS; size++)
        tr_text_add(&tokens[size], bert_specials[size], strlen(bert_specials[size]));
    for (int inside = 0; inside < 2; inside++)
        for (int64_t i = 0; i < letters; i++, size++) {
            char bytes[4];
            tr_text_add(&tokens[size], PREFIX, inside ? sizeof PREFIX - 1 : 0);
            tr_text_add(&tokens[size], bytes, (size_t)tr_utf8_encode(alphabet[i].code, bytes));
            tr_string_put(&known, tokens[size].bytes, (int64_t)tokens[size].length)->value = size;
        }
    free(alphabet);
    start(&r, &words, character_symbols, &known);
    size = learn(&r, options, tokens, size, sizeof PREFIX - 1, merges);
    for (int32_t id = 0; id < size; id++) {
        tr_text_add(&lines, tokens[id].bytes, tokens[id].length);
        tr_text_add(&lines, "\n", 1);
    }
    error = tr_tokenizer_from_vocab_text(lines.bytes, (int64_t)lines.length, NULL, "the learnt vocabulary", out);
done:
    for (int32_t id = 0; id <= options->vocab_size; id++)
        tr_text_free(&tokens[id]);
    free(tokens);
    tr_text_free(&lines);
    trainer_free(&r);
    tr_string_map_free(&words);
    tr_string_map_free(&known);
    tr_arena_free(arena);
    tr_tokenizer_free(rules);
    tr_tokenizer_free(merges);
    json_decref(normalizer);
    json_decref(pre);
    return error;
}

tr_error *tr_tokenizer_train(const char *const *texts, const int64_t *lengths, int64_t count,
                             const tr_tokenizer_training *options, tr_tokenizer **out)
{
    *out = NULL;
    switch (options->kind) {
    case TR_TOKENIZER_BPE:
        return train_bpe(texts, lengths, count, options, out);
    case TR_TOKENIZER_WORDPIECE:
        return train_wordpiece(texts, lengths, count, options, out);
    case TR_TOKENIZER_UNIGRAM:
        return tr_tokenizer_train_unigram(texts, lengths, count, options, out);
    case TR_TOKENIZER_BYTES:
        *out = tr_tokenizer_bytes_new();
        break;
    case TR_TOKENIZER_CHARS:
        *out = train_chars(texts, lengths, count);
        break;
    }
    return NULL;
}

tr_error *tr_tokenizer_train_files(const char *const *paths, int64_t count,
                                   const tr_tokenizer_training *options, tr_tokenizer **out)
{
    tr_map *maps = tr_alloc_zero((size_t)count + 1, sizeof *maps);
    const char **texts = tr_alloc_zero((size_t)count + 1, sizeof *texts);
    int64_t *lengths = tr_alloc_zero((size_t)count + 1, sizeof *lengths), opened = 0;
    tr_error *error = NULL;
    *out = NULL;
    for (; opened < count; opened++) {
        TR_GO(tr_map_open(paths[opened], &maps[opened]));
        texts[opened] = maps[opened].bytes;
        lengths[opened] = maps[opened].size;
    }
    error = tr_tokenizer_train(texts, lengths, count, options, out);
done:
    for (int64_t i = 0; i < opened; i++)
        tr_map_close(&maps[i]);
    free(maps);
    free(texts);
    free(lengths);
    return error;
}
