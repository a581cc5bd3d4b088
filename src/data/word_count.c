/* Counting the words of texts; see word_count.h. A text is normalized line by line, so that memory stays small; a
 * normalizer does not look over the end of a line. */
#define _GNU_SOURCE
#include "data/word_count.h"

#include "data/tokenizer_internal.h"

static uint64_t hash_bytes(const char *p, int64_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ (uint64_t)n, word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        h = (h ^ word) * 0xBF58476D1CE4E5B9u;
        h ^= h >> 29;
    }
    word = 0;
    memcpy(&word, p, (size_t)n);
    h = (h ^ word) * 0x94D049BB133111EBu;
    return h ^ h >> 32;
}

tr_string_slot *tr_string_put(tr_string_map *map, const char *bytes, int64_t length)
{
    if (2 * map->count >= map->room) {
        tr_string_map old = *map;
        map->room = TR_MAX(2 * old.room, 1024);
        map->slots = tr_alloc_zero((size_t)map->room, sizeof *map->slots);
        for (int64_t i = 0; i < old.room; i++)
            if (old.slots[i].bytes) {
                uint64_t at = old.slots[i].hash;
                while (map->slots[at & (uint64_t)(map->room - 1)].bytes)
                    at++;
                map->slots[at & (uint64_t)(map->room - 1)] = old.slots[i];
            }
        free(old.slots);
    }
    uint64_t hash = hash_bytes(bytes, length);
    for (uint64_t at = hash;; at++) {
        tr_string_slot *slot = &map->slots[at & (uint64_t)(map->room - 1)];
        if (!slot->bytes) {
            *slot = (tr_string_slot){bytes, length, 0, hash};
            map->count++;
            return slot;
        }
        if (slot->hash == hash && slot->length == length && memcmp(slot->bytes, bytes, (size_t)length) == 0)
            return slot;
    }
}

const tr_string_slot *tr_string_find(const tr_string_map *map, const char *bytes, int64_t length)
{
    uint64_t hash = hash_bytes(bytes, length);
    for (uint64_t at = hash; map->room; at++) {
        const tr_string_slot *slot = &map->slots[at & (uint64_t)(map->room - 1)];
        if (!slot->bytes)
            return NULL;
        if (slot->hash == hash && slot->length == length && memcmp(slot->bytes, bytes, (size_t)length) == 0)
            return slot;
    }
    return NULL;
}

void tr_string_map_free(tr_string_map *map)
{
    free(map->slots);
    *map = (tr_string_map){0};
}

static void count_line(const tr_tokenizer *rules, const char *text, int64_t length, tr_text *buffers, tr_arena *arena,
                       tr_string_map *out)
{
    buffers[0].length = buffers[1].length = 0;
    if (rules->normalizer) {
        tr_normalizer_run(rules->normalizer, text, length, true, &buffers[0]);
        text = buffers[0].bytes;
        length = (int64_t)buffers[0].length;
    }
    if (tr_pretokenizer_rewrites(&rules->pre)) {
        tr_text_add(&buffers[1], "", 0);
        tr_pretokenizer_rewrite(&rules->pre, text, length, true, true, &buffers[1]);
        text = buffers[1].bytes;
        length = (int64_t)buffers[1].length;
    }
    tr_cutter cutter;
    tr_cutter_start(&cutter, &rules->pre, text, text + length);
    for (tr_piece piece; tr_cutter_next(&cutter, &piece, 1) > 0;) {
        int64_t before = out->count;
        tr_string_slot *slot = tr_string_put(out, piece.p, piece.end - piece.p);
        if (out->count > before) {
            char *copy = tr_arena_alloc(arena, (size_t)slot->length + 1);
            memcpy(copy, slot->bytes, (size_t)slot->length);
            slot->bytes = copy;
        }
        slot->value++;
    }
}

void tr_count_words(const tr_tokenizer *rules, const char *const *texts, const int64_t *lengths, int64_t count,
                    tr_arena *arena, tr_string_map *out)
{
    tr_text buffers[2] = {0};
    for (int64_t i = 0; i < count; i++)
        for (const char *p = texts[i], *end = p + lengths[i]; p < end;) {
            const char *line = memchr(p, '\n', (size_t)(end - p)), *stop = line ? line : end;
            const char *mark = memmem(p, (size_t)(stop - p), END_OF_TEXT, sizeof END_OF_TEXT - 1);
            count_line(rules, p, (mark ? mark : stop) - p, buffers, arena, out);
            p = mark ? mark + sizeof END_OF_TEXT - 1 : line ? stop + 1 : end;
        }
    tr_text_free(&buffers[0]);
    tr_text_free(&buffers[1]);
}
