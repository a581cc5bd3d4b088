/* Tokenizers: text to token ids and back.
 *
 * Five kinds:
 *   bpe        byte pair encoding, of bytes (GPT-2, GPT-3, LLaMA 3) or of characters (SentencePiece's)
 *   bytes      token id = byte value; 256 is "<|endoftext|>"
 *   chars      one token a code point learnt from a text; anything else becomes the token U+FFFD
 *   wordpiece  BERT's: the longest known beginning of a word, then of what is left
 *   unigram    SentencePiece's (T5): the most probable way to cut a word (Kudo 2018)
 *
 * bpe, wordpiece and unigram give token for token what Hugging Face's `tokenizers` gives for the same
 * file; what a file asks for and we do not have is refused.
 *
 * bpe of bytes and bytes are lossless: decode(encode(x)) == x for any bytes, valid UTF-8 or not (unless the
 * file asks for a space before each text, or its vocabulary lacks bytes: see
 * tr_tokenizer_lossless). A tokenizer never changes after it was made; any number of threads may
 * use it at once.
 *
 * A file's special tokens, such as "<|endoftext|>", are found in a text only when `allow_special`
 * is set; otherwise the text is encoded like any other.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/memory.h"

typedef struct tr_tokenizer tr_tokenizer;

typedef enum tr_tokenizer_kind {
    TR_TOKENIZER_BPE,
    TR_TOKENIZER_BYTES,
    TR_TOKENIZER_CHARS,
    TR_TOKENIZER_WORDPIECE,
    TR_TOKENIZER_UNIGRAM,
} tr_tokenizer_kind;

/* Tokens that objectives and models ask for by their part. */
typedef enum tr_special {
    TR_SPECIAL_PAD,
    TR_SPECIAL_UNKNOWN,
    TR_SPECIAL_CLS,
    TR_SPECIAL_SEP,
    TR_SPECIAL_MASK,
    TR_SPECIAL_BOS,
    TR_SPECIAL_EOS,
    TR_SPECIAL_COUNT,
} tr_special;

/* A growing list of token ids. Start with {0}. */
typedef struct tr_ids {
    int32_t *items;
    int64_t count, room;
} tr_ids;
void tr_ids_free(tr_ids *ids);

/* `spec` is "bytes", a tokenizer.json, a vocab.txt (WordPiece), a *.model (SentencePiece), a *.gguf, or a directory
 * with one of them or vocab.json + merges.txt (or encoder.json + vocab.bpe, which are the same under OpenAI's names).
 */
tr_error *tr_tokenizer_load(const char *spec, tr_tokenizer **out);
/* The same from memory; `where` names the source in messages. The bytes may be anything. */
tr_error *tr_tokenizer_parse(const char *json, int64_t length, const char *where,
                             tr_tokenizer **out);
tr_error *tr_tokenizer_parse_pair(const char *vocab, int64_t vocab_length, const char *merges,
                                  int64_t merges_length, const char *where, tr_tokenizer **out);
tr_tokenizer *tr_tokenizer_bytes_new(void);
void tr_tokenizer_free(tr_tokenizer *tokenizer); /* NULL is fine */

typedef struct tr_tokenizer_training {
    tr_tokenizer_kind kind; /* TR_TOKENIZER_BYTES learns nothing and ignores the texts */
    int32_t vocab_size; /* bpe: at most this many tokens, "<|endoftext|>" and 256 bytes included */
    int64_t min_count;  /* bpe, wordpiece: no merge of a pair seen less often; 0 and 1 are the same */
    int32_t sentinels;  /* unigram: <extra_id_0> and so on, at the end of the vocabulary */
} tr_tokenizer_training;
/* The result does not depend on anything but the texts (for bpe: nor on their order) and the
 * options. With the same texts Hugging Face's BpeTrainer gives the same tokenizer
 * (special_tokens=["<|endoftext|>"], initial_alphabet=ByteLevel.alphabet()). */
tr_error *tr_tokenizer_train(const char *const *texts, const int64_t *lengths, int64_t count,
                             const tr_tokenizer_training *options, tr_tokenizer **out);
tr_error *tr_tokenizer_train_files(const char *const *paths, int64_t count,
                                   const tr_tokenizer_training *options, tr_tokenizer **out);

/* Writes tokenizer.json, tokenizer_config.json and, for bpe and bytes, vocab.json + merges.txt. The
 * directory is made if need be. `transformers` opens it. */
tr_error *tr_tokenizer_save(const tr_tokenizer *tokenizer, const char *directory);
/* Writes tokenizer.json alone, under the name `path`. */
tr_error *tr_tokenizer_save_file(const tr_tokenizer *tokenizer, const char *path);

tr_tokenizer_kind tr_tokenizer_kind_of(const tr_tokenizer *tokenizer);
const char *tr_tokenizer_kind_name(tr_tokenizer_kind kind); /* "bpe", "bytes", "chars", ... */
/* The highest id + 1: the rows that a model's embedding needs. */
int32_t tr_tokenizer_vocab_size(const tr_tokenizer *tokenizer);
int64_t tr_tokenizer_merge_count(const tr_tokenizer *tokenizer);
/* What ends a document: "<|endoftext|>", or the file's own end token; -1 when there is none. */
int32_t tr_tokenizer_end_of_text(const tr_tokenizer *tokenizer);
int32_t tr_tokenizer_special(const tr_tokenizer *tokenizer, tr_special which); /* -1 when there is none */
/* What the file's template puts before and after a single text, as [CLS] and [SEP]; encoding does not. */
const tr_ids *tr_tokenizer_before(const tr_tokenizer *tokenizer);
const tr_ids *tr_tokenizer_after(const tr_tokenizer *tokenizer);
/* The token whose text is exactly this, added tokens included; -1 when there is none. */
int32_t tr_tokenizer_find(const tr_tokenizer *tokenizer, const char *text);
bool tr_tokenizer_lossless(const tr_tokenizer *tokenizer);
/* The bytes of a token (not NUL-terminated): what it stands for, or, where that depends on the tokens before it, its
 * text in the vocabulary; NULL when there is no such token. */
const char *tr_tokenizer_token_bytes(const tr_tokenizer *tokenizer, int32_t id,
                                     int64_t *out_length);
bool tr_tokenizer_is_special(const tr_tokenizer *tokenizer, int32_t id);

/* Appends the ids of text[0..length) to *out. */
void tr_tokenizer_encode(const tr_tokenizer *tokenizer, const char *text, int64_t length,
                         bool allow_special, tr_ids *out);
/* The same ids from `threads` threads (0: as many as OpenMP gives). */
void tr_tokenizer_encode_parallel(const tr_tokenizer *tokenizer, const char *text, int64_t length,
                                  bool allow_special, int threads, tr_ids *out);
/* Appends the text of the ids; fails at the first id that is not in the vocabulary. */
tr_error *tr_tokenizer_decode(const tr_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              tr_text *out);

/* Decoding as tokens come: what is appended to `out` is valid UTF-8 at any time. A sequence that is
 * not complete yet is held back, and what can never become valid is replaced by U+FFFD. Start with
 * {0}. */
typedef struct tr_detokenizer {
    char held[4];
    int32_t count;
} tr_detokenizer;
void tr_detokenizer_push(tr_detokenizer *state, const tr_tokenizer *tokenizer, int32_t id,
                         tr_text *out);
void tr_detokenizer_finish(tr_detokenizer *state, tr_text *out);
