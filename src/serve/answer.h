/* Encoder-decoders: a text from a text, by beam search, or by sampling with one beam.
 *
 * The source is encoded with the tokenizer's end token; the answer starts from the padding token (or the end token,
 * where there is none), as in training. The source is encoded once, and with it the keys and values that the second
 * tower reads of it; the beams share them, and each keeps the keys and values of its own tokens. One thread uses an
 * answerer.
 */
#pragma once
#include "data/tokenizer.h"
#include "exec/compile.h"
#include "serve/sampler.h"

typedef struct tr_answerer tr_answerer;

typedef struct tr_answering {
    int64_t beams, max_tokens;
    double length_penalty; /* a finished answer's score is its log probability / (its tokens)^this */
    tr_sampling sampling;  /* of one beam */
} tr_answering;
typedef struct tr_answer {
    tr_ids tokens;      /* without the end token; the caller frees (tr_ids_free) */
    double score;       /* sum of log probabilities, divided as above */
    const char *finish; /* "stop", "length" */
    int64_t source_tokens;
} tr_answer;

/* A Hugging Face directory or a run's, of a family with two towers. */
tr_error *tr_answerer_open(const char *directory, const tr_target *target, tr_dtype compute, tr_answerer **out);
void tr_answerer_free(tr_answerer *answerer); /* NULL is fine */
tr_error *tr_answerer_ids(tr_answerer *answerer, const tr_ids *source, int32_t start, int32_t end,
                          const tr_answering *how, tr_answer *out);
/* The same of a text. */
tr_error *tr_answerer_run(tr_answerer *answerer, const tr_tokenizer *tokenizer, const char *text, int64_t length,
                          const tr_answering *how, tr_answer *out);
