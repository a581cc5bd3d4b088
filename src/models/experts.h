/* The feed-forward layer of a mixture of experts, as GShard, Switch and Mixtral have it. */
#pragma once
#include "models/huggingface.h"

typedef struct tr_expert_layer {
    const char *router;         /* parameter [experts, embed] */
    const char *gate, *in, *out; /* parameters [experts, mlp, embed] twice, [experts, embed, mlp] */
    double init, init_out;      /* standard deviations */
    tr_value (*activate)(tr_graph *graph, tr_value x); /* without a gate */
    tr_value (*gated)(tr_graph *graph, tr_value gate, tr_value x); /* with one; NULL: none */
    tr_route_options route;
} tr_expert_layer;

/* What is added to the residual stream [batch, seq, embed]. The layer's losses, weighted, are added to *losses (0: they
 * are the first): a model hands the sum to tr_experts_losses after its last layer. */
tr_value tr_experts(tr_graph *graph, tr_value x, const tr_sizes *sizes, const tr_expert_layer *layer, tr_value *losses);
void tr_experts_losses(tr_graph *graph, tr_value losses);

/* The keys of `model.` of every family with experts. */
#define TR_EXPERT_KEYS "experts expert_choices expert_capacity expert_dropout balance_loss router_z_loss"
/* Keys of config.json for families that Hugging Face does not have. */
tr_error *tr_experts_read(const json_t *config, const char *where, tr_sizes *out);
void tr_experts_write(json_t *config, const tr_sizes *sizes);
tr_error *tr_experts_check(const tr_sizes *sizes);
