/* Layer and RMS normalisation, alone and fused with the residual sum before them. */
#include "ops/rule.h"

static tr_error *infer_from(const tr_graph *g, const tr_shape *x, const tr_shape *w, const tr_shape *b,
                            tr_shape *y, tr_shape *mean, tr_shape *rstd)
{
    if (w->rank != 1 || b->rank != 1)
        return tr_dims_differ(g, "the norm's weight and bias must have one dim", w, b);
    TR_TRY(tr_dims_match(g, "the norm's weight must have the input's last dim", x, x->rank - 1, w, 0, 1));
    TR_TRY(tr_dims_match(g, "the norm's bias must have the input's last dim", x, x->rank - 1, b, 0, 1));
    *y = *x;
    *mean = *x;
    mean->dtype = TR_F32;
    mean->rank = x->rank - 1;
    *rstd = *mean;
    return NULL;
}

TR_INFER(infer_layer_norm)
{
    (void)attrs;
    *n_out = 3;
    TR_TRY(tr_floats_only(g, in, n_in));
    return infer_from(g, shape_in(g, in, 0), shape_in(g, in, 1), shape_in(g, in, 2), &out[0], &out[1], &out[2]);
}

TR_INFER(infer_add_layer_norm)
{
    (void)n_in, (void)attrs;
    const tr_shape *x = shape_in(g, in, 0);
    TR_TRY(tr_dims_match(g, "the summands must have one shape", x, 0, shape_in(g, in, 1), 0, x->rank));
    out[0] = *x;
    *n_out = 4;
    return infer_from(g, x, shape_in(g, in, 2), shape_in(g, in, 3), &out[1], &out[2], &out[3]);
}

TR_INFER(infer_layer_norm_grad)
{
    (void)attrs;
    const tr_shape *dy = shape_in(g, in, 0), *x = shape_in(g, in, 1), *w = shape_in(g, in, 2);
    TR_TRY(tr_dims_match(g, "input and gradient must have one shape", x, 0, dy, 0, x->rank));
    if (has(in, n_in, 5))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 5), 0, x, 0, x->rank));
    out[0] = *x;
    out[1] = out[2] = *w;
    *n_out = 3;
    return NULL;
}

static void grad_layer_norm(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    TR_CHECK(!d_out[1] && !d_out[2], "mean and rstd have no gradient");
    const tr_value in[] = {d_out[0], tr_in(g, n, 0), tr_in(g, n, 1), tr_out(g, n, 1), tr_out(g, n, 2), 0};
    tr_node back = tr_graph_node(g, TR_OP_layer_norm_grad, in, 6, NULL);
    for (int k = 0; k < 3; k++)
        d_in[k] = tr_out(g, back, k);
}

static void cost_norm(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 10.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0)));
}

const tr_op_row tr_row_layer_norm = {
    .min_in = 3, .max_in = 3, .flags = TR_OP_CHEAP, .attrs = {{"eps", TR_ATTR_FLOAT}},
    .infer = infer_layer_norm, .gradient = grad_layer_norm, .sharding = "*[d],[d],[d]->*[d],*,*",
    .cost = cost_norm};

const tr_op_row tr_row_add_layer_norm = {
    .min_in = 4, .max_in = 4, .flags = TR_OP_IN_PLACE, .attrs = {{"eps", TR_ATTR_FLOAT}},
    .infer = infer_add_layer_norm, .no_gradient = "made by fusion, after autodiff",
    .sharding = "*[d],*[d],[d],[d]->*[d],*[d],*,*", .cost = cost_norm};

const tr_op_row tr_row_layer_norm_grad = {
    .min_in = 5, .max_in = 6, .flags = TR_OP_ACCUMULATES | TR_OP_IN_PLACE, .infer = infer_layer_norm_grad,
    .no_gradient = "second derivatives are not needed for training",
    .sharding = "*[d],*[d],[d],*,*,*[d]->*[d],[d],[d]", .cost = cost_norm};

tr_value tr_layer_norm(tr_graph *g, tr_value x, tr_value weight, tr_value bias, double eps)
{
    const tr_value in[] = {x, weight, bias};
    return tr_out(g, tr_graph_node(g, TR_OP_layer_norm, in, 3,
                                   (tr_attr[TR_MAX_ATTRS]){[TR_NORM_EPS] = {.f = eps}}), 0);
}

