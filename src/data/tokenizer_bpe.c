/* Encoding piece by piece, and the merge engine of BPE.
 *
 * A piece (pre-token) of BPE starts as one symbol a byte, or a character. Then, again and again, the
 * adjacent pair with the lowest rank is replaced by its result, the leftmost first among equals, until
 * no adjacent pair has a rank. Other models look the piece up (tokenizer_model.c).
 *
 * Three ways, cheapest first:
 *   1. Most pre-tokens of real text are one token: one look-up in a map from bytes to token, which
 *      is made at load.
 *   2. Of the others, those of at most WORD_BYTES bytes are remembered for the length of a call.
 *   3. Merging: on two flat arrays for short pieces, O(n^2) with a tiny constant; with a heap and a
 *      linked list for long ones, O(n log n), so that a megabyte without a space is no trap.
 */
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

enum {
    SHORT = 192, /* longest piece that is merged on flat arrays */
    SPLIT_BATCH = 128,
    CACHE_FIRST = 1 << 12, /* slots of the cache at first, at most half of them used */
    CACHE_LAST = 1 << 16,
    CACHE_TEXT = 8192, /* a shorter text is encoded without the cache */
    NO_RANK = INT32_MAX,
};

static int shift_for(int64_t slots)
{
    int bits = 0;
    while ((int64_t)1 << bits < slots)
        bits++;
    return 64 - bits;
}

void tr_pair_map_init(tr_pair_map *map, int64_t expected)
{
    int shift = shift_for(TR_MAX(2 * expected, 16));
    uint64_t slots = (uint64_t)1 << (64 - shift);
    *map = (tr_pair_map){tr_alloc(slots * sizeof *map->slots), slots - 1, shift, 0};
    for (uint64_t i = 0; i < slots; i++)
        map->slots[i] = (tr_pair_slot){PAIR_EMPTY, -1, -1};
}

void tr_pair_map_free(tr_pair_map *map)
{
    free(map->slots);
    *map = (tr_pair_map){0};
}

tr_pair_slot *tr_pair_map_put(tr_pair_map *map, uint64_t key)
{
    tr_pair_slot *found = (tr_pair_slot *)tr_pair_map_find(map, key);
    if (found)
        return found;
    TR_CHECK(map->count < (int64_t)map->mask, "a pair map of %lld slots is full",
             (long long)map->mask + 1);
    uint64_t i = key * 0x9E3779B97F4A7C15u >> map->shift;
    while (map->slots[i & map->mask].key != PAIR_EMPTY)
        i++;
    map->count++;
    map->slots[i & map->mask].key = key;
    return &map->slots[i & map->mask];
}

/* Words */

static void word_map_init(tr_word_map *map, int64_t slots)
{
    int shift = shift_for(slots);
    slots = (int64_t)1 << (64 - shift);
    *map = (tr_word_map){tr_alloc_zero((size_t)slots, sizeof *map->slots), (uint64_t)slots - 1,
                         shift, 0};
}

static inline uint64_t word_hash(tr_word_key key)
{
    uint64_t h = key.low * 0x9E3779B97F4A7C15u ^ key.high * 0xC2B2AE3D27D4EB4Fu;
    return (h ^ h >> 29) * 0xBF58476D1CE4E5B9u;
}

/* The slot of the key, or the free one where it would be. */
static inline tr_word_slot *word_slot(const tr_word_map *map, tr_word_key key)
{
    for (uint64_t i = word_hash(key) >> map->shift;; i++) {
        tr_word_slot *slot = &map->slots[i & map->mask];
        if ((slot->key.low == key.low && slot->key.high == key.high) || !slot->key.high)
            return slot;
    }
}

#define ONES(n) (~(uint64_t)0 >> (64 - 8 * (n)))
static const tr_word_key masks[WORD_BYTES + 1] = {
    {0, 0},
    {ONES(1), 0},
    {ONES(2), 0},
    {ONES(3), 0},
    {ONES(4), 0},
    {ONES(5), 0},
    {ONES(6), 0},
    {ONES(7), 0},
    {ONES(8), 0},
    {ONES(8), ONES(1)},
    {ONES(8), ONES(2)},
    {ONES(8), ONES(3)},
    {ONES(8), ONES(4)},
    {ONES(8), ONES(5)},
    {ONES(8), ONES(6)},
    {ONES(8), ONES(7)},
};

