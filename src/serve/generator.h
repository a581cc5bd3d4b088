/* Generation: a sequence that grows token by token, its keys and values cached.
 *
 * A generator owns two kinds of program over the same weights and the same cache: one that takes a single
 * token, and one for a prompt, compiled for its length. The weights are its own (tr_generator_open) or those
 * of a program that is being trained (tr_generator_beside). One thread uses a generator.
 */
#pragma once
#include "data/tokenizer.h"
#include "exec/compile.h"
#include "serve/sampler.h"

typedef struct tr_generator tr_generator;

/* Weights from a Hugging Face directory or a run's directory, of any family that generates; `compute` f32 or bf16. */
tr_error *tr_generator_open(const char *directory, const tr_target *target, tr_dtype compute, tr_generator **out);
/* Borrows the weights of `owner`, which must outlive it, and its ranks: when there are several, `sharding` says
 * what each has of the weights, as in owner; all of them make the same calls, and all get the logits of the first. */
tr_error *tr_generator_beside(const tr_program *owner, const tr_sizes *sizes, tr_model model, void *user,
                              const tr_target *target, const tr_sharding *sharding, tr_generator **out);
/* Random weights, for measuring. */
tr_error *tr_generator_random(const tr_sizes *sizes, tr_model model, const tr_target *target, tr_dtype compute,
                              tr_generator **out);
void tr_generator_free(tr_generator *generator);

const tr_sizes *tr_generator_sizes(const tr_generator *generator);
int64_t tr_generator_length(const tr_generator *generator); /* tokens in the cache */
/* Bytes that one token's step reads: weights, and the cache so far. */
int64_t tr_generator_bytes_per_token(const tr_generator *generator);
tr_program *tr_generator_program(tr_generator *generator); /* of single tokens, for measuring */
void tr_generator_reset(tr_generator *generator);
/* Appends tokens; *out_logits [vocab] f32 are those after the last of them, valid until the next call.
 * Refuses what would not fit in the context. */
tr_error *tr_generator_append(tr_generator *generator, const int32_t *tokens, int64_t count, float **out_logits);

/* Text to text. `stream` gets each piece as it is known to be final (not part of a stop string); it
 * returns false to end. `stops` end the text and are not part of it. */
typedef struct tr_generate {
    tr_sampling sampling;
    int64_t max_tokens;
    const char *const *stops;
    int64_t n_stops;
    bool ignore_end; /* do not stop at the end-of-text token */
    bool (*stream)(void *context, const char *text, int64_t length);
    void *context;
} tr_generate;
typedef struct tr_generated {
    int64_t prompt_tokens, tokens;
    double prefill_s, decode_s;
    const char *finish; /* "stop", "length", "context", "cancelled" */
} tr_generated;
tr_error *tr_generator_run(tr_generator *generator, const tr_tokenizer *tokenizer, const char *prompt,
                           int64_t prompt_length, const tr_generate *how, tr_generated *out);
