/* MoE Transformer (Lepikhin et al. 2021, GShard), as a decoder: pre-norm, learned positions, ReLU, and in every second
 * layer a mixture of experts in the place of the MLP. A token goes to its two best experts; the second one takes part
 * with a probability that grows with its weight, and either leaves it out when it has no room. GShard's own model
 * translates with two towers; a causal language model as in the papers after it needs one.
 *
 * Shapes: B batch, T seq, D embed, H heads, E = D / H, M mlp. Matrices are [out, in]. Tied embeddings.
 */
#include "models/experts.h"

#include <math.h>

#include "base/memory.h"
#include "models/family.h"
#include "models/huggingface.h"

static const double INIT = 0.02;

static tr_value norm(tr_graph *g, tr_value x, const char *weight, const char *bias, const tr_sizes *s)
{
    tr_value w = tr_param(g, tr_ones(), weight, "embed=%lld", (long long)s->embed);
    tr_value b = tr_param(g, tr_zeros(), bias, "embed=%lld", (long long)s->embed);
    return tr_layer_norm(g, x, w, b, s->norm_eps);
}

static double residual(const tr_sizes *s)
{
    return INIT / sqrt(2.0 * (double)s->layers);
}

static tr_value attention(tr_graph *g, tr_value x, const tr_sizes *s)
{
    long long B = s->batch, T = s->seq, D = s->embed, H = s->heads, E = D / H;
    tr_value qkv = tr_param(g, tr_normal(INIT), "attention.qkv.weight", "qkv=3 heads=%lld head_dim=%lld embed=%lld", H, E, D);
    tr_value y = tr_attention(g, tr_linear_transposed(g, x, qkv, 0), true, 0, s->dropout); /* [B, T, H, E] */
    y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", B, T, D);
    tr_value out = tr_param(g, tr_normal(residual(s)), "attention.out.weight", "embed=%lld heads=%lld*%lld", D, H, E);
    return tr_linear_transposed(g, y, out, 0);
}

static tr_value mlp(tr_graph *g, tr_value x, const tr_sizes *s)
{
    long long D = s->embed, M = s->mlp;
    tr_value in = tr_param(g, tr_normal(INIT), "mlp.in.weight", "mlp=%lld embed=%lld", M, D);
    tr_value out = tr_param(g, tr_normal(residual(s)), "mlp.out.weight", "embed=%lld mlp=%lld", D, M);
    return tr_linear_transposed(g, tr_relu(g, tr_linear_transposed(g, x, in, 0)), out, 0);
}

static void gshard(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long B = s->batch, T = s->seq, V = s->vocab, D = s->embed, C = s->context;
    tr_expert_layer experts = {.router = "experts.router.weight",
                               .in = "experts.in.weight",
                               .out = "experts.out.weight",
                               .init = INIT,
                               .init_out = residual(s),
                               .activate = tr_relu,
                               .route = {.k = s->expert_choices,
                                         .capacity_factor = s->expert_capacity,
                                         .normalised = true,
                                         .random = s->expert_random}};
    tr_value losses = 0;
    tr_value words = tr_param(g, tr_normal(INIT), "words.weight", "vocab=%lld embed=%lld", V, D);
    tr_value places = tr_param(g, tr_normal(INIT), "positions.weight", "context=%lld embed=%lld", C, D);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%lld seq=%lld", B, T));
    x = tr_add(g, x, tr_embedding(g, places, tr_input(g, "positions", "batch=%lld seq=%lld", B, T)));
    x = tr_dropout(g, x, s->dropout);
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "layers.%d.", i);
        tr_value y = attention(g, norm(g, x, "norm_1.weight", "norm_1.bias", s), s);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        y = norm(g, x, "norm_2.weight", "norm_2.bias", s);
        y = (i + 1) % s->expert_every == 0 ? tr_experts(g, y, s, &experts, &losses) : mlp(g, y, s);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        tr_layer_end(g);
    }
    x = norm(g, x, "norm.weight", "norm.bias", s);
    tr_head_add(g, (tr_head){.hidden = x, .table = words});
    tr_experts_losses(g, losses);
}

/* config.json: our own keys, as no other program knows this model. */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    TR_TRY(tr_hf_size(c, where, "layers", TR_REQUIRED, &s->layers));
    TR_TRY(tr_hf_size(c, where, "embed", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "heads", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "mlp", TR_REQUIRED, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "context", TR_REQUIRED, &s->context));
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    TR_TRY(tr_json_real(c, where, "dropout", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_real(c, where, "norm_eps", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_experts_read(c, where, s));
    return tr_hf_multiple(where, "embed", s->embed, "heads", s->heads);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "layers", (json_int_t)s->layers, "embed",
                            (json_int_t)s->embed, "heads", (json_int_t)s->heads, "mlp", (json_int_t)s->mlp, "context",
                            (json_int_t)s->context, "vocab_size", (json_int_t)s->vocab, "dropout", s->dropout, "norm_eps",
                            s->norm_eps));
    tr_experts_write(c, s);
}

static void complete(tr_sizes *s)
{
    s->mlp = s->mlp ? s->mlp : 4 * s->embed;
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : 1e-5;
    s->experts = s->experts ? s->experts : 8;
    s->expert_choices = s->expert_choices ? s->expert_choices : 2;
    s->expert_every = s->expert_every ? s->expert_every : 2;
}

/* Lepikhin et al. 2021, table 2: of 36 layers 12 are a decoder's; every second one has the experts. As a decoder alone
 * all layers count. Width 1024, MLP 8192, 16 heads of 128 there: here heads x head_dim is the width. */
#define GSHARD(layer_count, expert_count) \
    {.layers = layer_count, .embed = 1024, .heads = 8, .mlp = 8192, .context = 1024, .vocab = 64000, \
     .experts = expert_count, .expert_choices = 2, .expert_every = 2, .expert_capacity = 2, .expert_random = true, \
     .balance_loss = 0.01}
static const tr_preset presets[] = {
    {"gshard-12l-128e", "", GSHARD(12, 128)},  {"gshard-12l-512e", "", GSHARD(12, 512)},
    {"gshard-12l-2048e", "", GSHARD(12, 2048)}, {"gshard-36l-128e", "", GSHARD(36, 128)},
    {"gshard-36l-512e", "", GSHARD(36, 512)},  {"gshard-36l-2048e", "gshard-600b", GSHARD(36, 2048)},
    {0},
};

const tr_family tr_family_gshard = {
    .name = "gshard",
    .model_type = "trireme-gshard",
    .architecture = "TriremeGShard",
    .model = gshard,
    .objective = "causal",
    .keys = "layers embed heads mlp context vocab dropout norm_eps " TR_EXPERT_KEYS " expert_every expert_random",
    .read = read,
    .write = write,
    .complete = complete,
    .check = tr_experts_check,
    .presets = presets,
    .generates = true,
};
