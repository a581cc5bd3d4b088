/* Cross-entropy fused with the vocabulary projection: the logits of all tokens are never in memory. With a bias of the
 * words, label smoothing (Szegedy et al. 2016) and a z loss (lse^2 of each token: Chowdhery et al. 2022). */
#include "ops/rule.h"

#define LOSS_ATTRS                                                                                       \
    {                                                                                                    \
        {"smoothing", TR_ATTR_FLOAT}, {"z_loss", TR_ATTR_FLOAT}, {"vocab", TR_ATTR_INT}                  \
    }

static tr_error *check_attrs(const tr_attr *attrs)
{
    double smoothing = attrs[TR_LOSS_SMOOTHING].f, z = attrs[TR_LOSS_Z].f;
    return smoothing >= 0 && smoothing < 1 && z >= 0
               ? NULL
               : tr_error_new(TR_USER, "label smoothing %g and z loss %g; smoothing is in [0, 1), a z loss 0 or more", smoothing, z);
}

/* bias: the place of the optional one of the words. */
static tr_error *check(const tr_graph *g, const tr_value *in, int n_in, int bias)
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
    if (has(in, n_in, bias)) {
        const tr_shape *b_shape = shape_in(g, in, bias);
        if (b_shape->rank != 1 || b_shape->dtype != TR_F32)
            return tr_dims_differ(g, "the bias must be f32 and have one element for each word", b_shape, w);
        TR_TRY(tr_dims_match(g, "the bias must have one element for each word", b_shape, 0, w, 0, 1));
    }
    return tr_dims_match(g, "hidden states and targets must have the same rows", x, 0, t, 0, t->rank);
}

TR_INFER(infer_cross_entropy)
{
    TR_TRY(check_attrs(attrs));
    TR_TRY(check(g, in, n_in, 3));
    out[0] = out[1] = scalar_f32();
    *n_out = 2;
    return NULL;
}

static void grad_cross_entropy(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {tr_in(g, n, 0), tr_in(g, n, 1), tr_in(g, n, 2), tr_in(g, n, 3), d_out[0], 0};
    if (!d_out[0])
        return;
    tr_node back = tr_graph_node(g, TR_OP_cross_entropy_grad, in, 6, g->nodes[n].attrs);
    d_in[1] = tr_out(g, back, 0);
    d_in[0] = tr_out(g, back, 1);
    d_in[3] = tr_out(g, back, 2);
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
    .min_in = 3, .max_in = 4, .attrs = LOSS_ATTRS, .infer = infer_cross_entropy, .gradient = grad_cross_entropy,
    .sharding = "*[d],(v)[d],*,(v)->,", .cost = cost_cross_entropy};

/* dw, dx, and behind the first `before` outputs dbias. */
static void gradient_shapes(const tr_graph *g, const tr_value *in, int n_in, int bias, int before, tr_shape *out,
                            int *n_out)
{
    out[0] = *shape_in(g, in, 1);
    out[0].dtype = TR_F32;
    out[1] = *shape_in(g, in, 0);
    *n_out = before;
    if (has(in, n_in, bias))
        out[(*n_out)++] = *shape_in(g, in, bias);
}

TR_INFER(infer_cross_entropy_grad)
{
    TR_TRY(check_attrs(attrs));
    TR_TRY(check(g, in, n_in, 3));
    if (!has(in, n_in, 4))
        return tr_error_new(TR_USER, "takes the gradient of the loss");
    gradient_shapes(g, in, n_in, 3, 2, out, n_out);
    return NULL;
}

const tr_op_row tr_row_cross_entropy_grad = {
    .min_in = 3, .max_in = 6, .flags = TR_OP_ACCUMULATES, .attrs = LOSS_ATTRS, .infer = infer_cross_entropy_grad,
    .no_gradient = "second derivatives are not needed for training",
    .sharding = "*[d],(v)[d],*,(v),,(v)[d]->(v)[d],*[d],(v)",
    .cost = cost_cross_entropy};

TR_INFER(infer_cross_entropy_train)
{
    TR_TRY(check_attrs(attrs));
    TR_TRY(check(g, in, n_in, 3));
    gradient_shapes(g, in, n_in, 3, 4, out, n_out);
    out[2] = out[3] = scalar_f32();
    return NULL;
}