/* 1 <= n <= WORD_BYTES; up to `limit` may be read. Bytes count from the low end (little-endian). */
static inline tr_word_key word_key(const char *p, int64_t n, const char *limit)
{
    tr_word_key key = {0, 0};
    if (limit - p >= 16) {
        memcpy(&key.low, p, 8);
        memcpy(&key.high, p + 8, 8);
        key.low &= masks[n].low;
        key.high &= masks[n].high;
    } else {
        memcpy(&key.low, p, (size_t)TR_MIN(n, 8));
        if (n > 8)
            memcpy(&key.high, p + 8, (size_t)(n - 8));
    }
    key.high |= (uint64_t)n << 56;
    return key;
}

/* Merging */

static inline int32_t rank_of(const tr_tokenizer *t, int32_t left, int32_t right)
{
    const tr_pair_slot *slot = tr_pair_map_find(&t->ranks, PAIR_KEY(left, right));
    return slot ? slot->rank : NO_RANK;
}

/* ids[0..n) in place; ranks has room for n. Returns how many ids are left. */
static int64_t merge_short(const tr_tokenizer *t, int32_t *ids, int32_t *ranks, int64_t n)
{
    for (int64_t i = 0; i + 1 < n; i++)
        ranks[i] = rank_of(t, ids[i], ids[i + 1]);
    while (n > 1) {
        int64_t at = 0;
        int32_t best = ranks[0];
        for (int64_t i = 1; i + 1 < n; i++)
            if (ranks[i] < best) {
                best = ranks[i];
                at = i;
            }
        if (best == NO_RANK)
            break;
        ids[at] = t->merges[best].result;
        n--;
        for (int64_t i = at + 1; i < n; i++)
            ids[i] = ids[i + 1];
        for (int64_t i = at; i + 1 < n; i++)
            ranks[i] = ranks[i + 1];
        if (at > 0)
            ranks[at - 1] = rank_of(t, ids[at - 1], ids[at]);
        if (at + 1 < n)
            ranks[at] = rank_of(t, ids[at], ids[at + 1]);
    }
    return n;
}

typedef struct candidate {
    int32_t rank;
    int64_t at;
} candidate;

static inline bool before(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void sift_down(candidate *heap, int64_t count, int64_t i)
{
    candidate moved = heap[i];
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], moved))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

static void sift_up(candidate *heap, int64_t i)
{
    candidate moved = heap[i];
    while (i > 0 && before(moved, heap[(i - 1) / 2])) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = moved;
}

/* The same for any n. Symbol i is alive while ids[i] >= 0; a candidate is stale unless ranks[at] is
 * still its rank. The heap never holds more than 2 n candidates: n at first, and two more for each
 * that is taken and merged, of which there are fewer than n. */
static int64_t merge_long(const tr_tokenizer *t, int32_t *ids, int64_t n)
{
    int32_t *ranks = tr_realloc(NULL, (size_t)n, sizeof *ranks);
    int64_t *previous = tr_realloc(NULL, (size_t)n, sizeof *previous);
    int64_t *following = tr_realloc(NULL, (size_t)n, sizeof *following);
    candidate *heap = tr_realloc(NULL, 2 * (size_t)n, sizeof *heap);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        previous[i] = i - 1;
        following[i] = i + 1;
        ranks[i] = i + 1 < n ? rank_of(t, ids[i], ids[i + 1]) : NO_RANK;
        if (ranks[i] != NO_RANK)
            heap[count++] = (candidate){ranks[i], i};
    }
    for (int64_t i = count / 2 - 1; i >= 0; i--)
        sift_down(heap, count, i);
    while (count > 0) {
        candidate top = heap[0];
        heap[0] = heap[--count];
        if (count)
            sift_down(heap, count, 0);
        int64_t at = top.at;
        if (ids[at] < 0 || ranks[at] != top.rank)
            continue;
        int64_t gone = following[at], after = following[gone], ahead = previous[at];
        ids[at] = t->merges[top.rank].result;
        ids[gone] = -1;
        following[at] = after;
        ranks[at] = NO_RANK;
        if (after < n) {
            previous[after] = at;
            ranks[at] = rank_of(t, ids[at], ids[after]);
            if (ranks[at] != NO_RANK) {
                heap[count] = (candidate){ranks[at], at};
                sift_up(heap, count++);
            }
        }
        if (ahead >= 0) {
            ranks[ahead] = rank_of(t, ids[ahead], ids[at]);
            if (ranks[ahead] != NO_RANK) {
                heap[count] = (candidate){ranks[ahead], ahead};
                sift_up(heap, count++);
            }
        }
    }
    int64_t left = 0;
    for (int64_t i = 0; i < n; i = following[i])
        ids[left++] = ids[i];
    free(ranks);
    free(previous);
    free(following);
    free(heap);
    return left;
}

