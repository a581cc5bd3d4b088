/* Cross-entropy fused with the vocabulary projection: the logits of all tokens are never in memory. */
#include "ops/rule.h"

static tr_error *check(const tr_graph *g, const tr_value *in)
{
    const tr_shape *x = shape_in(g, in, 0), *w = shape_in(g, in, 1), *t = shape_in(g, in, 2);
    char a[256], b[256], c[256];
    if (w->rank != 2 || t->dtype != TR_I32 || x->rank != t->rank + 1)
        return tr_error_new(TR_USER, "takes hidden states, a table [vocab, embed] and an i32 target for each row, "
                                     "not [%s], [%s], %s[%s]",
                            tr_dims_text(g, x, a, sizeof a), tr_dims_text(g, w, b, sizeof b),
                            tr_dtype_name(t->dtype), tr_dims_text(g, t, c, sizeof c));
    TR_TRY(tr_floats_only(g, in, 2));
    TR_TRY(tr_dims_match(g, "hidden states and table must share the last dim", x, x->rank - 1, w, 1, 1));
    return tr_dims_match(g, "hidden states and targets must have the same rows", x, 0, t, 0, t->rank);
}

TR_INFER(infer_cross_entropy)
{
    (void)n_in, (void)attrs;
    TR_TRY(check(g, in));
    out[0] = out[1] = scalar_f32();
    *n_out = 2;
    return NULL;
}

static void grad_cross_entropy(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {tr_in(g, n, 0), tr_in(g, n, 1), tr_in(g, n, 2), d_out[0], 0};
    if (!d_out[0])
        return;
    tr_node back = tr_graph_node(g, TR_OP_cross_entropy_grad, in, 5, NULL);
    d_in[1] = tr_out(g, back, 0);
    d_in[0] = tr_out(g, back, 1);
}

static bool is_forward(tr_op op)
{
    return op == TR_OP_cross_entropy || op == TR_OP_cross_entropy_part;
}

/* logits: one product; the gradient: two more (and the first again when it stands alone). */
static void cost_cross_entropy(const tr_graph *g, tr_node n, tr_cost *cost)
{
    double products = is_forward(g->nodes[n].op) ? 1 : 3;
    double rows = (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 2)));
    cost->flops = products * 2.0 * rows * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 1)));
}

const tr_op_row tr_row_cross_entropy = {
    .min_in = 3, .max_in = 3, .infer = infer_cross_entropy, .gradient = grad_cross_entropy,
    .sharding = "*[d],(v)[d],*->,", .cost = cost_cross_entropy};

static void gradient_shapes(const tr_graph *g, const tr_value *in, tr_shape *dw, tr_shape *dx)
{
    *dw = *shape_in(g, in, 1);
    dw->dtype = TR_F32;
    *dx = *shape_in(g, in, 0);
}

