/* Choosing the next token from logits. */
#pragma once
#include <stdint.h>

typedef struct tr_sampling {
    double temperature;        /* 0: greedy */
    int64_t top_k;             /* keep the k most likely; 0: all */
    double top_p;              /* then the fewest whose probabilities reach p; 1: all (Holtzman et al. 2020) */
    double repetition_penalty; /* logits of tokens seen before are divided (if > 0) or multiplied by it; 1: none
                                  (Keskar et al. 2019) */
    uint64_t seed;
} tr_sampling;

/* `logits` [vocab] is written over. `seen` are the tokens so far; `index` counts the draws, so that the same
 * seed gives the same text. Scratch is the sampler's own, made by tr_sampler_new. */
typedef struct tr_sampler tr_sampler;
tr_sampler *tr_sampler_new(const tr_sampling *how, int64_t vocab);
void tr_sampler_free(tr_sampler *sampler);
int32_t tr_sampler_next(tr_sampler *sampler, float *logits, const int32_t *seen, int64_t n_seen,
                        int64_t index);
