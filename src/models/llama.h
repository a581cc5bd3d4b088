/* What models built like LLaMA share: attention of grouped queries with rotary positions, and config.json. */
#pragma once
#include "models/huggingface.h"

/* RMS norm with a parameter of its own. */
tr_value tr_llama_norm(tr_graph *graph, tr_value x, const char *name, const tr_sizes *sizes);
/* The rates of rotary positions, once a graph; and the factor of yarn. */
tr_value tr_llama_rates(tr_graph *graph, const tr_sizes *sizes);
/* x [B, T, D] -> what is added to the residual stream [B, T, D]; parameters self_attn.{q,k,v,o}_proj.weight. */
tr_value tr_llama_attention(tr_graph *graph, tr_value x, tr_value rates, const tr_sizes *sizes);

/* The keys of LlamaConfig; the callers add those of their family. */
tr_error *tr_llama_read(const json_t *config, const char *where, tr_sizes *out);
void tr_llama_write(json_t *config, const tr_sizes *sizes);
void tr_llama_complete(tr_sizes *sizes);
tr_error *tr_llama_check(const tr_sizes *sizes);
