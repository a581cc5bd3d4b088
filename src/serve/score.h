/* Scoring: the loss of a model on a text, and its logits for given tokens. */
#pragma once
#include "exec/compile.h"

typedef struct tr_scoring {
    tr_target target;
    tr_dtype compute;
    int64_t seq, batch; /* 0: the model's context; as many rows as fill about 2048 tokens */
} tr_scoring;

typedef struct tr_score {
    double loss;    /* mean nats a token */
    int64_t tokens; /* that were predicted */
    int64_t bytes;  /* of text; 0 when the data are shards that do not say, or the family does not continue texts */
} tr_score;

/* `directory` is any Hugging Face directory or a run's; `data` what data.train takes. The text is cut into
 * windows of `seq`; every token but the first is predicted once, from what precedes it in its window. */
tr_error *tr_score_text(const char *directory, const char *data, const tr_scoring *how, tr_score *out);
/* What serve/given.h reads from `in_path`, to a NumPy array f32 of the first head's logits, e.g. [B, T, vocab]. */
tr_error *tr_score_logits(const char *directory, const char *in_path, const char *out_path, const tr_scoring *how);
