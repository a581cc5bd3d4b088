/* Swin (Liu et al. 2021): attention within windows, which every second layer shifts by half of their side; between
 * stages four neighbouring tokens become one of twice the width.
 *
 * Shapes: B batch, S side of the grid of tokens, W side of a window, n = S / W, C width, H heads. A stage is [B, S S, C];
 * in windows that is [B n n, W W, C]. Layers are counted through all stages.
 */
#include <stdio.h>

#include "models/vision.h"

static const double EPS = 1e-5;
enum { STAGES = 4 };

/* One stage: its depth, and what doubles and halves from stage to stage. */
typedef struct stage {
    long long B, S, W, C, H, M;
    int depth, index;
} stage;

static int stage_at(const tr_sizes *s, int index, stage *out)
{
    const int64_t depths[STAGES] = {s->depth1, s->depth2, s->depth3, s->depth4};
    *out = (stage){s->batch, s->image / s->patch >> index, s->window, s->embed << index, s->heads << index, s->mlp << index,
                   (int)depths[index], index};
    return out->depth > 0;
}

/* Between [B, S S, C] and [B n n, W W, C]: the order of the dims is its own inverse. */
static tr_value to_windows(tr_graph *g, tr_value x, const stage *t)
{
    long long n = t->S / t->W;
    x = tr_reshape(g, x, "batch=%lld %lld %lld %lld %lld embed=%lld", t->B, n, t->W, n, t->W, t->C);
    x = tr_transpose(g, x, (int[]){0, 1, 3, 2, 4, 5});
    return tr_reshape(g, x, "batch=%lld seq=%lld embed=%lld", t->B * n * n, t->W * t->W, t->C);
}

static tr_value from_windows(tr_graph *g, tr_value x, const stage *t)
{
    long long n = t->S / t->W;
    x = tr_reshape(g, x, "batch=%lld %lld %lld %lld %lld embed=%lld", t->B, n, n, t->W, t->W, t->C);
    x = tr_transpose(g, x, (int[]){0, 1, 3, 2, 4, 5});
    return tr_reshape(g, x, "batch=%lld seq=%lld embed=%lld", t->B, t->S * t->S, t->C);
}

/* The grid rolled along both sides, by so many tokens. */
static tr_value roll(tr_graph *g, tr_value x, const stage *t, int64_t by)
{
    if (by == 0)
        return x;
    x = tr_reshape(g, x, "batch=%lld %lld %lld embed=%lld", t->B, t->S, t->S, t->C);
    x = tr_roll(g, tr_roll(g, x, 1, by), 2, by);
    return tr_reshape(g, x, "batch=%lld seq=%lld embed=%lld", t->B, t->S * t->S, t->C);
}

static tr_value attention(tr_graph *g, tr_value x, const stage *t, int64_t shift, const tr_sizes *s)
{
    long long W = t->W, H = t->H, E = t->C / t->H, n = t->S / W;
    tr_value regions = shift ? tr_window_regions(g, t->S, W, shift) : 0;
    tr_value table = tr_param(g, tr_normal(0.02), "attention.self.relative_position_bias_table", "%lld heads=%lld",
                              (2 * W - 1) * (2 * W - 1), H);
    x = to_windows(g, roll(g, x, t, -shift), t);
    tr_value q = tr_vision_heads(g, x, "attention.self.query", H, E, t->C);
    tr_value k = tr_vision_heads(g, x, "attention.self.key", H, E, t->C);
    tr_value v = tr_vision_heads(g, x, "attention.self.value", H, E, t->C);
    tr_value y = tr_attend(g, q, k, v, &(tr_attend_options){.p = s->dropout, .relative = table, .row = W,
                                                           .query_segments = regions, .key_segments = regions});
    y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", t->B * n * n, W * W, t->C);
    y = tr_vision_join(g, y, "attention.output.dense", H, E, t->C);
    return roll(g, from_windows(g, y, t), t, shift);
}

