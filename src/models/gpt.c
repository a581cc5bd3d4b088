/* GPT-2 and GPT-3: pre-norm Transformer decoder, learned positions, tied embeddings.
 *
 * Shapes: B batch, T seq, D embed, H heads, E = D / H, V vocab, C context. Initialisation as in the GPT-2
 * paper: normal 0.02, projections into the residual stream scaled by 1 / sqrt(2 x layers).
 */
#include <math.h>

#include "models/family.h"
#include "models/huggingface.h"

static const double EPS = 1e-5;

static tr_value norm(tr_graph *g, tr_value x, const char *weight, const char *bias, const tr_sizes *s)
{
    tr_value w = tr_param(g, tr_ones(), weight, "embed=%lld", (long long)s->embed);
    tr_value b = tr_param(g, tr_zeros(), bias, "embed=%lld", (long long)s->embed);
    return tr_layer_norm(g, x, w, b, s->norm_eps > 0 ? s->norm_eps : EPS);
}

void tr_gpt(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long B = s->batch, T = s->seq, D = s->embed, H = s->heads, E = D / H, M = s->mlp, V = s->vocab, C = s->context;
    tr_init init = tr_normal(0.02), residual = tr_normal(0.02 / sqrt(2.0 * (double)s->layers));

    tr_value wte = tr_param(g, init, "transformer.wte.weight", "vocab=%lld embed=%lld", V, D);
    tr_value wpe = tr_param(g, init, "transformer.wpe.weight", "context=%lld embed=%lld", C, D);
    tr_value x = tr_embedding(g, wte, tr_input(g, "ids", "batch=%lld seq=%lld", B, T));
    x = tr_add(g, x, tr_embedding(g, wpe, tr_input(g, "positions", "batch=%lld seq=%lld", B, T)));
    x = tr_dropout(g, x, s->dropout); /* [B, T, D] */

    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "transformer.h.%d.", i);
        tr_value y = norm(g, x, "ln_1.weight", "ln_1.bias", s);
        tr_value w = tr_param(g, init, "attn.c_attn.weight", "embed=%lld qkv=3 heads=%lld head_dim=%lld", D, H, E);
        tr_value b = tr_param(g, tr_zeros(), "attn.c_attn.bias", "qkv=3 heads=%lld head_dim=%lld", H, E);
        y = tr_linear(g, y, w, b); /* [B, T, 3, H, E] */
        y = tr_attention(g, y, true, i % 2 ? s->band : 0, s->dropout); /* [B, T, H, E] */
        y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", B, T, D);
        w = tr_param(g, residual, "attn.c_proj.weight", "heads=%lld*%lld embed=%lld", H, E, D);
        b = tr_param(g, tr_zeros(), "attn.c_proj.bias", "embed=%lld", D);
        x = tr_add(g, x, tr_dropout(g, tr_linear(g, y, w, b), s->dropout));

        y = norm(g, x, "ln_2.weight", "ln_2.bias", s);
        w = tr_param(g, init, "mlp.c_fc.weight", "embed=%lld mlp=%lld", D, M);
        b = tr_param(g, tr_zeros(), "mlp.c_fc.bias", "mlp=%lld", M);
        y = tr_gelu_tanh(g, tr_linear(g, y, w, b)); /* [B, T, M] */
        w = tr_param(g, residual, "mlp.c_proj.weight", "mlp=%lld embed=%lld", M, D);
        b = tr_param(g, tr_zeros(), "mlp.c_proj.bias", "embed=%lld", D);
        x = tr_add(g, x, tr_dropout(g, tr_linear(g, y, w, b), s->dropout));
        tr_layer_end(g);
    }
    x = norm(g, x, "transformer.ln_f.weight", "transformer.ln_f.bias", s);
    tr_head_add(g, (tr_head){.hidden = x, .table = wte});
}

