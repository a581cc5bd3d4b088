/* Sources of training data: what a user names, as token shards (a tr_corpus; the config's tr_source
 * is the name and its weight).
 *
 * A source is a text file, a JSONL file, a token shard, or a directory of these (with its
 * subdirectories, in the order of the names; hidden files are left out, files that look binary are
 * skipped and counted). Text becomes shards in a cache directory:
 *   - one text file is one document; each line of a JSONL file is one, its text the member
 * `text_field`;
 *   - a document ends with the tokenizer's end-of-text token, if it has one; empty ones leave no
 * trace;
 *   - consecutive files share a shard, up to SHARD_TEXT_BYTES of text; a larger file has its own.
 * A shard's name in the cache is a hash of the paths, sizes and times of its files, of the
 * tokenizer and of what else decides its content, so a second run finds it and a changed file makes
 * a new one. A damaged cached shard is made again. Nothing ever deletes from the cache.
 *
 * Large files are mapped and worked through in pieces: memory stays within a few tens of megabytes,
 * unless a text has no place where it may be cut (see tr_tokenizer_cut_ok).
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/shard.h"
#include "data/tokenizer.h"

typedef struct tr_corpus_options {
    const tr_tokenizer *tokenizer; /* NULL: only shards are accepted */
    const char *cache;             /* directory for the shards; made if need be */
    const char *text_field;        /* of JSONL objects; NULL: "text" */
    int threads;                   /* 0: as many as OpenMP gives */
    /* Called now and then while text is tokenised, never when all is cached; may be NULL. */
    void (*progress)(void *context, const char *path, int64_t done_bytes, int64_t total_bytes);
    void *context;
} tr_corpus_options;

typedef struct tr_corpus {
    char *name; /* as the user gave it */
    tr_shard **shards;
    int64_t shard_count, shard_room;
    int64_t tokens, documents, text_bytes; /* over all shards; 0 where foreign shards do not say */
    int64_t built;                         /* shards made by this call, not found in the cache */
    int64_t skipped;                       /* binary files in a directory */
    char *first_skipped;
} tr_corpus;

tr_error *tr_corpus_open(const char *path, const tr_corpus_options *options, tr_corpus **out);
void tr_corpus_free(tr_corpus *source); /* NULL is fine */
