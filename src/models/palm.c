/* PaLM (Chowdhery et al. 2022): decoder whose attention and MLP stand side by side on one norm, with one head of keys and
 * values for all queries, rotary positions, SwiGLU, no biases, and one table for input and output.
 *
 * Shapes: B batch, T seq, D embed, H heads, E head_dim, M mlp, V vocab. Section 5 of the paper: kernels start as normal
 * 1 / sqrt(inputs), the table as normal 1, and the logits are scaled by 1 / sqrt(D). The norms are those of T5X, in which it
 * was trained: without mean and bias. Hugging Face has no such model, so names and config.json are our own.
 */
#include <math.h>

#include "base/memory.h"
#include "models/huggingface.h"

static const double Z_LOSS = 1e-4;

static tr_init fan_in(int64_t inputs)
{
    return tr_normal(1 / sqrt((double)inputs));
}

static tr_value norm(tr_graph *g, tr_value x, const char *name, const tr_sizes *s)
{
    return tr_rms_norm(g, x, tr_param(g, tr_ones(), name, "embed=%lld", (long long)s->embed), s->norm_eps);
}

/* x [B, T, D] -> [B, T, D]. The one head of keys and values is on every rank. */
static tr_value attention(tr_graph *g, tr_value x, tr_value rates, const tr_sizes *s)
{
    long long B = s->batch, T = s->seq, D = s->embed, H = s->heads, E = s->head_dim;
    tr_value at = tr_input(g, "positions", "batch=%lld seq=%lld", B, T);
    tr_value wq = tr_param(g, fan_in(D), "attention.query.weight", "heads=%lld head_dim=%lld embed=%lld", H, E, D);
    tr_value wk = tr_param(g, fan_in(D), "attention.key.weight", "qkv=1 head_dim=%lld embed=%lld", E, D);
    tr_value wv = tr_param(g, fan_in(D), "attention.value.weight", "qkv=1 head_dim=%lld embed=%lld", E, D);
    tr_value q = tr_rope(g, tr_linear_transposed(g, x, wq, 0), at, rates, true, 1); /* [B, T, H, E] */
    tr_value k = tr_rope(g, tr_linear_transposed(g, x, wk, 0), at, rates, true, 1); /* [B, T, 1, E] */
    tr_value v = tr_linear_transposed(g, x, wv, 0);
    tr_value y = tr_attend(g, q, k, v, &(tr_attend_options){.causal = true, .p = s->dropout});
    y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", B, T, H * E);
    tr_value out = tr_param(g, fan_in(H * E), "attention.out.weight", "embed=%lld heads=%lld*%lld", D, H, E);
    return tr_linear_transposed(g, y, out, 0);
}

static tr_value mlp(tr_graph *g, tr_value x, const tr_sizes *s)
{
    long long D = s->embed, M = s->mlp;
    tr_value gate = tr_param(g, fan_in(D), "mlp.gate.weight", "mlp=%lld embed=%lld", M, D);
    tr_value up = tr_param(g, fan_in(D), "mlp.up.weight", "mlp=%lld embed=%lld", M, D);
    tr_value y = tr_swiglu(g, tr_linear_transposed(g, x, gate, 0), tr_linear_transposed(g, x, up, 0)); /* [B, T, M] */
    return tr_linear_transposed(g, y, tr_param(g, fan_in(M), "mlp.down.weight", "embed=%lld mlp=%lld", D, M), 0);
}

static void palm(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long B = s->batch, T = s->seq, V = s->vocab, D = s->embed;
    tr_value words = tr_param(g, tr_normal(1), "embed.weight", "vocab=%lld embed=%lld", V, D);
    tr_value rates = tr_rope_rates(g, s->head_dim, s->rope_theta, NULL);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%lld seq=%lld", B, T));
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "layers.%d.", i);
        tr_value y = norm(g, x, "norm.weight", s);
        y = tr_add(g, attention(g, y, rates, s), mlp(g, y, s));
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        tr_layer_end(g);
    }
    x = tr_scale(g, norm(g, x, "norm.weight", s), 1 / sqrt((double)D));
    tr_head_add(g, (tr_head){.hidden = x, .table = words, .z_loss = s->z_loss});
}

/* config.json ------------------------------------------------------------------------------------------ */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    TR_TRY(tr_hf_size(c, where, "num_hidden_layers", TR_REQUIRED, &s->layers));
    TR_TRY(tr_hf_size(c, where, "hidden_size", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "num_attention_heads", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "head_dim", TR_OPTIONAL, &s->head_dim));
    TR_TRY(tr_hf_size(c, where, "intermediate_size", TR_OPTIONAL, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "max_position_embeddings", TR_REQUIRED, &s->context));
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    TR_TRY(tr_json_real(c, where, "rms_norm_eps", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_json_real(c, where, "rope_theta", TR_OPTIONAL, &s->rope_theta));
    return tr_json_real(c, where, "z_loss", TR_OPTIONAL, &s->z_loss);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "vocab_size", (json_int_t)s->vocab,
                            "max_position_embeddings", (json_int_t)s->context, "hidden_size", (json_int_t)s->embed,
                            "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads", (json_int_t)s->heads,
                            "head_dim", (json_int_t)s->head_dim, "intermediate_size", (json_int_t)s->mlp, "rms_norm_eps",
                            s->norm_eps, "rope_theta", s->rope_theta, "z_loss", s->z_loss));
}

static void complete(tr_sizes *s)
{
    s->head_dim = s->head_dim ? s->head_dim : s->embed / s->heads;
    s->mlp = s->mlp ? s->mlp : 4 * s->embed;
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : 1e-6;
    s->rope_theta = s->rope_theta > 0 ? s->rope_theta : 1e4;
    s->z_loss = s->z_loss > 0 ? s->z_loss : Z_LOSS;
}

static tr_error *check(const tr_sizes *s)
{
    if (s->head_dim < 2 || s->head_dim % 2)
        return tr_error_new(TR_USER, "head_dim is %lld; rotary positions turn pairs, so it must be even", (long long)s->head_dim);
    return NULL;
}

/* Table 1; sections 2.1 and 2.2: heads of 256, a vocabulary of 256k, sequences of 2048. */
#define PALM(layer_count, width, head_count) \
    {.layers = layer_count, .embed = width, .heads = head_count, .head_dim = 256, .context = 2048, .vocab = 256000}
static const tr_preset presets[] = {
    {"palm-8b", "", PALM(32, 4096, 16)},
    {"palm-62b", "", PALM(64, 8192, 32)},
    {"palm-540b", "palm", PALM(118, 18432, 48)},
    {0},
};

const tr_family tr_family_palm = {
    .name = "palm",
    .model_type = "trireme-palm",
    .model = palm,
    .objective = "causal",
    .keys = "layers embed heads head_dim mlp context vocab dropout norm_eps rope_theta z_loss",
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
    .generates = true,
};