/* The symbols that a piece starts as. A character that no token has becomes its bytes' tokens where all are there, or
 * the unknown one, which stands for a run of such where the file says so. */
static int64_t symbols(const tr_tokenizer *t, const char *p, int64_t length, int32_t *ids)
{
    int64_t n = 0;
    if (t->pre.byte_level) {
        for (int64_t i = 0; i < length; i++) {
            int32_t id = t->byte_id[(uint8_t)p[i]];
            ids[n] = id >= 0 ? id : t->unknown;
            n += ids[n] >= 0;
        }
        return n;
    }
    bool run = false;
    for (const char *end = p + length; p < end;) {
        uint32_t code;
        int bytes = TR_MAX(tr_utf8_decode(p, end, &code), 1), known = 0;
        int32_t id = tr_trie_find(&t->trie, p, bytes);
        while (id < 0 && known < bytes && t->byte_id[(uint8_t)p[known]] >= 0) {
            ids[n + known] = t->byte_id[(uint8_t)p[known]];
            known++;
        }
        if (id >= 0)
            ids[n++] = id;
        else if (known == bytes)
            n += bytes;
        else if (t->unknown >= 0 && !(run && t->fuse_unknown))
            ids[n++] = t->unknown;
        run = id < 0 && known < bytes;
        p += bytes;
    }
    return n;
}

static int64_t encode_bpe(const tr_tokenizer *t, const char *p, int64_t length, int32_t *ids)
{
    if (t->ignore_merges && (ids[0] = tr_trie_find(&t->trie, p, length)) >= 0)
        return 1;
    int64_t n = symbols(t, p, length, ids);
    if (n > SHORT)
        return merge_long(t, ids, n);
    int32_t ranks[SHORT];
    return merge_short(t, ids, ranks, n);
}

/* The ids of one piece into ids[0..length), which has room for them. */
static inline int64_t encode_piece(const tr_tokenizer *t, const char *p, int64_t length, int32_t *ids)
{
    static int64_t (*const functions[])(const tr_tokenizer *, const char *, int64_t, int32_t *) = {
        [TR_TOKENIZER_BPE] = encode_bpe,
        [TR_TOKENIZER_WORDPIECE] = tr_wordpiece_encode,
        [TR_TOKENIZER_UNIGRAM] = tr_unigram_encode,
    };
    return functions[t->kind](t, p, length, ids);
}

static bool is_plain(const tr_tokenizer *t, int32_t id)
{
    return (t->flags[id] & (TOKEN_PRESENT | TOKEN_RAW | TOKEN_ADDED)) == TOKEN_PRESENT;
}

static void finish_bpe(tr_tokenizer *t)
{
    tr_pair_map_init(&t->ranks, t->merge_count);
    for (int64_t i = 0; i < t->merge_count; i++) {
        tr_pair_slot *slot =
            tr_pair_map_put(&t->ranks, PAIR_KEY(t->merges[i].left, t->merges[i].right));
        slot->rank = (int32_t)i;
        slot->id = t->merges[i].result;
    }
    if (t->ignore_merges || !t->pre.byte_level)
        tr_model_finish(t);
    if (!t->pre.byte_level)
        return;
    memset(t->byte_id, -1, sizeof t->byte_id);
    for (int32_t id = 0; id < t->vocab_size; id++)
        if (is_plain(t, id) && t->length[id] == 1)
            t->byte_id[(uint8_t)t->pool.bytes[t->start[id]]] = id;
}

