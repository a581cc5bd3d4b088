/* Training samples from token shards, by number.
 *
 * Sample i of a run is a pure function of (data, seed, seq, weights, i): no state is carried from
 * one sample to the next, so a checkpoint stores the number of samples used and nothing else, and
 * every rank fetches the rows of the global batch that it wants, whatever the layout.
 *
 * A sample is a window of seq + 1 tokens: ids are its first seq tokens, targets its last seq.
 * Documents are packed one after the other with their end-of-text tokens; a target of -1 means
 * nothing to predict.
 *
 * Training windows do not overlap within an epoch; an epoch shows each window of a source once, in
 * an order of its own, cut at an offset of its own (0 to seq - 1), so that later epochs cut the
 * text at other places. A shard shorter than seq + 1 tokens beside longer ones gives no windows.
 *
 * Several sources are mixed by weight: after any number of samples each has had its share to within
 * one or two samples. Without weights the share is the size, so that all sources reach the end of
 * an epoch together.
 *
 * Validation windows come in order and cover every token once as a target (but the first of each
 * shard); the last one of a shard is padded. They are the sources given for it, or the last
 * `val_split` of each training source.
 *
 * A loader never changes after it was made: any number of threads may fetch from it at once.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/source.h"

typedef struct tr_loader tr_loader;

typedef struct tr_loader_options {
    int64_t seq;
    uint64_t seed;
    int64_t vocab;    /* of the model: an id at or above it is an error; 0: not checked */
    double val_split; /* 0 <= val_split < 1; only without validation sources */
} tr_loader_options;

/* Owns the sources from here on, whether it succeeds or not. `weights` may be NULL: by size. */
tr_error *tr_loader_new_take(const tr_loader_options *options, tr_corpus **sources,
                             const double *weights, int64_t count, tr_corpus **val_sources,
                             int64_t val_count, tr_loader **out);
/* The same from paths. */
tr_error *tr_loader_open(const tr_loader_options *options, const tr_corpus_options *reading,
                         const char *const *paths, const double *weights, int64_t count,
                         const char *const *val_paths, int64_t val_count, tr_loader **out);
void tr_loader_free(tr_loader *loader); /* NULL is fine */

/* ids and targets have room for seq numbers each. */
tr_error *tr_loader_sample(const tr_loader *loader, int64_t global_index, int32_t *ids,
                           int32_t *targets);
int64_t tr_loader_val_count(const tr_loader *loader);
tr_error *tr_loader_val_sample(const tr_loader *loader, int64_t index, int32_t *ids,
                               int32_t *targets);

typedef struct tr_loader_info {
    int64_t sources, train_tokens, train_windows; /* windows: samples an epoch */
    int64_t val_tokens, val_windows;
    int64_t built, skipped;    /* shards tokenised just now; binary files left out of directories */
    const char *first_skipped; /* or NULL */
} tr_loader_info;
tr_loader_info tr_loader_describe(const tr_loader *loader);
/* Which source sample `global_index` comes from, and the epoch of that source. */
void tr_loader_place(const tr_loader *loader, int64_t global_index, int64_t *out_source,
                     int64_t *out_epoch);

/* What a checkpoint keeps beside the sample number: one line of JSON that the caller frees. */
char *tr_loader_state(const tr_loader *loader);
/* An error that says what changed if the samples of this loader are not those of `state`. */
tr_error *tr_loader_check_state(const tr_loader *loader, const char *state);

/* The pseudo-random permutation behind the shuffle: a bijection on [0, count) chosen by `key`. A
 * Feistel network over the next power of two, walked until it lands inside: no table, fewer than 2
 * rounds trips on average. */
int64_t tr_permute(uint64_t key, int64_t count, int64_t index);
