/* LLaMA 1 to 3 (Touvron et al. 2023, Grattafiori et al. 2024): pre-norm decoder, RMS norm, rotary positions, grouped
 * queries, gated MLP, no biases.
 *
 * Shapes: B batch, T seq, D embed, H heads, G heads of keys and values, E head_dim, M mlp, V vocab. Weights are as
 * torch.nn.Linear stores them, [out, in]. Initialisation: normal 0.02, projections into the residual stream scaled by
 * 1 / sqrt(2 x layers).
 */
#include "models/llama.h"

#include <math.h>

#include "base/memory.h"
#include "models/rope_config.h"

static const double INIT = 0.02;

static tr_init residual(const tr_sizes *s)
{
    return tr_normal(INIT / sqrt(2.0 * (double)s->layers));
}

tr_value tr_llama_norm(tr_graph *g, tr_value x, const char *name, const tr_sizes *s)
{
    return tr_rms_norm(g, x, tr_param(g, tr_ones(), name, "embed=%lld", (long long)s->embed), s->norm_eps);
}

tr_value tr_llama_rates(tr_graph *g, const tr_sizes *s)
{
    double factor = s->rope_factor;
    if (s->rope_kind == TR_ROPE_DYNAMIC)
        factor = fmax(1, factor * (double)s->seq / (double)s->rope_context - factor + 1);
    return tr_rope_rates(g, s->head_dim, s->rope_theta,
                         &(tr_rope_scaling){.kind = s->rope_kind, .factor = factor, .original = s->rope_context,
                                            .low = s->rope_low, .high = s->rope_high});
}

tr_value tr_llama_attention(tr_graph *g, tr_value x, tr_value rates, const tr_sizes *s)
{
    long long B = s->batch, T = s->seq, D = s->embed, G = s->kv_heads, R = s->heads / s->kv_heads, E = s->head_dim;
    double factor = s->rope_kind == TR_ROPE_YARN ? s->rope_attention : 1;
    tr_init init = tr_normal(INIT);
    tr_value at = tr_input(g, "positions", "batch=%lld seq=%lld", B, T);
    tr_value wq = tr_param(g, init, "self_attn.q_proj.weight", "heads=%lld*%lld head_dim=%lld embed=%lld", G, R, E, D);
    tr_value wk = tr_param(g, init, "self_attn.k_proj.weight", "heads=%lld head_dim=%lld embed=%lld", G, E, D);
    tr_value wv = tr_param(g, init, "self_attn.v_proj.weight", "heads=%lld head_dim=%lld embed=%lld", G, E, D);
    tr_value q = tr_rope(g, tr_linear_transposed(g, x, wq, 0), at, rates, false, factor); /* [B, T, H, E] */
    tr_value k = tr_rope(g, tr_linear_transposed(g, x, wk, 0), at, rates, false, factor); /* [B, T, G, E] */
    tr_value v = tr_linear_transposed(g, x, wv, 0);
    tr_value y = tr_attend(g, q, k, v, &(tr_attend_options){.causal = true, .p = s->dropout});
    y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", B, T, G * R * E);
    return tr_linear_transposed(
        g, y, tr_param(g, residual(s), "self_attn.o_proj.weight", "embed=%lld heads=%lld*%lld", D, G, R * E), 0);
}

static tr_value mlp(tr_graph *g, tr_value x, const tr_sizes *s)
{
    long long D = s->embed, M = s->mlp;
    tr_value gate = tr_param(g, tr_normal(INIT), "mlp.gate_proj.weight", "mlp=%lld embed=%lld", M, D);
    tr_value up = tr_param(g, tr_normal(INIT), "mlp.up_proj.weight", "mlp=%lld embed=%lld", M, D);
    tr_value y = tr_swiglu(g, tr_linear_transposed(g, x, gate, 0), tr_linear_transposed(g, x, up, 0)); /* [B, T, M] */
    return tr_linear_transposed(g, y, tr_param(g, residual(s), "mlp.down_proj.weight", "embed=%lld mlp=%lld", D, M), 0);
}