/* [B, S S, C] to [B, S S / 4, 2 C]: of four neighbours the columns come first, then the rows. */
static tr_value merge(tr_graph *g, tr_value x, const stage *t)
{
    char name[96];
    long long h = t->S / 2;
    x = tr_reshape(g, x, "batch=%lld %lld 2 %lld 2 embed=%lld", t->B, h, h, t->C);
    x = tr_transpose(g, x, (int[]){0, 1, 3, 4, 2, 5});
    x = tr_reshape(g, x, "batch=%lld seq=%lld %lld", t->B, h * h, 4 * t->C);
    snprintf(name, sizeof name, "swin.encoder.layers.%d.downsample.norm", t->index);
    x = tr_vision_norm(g, x, name, 4 * t->C, EPS);
    snprintf(name, sizeof name, "swin.encoder.layers.%d.downsample.reduction.weight", t->index);
    return tr_linear_transposed(g, x, tr_param(g, tr_normal(0.02), name, "embed=%lld %lld", 2 * t->C, 4 * t->C), 0);
}

static void swin(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    stage t, last = {0};
    int layer = 0;
    tr_value x = tr_vision_patches(g, "swin.embeddings.patch_embeddings.projection", s);
    x = tr_dropout(g, tr_vision_norm(g, x, "swin.embeddings.norm", s->embed, EPS), s->dropout);
    for (int i = 0; i < STAGES && stage_at(s, i, &t); i++) {
        if (i > 0)
            x = merge(g, x, &last);
        for (int k = 0; k < t.depth; k++, layer++) {
            double p = tr_vision_drop_path(s, layer, s->layers);
            int64_t shift = k % 2 && t.S > t.W ? t.W / 2 : 0;
            tr_layer_begin(g, layer, "swin.encoder.layers.%d.blocks.%d.", i, k);
            tr_value y = attention(g, tr_vision_norm(g, x, "layernorm_before", t.C, s->norm_eps), &t, shift, s);
            x = tr_add(g, x, tr_drop_path(g, tr_dropout(g, y, s->dropout), p));
            y = tr_vision_mlp(g, tr_vision_norm(g, x, "layernorm_after", t.C, s->norm_eps), "", t.C, t.M);
            x = tr_add(g, x, tr_drop_path(g, tr_dropout(g, y, s->dropout), p));
            tr_layer_end(g);
        }
        last = t;
    }
    x = tr_mean(g, tr_vision_norm(g, x, "swin.layernorm", last.C, s->norm_eps), 1); /* [B, C] */
    tr_vision_head(g, x, last.C, s);
}

/* config.json: the keys of SwinConfig. */

static tr_error *read_stages(const json_t *c, const char *where, tr_sizes *s)
{
    int64_t *const depths[STAGES] = {&s->depth1, &s->depth2, &s->depth3, &s->depth4};
    const json_t *layers = NULL, *heads = NULL;
    TR_TRY(tr_json_array(c, where, "depths", TR_REQUIRED, &layers));
    TR_TRY(tr_json_array(c, where, "num_heads", TR_REQUIRED, &heads));
    size_t n = json_array_size(layers);
    bool fine = n >= 1 && n <= STAGES && json_array_size(heads) == n;
    for (size_t i = 0; i < n && fine; i++) {
        const json_t *depth = json_array_get(layers, i), *h = json_array_get(heads, i);
        fine = json_is_integer(depth) && json_is_integer(h) && json_integer_value(depth) > 0 && json_integer_value(h) > 0 &&
               json_integer_value(h) == json_integer_value(json_array_get(heads, 0)) << i;
        *depths[i] = fine ? (int64_t)json_integer_value(depth) : 0;
    }
    s->heads = fine ? (int64_t)json_integer_value(json_array_get(heads, 0)) : 1;
    return fine ? NULL
                : tr_error_new(TR_USER, "%s: depths and num_heads must be of one length, 1 to %d, and the heads double from stage "
                                        "to stage", where, STAGES);
}

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    double ratio = 4;
    *s = (tr_sizes){.embed = 96, .patch = 4, .window = 7, .norm_eps = EPS, .drop_path = 0.1};
    TR_TRY(tr_vision_read(c, where, s));
    TR_TRY(read_stages(c, where, s));
    TR_TRY(tr_hf_size(c, where, "embed_dim", TR_OPTIONAL, &s->embed));
    TR_TRY(tr_hf_size(c, where, "window_size", TR_OPTIONAL, &s->window));
    TR_TRY(tr_json_real(c, where, "mlp_ratio", TR_OPTIONAL, &ratio));
    TR_TRY(tr_hf_only_bool(c, where, "use_absolute_embeddings", false));
    if (!(ratio > 0 && ratio < 1e6))
        return tr_error_new(TR_USER, "%s: mlp_ratio is %g", where, ratio);
    s->mlp = (int64_t)((double)s->embed * ratio);
    return tr_hf_multiple(where, "embed_dim", s->embed, "num_heads", s->heads);
}

