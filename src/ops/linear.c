/* linear and the two halves of its gradient. Backward is two nodes (input gradient, weight gradient),
 * so that a schedule can put the weight half wherever there is time. */
#include "ops/rule.h"

/* Trailing dims of w are contracted when it is transposed, the leading one otherwise. */
static int features(const tr_shape *w)
{
    return w->rank - 1;
}

TR_INFER(infer_linear)
{
    const tr_shape *x = shape_in(g, in, 0), *w = shape_in(g, in, 1);
    bool transposed = attrs[TR_LINEAR_TRANSPOSED].i;
    int n = features(w);
    if (w->rank < 2 || x->rank < 1 || x->rank - 1 + n > TR_MAX_RANK)
        return tr_dims_differ(g, "the weight must have two dims or more, and the result at most eight", x, w);
    TR_TRY(tr_dims_match(g, "the input's last dim must be the one that the weight contracts", x,
                         x->rank - 1, w, transposed ? n : 0, 1));
    out[0] = *x;
    out[0].rank = x->rank - 1 + n;
    memcpy(out[0].dims + x->rank - 1, w->dims + !transposed, (size_t)n * sizeof *w->dims);
    memcpy(out[0].names + x->rank - 1, w->names + !transposed, (size_t)n * sizeof *w->names);
    if (has(in, n_in, 2) && shape_in(g, in, 2)->rank != n)
        return tr_dims_differ(g, "the bias must have the weight's output dims", shape_in(g, in, 2), w);
    if (has(in, n_in, 2))
        TR_TRY(tr_dims_match(g, "the bias must have the weight's output dims", shape_in(g, in, 2), 0,
                             &out[0], x->rank - 1, n));
    TR_TRY(tr_floats_only(g, in, n_in));
    if (x->dtype != w->dtype)
        return tr_error_new(TR_USER, "the input is %s and the weight %s; cast one of them",
                            tr_dtype_name(x->dtype), tr_dtype_name(w->dtype));
    *n_out = 1;
    return NULL;
}

static tr_value emit(tr_graph *g, tr_op op, const tr_value *in, int n_in, const tr_attr *attrs)
{
    return tr_out(g, tr_graph_node(g, op, in, n_in, attrs), 0);
}

static void grad_linear(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    tr_value x = tr_in(g, n, 0), w = tr_in(g, n, 1), bias = tr_in(g, n, 2);
    bool transposed = g->nodes[n].attrs[TR_LINEAR_TRANSPOSED].i;
    TR_CHECK(g->nodes[n].attrs[TR_LINEAR_FN].i == TR_FN_none, "fusion comes after autodiff");
    int kept = features(tr_shape_at(g, w)), rows = tr_shape_at(g, x)->rank - 1;
    tr_dtype dtype = tr_shape_at(g, w)->dtype;
    d_in[0] = emit(g, TR_OP_linear_dx, (tr_value[]){d_out[0], w, 0}, 3,
                   (tr_attr[TR_MAX_ATTRS]){[TR_LINEAR_TRANSPOSED] = {.i = transposed}});
    d_in[1] = emit(g, TR_OP_linear_dw, (tr_value[]){x, d_out[0], 0}, 3,
                   (tr_attr[TR_MAX_ATTRS]){[TR_LINEAR_DW_TRANSPOSED] = {.i = transposed},
                                           [TR_LINEAR_DW_DTYPE] = {.i = dtype},
                                           [TR_LINEAR_DW_SPLIT] = {.i = rows}});
    if (bias)
        d_in[2] = emit(g, TR_OP_sum_leading, (tr_value[]){d_out[0], 0}, 2,
                       (tr_attr[TR_MAX_ATTRS]){[TR_SUM_LEADING_KEPT] = {.i = kept}});
}

/* 2 x rows x contracted x features: the elements of the weight times the rows of the activation. */
static void cost_matmul(const tr_graph *g, tr_node n, tr_cost *cost)
{
    tr_value small = tr_in(g, n, 0);
    bool dw = g->nodes[n].op == TR_OP_linear_dw;
    const tr_shape *w = tr_shape_at(g, dw ? tr_out(g, n, 0) : tr_in(g, n, 1)), *x = tr_shape_at(g, small);
    int trailing = g->nodes[n].op == TR_OP_linear_dx ? features(w) : 1;
    double rows = 1;
    for (int d = 0; d < x->rank - trailing; d++)
        rows *= (double)x->dims[d];
    cost->flops = 2.0 * rows * (double)tr_shape_elems(w);
}

