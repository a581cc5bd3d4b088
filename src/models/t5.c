/* T5 and T5 v1.1 (Raffel et al. 2020; Shazeer 2020 for the gated MLP): an encoder and a decoder, pre-norm by RMS, no
 * biases, positions as a bias of attention by the bucket of the distance, one table for all blocks of a tower.
 *
 * Shapes: B batch, S source, T target, D embed, H heads, E head_dim, M mlp, V vocab. Scores are not scaled; with the
 * output tied to the embedding, hidden states are scaled by 1 / sqrt(D) instead. v1.1: untied, gated GELU.
 * Initialisation as in Mesh TensorFlow's, which Hugging Face's is: by the square root of each product's width.
 */
#include <math.h>

#include "models/family.h"
#include "models/huggingface.h"
#include "models/t5.h"

static const double EPS = 1e-6;
enum { BUCKETS = 32, BUCKET_DISTANCE = 128, NAME = 96 };

typedef struct tower {
    tr_graph *g;
    const tr_sizes *s;
    long long rows, D, H, E; /* rows: of the sequence in this tower */
    tr_value buckets;        /* of distances */
    tr_value bias;           /* parameter [buckets, heads] */
    tr_value memory, mask;   /* the encoder's output, and which of its tokens count */
    bool causal;
} tower;

static const char *join(char name[NAME], const char *a, const char *b, const char *c)
{
    snprintf(name, NAME, "%s%s%s.weight", a, b, c);
    return name;
}

static tr_init inverse_root(double width)
{
    return tr_normal(1 / sqrt(width));
}

static tr_value norm(tower *w, tr_value x, const char *prefix, const char *which)
{
    char name[NAME];
    tr_value weight = tr_param(w->g, tr_ones(), join(name, prefix, which, ""), "embed=%lld", w->D);
    return tr_rms_norm(w->g, x, weight, w->s->norm_eps);
}

/* [B, *, H, E] */
static tr_value project(tower *w, tr_value x, const char *prefix, const char *layer, const char *which, double width)
{
    char name[NAME];
    tr_value table = tr_param(w->g, inverse_root(width), join(name, prefix, layer, which),
                              "heads=%lld head_dim=%lld embed=%lld", w->H, w->E, w->D);
    return tr_linear_transposed(w->g, x, table, 0);
}

/* x and the attention of x to itself, or to the encoder's output. */
static tr_value attend(tower *w, tr_value x, const char *prefix, const char *layer, bool across)
{
    char name[NAME];
    double D = (double)w->D, inner = (double)(w->H * w->E);
    tr_value y = norm(w, x, prefix, "layer_norm"), z = across ? w->memory : y;
    tr_value q = project(w, y, prefix, layer, ".q", D * (double)w->E);
    tr_value k = project(w, z, prefix, layer, ".k", D), v = project(w, z, prefix, layer, ".v", D);
    tr_attend_options how = {.causal = w->causal && !across, .p = w->s->dropout, .scale = 1};
    if (!across)
        how.relative = tr_embedding(w->g, w->bias, w->buckets);
    if (across || !w->causal)
        how.key_segments = w->mask;
    y = tr_reshape(w->g, tr_attend(w->g, q, k, v, &how), "batch=%lld seq=%lld heads=%lld", (long long)w->s->batch,
                   w->rows, w->H * w->E);
    tr_value table = tr_param(w->g, inverse_root(inner), join(name, prefix, layer, ".o"),
                              "embed=%lld heads=%lld*%lld", w->D, w->H, w->E);
    return tr_add(w->g, x, tr_dropout(w->g, tr_linear_transposed(w->g, y, table, 0), w->s->dropout));
}

static tr_value widen(tr_graph *g, const tr_sizes *s, tr_value x, const char *prefix, const char *which)
{
    char name[NAME];
    tr_value table = tr_param(g, inverse_root((double)s->embed), join(name, prefix, "DenseReluDense", which),
                              "mlp=%lld embed=%lld", (long long)s->mlp, (long long)s->embed);
    return tr_linear_transposed(g, x, table, 0);
}

tr_value tr_t5_dense(tr_graph *g, const tr_sizes *s, tr_value x, const char *prefix, int layer, bool decoder,
                     void *unused)
{
    (void)layer, (void)decoder, (void)unused;
    char name[NAME];
    tr_value y = s->gated ? tr_geglu_tanh(g, widen(g, s, x, prefix, ".wi_0"), widen(g, s, x, prefix, ".wi_1"))
                          : tr_relu(g, widen(g, s, x, prefix, ".wi"));
    tr_value out = tr_param(g, inverse_root((double)s->mlp), join(name, prefix, "DenseReluDense", ".wo"),
                            "embed=%lld mlp=%lld", (long long)s->embed, (long long)s->mlp);
    return tr_linear_transposed(g, tr_dropout(g, y, s->dropout), out, 0);
}