static void write(json_t *c, const tr_sizes *s)
{
    stage t;
    json_t *depths = json_array(), *heads = json_array();
    for (int i = 0; i < STAGES && stage_at(s, i, &t); i++) {
        json_array_append_new(depths, json_integer(t.depth));
        json_array_append_new(heads, json_integer((json_int_t)t.H));
    }
    tr_vision_write(c, s);
    tr_hf_pack(c, json_pack("{s:I, s:I, s:f, s:o, s:o, s:b}", "embed_dim", s->embed, "window_size", s->window, "mlp_ratio",
                            (double)s->mlp / (double)s->embed, "depths", depths, "num_heads", heads,
                            "use_absolute_embeddings", 0));
}

static void complete(tr_sizes *s)
{
    tr_vision_complete(s, 4, EPS);
    s->window = s->window ? s->window : 7;
    if (!s->depth1) {
        s->depth1 = s->depth2 = s->depth4 = 2;
        s->depth3 = 6;
    }
    s->mlp = s->mlp ? s->mlp : 4 * s->embed;
    s->layers = 0;
    stage t;
    for (int i = 0; i < STAGES && stage_at(s, i, &t); i++)
        s->layers += t.depth;
    s->context = s->image / s->patch * (s->image / s->patch);
}

static tr_error *check(const tr_sizes *s)
{
    stage t;
    for (int i = 0; i < STAGES && stage_at(s, i, &t); i++)
        if (s->image % s->patch || t.S < 1 || t.S % t.W || t.S << i != s->image / s->patch)
            return tr_error_new(TR_USER, "stage %d has a grid of %lld tokens a side, which model.window %lld must divide, as "
                                         "each stage halves model.image %lld / model.patch %lld", i + 1, t.S, t.W,
                                (long long)s->image, (long long)s->patch);
    return NULL;
}

/* Liu et al. 2021, section 3.3. */
#define SWIN(width, head_count, third) \
    {.embed = width, .heads = head_count, .depth1 = 2, .depth2 = 2, .depth3 = third, .depth4 = 2, .image = 224, .labels = 1000}
static const tr_preset presets[] = {{"swin-tiny", "swin-t", SWIN(96, 3, 6)},
                                    {"swin-small", "swin-s", SWIN(96, 3, 18)},
                                    {"swin-base", "swin-b", SWIN(128, 4, 18)},
                                    {"swin-large", "swin-l", SWIN(192, 6, 18)},
                                    {0}};

const tr_family tr_family_swin = {
    .name = "swin",
    .model_type = "swin",
    .architecture = "SwinForImageClassification",
    .model = swin,
    .objective = "images",
    .keys = "depth1 depth2 depth3 depth4 window embed heads mlp image patch channels labels dropout drop_path smoothing norm_eps",
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
};
