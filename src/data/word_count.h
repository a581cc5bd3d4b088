/* Counting words: a map from byte strings to numbers, for learning tokenizers.
 *
 * Open addressing, at most half full. The strings live elsewhere and must outlive the map.
 */
#pragma once
#include "base/memory.h"
#include "data/tokenizer.h"

typedef struct tr_string_slot {
    const char *bytes; /* NULL: free */
    int64_t length, value;
    uint64_t hash;
} tr_string_slot;
typedef struct tr_string_map {
    tr_string_slot *slots;
    int64_t count, room; /* room is a power of two, or 0 */
} tr_string_map;

/* The slot of the string, made with value 0 when it is new. */
tr_string_slot *tr_string_put(tr_string_map *map, const char *bytes, int64_t length);
const tr_string_slot *tr_string_find(const tr_string_map *map, const char *bytes, int64_t length); /* or NULL */
void tr_string_map_free(tr_string_map *map);

/* The pieces of the texts as `rules` (a tokenizer without vocabulary: its normalizer and pre-tokenizer) cut them,
 * counted; "<|endoftext|>" in a text is a document's end. New strings are copied into the arena. */
void tr_count_words(const tr_tokenizer *rules, const char *const *texts, const int64_t *lengths, int64_t count,
                    tr_arena *arena, tr_string_map *out);
