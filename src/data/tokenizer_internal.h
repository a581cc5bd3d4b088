/* What the files and the test of the tokenizer share; everybody else includes tokenizer.h.
 *
 * Invariants of a finished tokenizer:
 *   1. start/length/flags have vocab_size entries; an id without TOKEN_PRESENT is a hole.
 *   2. merges[r] is the merge of rank r; no pair (left, right) appears twice; `ranks` finds it.
 *   3. byte_id[b] is the token of the single byte b (with byte fallback: the token "<0x..>"), or -1:
 *      the byte is `unknown`, or dropped.
 *   4. words holds exactly tokens of at most WORD_BYTES bytes that as a piece are encoded as that one
 *      token, so that a look-up in it is an encoding.
 *   5. added is sorted by content length, longest first.
 */
#pragma once
#include <jansson.h>

#include "data/normalizer.h"
#include "data/pretokenizer.h"
#include "data/tokenizer.h"

enum { TOKEN_PRESENT = 1, TOKEN_RAW = 2, TOKEN_ADDED = 4, TOKEN_SPECIAL = 8 };
enum { WORD_BYTES = 15 };
#define END_OF_TEXT "<|endoftext|>"
#define UNKNOWN_CHAR "\xEF\xBF\xBD"
/* The pre-tokenizer that marks a WordLevel file as our chars kind. */
#define CHARS_PATTERN "[\\s\\S]"

typedef struct tr_merge {
    int32_t left, right, result;
} tr_merge;

/* An open-addressing map from 64-bit keys; key and value in one cache line's reach. */
typedef struct tr_pair_slot {
    uint64_t key; /* PAIR_EMPTY: free */
    int32_t rank, id;
} tr_pair_slot;
typedef struct tr_pair_map {
    tr_pair_slot *slots;
    uint64_t mask;
    int shift;
    int64_t count;
} tr_pair_map;
#define PAIR_EMPTY UINT64_MAX
#define PAIR_KEY(left, right) ((uint64_t)(uint32_t)(left) << 32 | (uint32_t)(right))

void tr_pair_map_init(tr_pair_map *map, int64_t expected);
void tr_pair_map_free(tr_pair_map *map);
/* Finds or makes the slot of `key`; a new slot has rank -1. The map must have been given room for
 * it. */
tr_pair_slot *tr_pair_map_put(tr_pair_map *map, uint64_t key);

static inline const tr_pair_slot *tr_pair_map_find(const tr_pair_map *map, uint64_t key)
{
    for (uint64_t i = key * 0x9E3779B97F4A7C15u >> map->shift;; i++) {
        const tr_pair_slot *slot = &map->slots[i & map->mask];
        if (slot->key == key)
            return slot;
        if (slot->key == PAIR_EMPTY)
            return NULL;
    }
}

/* A pre-token of 1 to WORD_BYTES bytes as two words: its bytes, zeros, and its length in the last
 * byte. */
typedef struct tr_word_key {
    uint64_t low, high;
} tr_word_key;
typedef struct tr_word_slot {
    tr_word_key key; /* high == 0: free */
    uint32_t value, count;
} tr_word_slot;
typedef struct tr_word_map {
    tr_word_slot *slots;
    uint64_t mask;
    int shift;
    int64_t count;
} tr_word_map;

/* A map from byte strings to tokens, byte by byte: the slot of (node, byte) has the next node as its rank and the
 * token that ends there, or -1, as its id. Node 0 is the root. */
typedef struct tr_trie {
    tr_pair_map edges;
    int32_t nodes;
} tr_trie;
void tr_trie_put(tr_trie *trie, const char *bytes, int64_t length, int32_t id);
/* The token of exactly these bytes, or -1. */
int32_t tr_trie_find(const tr_trie *trie, const char *bytes, int64_t length);

