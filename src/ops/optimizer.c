/* The update, element by element: clipping by the global norm, AdamW, SGD, Lion. All of it is part of the graph, so that sharding,
 * offload and the memory plan see the optimizer's state as they see everything else. */
#include "ops/rule.h"

TR_INFER(infer_clip)
{
    TR_UNUSED_RULE;
    out[0] = out[1] = scalar_f32();
    *n_out = 2;
    return NULL;
}

const tr_op_row tr_row_clip = {.min_in = 2, .max_in = 2, .attrs = {{"max_norm", TR_ATTR_FLOAT}},
                               .infer = infer_clip, .no_gradient = "part of the update",
                               .sharding = ",->,"};

tr_error *tr_check_update(const tr_graph *g, const tr_value *in, int n_in, int moments, int low)
{
    const tr_shape *w = shape_in(g, in, 0);
    for (int k = 1; k < 2 + moments; k++)
        if (tr_shape_elems(w) != tr_shape_elems(shape_in(g, in, k)))
            return tr_error_new(TR_USER, "input %d must have the weight's shape", k);
    if ((w->dtype == TR_BF16) != has(in, n_in, low))
        return tr_error_new(TR_USER, "a bf16 weight needs its low half, an f32 weight has none");
    return NULL;
}

TR_INFER(infer_adamw)
{
    (void)attrs;
    TR_TRY(tr_check_update(g, in, n_in, 2, 7));
    out[0] = *shape_in(g, in, 0);
    out[1] = *shape_in(g, in, 2);
    out[2] = *shape_in(g, in, 3);
    *n_out = 3;
    if (has(in, n_in, 7))
        out[(*n_out)++] = *shape_in(g, in, 7);
    return NULL;
}

static void cost_adamw(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 15.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0)));
}

const tr_op_row tr_row_adamw = {
    .min_in = 7, .max_in = 8, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, 2, 3, 7},
    .attrs = {{"beta1", TR_ATTR_FLOAT}, {"beta2", TR_ATTR_FLOAT}, {"eps", TR_ATTR_FLOAT}, {"decay", TR_ATTR_FLOAT}},
    .infer = infer_adamw, .no_gradient = "part of the update", .sharding = "+,+,+,+,,,,+->+,+,+,+",
    .cost = cost_adamw};

TR_INFER(infer_sgd)
{
    (void)attrs;
    TR_TRY(tr_check_update(g, in, n_in, 1, 5));
    out[0] = *shape_in(g, in, 0);
    out[1] = *shape_in(g, in, 2);
    *n_out = 2;
    if (has(in, n_in, 5))
        out[(*n_out)++] = *shape_in(g, in, 5);
    return NULL;
}

const tr_op_row tr_row_sgd = {
    .min_in = 5, .max_in = 6, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, 2, 5},
    .attrs = {{"momentum", TR_ATTR_FLOAT}, {"decay", TR_ATTR_FLOAT}}, .infer = infer_sgd,
    .no_gradient = "part of the update", .sharding = "+,+,+,,,+->+,+,+"};

/* Of sgd's shape. */
const tr_op_row tr_row_lion = {
    .min_in = 5, .max_in = 6, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, 2, 5},
    .attrs = {{"beta1", TR_ATTR_FLOAT}, {"beta2", TR_ATTR_FLOAT}, {"decay", TR_ATTR_FLOAT}}, .infer = infer_sgd,
    .no_gradient = "part of the update", .sharding = "+,+,+,,,+->+,+,+"};