/* config.json: the keys of GPT2Config. */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    s->norm_eps = EPS;
    TR_TRY(tr_hf_size(c, where, "n_layer", TR_REQUIRED, &s->layers));
    TR_TRY(tr_hf_size(c, where, "n_embd", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "n_head", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "n_positions", TR_REQUIRED, &s->context));
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    s->mlp = 4 * s->embed;
    TR_TRY(tr_hf_size(c, where, "n_inner", TR_OPTIONAL, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "trireme_band", TR_OPTIONAL, &s->band));
    TR_TRY(tr_json_real(c, where, "resid_pdrop", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_real(c, where, "layer_norm_epsilon", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_hf_only(c, where, "activation_function", "gelu_new"));
    TR_TRY(tr_hf_only_bool(c, where, "scale_attn_weights", true));
    TR_TRY(tr_hf_only_bool(c, where, "scale_attn_by_inverse_layer_idx", false));
    TR_TRY(tr_hf_only_bool(c, where, "add_cross_attention", false));
    TR_TRY(tr_hf_only_bool(c, where, "tie_word_embeddings", true));
    return tr_hf_multiple(where, "n_embd", s->embed, "n_head", s->heads);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:b}", "vocab_size", s->vocab,
                            "n_positions", s->context, "n_embd", s->embed, "n_layer", s->layers, "n_head", s->heads,
                            "n_inner", s->mlp, "activation_function", "gelu_new", "resid_pdrop", s->dropout,
                            "embd_pdrop", s->dropout, "attn_pdrop", s->dropout, "layer_norm_epsilon", s->norm_eps,
                            "initializer_range", 0.02, "tie_word_embeddings", 1));
    if (s->band > 0)
        json_object_set_new(c, "trireme_band", json_integer((json_int_t)s->band));
}

static void complete(tr_sizes *s)
{
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : EPS;
}

/* GPT-2: Radford et al. 2019, table 2. GPT-3: Brown et al. 2020, table 2.1, where two rows do not add up:
 *  - 1.3B prints 24 heads of 128 for a width of 2048. 24 x 128 is 3072 and 2048 does not divide by 24; we keep the
 *    printed head size, which gives 16 heads.
 *  - 13B prints a width of 5140 with 40 heads of 128. 40 x 128 is 5120, and 5140 is no multiple of 40.
 * Both give the printed parameter counts. The width of GPT-3's local attention is not in the paper, so a preset does
 * not switch model.banded on. */
#define GPT(layer_count, width, head_count, length) \
    {.layers = layer_count, .embed = width, .heads = head_count, .context = length, .vocab = 50257}
static const tr_preset presets[] = {
    {"gpt2", "gpt2-small gpt2-124m", GPT(12, 768, 12, 1024)},
    {"gpt2-medium", "gpt2-355m", GPT(24, 1024, 16, 1024)},
    {"gpt2-large", "gpt2-774m", GPT(36, 1280, 20, 1024)},
    {"gpt2-xl", "gpt2-1.5b", GPT(48, 1600, 25, 1024)},
    {"gpt3-small", "gpt3-125m", GPT(12, 768, 12, 2048)},
    {"gpt3-medium", "gpt3-350m", GPT(24, 1024, 16, 2048)},
    {"gpt3-large", "gpt3-760m", GPT(24, 1536, 16, 2048)},
    {"gpt3-xl", "gpt3-1.3b", GPT(24, 2048, 16, 2048)},
    {"gpt3-2.7b", "", GPT(32, 2560, 32, 2048)},
    {"gpt3-6.7b", "", GPT(32, 4096, 32, 2048)},
    {"gpt3-13b", "", GPT(40, 5120, 40, 2048)},
    {"gpt3-175b", "gpt3", GPT(96, 12288, 96, 2048)},
    {0},
};

static const tr_same_tensor same[] = {{"lm_head.weight", "transformer.wte.weight"}, {0}};

const tr_family tr_family_gpt2 = {
    .name = "gpt2",
    .model_type = "gpt2",
    .architecture = "GPT2LMHeadModel",
    .model = tr_gpt,
    .objective = "causal",
    .keys = "layers embed heads mlp context vocab dropout norm_eps banded band",
    .read = read,
    .write = write,
    .complete = complete,
    .presets = presets,
    .prefixes = "transformer.",
    .same = same,
    .generates = true,
};
