/* What ViT and Swin share; see vision.h. */
#include "models/vision.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"

/* Glorot & Bengio 2010, as the code of ViT's paper has it: what a narrow model begins with must not be as small as what
 * a wide one does. */
static tr_init glorot(int64_t in, int64_t out)
{
    return tr_normal(sqrt(2.0 / (double)(in + out)));
}

static tr_value linear(tr_graph *g, tr_value x, tr_value w, const char *name, const char *dims)
{
    char *bias = tr_format("%s.bias", name);
    tr_value y = tr_linear_transposed(g, x, w, tr_param(g, tr_zeros(), bias, "%s", dims));
    free(bias);
    return y;
}

tr_value tr_vision_patches(tr_graph *g, const char *name, const tr_sizes *s)
{
    long long B = s->batch, C = s->channels, S = s->image, P = s->patch, n = S / P, D = s->embed;
    char *weight = tr_format("%s.weight", name), dims[64];
    tr_value x = tr_input_real(g, "images", "batch=%lld channels=%lld height=%lld width=%lld", B, C, S, S);
    x = tr_reshape(g, x, "batch=%lld channels=%lld %lld %lld %lld %lld", B, C, n, P, n, P);
    x = tr_transpose(g, x, (int[]){0, 2, 4, 1, 3, 5}); /* [B, n, n, C, P, P] */
    x = tr_reshape(g, x, "batch=%lld seq=%lld %lld", B, n * n, C * P * P);
    tr_value w = tr_param(g, tr_normal(1 / sqrt((double)(C * P * P))), weight, "embed=%lld channels=%lld %lld %lld", D, C, P, P);
    snprintf(dims, sizeof dims, "embed=%lld", D);
    free(weight);
    return linear(g, x, tr_reshape(g, w, "embed=%lld %lld", D, C * P * P), name, dims);
}

tr_value tr_vision_norm(tr_graph *g, tr_value x, const char *name, int64_t width, double eps)
{
    char *weight = tr_format("%s.weight", name), *bias = tr_format("%s.bias", name);
    tr_value w = tr_param(g, tr_ones(), weight, "embed=%lld", (long long)width);
    tr_value y = tr_layer_norm(g, x, w, tr_param(g, tr_zeros(), bias, "embed=%lld", (long long)width), eps);
    free(weight);
    free(bias);
    return y;
}

/* [.., out] from [.., in], dims of the weight as text. */
static tr_value dense(tr_graph *g, tr_value x, const char *name, tr_init init, const char *out, const char *in)
{
    char *weight = tr_format("%s.weight", name), *dims = tr_format("%s %s", out, in);
    tr_value y = linear(g, x, tr_param(g, init, weight, "%s", dims), name, out);
    free(weight);
    free(dims);
    return y;
}

tr_value tr_vision_heads(tr_graph *g, tr_value x, const char *name, int64_t heads, int64_t head_dim, int64_t width)
{
    char out[64], in[32];
    snprintf(out, sizeof out, "heads=%lld head_dim=%lld", (long long)heads, (long long)head_dim);
    snprintf(in, sizeof in, "embed=%lld", (long long)width);
    return dense(g, x, name, glorot(width, heads * head_dim), out, in);
}

tr_value tr_vision_join(tr_graph *g, tr_value x, const char *name, int64_t heads, int64_t head_dim, int64_t width)
{
    char out[32], in[64];
    snprintf(out, sizeof out, "embed=%lld", (long long)width);
    snprintf(in, sizeof in, "heads=%lld*%lld", (long long)heads, (long long)head_dim);
    return dense(g, x, name, glorot(width, heads * head_dim), out, in);
}

tr_value tr_vision_mlp(tr_graph *g, tr_value x, const char *prefix, int64_t width, int64_t inner)
{
    char embed[32], mlp[32], *first = tr_format("%sintermediate.dense", prefix), *second = tr_format("%soutput.dense", prefix);
    snprintf(embed, sizeof embed, "embed=%lld", (long long)width);
    snprintf(mlp, sizeof mlp, "mlp=%lld", (long long)inner);
    tr_init init = glorot(width, inner);
    tr_value y = dense(g, tr_gelu(g, dense(g, x, first, init, mlp, embed)), second, init, embed, mlp);
    free(first);
    free(second);
    return y;
}

void tr_vision_head(tr_graph *g, tr_value x, int64_t width, const tr_sizes *s)
{
    long long L = s->labels, D = width;
    tr_value table = tr_param(g, tr_normal(0.02), "classifier.weight", "labels=%lld embed=%lld", L, D);
    tr_value bias = tr_param(g, tr_zeros(), "classifier.bias", "labels=%lld", L);
    if (s->label_parts > 1)
        x = tr_repeat(g, x, 1, s->label_parts);
    tr_head_add(g, (tr_head){.hidden = x, .table = table, .bias = bias, .targets = "labels", .smoothing = s->smoothing});
}

double tr_vision_drop_path(const tr_sizes *s, int64_t i, int64_t n)
{
    return n > 1 ? s->drop_path * (double)i / (double)(n - 1) : s->drop_path;
}

/* config.json ------------------------------------------------------------------------------------------ */

tr_error *tr_vision_read(const json_t *c, const char *where, tr_sizes *s)
{
    s->image = 224;
    s->channels = 3;
    s->labels = tr_hf_labels(c);
    TR_TRY(tr_hf_size(c, where, "image_size", TR_OPTIONAL, &s->image));
    TR_TRY(tr_hf_size(c, where, "patch_size", TR_OPTIONAL, &s->patch));
    TR_TRY(tr_hf_size(c, where, "num_channels", TR_OPTIONAL, &s->channels));
    TR_TRY(tr_json_real(c, where, "layer_norm_eps", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_json_real(c, where, "hidden_dropout_prob", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_real(c, where, "drop_path_rate", TR_OPTIONAL, &s->drop_path));
    TR_TRY(tr_hf_only(c, where, "hidden_act", "gelu"));
    return tr_hf_only_bool(c, where, "qkv_bias", true);
}

void tr_vision_write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:b}", "image_size", s->image, "patch_size", s->patch,
                            "num_channels", s->channels, "hidden_act", "gelu", "hidden_dropout_prob", s->dropout,
                            "attention_probs_dropout_prob", s->dropout, "layer_norm_eps", s->norm_eps, "drop_path_rate",
                            s->drop_path, "qkv_bias", 1));
    tr_hf_labels_write(c, s->labels);
}

void tr_vision_complete(tr_sizes *s, int64_t patch, double eps)
{
    s->image = s->image ? s->image : 224;
    s->patch = s->patch ? s->patch : patch;
    s->channels = s->channels ? s->channels : 3;
    s->labels = s->labels ? s->labels : 2;
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : eps;
}