/* The four parts of a tokenizer.json that surround its model. */
enum { TR_RULE_NORMALIZER, TR_RULE_PRE_TOKENIZER, TR_RULE_POST_PROCESSOR, TR_RULE_DECODER, TR_RULES };
extern const char *const tr_rule_names[TR_RULES]; /* tokenizer.json's */
extern const char *const tr_special_keys[TR_SPECIAL_COUNT]; /* tokenizer_config.json's */

/* How a token is written. */
typedef enum tr_render {
    TR_RENDER_PLAIN,     /* its bytes */
    TR_RENDER_MARKER,    /* the marker as a space; the first token of a text without it */
    TR_RENDER_WORDPIECE, /* after a space unless it goes on with a word */
} tr_render;

typedef struct tr_added {
    char *content;
    int64_t length;
    tr_text normal; /* what is looked for: the content, normalized where the token asks for it */
    int32_t id;
    bool special, normalized, left_strip, right_strip;
} tr_added;

struct tr_tokenizer {
    tr_tokenizer_kind kind;
    int32_t vocab_size, end_of_text, unknown;
    int32_t specials[TR_SPECIAL_COUNT];
    tr_ids before, after;      /* what a file's template puts around a text */
    tr_normalizer *normalizer; /* NULL: texts are taken as they are */
    tr_pretokenizer pre;
    char *rules[TR_RULES]; /* the JSON that normalizer etc. were read from; NULL where there is none */
    tr_render render;
    int64_t *start;
    int32_t *length;
    uint8_t *flags;
    tr_text pool; /* the bytes of all tokens */
    tr_added *added;
    int64_t added_count, added_room;
    /* Added tokens are in two groups, 0 not normalized and 1 normalized. A bit a group: which
     * groups have tokens, which groups have tokens that start with a byte; and the byte that all of
     * a group start with, or -1. */
    uint8_t added_groups, added_first[256];
    int added_only[2];
    /* The texts of the vocabulary, where a model looks pieces up in it; wordpiece: `inner` has those that go on
     * with a word, without their prefix. */
    tr_trie trie, inner;
    char *prefix;         /* wordpiece: "##" */
    int64_t longest_word; /* wordpiece: in characters */
    double *scores;       /* unigram */
    double unknown_score; /* unigram: of a character that no token has */
    bool byte_fallback, fuse_unknown, ignore_merges;
    bool strip_first;     /* the marker before a text's first token is no space of the text */
    /* bpe */
    tr_merge *merges;
    int64_t merge_count, merge_room;
    tr_pair_map ranks;
    int32_t byte_id[256];
    tr_word_map words;
    /* chars */
    tr_pair_map chars; /* code point to id, for those >= 128 */
    int32_t ascii_id[128];
};

/* Building (tokenizer.c): new, tokens, added tokens and merges in any order, then finish. */
tr_tokenizer *tr_tokenizer_new(tr_tokenizer_kind kind, int32_t vocab_size);
void tr_tokenizer_put(tr_tokenizer *t, int32_t id, const char *bytes, int64_t length, int flags);
void tr_tokenizer_put_added(tr_tokenizer *t, const tr_added *added); /* copies the content */
void tr_tokenizer_finish(tr_tokenizer *t);

/* The pre-tokenizer (tokenizer_split.c): writes the ends of up to `room` pre-tokens of text [p,
 * end) into `ends` and returns how many (0 only when p == end). A pre-token is found from its start
 * alone. */
int64_t tr_split(const char *p, const char *end, const char **ends, int64_t room);
/* True when a pre-token must end before text[at], whatever the pre-tokens before it are: a white
 * space character that follows something else. */
bool tr_split_safe(const char *text, int64_t length, int64_t at);

/* Models that look pieces up (tokenizer_model.c): the ids of one piece into ids[0..length), which has room for them,
 * and at least one; their number is returned. */
int64_t tr_wordpiece_encode(const tr_tokenizer *t, const char *p, int64_t length, int32_t *ids);
int64_t tr_unigram_encode(const tr_tokenizer *t, const char *p, int64_t length, int32_t *ids);
void tr_model_finish(tr_tokenizer *t); /* makes trie, inner, byte_id of fallback */

