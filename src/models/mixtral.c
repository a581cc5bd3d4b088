/* Mixtral (Jiang et al. 2024): LLaMA with a mixture of gated experts in the place of every MLP; each token goes to two,
 * weighted by the softmax of their two logits, and none is left out.
 */
#include "models/experts.h"

#include <math.h>

#include "base/memory.h"
#include "models/family.h"
#include "models/llama.h"

static const double INIT = 0.02;

static void mixtral(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long V = s->vocab, D = s->embed;
    tr_value losses = 0, rates = tr_llama_rates(g, s);
    tr_value words = tr_param(g, tr_normal(INIT), "model.embed_tokens.weight", "vocab=%lld embed=%lld", V, D);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%lld seq=%lld", (long long)s->batch, (long long)s->seq));
    tr_expert_layer experts = {.router = "block_sparse_moe.gate.weight",
                               .gate = "block_sparse_moe.experts.*.w1.weight",
                               .in = "block_sparse_moe.experts.*.w3.weight",
                               .out = "block_sparse_moe.experts.*.w2.weight",
                               .init = INIT,
                               .init_out = INIT / sqrt(2.0 * (double)s->layers),
                               .gated = tr_swiglu,
                               .route = {.k = s->expert_choices,
                                         .capacity_factor = s->expert_capacity,
                                         .normalised = true,
                                         .balance_all = true}};
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "model.layers.%d.", i);
        tr_value y = tr_llama_attention(g, tr_llama_norm(g, x, "input_layernorm.weight", s), rates, s);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        y = tr_experts(g, tr_llama_norm(g, x, "post_attention_layernorm.weight", s), s, &experts, &losses);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        tr_layer_end(g);
    }
    x = tr_llama_norm(g, x, "model.norm.weight", s);
    tr_value table = s->untied ? tr_param(g, tr_normal(INIT), "lm_head.weight", "vocab=%lld embed=%lld", V, D) : words;
    tr_head_add(g, (tr_head){.hidden = x, .table = table});
    tr_experts_losses(g, losses);
}

/* config.json: LLaMA's keys and these of MixtralConfig. */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    TR_TRY(tr_llama_read(c, where, s));
    TR_TRY(tr_hf_size(c, where, "num_local_experts", TR_REQUIRED, &s->experts));
    TR_TRY(tr_hf_size(c, where, "num_experts_per_tok", TR_OPTIONAL, &s->expert_choices));
    return tr_json_real(c, where, "router_aux_loss_coef", TR_OPTIONAL, &s->balance_loss);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_llama_write(c, s);
    json_object_del(c, "attention_bias");
    json_object_del(c, "mlp_bias");
    tr_hf_pack(c, json_pack("{s:I, s:I, s:f}", "num_local_experts", (json_int_t)s->experts, "num_experts_per_tok",
                            (json_int_t)s->expert_choices, "router_aux_loss_coef", s->balance_loss));
}

static void complete(tr_sizes *s)
{
    s->rope_theta = s->rope_theta > 0 ? s->rope_theta : 1e6;
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : 1e-5;
    tr_llama_complete(s);
    s->experts = s->experts ? s->experts : 8;
    s->expert_choices = s->expert_choices ? s->expert_choices : 2;
}

static tr_error *check(const tr_sizes *s)
{
    TR_TRY(tr_llama_check(s));
    return tr_experts_check(s);
}

/* Jiang et al. 2024, table 1; the config.json of 8x22B on the hub. */
static const tr_preset presets[] = {
    {"mixtral-8x7b", "", {.layers = 32, .embed = 4096, .heads = 32, .kv_heads = 8, .mlp = 14336, .context = 32768,
                          .vocab = 32000, .experts = 8, .expert_choices = 2, .untied = true}},
    {"mixtral-8x22b", "", {.layers = 56, .embed = 6144, .heads = 48, .kv_heads = 8, .mlp = 16384, .context = 65536,
                           .vocab = 32768, .experts = 8, .expert_choices = 2, .untied = true}},
    {0},
};

static const tr_same_tensor same[] = {{"lm_head.weight", "model.embed_tokens.weight"}, {0}};

const tr_family tr_family_mixtral = {
    .name = "mixtral",
    .model_type = "mixtral",
    .architecture = "MixtralForCausalLM",
    .model = mixtral,
    .objective = "causal",
    .keys = "layers embed heads kv_heads head_dim mlp context vocab dropout untied norm_eps rope_theta rope_kind rope_factor "
            "rope_context rope_low rope_high rope_attention " TR_EXPERT_KEYS,
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
    .prefixes = "model.",
    .same = same,
    .generates = true,
};