/* RMS (Zhang & Sennrich 2019): no mean and no bias -------------------------------------------------- */

static tr_error *infer_rms_from(const tr_graph *g, const tr_shape *x, const tr_shape *w, tr_shape *y, tr_shape *rstd)
{
    if (w->rank != 1 || x->rank < 1)
        return tr_dims_differ(g, "the norm's weight must have one dim", x, w);
    TR_TRY(tr_dims_match(g, "the norm's weight must have the input's last dim", x, x->rank - 1, w, 0, 1));
    *y = *rstd = *x;
    rstd->dtype = TR_F32;
    rstd->rank = x->rank - 1;
    return NULL;
}

TR_INFER(infer_rms_norm)
{
    (void)attrs;
    *n_out = 2;
    TR_TRY(tr_floats_only(g, in, n_in));
    return infer_rms_from(g, shape_in(g, in, 0), shape_in(g, in, 1), &out[0], &out[1]);
}

TR_INFER(infer_add_rms_norm)
{
    (void)attrs;
    const tr_shape *x = shape_in(g, in, 0);
    TR_TRY(tr_floats_only(g, in, n_in));
    TR_TRY(tr_dims_match(g, "the summands must have one shape", x, 0, shape_in(g, in, 1), 0, x->rank));
    out[0] = *x;
    *n_out = 3;
    return infer_rms_from(g, x, shape_in(g, in, 2), &out[1], &out[2]);
}

TR_INFER(infer_rms_norm_grad)
{
    (void)attrs;
    const tr_shape *dy = shape_in(g, in, 0), *x = shape_in(g, in, 1);
    tr_shape y, rstd;
    TR_TRY(infer_rms_from(g, x, shape_in(g, in, 2), &y, &rstd));
    TR_TRY(tr_dims_match(g, "input and gradient must have one shape", x, 0, dy, 0, x->rank));
    TR_TRY(tr_dims_match(g, "rstd must have the input's rows", x, 0, shape_in(g, in, 3), 0, x->rank - 1));
    if (has(in, n_in, 4))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 4), 0, x, 0, x->rank));
    out[0] = *x;
    out[1] = *shape_in(g, in, 2);
    *n_out = 2;
    return NULL;
}

static void grad_rms_norm(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    TR_CHECK(!d_out[1], "rstd has no gradient");
    const tr_value in[] = {d_out[0], tr_in(g, n, 0), tr_in(g, n, 1), tr_out(g, n, 1), 0};
    tr_node back = tr_graph_node(g, TR_OP_rms_norm_grad, in, 5, NULL);
    d_in[0] = tr_out(g, back, 0);
    d_in[1] = tr_out(g, back, 1);
}

const tr_op_row tr_row_rms_norm = {
    .min_in = 2, .max_in = 2, .flags = TR_OP_CHEAP, .attrs = {{"eps", TR_ATTR_FLOAT}}, .infer = infer_rms_norm,
    .gradient = grad_rms_norm, .sharding = "*[d],[d]->*[d],*", .cost = cost_norm};

const tr_op_row tr_row_add_rms_norm = {
    .min_in = 3, .max_in = 3, .flags = TR_OP_IN_PLACE, .attrs = {{"eps", TR_ATTR_FLOAT}}, .infer = infer_add_rms_norm,
    .no_gradient = "made by fusion, after autodiff", .sharding = "*[d],*[d],[d]->*[d],*[d],*", .cost = cost_norm};

const tr_op_row tr_row_rms_norm_grad = {
    .min_in = 4, .max_in = 5, .flags = TR_OP_ACCUMULATES | TR_OP_IN_PLACE, .infer = infer_rms_norm_grad,
    .no_gradient = "second derivatives are not needed for training",
    .sharding = "*[d],*[d],[d],*,*[d]->*[d],[d]", .cost = cost_norm};

tr_value tr_rms_norm(tr_graph *g, tr_value x, tr_value weight, double eps)
{
    const tr_value in[] = {x, weight};
    return tr_out(g, tr_graph_node(g, TR_OP_rms_norm, in, 2,
                                   (tr_attr[TR_MAX_ATTRS]){[TR_NORM_EPS] = {.f = eps}}), 0);
}