/* x and what the feed-forward layer makes of it. */
static tr_value feed(tower *w, tr_value x, tr_t5_feed forward, void *user, int i, const char *prefix)
{
    tr_value y = forward(w->g, w->s, norm(w, x, prefix, "layer_norm"), prefix, i, w->causal, user);
    return tr_add(w->g, x, tr_dropout(w->g, y, w->s->dropout));
}

static tower make(tr_graph *g, const tr_sizes *s, const char *name, int64_t rows, bool causal)
{
    char bias[NAME];
    tower w = {.g = g, .s = s, .rows = rows, .causal = causal, .D = s->embed, .H = s->heads, .E = s->head_dim};
    join(bias, name, ".block.0.layer.0.SelfAttention", ".relative_attention_bias");
    w.bias = tr_param(g, inverse_root((double)s->embed), bias, "buckets=%lld heads=%lld", (long long)s->buckets, w.H);
    w.buckets = tr_relative_buckets(g, s->buckets, s->bucket_distance, !causal);
    return w;
}

void tr_t5_with(tr_graph *g, const tr_sizes *s, tr_t5_feed forward, void *user)
{
    long long B = s->batch, S = s->seq, T = s->decoder_seq, D = s->embed, V = s->vocab;
    tr_value words = tr_param(g, inverse_root(s->untied || s->unscaled ? (double)D : 1), "shared.weight",
                              "vocab=%lld embed=%lld", V, D);
    tower encoder = make(g, s, "encoder", S, false), decoder = make(g, s, "decoder", T, true);
    encoder.mask = tr_input(g, "mask", "batch=%lld seq=%lld", B, S);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%lld seq=%lld", B, S));
    x = tr_dropout(g, x, s->dropout); /* [B, S, D] */
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "encoder.block.%d.", i);
        x = attend(&encoder, x, "layer.0.", "SelfAttention", false);
        x = feed(&encoder, x, forward, user, i, "layer.1.");
        tr_layer_end(g);
    }
    decoder.memory = tr_dropout(g, norm(&encoder, x, "encoder.", "final_layer_norm"), s->dropout);
    decoder.mask = encoder.mask;

    x = tr_embedding(g, words, tr_input(g, "decoder_ids", "batch=%lld seq=%lld", B, T));
    x = tr_dropout(g, x, s->dropout); /* [B, T, D] */
    for (int i = 0; i < s->decoder_layers; i++) {
        tr_layer_begin(g, (int)s->layers + i, "decoder.block.%d.", i);
        x = attend(&decoder, x, "layer.0.", "SelfAttention", false);
        x = attend(&decoder, x, "layer.1.", "EncDecAttention", true);
        x = feed(&decoder, x, forward, user, i, "layer.2.");
        tr_layer_end(g);
    }
    x = tr_dropout(g, norm(&decoder, x, "decoder.", "final_layer_norm"), s->dropout);
    tr_value table = words;
    if (s->untied)
        table = tr_param(g, inverse_root((double)D), "lm_head.weight", "vocab=%lld embed=%lld", V, D);
    else if (!s->unscaled)
        x = tr_scale(g, x, 1 / sqrt((double)D));
    tr_head_add(g, (tr_head){.hidden = x, .table = table, .z_loss = s->z_loss, .smoothing = s->smoothing});
}

static void model(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    tr_t5_with(g, s, tr_t5_dense, NULL);
}

/* config.json: the keys of T5Config. */