static void llama(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long V = s->vocab, D = s->embed;
    tr_value words = tr_param(g, tr_normal(INIT), "model.embed_tokens.weight", "vocab=%lld embed=%lld", V, D);
    tr_value rates = tr_llama_rates(g, s);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%lld seq=%lld", (long long)s->batch, (long long)s->seq));
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "model.layers.%d.", i);
        tr_value y = tr_llama_attention(g, tr_llama_norm(g, x, "input_layernorm.weight", s), rates, s);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        y = mlp(g, tr_llama_norm(g, x, "post_attention_layernorm.weight", s), s);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        tr_layer_end(g);
    }
    x = tr_llama_norm(g, x, "model.norm.weight", s);
    tr_value table = s->untied ? tr_param(g, tr_normal(INIT), "lm_head.weight", "vocab=%lld embed=%lld", V, D) : words;
    tr_head_add(g, (tr_head){.hidden = x, .table = table});
}

/* config.json ------------------------------------------------------------------------------------------ */

tr_error *tr_llama_read(const json_t *c, const char *where, tr_sizes *s)
{
    bool tied = false;
    TR_TRY(tr_hf_size(c, where, "num_hidden_layers", TR_REQUIRED, &s->layers));
    TR_TRY(tr_hf_size(c, where, "hidden_size", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "num_attention_heads", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "intermediate_size", TR_REQUIRED, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "max_position_embeddings", TR_REQUIRED, &s->context));
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    TR_TRY(tr_hf_size(c, where, "num_key_value_heads", TR_OPTIONAL, &s->kv_heads));
    TR_TRY(tr_hf_size(c, where, "head_dim", TR_OPTIONAL, &s->head_dim));
    TR_TRY(tr_json_real(c, where, "rms_norm_eps", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_json_bool(c, where, "tie_word_embeddings", TR_OPTIONAL, &tied));
    s->untied = !tied;
    TR_TRY(tr_hf_only(c, where, "hidden_act", "silu"));
    TR_TRY(tr_hf_only_bool(c, where, "attention_bias", false));
    TR_TRY(tr_hf_only_bool(c, where, "mlp_bias", false));
    return tr_rope_config_read(c, where, s);
}

void tr_llama_write(json_t *c, const tr_sizes *s)
{
    int64_t context = s->rope_kind == TR_ROPE_DYNAMIC ? s->rope_context : s->context;
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:b, s:b, s:b}", "vocab_size",
                            (json_int_t)s->vocab, "max_position_embeddings", (json_int_t)context, "hidden_size",
                            (json_int_t)s->embed, "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads",
                            (json_int_t)s->heads, "num_key_value_heads", (json_int_t)s->kv_heads, "head_dim",
                            (json_int_t)s->head_dim, "intermediate_size", (json_int_t)s->mlp, "hidden_act", "silu",
                            "rms_norm_eps", s->norm_eps, "initializer_range", INIT, "rope_theta", s->rope_theta,
                            "attention_bias", 0, "mlp_bias", 0, "tie_word_embeddings", !s->untied));
    tr_rope_config_write(c, s);
}

void tr_llama_complete(tr_sizes *s)
{
    bool yarn = s->rope_kind == TR_ROPE_YARN;
    s->kv_heads = s->kv_heads ? s->kv_heads : s->heads;
    s->head_dim = s->head_dim ? s->head_dim : s->embed / s->heads;
    s->mlp = s->mlp ? s->mlp : (8 * s->embed / 3 + 31) / 32 * 32;
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : 1e-6;
    s->rope_theta = s->rope_theta > 0 ? s->rope_theta : 1e4;
    s->rope_factor = s->rope_factor > 0 ? s->rope_factor : 1;
    s->rope_context = s->rope_context ? s->rope_context : s->context;
    s->rope_low = s->rope_low > 0 ? s->rope_low : 1;
    s->rope_high = s->rope_high > 0 ? s->rope_high : yarn ? 32 : 4;
    if (s->rope_attention <= 0)
        s->rope_attention = yarn ? 0.1 * log(fmax(s->rope_factor, 1)) + 1 : 1;
}