void tr_pieces_finish(tr_tokenizer *t)
{
    if (t->kind == TR_TOKENIZER_BPE)
        finish_bpe(t);
    else
        tr_model_finish(t);
    word_map_init(&t->words, TR_MAX(2 * (int64_t)t->vocab_size, 64));
    for (int32_t id = 0; id < t->vocab_size; id++) {
        int64_t n = t->length[id];
        if (!is_plain(t, id) || n < 1 || n > WORD_BYTES)
            continue;
        int32_t ids[WORD_BYTES];
        const char *bytes = t->pool.bytes + t->start[id];
        if (encode_piece(t, bytes, n, ids) != 1 || ids[0] != id)
            continue;
        tr_word_key key = word_key(bytes, n, bytes + n);
        *word_slot(&t->words, key) = (tr_word_slot){key, (uint32_t)id, 1};
    }
}

/* Encoding */

void tr_encoder_start(tr_encoder *encoder, const tr_tokenizer *t, int64_t text_length)
{
    *encoder =
        (tr_encoder){.t = t, .cached = text_length >= CACHE_TEXT && t->words.slots};
    if (encoder->cached)
        word_map_init(&encoder->cache, CACHE_FIRST);
}

void tr_encoder_end(tr_encoder *encoder)
{
    free(encoder->cache.slots);
    tr_ids_free(&encoder->stored);
    tr_text_free(&encoder->scratch);
}

/* Remembers that the word of `key`, whose place in the cache is `slot`, gives ids[0..n). A full
 * cache grows; at its last size it is emptied, which costs less than what it saved since. */
static void remember(tr_encoder *encoder, tr_word_slot *slot, tr_word_key key, const int32_t *ids,
                     int64_t n)
{
    tr_word_map *cache = &encoder->cache;
    if (cache->count > (int64_t)(cache->mask / 2)) {
        tr_word_map old = *cache;
        int64_t slots = (int64_t)old.mask + 1;
        word_map_init(cache, TR_MIN(2 * slots, CACHE_LAST));
        if (slots < CACHE_LAST) {
            for (int64_t i = 0; i < slots; i++)
                if (old.slots[i].key.high)
                    *word_slot(cache, old.slots[i].key) = old.slots[i];
            cache->count = old.count;
        } else {
            encoder->stored.count = 0;
        }
        free(old.slots);
        slot = word_slot(cache, key);
    }
    *slot = (tr_word_slot){key, (uint32_t)encoder->stored.count, (uint32_t)n};
    cache->count++;
    tr_ids_reserve(&encoder->stored, n);
    memcpy(encoder->stored.items + encoder->stored.count, ids, (size_t)n * sizeof *ids);
    encoder->stored.count += n;
}

void tr_pieces_encode(tr_encoder *encoder, const char *text, int64_t length, bool first, bool start, tr_ids *out)
{
    const tr_tokenizer *t = encoder->t;
    if (length == 0)
        return;
    if (tr_pretokenizer_rewrites(&t->pre)) {
        encoder->scratch.length = 0;
        tr_pretokenizer_rewrite(&t->pre, text, length, first, start, &encoder->scratch);
        text = encoder->scratch.bytes;
        length = (int64_t)encoder->scratch.length;
    }
    const char *end = text + length;
    tr_piece pieces[SPLIT_BATCH];
    tr_cutter cutter;
    tr_cutter_start(&cutter, &t->pre, text, end);
    int64_t count;
    while ((count = tr_cutter_next(&cutter, pieces, SPLIT_BATCH)) > 0) {
        tr_ids_reserve(out, pieces[count - 1].end - pieces[0].p);
        int32_t *ids = out->items + out->count;
        for (int64_t i = 0; i < count; i++) {
            const char *p = pieces[i].p;
            int64_t bytes = pieces[i].end - p;
            if (bytes > WORD_BYTES) {
                ids += encode_piece(t, p, bytes, ids);
                continue;
            }
            tr_word_key key = word_key(p, bytes, end);
            const tr_word_slot *word = word_slot(&t->words, key);
            if (word->key.high) {
                *ids++ = (int32_t)word->value;
                continue;
            }
            if (!encoder->cached) {
                ids += encode_piece(t, p, bytes, ids);
                continue;
            }
            tr_word_slot *slot = word_slot(&encoder->cache, key);
            int64_t n = slot->count;
            if (slot->key.high) {
                const int32_t *stored = encoder->stored.items + slot->value;
                for (int64_t j = 0; j < n; j++)
                    ids[j] = stored[j];
            } else {
                n = encode_piece(t, p, bytes, ids);
                remember(encoder, slot, key, ids, n);
            }
            ids += n;
        }
        out->count = ids - out->items;
    }
}
