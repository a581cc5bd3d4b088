/* The model families, each a function from sizes to a graph (tr_model in trireme.h). */
#pragma once
#include "trireme.h"

/* GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020). Parameter names are Hugging Face's. */
tr_head tr_gpt(tr_graph *graph, const tr_tokens *tokens, const tr_sizes *sizes, void *unused);