tr_error *tr_llama_check(const tr_sizes *s)
{
    if (s->heads % s->kv_heads)
        return tr_error_new(TR_USER, "heads %lld is no multiple of kv_heads %lld", (long long)s->heads, (long long)s->kv_heads);
    if (s->head_dim < 2 || s->head_dim % 2)
        return tr_error_new(TR_USER, "head_dim is %lld; rotary positions turn pairs, so it must be even", (long long)s->head_dim);
    return NULL;
}

/* Touvron et al. 2023 a, table 2, and b; Grattafiori et al. 2024, table 3; the config.json of each on the hub. */
#define SIZES(layer_count, width, head_count, kv, inner, length, words) \
    .layers = layer_count, .embed = width, .heads = head_count, .kv_heads = kv, .mlp = inner, .context = length, .vocab = words
#define LLAMA3 .norm_eps = 1e-5, .rope_theta = 5e5, .rope_kind = TR_ROPE_LLAMA3, .rope_context = 8192
static const tr_preset presets[] = {
    {"llama-7b", "", {SIZES(32, 4096, 32, 32, 11008, 2048, 32000), .untied = true}},
    {"llama-13b", "", {SIZES(40, 5120, 40, 40, 13824, 2048, 32000), .untied = true}},
    {"llama-33b", "llama-30b", {SIZES(60, 6656, 52, 52, 17920, 2048, 32000), .untied = true}},
    {"llama-65b", "", {SIZES(80, 8192, 64, 64, 22016, 2048, 32000), .untied = true, .norm_eps = 1e-5}},
    {"llama2-7b", "", {SIZES(32, 4096, 32, 32, 11008, 4096, 32000), .untied = true, .norm_eps = 1e-5}},
    {"llama2-13b", "", {SIZES(40, 5120, 40, 40, 13824, 4096, 32000), .untied = true, .norm_eps = 1e-5}},
    {"llama2-70b", "", {SIZES(80, 8192, 64, 8, 28672, 4096, 32000), .untied = true, .norm_eps = 1e-5}},
    {"llama3-8b", "", {SIZES(32, 4096, 32, 8, 14336, 8192, 128256), .untied = true, .norm_eps = 1e-5, .rope_theta = 5e5}},
    {"llama3-70b", "", {SIZES(80, 8192, 64, 8, 28672, 8192, 128256), .untied = true, .norm_eps = 1e-5, .rope_theta = 5e5}},
    {"llama3.1-8b", "", {SIZES(32, 4096, 32, 8, 14336, 131072, 128256), .untied = true, LLAMA3, .rope_factor = 8}},
    {"llama3.1-405b", "", {SIZES(126, 16384, 128, 8, 53248, 131072, 128256), .untied = true, LLAMA3, .rope_factor = 8}},
    {"llama3.2-1b", "", {SIZES(16, 2048, 32, 8, 8192, 131072, 128256), LLAMA3, .rope_factor = 32}},
    {"smollm2-135m", "", {SIZES(30, 576, 9, 3, 1536, 8192, 49152), .norm_eps = 1e-5, .rope_theta = 1e5}},
    {0},
};

static const tr_same_tensor same[] = {{"lm_head.weight", "model.embed_tokens.weight"}, {0}};

const tr_family tr_family_llama = {
    .name = "llama",
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .model = llama,
    .objective = "causal",
    .keys = "layers embed heads kv_heads head_dim mlp context vocab dropout untied norm_eps rope_theta rope_kind rope_factor "
            "rope_context rope_low rope_high rope_attention",
    .read = tr_llama_read,
    .write = tr_llama_write,
    .complete = tr_llama_complete,
    .check = tr_llama_check,
    .presets = presets,
    .prefixes = "model.",
    .same = same,
    .generates = true,
};