tr_error *tr_t5_read(const json_t *c, const char *where, tr_sizes *s)
{
    const char *activation = "relu";
    bool tied = true;
    s->norm_eps = EPS;
    s->dropout = 0.1;
    s->buckets = BUCKETS;
    s->bucket_distance = BUCKET_DISTANCE;
    s->context = 512;
    TR_TRY(tr_hf_size(c, where, "num_layers", TR_REQUIRED, &s->layers));
    s->decoder_layers = s->layers;
    TR_TRY(tr_hf_size(c, where, "num_decoder_layers", TR_OPTIONAL, &s->decoder_layers));
    TR_TRY(tr_hf_size(c, where, "d_model", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "num_heads", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "d_kv", TR_REQUIRED, &s->head_dim));
    TR_TRY(tr_hf_size(c, where, "d_ff", TR_REQUIRED, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    TR_TRY(tr_hf_size(c, where, "n_positions", TR_OPTIONAL, &s->context));
    TR_TRY(tr_hf_size(c, where, "relative_attention_num_buckets", TR_OPTIONAL, &s->buckets));
    TR_TRY(tr_hf_size(c, where, "relative_attention_max_distance", TR_OPTIONAL, &s->bucket_distance));
    TR_TRY(tr_json_real(c, where, "dropout_rate", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_real(c, where, "layer_norm_epsilon", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_json_string(c, where, "feed_forward_proj", TR_OPTIONAL, &activation));
    TR_TRY(tr_json_bool(c, where, "tie_word_embeddings", TR_OPTIONAL, &tied));
    s->untied = !tied;
    s->gated = strcmp(activation, "gated-gelu") == 0;
    if (!s->gated && strcmp(activation, "relu") != 0)
        return tr_error_new(TR_USER, "%s: feed_forward_proj \"%s\" is not supported: \"relu\" and \"gated-gelu\" are",
                            where, activation);
    bool scaled = tied; /* newer files tie v1.1's output and say so here */
    TR_TRY(tr_json_bool(c, where, "scale_decoder_outputs", TR_OPTIONAL, &scaled));
    s->unscaled = tied && !scaled;
    if (!tied && scaled)
        return tr_error_new(TR_USER, "%s: scale_decoder_outputs without tie_word_embeddings is not supported", where);
    return NULL;
}

void tr_t5_write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:b, s:b, s:b, s:i}",
                            "vocab_size", s->vocab, "n_positions", s->context, "d_model", s->embed, "d_kv",
                            s->head_dim, "d_ff", s->mlp, "num_layers", s->layers, "num_decoder_layers",
                            s->decoder_layers, "num_heads", s->heads, "relative_attention_num_buckets", s->buckets,
                            "relative_attention_max_distance", s->bucket_distance, "dropout_rate", s->dropout,
                            "layer_norm_epsilon", s->norm_eps, "feed_forward_proj", s->gated ? "gated-gelu" : "relu",
                            "tie_word_embeddings", !s->untied, "scale_decoder_outputs", !s->untied && !s->unscaled,
                            "is_encoder_decoder", 1, "decoder_start_token_id", 0));
}

void tr_t5_complete(tr_sizes *s)
{
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : EPS;
    s->decoder_layers = s->decoder_layers ? s->decoder_layers : s->layers;
    s->head_dim = s->head_dim ? s->head_dim : s->embed / s->heads;
    s->buckets = s->buckets ? s->buckets : BUCKETS;
    s->bucket_distance = s->bucket_distance ? s->bucket_distance : BUCKET_DISTANCE;
}

/* Raffel et al. 2020, section 3.1.2 and 3.7; v1.1 as google/t5-v1_1-* on Hugging Face's hub. */
#define SIZES(layer_count, width, head_count, head_width, inner) \
    .layers = layer_count, .embed = width, .heads = head_count, .head_dim = head_width, .mlp = inner, .context = 512
#define T5(...) {SIZES(__VA_ARGS__), .vocab = 32128}
#define T5_1_1(n, width, heads, inner) {SIZES(n, width, heads, 64, inner), .vocab = 32128, .gated = true, .untied = true}
static const tr_preset presets[] = {
    {"t5-small", "", T5(6, 512, 8, 64, 2048)},
    {"t5-base", "", T5(12, 768, 12, 64, 3072)},
    {"t5-large", "", T5(24, 1024, 16, 64, 4096)},
    {"t5-3b", "", T5(24, 1024, 32, 128, 16384)},
    {"t5-11b", "", T5(24, 1024, 128, 128, 65536)},
    {"t5-v1.1-small", "", T5_1_1(8, 512, 6, 1024)},
    {"t5-v1.1-base", "", T5_1_1(12, 768, 12, 2048)},
    {"t5-v1.1-large", "", T5_1_1(24, 1024, 16, 2816)},
    {"t5-v1.1-xl", "", T5_1_1(24, 2048, 32, 5120)},
    {"t5-v1.1-xxl", "", T5_1_1(24, 4096, 64, 10240)},
    {0},
};

static const tr_same_tensor same[] = {
    {"encoder.embed_tokens.weight", "shared.weight"}, {"decoder.embed_tokens.weight", "shared.weight"}, {0}};

const tr_family tr_family_t5 = {
    .name = "t5",
    .model_type = "t5",
    .architecture = "T5ForConditionalGeneration",
    .model = model,
    .objective = "span",
    .keys = "layers decoder_layers embed heads head_dim mlp context vocab dropout norm_eps untied unscaled gated "
            "buckets bucket_distance smoothing z_loss",
    .read = tr_t5_read,
    .write = tr_t5_write,
    .complete = tr_t5_complete,
    .presets = presets,
    .same = same,
    .two_towers = true,
};
