/* Switch Transformer (Fedus et al. 2022): T5 with a mixture of experts in the place of every second MLP of both towers.
 * A token goes to one expert, weighted by its probability; one that finds no room passes by. The router works in f32.
 * Its jitter of inputs while training is left out.
 */
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "models/experts.h"
#include "models/t5.h"

static bool has_experts(const tr_sizes *s, int layer)
{
    return s->expert_every == 1 || layer % s->expert_every == 1;
}

static tr_value dense(tr_graph *g, const tr_sizes *s, tr_value x, const char *in, const char *out)
{
    long long D = s->embed, M = s->mlp;
    tr_value wi = tr_param(g, tr_normal(1 / sqrt((double)D)), in, "mlp=%lld embed=%lld", M, D);
    tr_value wo = tr_param(g, tr_normal(1 / sqrt((double)M)), out, "embed=%lld mlp=%lld", D, M);
    tr_value y = tr_dropout(g, tr_relu(g, tr_linear_transposed(g, x, wi, 0)), s->dropout);
    return tr_linear_transposed(g, y, wo, 0);
}

/* user: the losses so far. */
static tr_value feed(tr_graph *g, const tr_sizes *s, tr_value x, const char *prefix, int layer, bool decoder, void *user)
{
    (void)decoder;
    const char *kind = has_experts(s, layer) ? "experts.expert_*." : "";
    char router[96], in[96], out[96];
    snprintf(router, sizeof router, "%smlp.router.classifier.weight", prefix);
    snprintf(in, sizeof in, "%smlp.%swi.weight", prefix, kind);
    snprintf(out, sizeof out, "%smlp.%swo.weight", prefix, kind);
    if (!has_experts(s, layer))
        return dense(g, s, x, in, out);
    tr_expert_layer experts = {.router = router,
                               .in = in,
                               .out = out,
                               .init = 1 / sqrt((double)s->embed),
                               .init_out = 1 / sqrt((double)s->mlp),
                               .activate = tr_relu,
                               .route = {.k = 1, .capacity = s->expert_room, .capacity_factor = s->expert_capacity}};
    return tr_experts(g, x, s, &experts, user);
}

static void model(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    tr_value losses = 0;
    tr_t5_with(g, s, feed, &losses);
    tr_experts_losses(g, losses);
}

/* config.json: T5's keys and these of SwitchTransformersConfig. */

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    int64_t encoder = 0, decoder = 0;
    TR_TRY(tr_t5_read(c, where, s));
    s->router_z_loss = 0.001;
    s->balance_loss = 0.001;
    s->expert_room = 64;
    TR_TRY(tr_hf_size(c, where, "num_experts", TR_REQUIRED, &s->experts));
    TR_TRY(tr_hf_size(c, where, "expert_capacity", TR_OPTIONAL, &s->expert_room));
    TR_TRY(tr_hf_size(c, where, "num_sparse_encoder_layers", TR_REQUIRED, &encoder));
    TR_TRY(tr_hf_size(c, where, "num_sparse_decoder_layers", TR_REQUIRED, &decoder));
    TR_TRY(tr_json_real(c, where, "router_z_loss_coef", TR_OPTIONAL, &s->router_z_loss));
    TR_TRY(tr_json_real(c, where, "router_aux_loss_coef", TR_OPTIONAL, &s->balance_loss));
    TR_TRY(tr_hf_only_bool(c, where, "router_bias", false));
    TR_TRY(tr_hf_only(c, where, "router_dtype", "float32"));
    TR_TRY(tr_hf_only(c, where, "dense_act_fn", "relu"));
    s->expert_every = s->layers / encoder;
    if (s->expert_every < 1 || s->decoder_layers / decoder != s->expert_every)
        return tr_error_new(TR_USER, "%s: %lld of %lld layers of the encoder and %lld of %lld of the decoder have experts; "
                                     "both must have the same share",
                            where, (long long)encoder, (long long)s->layers, (long long)decoder, (long long)s->decoder_layers);
    return NULL;
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_t5_write(c, s);
    json_object_del(c, "scale_decoder_outputs");
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:s, s:f, s:f}", "num_experts", (json_int_t)s->experts,
                            "expert_capacity", (json_int_t)s->expert_room, "num_sparse_encoder_layers",
                            (json_int_t)(s->layers / s->expert_every), "num_sparse_decoder_layers",
                            (json_int_t)(s->decoder_layers / s->expert_every), "encoder_sparse_step",
                            (json_int_t)s->expert_every, "decoder_sparse_step", (json_int_t)s->expert_every, "router_bias", 0,
                            "router_dtype", "float32", "dense_act_fn", "relu", "router_z_loss_coef", s->router_z_loss,
                            "router_aux_loss_coef", s->balance_loss));
}

static void complete(tr_sizes *s)
{
    tr_t5_complete(s);
    s->experts = s->experts ? s->experts : 8;
    s->expert_every = s->expert_every ? s->expert_every : 2;
    s->expert_choices = 1;
    if (s->expert_room == 0 && s->expert_capacity == 0)
        s->expert_room = 64;
}

static tr_error *check(const tr_sizes *s)
{
    if (s->expert_every > s->layers || s->layers % s->expert_every || s->decoder_layers % s->expert_every)
        return tr_error_new(TR_USER, "expert_every %lld does not divide layers %lld and decoder_layers %lld",
                            (long long)s->expert_every, (long long)s->layers, (long long)s->decoder_layers);
    return NULL;
}

/* Fedus et al. 2022, table 9; the config.json of google/switch-* on the hub. */
#define SWITCH(layer_count, width, head_count, inner, expert_count, every)                                              \
    {.layers = layer_count, .embed = width, .heads = head_count, .head_dim = 64, .mlp = inner, .context = 512,           \
     .vocab = 32128, .experts = expert_count, .expert_every = every, .expert_room = 64, .balance_loss = 0.001,           \
     .router_z_loss = 0.001}
static const tr_preset presets[] = {
    {"switch-base-8", "", SWITCH(12, 768, 12, 3072, 8, 2)},
    {"switch-base-16", "", SWITCH(12, 768, 12, 3072, 16, 2)},
    {"switch-base-32", "", SWITCH(12, 768, 12, 3072, 32, 2)},
    {"switch-base-64", "", SWITCH(12, 768, 12, 3072, 64, 2)},
    {"switch-base-128", "", SWITCH(12, 768, 12, 3072, 128, 2)},
    {"switch-base-256", "", SWITCH(12, 768, 12, 3072, 256, 2)},
    {"switch-large-128", "", SWITCH(24, 1024, 16, 4096, 128, 2)},
    {"switch-c-2048", "switch-c", SWITCH(15, 2080, 32, 6144, 2048, 1)},
    {0},
};

static const tr_same_tensor same[] = {
    {"encoder.embed_tokens.weight", "shared.weight"}, {"decoder.embed_tokens.weight", "shared.weight"},
    {"lm_head.weight", "shared.weight"}, {0}};

const tr_family tr_family_switch = {
    .name = "switch",
    .model_type = "switch_transformers",
    .architecture = "SwitchTransformersForConditionalGeneration",
    .model = model,
    .objective = "span",
    .keys = "layers decoder_layers embed heads head_dim mlp context vocab dropout norm_eps buckets bucket_distance smoothing "
            "z_loss expert_every expert_room " TR_EXPERT_KEYS,
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
    .same = same,
    .two_towers = true,
};
