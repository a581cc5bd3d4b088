/* Models that look pieces up in their vocabulary: WordPiece and Unigram.
 *
 * WordPiece (Wu et al. 2016, as BERT has it) takes the longest beginning of a word that is a token, then of what is
 * left the longest that is a token with the prefix "##", and so on; a word that cannot be taken apart to its end, or
 * is longer than a limit, is one unknown token.
 *
 * Unigram (Kudo 2018) takes the way to cut a piece whose sum of scores (log probabilities) is the highest, by
 * Viterbi's algorithm over the characters; a character that is no token costs UNKNOWN_PENALTY more than the worst
 * token, and unknown neighbours become one token, or their bytes' tokens. Of equal sums the first found stays: the
 * shortest token from the left, as in `tokenizers`.
 *
 * Cost: one look-up in the trie for each byte of each token tried.
 */
#include <math.h>

#include "data/tokenizer_internal.h"
#include "data/unicode.h"

static const double UNKNOWN_PENALTY = 10;

static void grow(tr_trie *trie)
{
    tr_pair_map old = trie->edges;
    tr_pair_map_init(&trie->edges, TR_MAX(2 * old.count, 256));
    for (uint64_t i = 0; old.slots && i <= old.mask; i++)
        if (old.slots[i].key != PAIR_EMPTY)
            *tr_pair_map_put(&trie->edges, old.slots[i].key) = old.slots[i];
    tr_pair_map_free(&old);
}

void tr_trie_put(tr_trie *trie, const char *bytes, int64_t length, int32_t id)
{
    int32_t node = 0;
    tr_pair_slot *slot = NULL;
    for (int64_t i = 0; i < length; i++) {
        if (!trie->edges.slots || 2 * trie->edges.count >= (int64_t)trie->edges.mask)
            grow(trie);
        slot = tr_pair_map_put(&trie->edges, PAIR_KEY(node, (uint8_t)bytes[i]));
        if (slot->rank < 0)
            slot->rank = ++trie->nodes;
        node = slot->rank;
    }
    if (slot)
        slot->id = id;
}

static inline const tr_pair_slot *follow(const tr_trie *trie, int32_t node, char byte)
{
    return tr_pair_map_find(&trie->edges, PAIR_KEY(node, (uint8_t)byte));
}

int32_t tr_trie_find(const tr_trie *trie, const char *bytes, int64_t length)
{
    const tr_pair_slot *slot = NULL;
    for (int64_t i = 0; i < length && trie->edges.slots; i++) {
        slot = follow(trie, slot ? slot->rank : 0, bytes[i]);
        if (!slot)
            return -1;
    }
    return slot ? slot->id : -1;
}

/* Bytes of the character at p. */
static inline int step(const char *p, const char *end)
{
    uint32_t code;
    int n = tr_utf8_decode(p, end, &code);
    return n ? n : 1;
}

int64_t tr_wordpiece_encode(const tr_tokenizer *t, const char *p, int64_t length, int32_t *ids)
{
    const char *end = p + length;
    int64_t characters = 0, count = 0;
    for (const char *q = p; q < end; q += step(q, end))
        characters++;
    bool known = characters <= t->longest_word;
    for (const tr_trie *trie = &t->trie; known && p < end; trie = &t->inner) {
        const char *stop = NULL;
        int32_t node = 0, id = -1;
        const tr_pair_slot *slot;
        for (const char *q = p; q < end && trie->edges.slots && (slot = follow(trie, node, *q)) != NULL; q++) {
            node = slot->rank;
            if (slot->id >= 0) {
                id = slot->id;
                stop = q + 1;
            }
        }
        known = id >= 0;
        if (known) {
            ids[count++] = id;
            p = stop;
        }
    }
    if (known)
        return count;
    ids[0] = t->unknown;
    return t->unknown >= 0;
}

/* The best way to a place in a piece: its score, where its last token starts, and that token (-1: unknown). */
typedef struct way {
    double score;
    int32_t from, id;
} way;