const tr_op_row tr_row_cross_entropy_train = {
    .min_in = 3, .max_in = 6, .flags = TR_OP_ACCUMULATES, .attrs = LOSS_ATTRS, .infer = infer_cross_entropy_train,
    .no_gradient = "made by fusion, after autodiff", .sharding = "*[d],[v][d],*,[v],,[v][d]->[v][d],*[d],,,[v]",
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
    TR_TRY(check(g, in, n_in, 3));
    out[0] = out[1] = out[2] = per_token(g, in, 2);
    *n_out = attrs[TR_LOSS_SMOOTHING].f > 0 ? 3 : 2;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_part = {
    .min_in = 3, .max_in = 4, .attrs = LOSS_ATTRS, .infer = infer_cross_entropy_part, .no_gradient = made_by,
    .sharding = "*[d],[v][d],*,[v]->*,*,*", .cost = cost_cross_entropy};

TR_INFER(infer_cross_entropy_rebase)
{
    (void)attrs;
    const tr_shape *lse = shape_in(g, in, 0);
    TR_TRY(tr_floats_only(g, in, n_in));
    for (int k = 1; k < n_in && in[k]; k++)
        TR_TRY(tr_dims_match(g, "statistics must have the same tokens", lse, 0, shape_in(g, in, k), 0, lse->rank));
    if (lse->rank == TR_MAX_RANK)
        return tr_error_new(TR_USER, "statistics of at most %d dims can be stacked", TR_MAX_RANK - 1);
    out[0] = (tr_shape){.dtype = TR_F32, .rank = lse->rank + 1, .dims = {has(in, n_in, 3) ? 3 : 2}};
    memcpy(out[0].dims + 1, lse->dims, (size_t)lse->rank * sizeof *lse->dims);
    memcpy(out[0].names + 1, lse->names, (size_t)lse->rank * sizeof *lse->names);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_rebase = {.min_in = 3, .max_in = 4, .infer = infer_cross_entropy_rebase,
                                               .no_gradient = made_by, .sharding = "*,*,*,*->[a]*"};

TR_INFER(infer_cross_entropy_join)
{
    (void)n_in;
    const tr_shape *stats = shape_in(g, in, 0), *top = shape_in(g, in, 1), *t = shape_in(g, in, 2);
    TR_TRY(tr_floats_only(g, in, 2));
    if (t->dtype != TR_I32 || stats->rank != t->rank + 1 || stats->dims[0] != (attrs[TR_LOSS_SMOOTHING].f > 0 ? 3 : 2) ||
        attrs[TR_LOSS_VOCAB].i < 1)
        return tr_dims_differ(g, "takes the statistics and an i32 target for each token", stats, t);
    TR_TRY(tr_dims_match(g, "statistics and targets must have the same tokens", stats, 1, t, 0, t->rank));
    TR_TRY(tr_dims_match(g, "statistics and targets must have the same tokens", top, 0, t, 0, t->rank));
    out[0] = out[1] = scalar_f32();
    out[2] = per_token(g, in, 2);
    *n_out = 3;
    return NULL;
}

const tr_op_row tr_row_cross_entropy_join = {.min_in = 3, .max_in = 3, .attrs = LOSS_ATTRS,
                                             .infer = infer_cross_entropy_join, .no_gradient = made_by,
                                             .sharding = "[a]*,*,*->,,*"};

TR_INFER(infer_cross_entropy_part_grad)
{
    const tr_shape *t = shape_in(g, in, 2);
    TR_TRY(check_attrs(attrs));
    TR_TRY(check(g, in, n_in, 4));
    if (!has(in, n_in, 5))
        return tr_error_new(TR_USER, "takes the gradient of the loss");
    if (attrs[TR_LOSS_VOCAB].i < 1)
        return tr_error_new(TR_USER, "a vocabulary of %lld words", (long long)attrs[TR_LOSS_VOCAB].i);
    TR_TRY(tr_dims_match(g, "statistics and targets must have the same tokens", shape_in(g, in, 3), 0, t, 0, t->rank));
    gradient_shapes(g, in, n_in, 4, 2, out, n_out);
    return NULL;
}

const tr_op_row tr_row_cross_entropy_part_grad = {
    .min_in = 4, .max_in = 7, .flags = TR_OP_ACCUMULATES, .attrs = LOSS_ATTRS, .infer = infer_cross_entropy_part_grad,
    .no_gradient = made_by, .sharding = "*[d],[v][d],*,*,[v],,[v][d]->[v][d],*[d],[v]", .cost = cost_cross_entropy};