/* The merge engine (tokenizer_bpe.c). An encoder is one thread's workspace, made for one call. */
typedef struct tr_encoder {
    const tr_tokenizer *t;
    tr_word_map
        cache; /* pre-tokens of several tokens: value = place in `stored`, count = how many */
    bool cached;
    tr_ids stored;
    tr_text scratch;
} tr_encoder;
void tr_encoder_start(tr_encoder *encoder, const tr_tokenizer *t, int64_t text_length);
void tr_encoder_end(tr_encoder *encoder);
/* Normalized text without added tokens, cut into pieces whose ids the model gives. `first`: it starts a text, or
 * follows an added token; `start`: nothing at all is before it. */
void tr_pieces_encode(tr_encoder *encoder, const char *text, int64_t length, bool first, bool start, tr_ids *out);
void tr_pieces_finish(tr_tokenizer *t); /* makes ranks, byte_id, words, with the help of tr_model_finish */

/* Makes a tokenizer of a parsed tokenizer.json (tokenizer_read.c); every other format is brought into this form
 * first. */
tr_error *tr_tokenizer_build(json_t *root, const char *where, tr_tokenizer **out);
/* A SentencePiece model, however it is stored. */
typedef struct tr_scored_piece {
    char *text;
    float score;
    uint64_t type; /* 1 normal, 2 unknown, 3 control, 4 user defined, 6 byte */
} tr_scored_piece;
typedef struct tr_piece_model {
    tr_scored_piece *pieces;
    int64_t count, room;
    uint64_t type, unknown; /* 1 unigram, 2 bpe */
    bool fallback, dummy_prefix, remove_spaces, escape;
    bool whole; /* a text is one piece: tokens may reach over spaces */
    const char *charsmap;
    int64_t charsmap_length;
} tr_piece_model;
void tr_piece_model_end(tr_piece_model *model);
tr_error *tr_tokenizer_build_pieces(const tr_piece_model *model, const json_t *config, const char *where, tr_tokenizer **out);
/* tokenizer_gguf.c; `where` stands for the file's name. */
struct tr_gguf;
tr_error *tr_tokenizer_from_gguf(const char *path, tr_tokenizer **out);
tr_error *tr_tokenizer_from_gguf_file(const struct tr_gguf *file, const char *where, tr_tokenizer **out);
/* tokenizer_formats.c: vocab.txt, SentencePiece's model file. `config` is the tokenizer_config.json
 * beside it, or NULL. */
tr_error *tr_tokenizer_from_vocab_text(const char *text, int64_t length, const json_t *config, const char *where,
                                       tr_tokenizer **out);
tr_error *tr_tokenizer_from_pieces(const char *bytes, int64_t length, const json_t *config, const char *where,
                                   tr_tokenizer **out);

tr_error *tr_tokenizer_train_unigram(const char *const *texts, const int64_t *lengths, int64_t count,
                                     const tr_tokenizer_training *options, tr_tokenizer **out);
/* Makes the pre-tokenizer GPT-2's: before the vocabulary is put. */
void tr_tokenizer_gpt2_rules(tr_tokenizer *t, bool prefix_space);

/* True when text[0, at) and text[at, length), the second as a continuation, have the ids of the whole. */
bool tr_tokenizer_cuts(const tr_tokenizer *t, const char *text, int64_t length, int64_t at);

static inline void tr_ids_reserve(tr_ids *ids, int64_t more)
{
    if (ids->room - ids->count >= more)
        return;
    int64_t room = TR_MAX(2 * ids->room, ids->count + more);
    ids->items = tr_realloc(ids->items, (size_t)room, sizeof *ids->items);
    ids->room = room;
}

/* GPT-2's way to write bytes as printable characters (tokenizer_read.c): the code point of a byte,
 * and the byte of a code point, or -1. */
uint32_t tr_byte_char(uint8_t byte);
int tr_char_byte(uint32_t code);
