/* The Transformer (Vaswani et al. 2017, "Attention Is All You Need"): encoder and decoder, post-norm, sinusoidal
 * positions, one table for source, target and output.
 *
 * Shapes: B batch, S source, T target, D embed, H heads, E = D / H, M mlp, V vocab. Embeddings are scaled by sqrt(D);
 * the projections of attention have no biases, the feed-forward layer has (section 3.3). The presets smooth labels by
 * 0.1, as the paper does (model.smoothing). Weights start normal with the deviation of Glorot & Bengio 2010, as the
 * authors' code does uniformly.
 */
#include <math.h>

#include "models/family.h"
#include "models/huggingface.h"

static const double EPS = 1e-6, SMOOTHING = 0.1;

static tr_value norm(tr_graph *g, const tr_sizes *s, tr_value x, const char *name)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    tr_value w = tr_param(g, tr_ones(), weight, "embed=%lld", (long long)s->embed);
    tr_value b = tr_param(g, tr_zeros(), bias, "embed=%lld", (long long)s->embed);
    return tr_layer_norm(g, x, w, b, s->norm_eps);
}

static tr_init glorot(long long in, long long out)
{
    return tr_normal(sqrt(2.0 / (double)(in + out)));
}

static tr_value project(tr_graph *g, const tr_sizes *s, tr_value x, const char *prefix, const char *which)
{
    char name[64];
    long long D = s->embed, H = s->heads;
    snprintf(name, sizeof name, "%s.%s.weight", prefix, which);
    return tr_linear_transposed(
        g, x, tr_param(g, glorot(D, D), name, "heads=%lld head_dim=%lld embed=%lld", H, D / H, D), 0);
}

/* norm(x + attention of x to y) */
static tr_value attend(tr_graph *g, const tr_sizes *s, tr_value x, tr_value y, tr_value mask, bool causal,
                       const char *prefix, const char *norm_name)
{
    char name[64];
    long long D = s->embed, H = s->heads;
    tr_value q = project(g, s, x, prefix, "q_proj"), k = project(g, s, y, prefix, "k_proj"),
             v = project(g, s, y, prefix, "v_proj");
    tr_value a = tr_attend(g, q, k, v, &(tr_attend_options){.causal = causal, .p = s->dropout, .key_segments = mask});
    a = tr_reshape(g, a, "batch=%lld seq=%lld heads=%lld", (long long)s->batch, (long long)tr_size(g, x, 1), D);
    snprintf(name, sizeof name, "%s.out_proj.weight", prefix);
    tr_value w = tr_param(g, glorot(D, D), name, "embed=%lld heads=%lld*%lld", D, H, D / H);
    return norm(g, s, tr_add(g, x, tr_dropout(g, tr_linear_transposed(g, a, w, 0), s->dropout)), norm_name);
}

/* norm(x + feed-forward of x) */
static tr_value feed(tr_graph *g, const tr_sizes *s, tr_value x, const char *norm_name)
{
    long long D = s->embed, M = s->mlp;
    tr_value w = tr_param(g, glorot(D, M), "linear1.weight", "mlp=%lld embed=%lld", M, D);
    tr_value b = tr_param(g, tr_zeros(), "linear1.bias", "mlp=%lld", M);
    tr_value y = tr_dropout(g, tr_relu(g, tr_linear_transposed(g, x, w, b)), s->dropout);
    w = tr_param(g, glorot(M, D), "linear2.weight", "embed=%lld mlp=%lld", D, M);
    b = tr_param(g, tr_zeros(), "linear2.bias", "embed=%lld", D);
    return norm(g, s, tr_add(g, x, tr_dropout(g, tr_linear_transposed(g, y, w, b), s->dropout)), norm_name);
}

static tr_value embed(tr_graph *g, const tr_sizes *s, tr_value words, const char *ids, const char *positions,
                      int64_t length)
{
    long long B = s->batch, T = length;
    tr_value x = tr_embedding(g, words, tr_input(g, ids, "batch=%lld seq=%lld", B, T));
    x = tr_scale(g, x, sqrt((double)s->embed));
    x = tr_add(g, x, tr_sinusoids(g, tr_input(g, positions, "batch=%lld seq=%lld", B, T), s->embed));
    return tr_dropout(g, x, s->dropout);
}