static const char *rule_linear(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_LINEAR_TRANSPOSED].i ? "*k,+k,+->*+" : "*k,k+,+->*+";
}

static const char *rule_linear_dx(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_LINEAR_TRANSPOSED].i ? "*+,+k,*k->*k" : "*+,k+,*k->*k";
}

static const char *rule_linear_dw(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_LINEAR_DW_TRANSPOSED].i ? "*k,*+,+k->+k" : "*k,*+,k+->k+";
}

const tr_op_row tr_row_linear = {
    .min_in = 2, .max_in = 3, .attrs = {{"transposed", TR_ATTR_BOOL}, {"fn", TR_ATTR_FN}},
    .infer = infer_linear, .gradient = grad_linear, .sharding_of = rule_linear, .cost = cost_matmul};

TR_INFER(infer_linear_dx)
{
    const tr_shape *dy = shape_in(g, in, 0), *w = shape_in(g, in, 1);
    bool transposed = attrs[TR_LINEAR_TRANSPOSED].i;
    int n = features(w), rows = dy->rank - n;
    if (w->rank < 2)
        return tr_dims_differ(g, "the weight must have two dims or more", dy, w);
    TR_TRY(tr_dims_match(g, "the gradient must end in the weight's output dims", dy, rows, w, !transposed, n));
    out[0] = *dy;
    out[0].rank = rows + 1;
    out[0].dims[rows] = w->dims[transposed ? n : 0];
    out[0].names[rows] = w->names[transposed ? n : 0];
    if (has(in, n_in, 2))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 2), 0, &out[0], 0, rows + 1));
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_linear_dx = {
    .min_in = 2, .max_in = 3, .flags = TR_OP_ACCUMULATES, .attrs = {{"transposed", TR_ATTR_BOOL}},
    .infer = infer_linear_dx, .no_gradient = "second derivatives are not needed for training",
    .sharding_of = rule_linear_dx, .cost = cost_matmul};

TR_INFER(infer_linear_dw)
{
    const tr_shape *x = shape_in(g, in, 0), *dy = shape_in(g, in, 1);
    bool transposed = attrs[TR_LINEAR_DW_TRANSPOSED].i;
    int rows = (int)attrs[TR_LINEAR_DW_SPLIT].i, n = dy->rank - rows;
    if (x->rank < 1 || attrs[TR_LINEAR_DW_SPLIT].i != x->rank - 1 || n < 1 || 1 + n > TR_MAX_RANK)
        return tr_dims_differ(g, "all dims of the input but the last must be contracted", x, dy);
    TR_TRY(tr_dims_match(g, "input and gradient must have the same rows", x, 0, dy, 0, rows));
    out[0] = (tr_shape){.dtype = (tr_dtype)attrs[TR_LINEAR_DW_DTYPE].i, .rank = 1 + n};
    memcpy(out[0].dims + !transposed, dy->dims + rows, (size_t)n * sizeof *dy->dims);
    memcpy(out[0].names + !transposed, dy->names + rows, (size_t)n * sizeof *dy->names);
    out[0].dims[transposed ? n : 0] = x->dims[x->rank - 1];
    out[0].names[transposed ? n : 0] = x->names[x->rank - 1];
    if (has(in, n_in, 2))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 2), 0, &out[0], 0, 1 + n));
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_linear_dw = {
    .min_in = 2, .max_in = 3, .flags = TR_OP_ACCUMULATES | TR_OP_WEIGHT,
    .attrs = {{"transposed", TR_ATTR_BOOL}, {"dtype", TR_ATTR_DTYPE}, {"split", TR_ATTR_INT}},
    .infer = infer_linear_dw, .no_gradient = "second derivatives are not needed for training",
    .sharding_of = rule_linear_dw, .cost = cost_matmul};

tr_value tr_linear(tr_graph *g, tr_value x, tr_value w, tr_value bias)
{
    return emit(g, TR_OP_linear, (tr_value[]){x, w, bias}, 3, NULL);
}

tr_value tr_linear_transposed(tr_graph *g, tr_value x, tr_value w, tr_value bias)
{
    return emit(g, TR_OP_linear, (tr_value[]){x, w, bias}, 3,
                (tr_attr[TR_MAX_ATTRS]){[TR_LINEAR_TRANSPOSED] = {.i = 1}});
}