TR_INFER(infer_cross_entropy_grad)
{
    (void)n_in, (void)attrs;
    TR_TRY(check(g, in));
    gradient_shapes(g, in, &out[0], &out[1]);
    *n_out = 2;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_grad = {
    .min_in = 4, .max_in = 5, .flags = TR_OP_ACCUMULATES, .infer = infer_cross_entropy_grad,
    .no_gradient = "second derivatives are not needed for training", .sharding = "*[d],(v)[d],*,,(v)[d]->(v)[d],*[d]",
    .cost = cost_cross_entropy};

TR_INFER(infer_cross_entropy_train)
{
    (void)n_in, (void)attrs;
    TR_TRY(check(g, in));
    gradient_shapes(g, in, &out[0], &out[1]);
    out[2] = out[3] = scalar_f32();
    *n_out = 4;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_train = {
    .min_in = 3, .max_in = 4, .flags = TR_OP_ACCUMULATES, .infer = infer_cross_entropy_train,
    .no_gradient = "made by fusion, after autodiff", .sharding = "*[d],[v][d],*,[v][d]->[v][d],*[d],,",
    .cost = cost_cross_entropy};

/* The vocabulary cut over ranks --------------------------------------------------------------------- */

static const char made_by[] = "made by sharding, after autodiff";

/* One f32 for each target. */
static tr_shape per_token(const tr_graph *g, const tr_value *in, int like)
{
    tr_shape s = *shape_in(g, in, like);
    s.dtype = TR_F32;
    return s;
}

TR_INFER(infer_cross_entropy_part)
{
    (void)n_in, (void)attrs;
    TR_TRY(check(g, in));
    out[0] = out[1] = per_token(g, in, 2);
    *n_out = 2;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_part = {
    .min_in = 3, .max_in = 3, .infer = infer_cross_entropy_part, .no_gradient = made_by,
    .sharding = "*[d],[v][d],*->*,*", .cost = cost_cross_entropy};

TR_INFER(infer_cross_entropy_rebase)
{
    (void)attrs;
    const tr_shape *lse = shape_in(g, in, 0);
    TR_TRY(tr_floats_only(g, in, n_in));
    for (int k = 1; k < n_in; k++)
        TR_TRY(tr_dims_match(g, "statistics must have the same tokens", lse, 0, shape_in(g, in, k), 0, lse->rank));
    if (lse->rank == TR_MAX_RANK)
        return tr_error_new(TR_USER, "statistics of at most %d dims can be stacked", TR_MAX_RANK - 1);
    out[0] = (tr_shape){.dtype = TR_F32, .rank = lse->rank + 1, .dims = {2}};
    memcpy(out[0].dims + 1, lse->dims, (size_t)lse->rank * sizeof *lse->dims);
    memcpy(out[0].names + 1, lse->names, (size_t)lse->rank * sizeof *lse->names);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_rebase = {.min_in = 3, .max_in = 3, .infer = infer_cross_entropy_rebase,
                                               .no_gradient = made_by, .sharding = "*,*,*->[a]*"};

TR_INFER(infer_cross_entropy_join)
{
    (void)n_in;
    const tr_shape *stats = shape_in(g, in, 0), *top = shape_in(g, in, 1), *t = shape_in(g, in, 2);
    TR_TRY(tr_floats_only(g, in, 2));
    if (t->dtype != TR_I32 || stats->rank != t->rank + 1 || stats->dims[0] != 2 || attrs[TR_JOIN_VOCAB].i < 1)
        return tr_dims_differ(g, "takes two statistics and an i32 target for each token", stats, t);
    TR_TRY(tr_dims_match(g, "statistics and targets must have the same tokens", stats, 1, t, 0, t->rank));
    TR_TRY(tr_dims_match(g, "statistics and targets must have the same tokens", top, 0, t, 0, t->rank));
    out[0] = out[1] = scalar_f32();
    out[2] = per_token(g, in, 2);
    *n_out = 3;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_join = {.min_in = 3, .max_in = 3, .attrs = {{"vocab", TR_ATTR_INT}},
                                             .infer = infer_cross_entropy_join, .no_gradient = made_by,
                                             .sharding = "[a]*,*,*->,,*"};

TR_INFER(infer_cross_entropy_part_grad)
{
    (void)n_in, (void)attrs;
    const tr_shape *t = shape_in(g, in, 2);
    TR_TRY(check(g, in));
    TR_TRY(tr_dims_match(g, "statistics and targets must have the same tokens", shape_in(g, in, 3), 0, t, 0, t->rank));
    gradient_shapes(g, in, &out[0], &out[1]);
    *n_out = 2;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_part_grad = {
    .min_in = 5, .max_in = 6, .flags = TR_OP_ACCUMULATES, .infer = infer_cross_entropy_part_grad,
    .no_gradient = made_by, .sharding = "*[d],[v][d],*,*,,[v][d]->[v][d],*[d]", .cost = cost_cross_entropy};