static void fill(const tr_tokenizer *t, const char *text, int64_t length, way *ways)
{
    const char *end = text + length;
    for (int64_t i = 0; i <= length; i++)
        ways[i] = (way){-INFINITY, -1, -1};
    ways[0].score = 0;
    for (const char *p = text; p < end;) {
        int n = step(p, end);
        double score = ways[p - text].score;
        int32_t node = 0;
        bool single = false;
        const tr_pair_slot *slot;
        for (const char *q = p; q < end && (slot = follow(&t->trie, node, *q)) != NULL; q++) {
            node = slot->rank;
            if (slot->id < 0)
                continue;
            way *to = &ways[q + 1 - text];
            single = single || q + 1 - p == n;
            if (to->from < 0 || score + t->scores[slot->id] > to->score)
                *to = (way){score + t->scores[slot->id], (int32_t)(p - text), slot->id};
        }
        way *to = &ways[p + n - text];
        if (!single && (to->from < 0 || score + t->unknown_score > to->score))
            *to = (way){score + t->unknown_score, (int32_t)(p - text), -1};
        p += n;
    }
}

/* The tokens of an unknown stretch, into ids: one for each of its bytes where there are such, or the unknown one. */
static int64_t put_unknown(const tr_tokenizer *t, const char *p, const char *end, int32_t *ids)
{
    int64_t count = 0;
    for (; t->byte_fallback && p + count < end; count++) {
        ids[count] = t->byte_id[(uint8_t)p[count]];
        if (ids[count] < 0)
            break;
    }
    if (count && p + count == end)
        return count;
    ids[0] = t->unknown;
    return t->unknown >= 0;
}

int64_t tr_unigram_encode(const tr_tokenizer *t, const char *text, int64_t length, int32_t *ids)
{
    enum { SHORT = 64 };
    way few[SHORT + 1], *ways = length <= SHORT ? few : tr_realloc(NULL, (size_t)length + 1, sizeof *ways);
    fill(t, text, length, ways);
    /* Back along the best way, which is then turned around: `from` of a place becomes the next place. */
    int32_t at = (int32_t)length, next = -1;
    while (at > 0) {
        int32_t from = ways[at].from;
        ways[at].from = next;
        next = at;
        at = from;
    }
    int64_t count = 0;
    for (at = 0; next >= 0;) {
        int32_t stop = next;
        next = ways[stop].from;
        if (ways[stop].id >= 0) {
            ids[count++] = ways[stop].id;
        } else {
            while (next >= 0 && ways[next].id < 0) {
                stop = next;
                next = ways[stop].from;
            }
            count += put_unknown(t, text + at, text + stop, ids + count);
        }
        at = stop;
    }
    if (ways != few)
        free(ways);
    return count;
}

static void finish_wordpiece(tr_tokenizer *t)
{
    int64_t n = (int64_t)strlen(t->prefix);
    for (int32_t id = 0; id < t->vocab_size; id++) {
        const char *bytes = t->pool.bytes + t->start[id];
        if ((t->flags[id] & (TOKEN_PRESENT | TOKEN_ADDED)) != TOKEN_PRESENT)
            continue;
        if (t->length[id] > n && memcmp(bytes, t->prefix, (size_t)n) == 0)
            tr_trie_put(&t->inner, bytes + n, t->length[id] - n, id);
        if (t->length[id])
            tr_trie_put(&t->trie, bytes, t->length[id], id);
    }
}

void tr_model_finish(tr_tokenizer *t)
{
    if (t->kind == TR_TOKENIZER_WORDPIECE) {
        finish_wordpiece(t);
        return;
    }
    double worst = INFINITY;
    for (int32_t id = 0; id < t->vocab_size; id++) {
        if ((t->flags[id] & (TOKEN_PRESENT | TOKEN_ADDED)) != TOKEN_PRESENT)
            continue;
        tr_trie_put(&t->trie, t->pool.bytes + t->start[id], t->length[id], id);
        if (t->scores)
            worst = TR_MIN(worst, t->scores[id]);
    }
    t->unknown_score = worst - UNKNOWN_PENALTY;
    memset(t->byte_id, -1, sizeof t->byte_id);
    for (int byte = 0; byte < 256 && t->byte_fallback; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        t->byte_id[byte] = tr_trie_find(&t->trie, text, 6);
    }
}