static void model(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long B = s->batch, D = s->embed;
    tr_value words =
        tr_param(g, tr_normal(1 / sqrt((double)D)), "shared.weight", "vocab=%lld embed=%lld", (long long)s->vocab, D);
    tr_value mask = tr_input(g, "mask", "batch=%lld seq=%lld", B, (long long)s->seq);
    tr_value x = embed(g, s, words, "ids", "positions", s->seq); /* [B, S, D] */
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "encoder.layers.%d.", i);
        x = attend(g, s, x, x, mask, false, "self_attn", "norm1");
        x = feed(g, s, x, "norm2");
        tr_layer_end(g);
    }
    tr_value memory = x;
    x = embed(g, s, words, "decoder_ids", "decoder_positions", s->decoder_seq); /* [B, T, D] */
    for (int i = 0; i < s->decoder_layers; i++) {
        tr_layer_begin(g, (int)s->layers + i, "decoder.layers.%d.", i);
        x = attend(g, s, x, x, 0, true, "self_attn", "norm1");
        x = attend(g, s, x, memory, mask, false, "cross_attn", "norm2");
        x = feed(g, s, x, "norm3");
        tr_layer_end(g);
    }
    tr_head_add(g, (tr_head){.hidden = x, .table = words, .smoothing = s->smoothing});
}

/* config.json is our own: Hugging Face has no such model. */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    s->norm_eps = EPS;
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    TR_TRY(tr_hf_size(c, where, "d_model", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "num_heads", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "d_ff", TR_REQUIRED, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "num_layers", TR_REQUIRED, &s->layers));
    TR_TRY(tr_hf_size(c, where, "num_decoder_layers", TR_REQUIRED, &s->decoder_layers));
    TR_TRY(tr_hf_size(c, where, "n_positions", TR_REQUIRED, &s->context));
    TR_TRY(tr_json_real(c, where, "dropout_rate", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_real(c, where, "layer_norm_epsilon", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_json_real(c, where, "label_smoothing", TR_OPTIONAL, &s->smoothing));
    return tr_hf_multiple(where, "d_model", s->embed, "num_heads", s->heads);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:b}", "vocab_size", s->vocab,
                            "d_model", s->embed, "num_heads", s->heads, "d_ff", s->mlp, "num_layers", s->layers,
                            "num_decoder_layers", s->decoder_layers, "n_positions", s->context, "dropout_rate",
                            s->dropout, "layer_norm_epsilon", s->norm_eps, "label_smoothing", s->smoothing,
                            "is_encoder_decoder", 1));
}

static void complete(tr_sizes *s)
{
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : EPS;
    s->decoder_layers = s->decoder_layers ? s->decoder_layers : s->layers;
    s->mlp = s->mlp ? s->mlp : 4 * s->embed;
}

static tr_error *check(const tr_sizes *s)
{
    if (s->embed % (2 * s->heads) == 0 || (s->embed % s->heads == 0 && s->embed % 2 == 0))
        return NULL;
    return tr_error_new(TR_USER, "model.embed=%lld must be even and a multiple of model.heads=%lld",
                        (long long)s->embed, (long long)s->heads);
}

/* Table 3, "base" and "big"; the vocabulary is that of the English-German task. */
#define TRANSFORMER(width, head_count, inner, drop) \
    {.layers = 6,                                   \
     .embed = width,                                \
     .heads = head_count,                           \
     .mlp = inner,                                  \
     .context = 512,                                \
     .vocab = 37000,                                \
     .dropout = drop,                               \
     .smoothing = SMOOTHING}
static const tr_preset presets[] = {
    {"transformer-base", "", TRANSFORMER(512, 8, 2048, 0.1)},
    {"transformer-big", "", TRANSFORMER(1024, 16, 4096, 0.3)},
    {0},
};

const tr_family tr_family_transformer = {
    .name = "transformer",
    .model_type = "trireme-transformer",
    .architecture = "TriremeTransformer",
    .model = model,
    .objective = "seq2seq",
    .keys = "layers decoder_layers embed heads mlp context vocab dropout norm_eps smoothing",
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
    .two_towers = true,
};
