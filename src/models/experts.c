/* See experts.h. The router works in f32 whatever the precision is (Fedus et al. 2022, section 2.4). Losses go from
 * layer to layer as a running sum, so that in a pipeline they cross from a stage to the next one only.
 *
 * Shapes: B batch, T seq, D embed, E experts, C capacity, M mlp.
 */
#include "models/experts.h"

#include "base/memory.h"

static tr_value add_loss(tr_graph *g, tr_value losses, tr_value loss, double weight)
{
    if (weight == 0)
        return losses;
    loss = tr_scale(g, loss, weight);
    return losses ? tr_add(g, losses, loss) : loss;
}

tr_value tr_experts(tr_graph *g, tr_value x, const tr_sizes *s, const tr_expert_layer *layer, tr_value *losses)
{
    long long E = s->experts, M = s->mlp, D = s->embed;
    tr_init init = tr_normal(layer->init);
    tr_value router = tr_param(g, init, layer->router, "expert=%lld embed=%lld", E, D);
    tr_value logits = tr_linear_transposed(g, tr_cast(g, x, true), tr_cast(g, router, true), 0); /* [B, T, E] */
    tr_routing r = tr_route(g, logits, &layer->route);

    tr_value y = tr_dispatch(g, x, &r); /* [E, B, C, D] */
    tr_value in = tr_param(g, init, layer->in, "expert=%lld mlp=%lld embed=%lld", E, M, D);
    tr_value h = tr_expert_linear(g, y, in, true, &r); /* [E, B, C, M] */
    if (layer->gated) {
        tr_value gate = tr_param(g, init, layer->gate, "expert=%lld mlp=%lld embed=%lld", E, M, D);
        h = layer->gated(g, tr_expert_linear(g, y, gate, true, &r), h);
    } else {
        h = layer->activate(g, h);
    }
    h = tr_dropout(g, h, s->expert_dropout);
    tr_value out = tr_param(g, tr_normal(layer->init_out), layer->out, "expert=%lld embed=%lld mlp=%lld", E, D, M);
    y = tr_collect(g, tr_expert_linear(g, h, out, true, &r), &r); /* [B, T, D] */

    *losses = add_loss(g, *losses, r.balance, s->balance_loss);
    *losses = add_loss(g, *losses, r.z, s->router_z_loss);
    return y;
}

void tr_experts_losses(tr_graph *g, tr_value losses)
{
    if (losses)
        tr_loss_add(g, "experts", losses, 1);
}

tr_error *tr_experts_check(const tr_sizes *s)
{
    if (s->expert_choices > s->experts || s->expert_choices > 16)
        return tr_error_new(TR_USER, "expert_choices is %lld of %lld experts; it can be 1 to %lld", (long long)s->expert_choices,
                            (long long)s->experts, (long long)TR_MIN(s->experts, 16));
    return NULL;
}

tr_error *tr_experts_read(const json_t *c, const char *where, tr_sizes *s)
{
    TR_TRY(tr_hf_size(c, where, "experts", TR_REQUIRED, &s->experts));
    TR_TRY(tr_hf_size(c, where, "expert_choices", TR_REQUIRED, &s->expert_choices));
    TR_TRY(tr_hf_size(c, where, "expert_every", TR_REQUIRED, &s->expert_every));
    TR_TRY(tr_json_bool(c, where, "expert_random", TR_OPTIONAL, &s->expert_random));
    TR_TRY(tr_json_real(c, where, "expert_capacity", TR_OPTIONAL, &s->expert_capacity));
    TR_TRY(tr_json_real(c, where, "expert_dropout", TR_OPTIONAL, &s->expert_dropout));
    TR_TRY(tr_json_real(c, where, "balance_loss", TR_OPTIONAL, &s->balance_loss));
    return tr_json_real(c, where, "router_z_loss", TR_OPTIONAL, &s->router_z_loss);
}

void tr_experts_write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:b, s:f, s:f, s:f, s:f}", "experts", (json_int_t)s->experts, "expert_choices",
                            (json_int_t)s->expert_choices, "expert_every", (json_int_t)s->expert_every, "expert_random",
                            s->expert_random, "expert_capacity", s->expert_capacity, "expert_dropout", s->expert_dropout,
                            "balance_loss", s->balance_loss, "router_z_loss", s->router_z_loss));
}
