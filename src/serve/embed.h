/* Embeddings of texts: what an encoder shows of each token ("hidden", by tr_output), pooled into one vector a text.
 *
 * A directory of sentence-transformers says how: modules.json, 1_Pooling/config.json (mean or the first token; others
 * are refused), sentence_bert_config.json (longest text). Without them: mean, and length 1.
 */
#pragma once
#include "exec/compile.h"

typedef struct tr_embedder tr_embedder;

/* `directory` is any Hugging Face directory, or a run's, of a family that shows its hidden states. */
tr_error *tr_embedder_open(const char *directory, const tr_target *target, tr_dtype compute, tr_embedder **out);
void tr_embedder_free(tr_embedder *embedder); /* NULL is fine */
int64_t tr_embedder_width(const tr_embedder *embedder);
/* out[count, width]. Texts are cut at the longest length. */
tr_error *tr_embedder_run(tr_embedder *embedder, const char *const *texts, const int64_t *lengths, int64_t count, float *out);
