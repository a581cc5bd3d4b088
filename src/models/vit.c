/* ViT (Dosovitskiy et al. 2021): patches of an image as tokens, a class token, a pre-norm encoder, learned positions.
 *
 * Shapes: B batch, C channels, S side of the image, P of a patch, N = (S / P)^2 patches, T = N + 1 tokens, D embed,
 * H heads, E = D / H, M mlp. Weights as torch.nn.Linear has them, [out, in], and as its Conv2d has them, [D, C, P, P].
 */
#include "models/vision.h"

static const double INIT = 0.02, EPS = 1e-12;
/* Of positions: about as large as the patches that they are added to. With INIT it takes a thousand steps until tokens
 * know where they are. */
static const double PLACE = 0.5;

static tr_value norm(tr_graph *g, tr_value x, const char *name, const tr_sizes *s)
{
    return tr_vision_norm(g, x, name, s->embed, s->norm_eps);
}

/* [B, T, D] = patches, with nothing in the first row, plus positions with the class token in the first. */
static tr_value embed(tr_graph *g, const tr_sizes *s)
{
    long long side = s->image / s->patch, N = side * side, D = s->embed;
    tr_value x = tr_vision_patches(g, "vit.embeddings.patch_embeddings.projection", s);
    tr_value token = tr_param(g, tr_normal(INIT), "vit.embeddings.cls_token", "1 1 embed=%lld", D);
    tr_value at = tr_param(g, tr_normal(PLACE), "vit.embeddings.position_embeddings", "1 seq=%lld embed=%lld", N + 1, D);
    token = tr_pad(g, tr_reshape(g, token, "1 embed=%lld", D), 0, 0, N + 1);
    at = tr_add(g, tr_reshape(g, at, "%lld embed=%lld", N + 1, D), token);
    return tr_dropout(g, tr_add(g, tr_pad(g, x, 1, 1, N + 1), at), s->dropout);
}

static tr_value attention(tr_graph *g, tr_value x, const tr_sizes *s)
{
    long long B = s->batch, D = s->embed, H = s->heads, E = D / H, T = tr_size(g, x, 1);
    tr_value q = tr_vision_heads(g, x, "attention.attention.query", H, E, D);
    tr_value k = tr_vision_heads(g, x, "attention.attention.key", H, E, D);
    tr_value v = tr_vision_heads(g, x, "attention.attention.value", H, E, D);
    tr_value y = tr_attend(g, q, k, v, &(tr_attend_options){.p = s->dropout});
    y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", B, T, D);
    return tr_vision_join(g, y, "attention.output.dense", H, E, D);
}

static void vit(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long B = s->batch, D = s->embed;
    tr_value x = embed(g, s);
    for (int i = 0; i < s->layers; i++) {
        double p = tr_vision_drop_path(s, i, s->layers);
        tr_layer_begin(g, i, "vit.encoder.layer.%d.", i);
        tr_value y = attention(g, norm(g, x, "layernorm_before", s), s);
        x = tr_add(g, x, tr_drop_path(g, tr_dropout(g, y, s->dropout), p));
        y = tr_vision_mlp(g, norm(g, x, "layernorm_after", s), "", D, s->mlp);
        x = tr_add(g, x, tr_drop_path(g, tr_dropout(g, y, s->dropout), p));
        tr_layer_end(g);
    }
    x = tr_reshape(g, tr_slice(g, x, 1, 0, 1), "batch=%lld embed=%lld", B, D);
    tr_vision_head(g, norm(g, x, "vit.layernorm", s), D, s);
}

/* config.json: the keys of ViTConfig. */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    *s = (tr_sizes){.embed = 768, .layers = 12, .heads = 12, .mlp = 3072, .patch = 16, .norm_eps = EPS};
    TR_TRY(tr_vision_read(c, where, s));
    TR_TRY(tr_hf_size(c, where, "hidden_size", TR_OPTIONAL, &s->embed));
    TR_TRY(tr_hf_size(c, where, "num_hidden_layers", TR_OPTIONAL, &s->layers));
    TR_TRY(tr_hf_size(c, where, "num_attention_heads", TR_OPTIONAL, &s->heads));
    TR_TRY(tr_hf_size(c, where, "intermediate_size", TR_OPTIONAL, &s->mlp));
    return tr_hf_multiple(where, "hidden_size", s->embed, "num_attention_heads", s->heads);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_vision_write(c, s);
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:f}", "hidden_size", s->embed, "num_hidden_layers", s->layers,
                            "num_attention_heads", s->heads, "intermediate_size", s->mlp, "initializer_range", INIT));
}

static void complete(tr_sizes *s)
{
    tr_vision_complete(s, 16, EPS);
    int64_t side = s->image / s->patch;
    s->mlp = s->mlp ? s->mlp : 4 * s->embed;
    s->context = side * side + 1;
}

static tr_error *check(const tr_sizes *s)
{
    return s->image % s->patch ? tr_error_new(TR_USER, "model.image %lld is no multiple of model.patch %lld", (long long)s->image,
                                              (long long)s->patch)
                               : NULL;
}

/* Dosovitskiy et al. 2021, table 1; DeiT (Touvron et al. 2021) has the smaller ones. */
#define VIT(layer_count, width, head_count, side) \
    {.layers = layer_count, .embed = width, .heads = head_count, .patch = side, .image = 224, .labels = 1000}
static const tr_preset presets[] = {
    {"vit-tiny", "deit-tiny", VIT(12, 192, 3, 16)}, {"vit-small", "deit-small", VIT(12, 384, 6, 16)},
    {"vit-base", "vit-b/16", VIT(12, 768, 12, 16)}, {"vit-large", "vit-l/16", VIT(24, 1024, 16, 16)},
    {"vit-huge", "vit-h/14", VIT(32, 1280, 16, 14)}, {0},
};

const tr_family tr_family_vit = {
    .name = "vit",
    .model_type = "vit",
    .architecture = "ViTForImageClassification",
    .model = vit,
    .objective = "images",
    .keys = "layers embed heads mlp image patch channels labels dropout drop_path smoothing norm_eps",
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
};
