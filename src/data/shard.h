/* Token shards: files of token ids, memory-mapped.
 *
 * Three kinds are read, told apart by their first bytes: our own (docs/formats.md, "Token shards"),
 * llm.c's `.bin` (a header of 256 int32, magic 20240520 or 20240801) and nanoGPT's `.bin` (nothing
 * but uint16 ids). Only our own is written. All are little-endian.
 *
 * Invariants of an open shard:
 *   1. Everything it points to lies inside the map; a field that says otherwise was refused.
 *   2. An id read from it may be any number: whoever uses ids as indices checks them against the
 *      vocabulary (the loader does).
 *   3. A shard of ours whose checks disagree with its bytes is refused at opening when it is small
 *      (SHARD_CHECK_BYTES), by tr_shard_verify otherwise, so that a large one opens at once.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"

typedef enum tr_shard_kind {
    TR_SHARD_TRIREME,
    TR_SHARD_LLMC,
    TR_SHARD_NANOGPT,
    TR_SHARD_KIND_COUNT
} tr_shard_kind;

typedef struct tr_shard {
    tr_map map; /* owned when `owns_map` */
    bool owns_map;
    char *path;
    tr_shard_kind kind;
    int token_bytes; /* 2 or 4 */
    int64_t tokens, documents;
    int64_t text_bytes;   /* bytes of the text it was made from, 0 when unknown */
    int64_t vocab;        /* 0 when unknown */
    int64_t end_of_text;  /* -1 when unknown or none */
    uint64_t tokenizer;   /* the tokenizer's fingerprint, 0 when unknown */
    uint32_t crc;         /* of all bytes before the trailer; 0 for foreign kinds */
    uint64_t fingerprint; /* of the content: tells whether the data changed since a checkpoint */
    const char *ids;      /* `tokens` ids of `token_bytes` each */
    const char *starts;   /* `documents` uint64, the first token of each; NULL for foreign kinds */
} tr_shard;

const char *tr_shard_kind_name(tr_shard_kind kind);
tr_error *tr_shard_open(const char *path, tr_shard **out);
/* The same on bytes that outlive the shard; `name` is for messages. */
tr_error *tr_shard_parse(const char *name, const char *bytes, int64_t size, tr_shard **out);
void tr_shard_free(tr_shard *shard); /* NULL is fine */
/* Reads every byte: the check sum, the order of the documents, every id against `vocab`. */
tr_error *tr_shard_verify(const tr_shard *shard);

/* Copies ids [first, first + count), which must lie inside. An id over INT32_MAX comes out
 * negative. */
void tr_shard_read(const tr_shard *shard, int64_t first, int64_t count, int32_t *out);
/* Where document `index` begins; at most `tokens`, whatever the file says. 0 for foreign kinds. */
int64_t tr_shard_document(const tr_shard *shard, int64_t index);
/* True when the first bytes are our own magic. */
bool tr_shard_is_ours(const char *bytes, int64_t size);

/* Writing: ids in any pieces, a call at the end of each document, commit. Memory: 8 bytes a
 * document. */
typedef struct tr_shard_options {
    int64_t vocab;       /* decides 2 or 4 bytes an id */
    int64_t end_of_text; /* -1: none */
    uint64_t tokenizer;
} tr_shard_options;
typedef struct tr_shard_writer tr_shard_writer;
tr_error *tr_shard_writer_open(const char *path, const tr_shard_options *options,
                               tr_shard_writer **out);
tr_error *tr_shard_writer_add(tr_shard_writer *writer, const int32_t *ids, int64_t count);
/* The document that began after the last call ends here; `text_bytes` is the size of its text. An
 * empty one is not counted. */
void tr_shard_writer_end_document(tr_shard_writer *writer, int64_t text_bytes);
int64_t tr_shard_writer_tokens(const tr_shard_writer *writer);
tr_error *tr_shard_writer_commit_take(tr_shard_writer *writer);
void tr_shard_writer_drop(tr_shard_writer *writer); /* NULL is fine */

/* A 64-bit hash (not cryptographic), continued from `hash`; the order of calls matters. */
uint64_t tr_hash_bytes(uint64_t hash, const void *bytes, int64_t count);
uint64_t tr_hash_word(uint64_t hash, uint64_t word);
