/* Elementwise ops: add, mul, scale, cast, activate, dropout, and the fills clear and expand. */
#include "ops/rule.h"

TR_INFER(infer_same)
{
    (void)attrs;
    TR_TRY(tr_floats_only(g, in, n_in));
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return NULL;
}

static tr_value emit(tr_graph *g, tr_op op, tr_value a, tr_value b, const tr_attr *attrs)
{
    const tr_value in[] = {a, b};
    return tr_out(g, tr_graph_node(g, op, in, b ? 2 : 1, attrs), 0);
}

/* add ------------------------------------------------------------------------------------------- */

TR_INFER(infer_add)
{
    const tr_shape *a = shape_in(g, in, 0), *b = shape_in(g, in, 1);
    TR_TRY(tr_dims_match(g, "the second input must have the first's last dims", a, a->rank - b->rank, b,
                         0, b->rank));
    return infer_same(g, in, n_in, attrs, out, n_out);
}

/* The gradient of the second input, which is repeated over the leading dims of d. */
static tr_value sum_repeats(tr_graph *g, tr_node n, tr_value d)
{
    const tr_shape a = *tr_shape_at(g, tr_in(g, n, 0)), b = *tr_shape_at(g, tr_in(g, n, 1));
    if (a.rank == b.rank)
        return d;
    tr_value sum = emit(g, TR_OP_sum_leading, d, 0,
                        (tr_attr[TR_MAX_ATTRS]){[TR_SUM_LEADING_KEPT] = {.i = b.rank}});
    return b.dtype == TR_F32 || !sum ? sum
                                     : emit(g, TR_OP_cast, sum, 0,
                                            (tr_attr[TR_MAX_ATTRS]){[TR_CAST_DTYPE] = {.i = b.dtype}});
}

static void grad_add(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = d_out[0];
    d_in[1] = sum_repeats(g, n, d_out[0]);
}

const tr_op_row tr_row_add = {
    .min_in = 2, .max_in = 2, .flags = TR_OP_ELEMENTWISE | TR_OP_IN_PLACE, .infer = infer_add,
    .gradient = grad_add, .sharding = "*+,+->*+"};

tr_value tr_add(tr_graph *g, tr_value a, tr_value b)
{
    return emit(g, TR_OP_add, a, b, NULL);
}

/* mul ------------------------------------------------------------------------------------------- */

TR_INFER(infer_one_shape)
{
    const tr_shape *a = shape_in(g, in, 0);
    for (int k = 1; k < n_in; k++)
        TR_TRY(tr_dims_match(g, "all inputs must have one shape", a, a->rank - shape_in(g, in, k)->rank,
                             shape_in(g, in, k), shape_in(g, in, k)->rank - a->rank, a->rank));
    return infer_same(g, in, n_in, attrs, out, n_out);
}

static void grad_mul(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = tr_mul(g, d_out[0], tr_in(g, n, 1));
    d_in[1] = sum_repeats(g, n, tr_mul(g, d_out[0], tr_in(g, n, 0)));
}

const tr_op_row tr_row_mul = {.min_in = 2, .max_in = 2, .flags = TR_OP_ELEMENTWISE | TR_OP_IN_PLACE,
                              .infer = infer_add, .gradient = grad_mul, .sharding = "*+,+->*+"};

tr_value tr_mul(tr_graph *g, tr_value a, tr_value b)
{
    return emit(g, TR_OP_mul, a, b, NULL);
}

/* scale ----------------------------------------------------------------------------------------- */

static void grad_scale(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = tr_scale(g, d_out[0], g->nodes[n].attrs[TR_SCALE_FACTOR].f);
}

const tr_op_row tr_row_scale = {.min_in = 1, .max_in = 1, .flags = TR_OP_ELEMENTWISE | TR_OP_IN_PLACE,
                                .attrs = {{"factor", TR_ATTR_FLOAT}}, .infer = infer_same,
                                .gradient = grad_scale, .sharding = "+->+"};

tr_value tr_scale(tr_graph *g, tr_value a, double factor)
{
    return emit(g, TR_OP_scale, a, 0, (tr_attr[TR_MAX_ATTRS]){[TR_SCALE_FACTOR] = {.f = factor}});
}

/* cast ------------------------------------------------------------------------------------------ */

TR_INFER(infer_cast)
{
    TR_TRY(tr_floats_only(g, in, n_in));
    out[0] = *shape_in(g, in, 0);
    int64_t to = attrs[TR_CAST_DTYPE].i;
    if (to < 0 || to >= TR_DTYPE_COUNT || !is_activation((tr_dtype)to))
        return tr_error_new(TR_USER, "can cast to f32, bf16 and f16 only");
    out[0].dtype = (tr_dtype)to;
    *n_out = 1;
    return NULL;
}

static void grad_cast(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    int64_t from = tr_shape_at(g, tr_in(g, n, 0))->dtype;
    d_in[0] = emit(g, TR_OP_cast, d_out[0], 0, (tr_attr[TR_MAX_ATTRS]){[TR_CAST_DTYPE] = {.i = from}});
}

const tr_op_row tr_row_cast = {.min_in = 1, .max_in = 1, .flags = TR_OP_ELEMENTWISE,
                               .attrs = {{"dtype", TR_ATTR_DTYPE}}, .infer = infer_cast,
                               .gradient = grad_cast, .sharding = "+->+"};

tr_value tr_cast(tr_graph *g, tr_value x, bool to_f32)
{
    tr_dtype to = to_f32 ? TR_F32 : g->compute;
    if (g->error || !x || tr_shape_at(g, x)->dtype == to)
        return x;
    return emit(g, TR_OP_cast, x, 0, (tr_attr[TR_MAX_ATTRS]){[TR_CAST_DTYPE] = {.i = to}});
}

/* activate -------------------------------------------------------------------------------------- */

static void grad_activate(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = emit(g, TR_OP_activate_grad, d_out[0], tr_in(g, n, 0), g->nodes[n].attrs);
}

static void cost_activate(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 20.0 * (double)tr_shape_elems(tr_shape_at(g, tr_out(g, n, 0)));
}

const tr_op_row tr_row_activate = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_ELEMENTWISE | TR_OP_CHEAP | TR_OP_IN_PLACE, .attrs = {{"fn", TR_ATTR_FN}},
    .infer = infer_same, .gradient = grad_activate, .sharding = "+->+", .cost = cost_activate};

const tr_op_row tr_row_activate_grad = {
    .min_in = 2, .max_in = 2, .flags = TR_OP_ELEMENTWISE | TR_OP_IN_PLACE, .attrs = {{"fn", TR_ATTR_FN}},
    .infer = infer_one_shape, .no_gradient = "second derivatives are not needed for training",
    .sharding = "+,+->+", .cost = cost_activate};

#define ACTIVATION(function, fn)                                                              \
    tr_value function(tr_graph *g, tr_value x)                                                \
    {                                                                                         \
        return emit(g, TR_OP_activate, x, 0,                                                  \
                    (tr_attr[TR_MAX_ATTRS]){[TR_ACTIVATE_FN] = {.i = (fn)}});                   \
    }
ACTIVATION(tr_gelu, TR_FN_gelu_erf)
ACTIVATION(tr_gelu_tanh, TR_FN_gelu_tanh)
ACTIVATION(tr_relu, TR_FN_relu)
ACTIVATION(tr_silu, TR_FN_silu)
ACTIVATION(tr_tanh, TR_FN_tanh)
ACTIVATION(tr_sigmoid, TR_FN_sigmoid)

/* gated ----------------------------------------------------------------------------------------- */

static void grad_gated(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {d_out[0], tr_in(g, n, 0), tr_in(g, n, 1)};
    tr_node back = tr_graph_node(g, TR_OP_gated_grad, in, 3, g->nodes[n].attrs);
    d_in[0] = tr_out(g, back, 0);
    d_in[1] = tr_out(g, back, 1);
}

const tr_op_row tr_row_gated = {
    .min_in = 2, .max_in = 2, .flags = TR_OP_ELEMENTWISE | TR_OP_CHEAP | TR_OP_IN_PLACE, .attrs = {{"fn", TR_ATTR_FN}},
    .infer = infer_one_shape, .gradient = grad_gated, .sharding = "+,+->+", .cost = cost_activate};

TR_INFER(infer_gated_grad)
{
    TR_TRY(infer_one_shape(g, in, n_in, attrs, out, n_out));
    out[1] = out[0];
    *n_out = 2;
    return NULL;
}

const tr_op_row tr_row_gated_grad = {
    .min_in = 3, .max_in = 3, .flags = TR_OP_ELEMENTWISE | TR_OP_IN_PLACE, .attrs = {{"fn", TR_ATTR_FN}},
    .infer = infer_gated_grad, .no_gradient = "second derivatives are not needed for training",
    .sharding = "+,+,+->+,+", .cost = cost_activate};

#define GATED(function, fn)                                                                   \
    tr_value function(tr_graph *g, tr_value gate, tr_value x)                                 \
    {                                                                                         \
        return emit(g, TR_OP_gated, gate, x,                                                  \
                    (tr_attr[TR_MAX_ATTRS]){[TR_ACTIVATE_FN] = {.i = (fn)}});                   \
    }
GATED(tr_swiglu, TR_FN_silu)
GATED(tr_geglu, TR_FN_gelu_erf)
GATED(tr_geglu_tanh, TR_FN_gelu_tanh)

/* dropout --------------------------------------------------------------------------------------- */

TR_INFER(infer_dropout)
{
    int64_t dims = attrs[TR_DROPOUT_DIMS].i;
    TR_TRY(infer_same(g, in, n_in, attrs, out, n_out));
    if (dims < 0 || dims > out[0].rank)
        return tr_error_new(TR_USER, "the first %lld of %d dims", (long long)dims, out[0].rank);
    return NULL;
}

/* The mask is a function of (seed, step, stream, index): the gradient draws the same one again. */
static void grad_dropout(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = emit(g, TR_OP_dropout, d_out[0], 0, g->nodes[n].attrs);
}

const tr_op_row tr_row_dropout = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_ELEMENTWISE | TR_OP_IN_PLACE | TR_OP_RANDOM | TR_OP_CHEAP,
    .attrs = {{"p", TR_ATTR_FLOAT}, {"stream", TR_ATTR_INT}, {"dims", TR_ATTR_INT}}, .infer = infer_dropout,
    .gradient = grad_dropout, .sharding = "+->+"};

static tr_value dropout(tr_graph *g, tr_value x, double p, int64_t dims)
{
    if (p == 0)
        return x;
    if (!(p > 0 && p < 1)) {
        tr_graph_fail(g, tr_error_new(TR_USER, "dropout %g: it must be in [0, 1)", p));
        return 0;
    }
    return emit(g, TR_OP_dropout, x, 0,
                (tr_attr[TR_MAX_ATTRS]){[TR_DROPOUT_P] = {.f = p}, [TR_DROPOUT_STREAM] = {.i = g->streams++},
                                        [TR_DROPOUT_DIMS] = {.i = dims}});
}

tr_value tr_dropout(tr_graph *g, tr_value x, double p)
{
    return dropout(g, x, p, 0);
}

tr_value tr_drop_path(tr_graph *g, tr_value x, double p)
{
    return dropout(g, x, p, 1);
}

/* fill, clear, expand ----------------------------------------------------------------------------- */

TR_INFER(infer_fill)
{
    TR_UNUSED_RULE;
    out[0] = scalar_f32();
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_fill = {.min_in = 0, .max_in = 0, .attrs = {{"value", TR_ATTR_FLOAT}},
                               .infer = infer_fill, .no_gradient = "a constant", .sharding = "->"};

TR_INFER(infer_clear)
{
    (void)n_in, (void)attrs;
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_clear = {.min_in = 1, .max_in = 1, .flags = TR_OP_UPDATES, .updates = {0},
                                .infer = infer_clear, .no_gradient = "a constant", .sharding = "+->+"};

static bool is_scalar(const tr_shape *x)
{
    return x->rank == 1 && x->dims[0] == 1;
}

TR_INFER(infer_expand)
{
    const tr_shape *x = shape_in(g, in, 0), *like = shape_in(g, in, 1);
    (void)attrs;
    TR_TRY(tr_floats_only(g, in, n_in));
    if (!is_scalar(x))
        TR_TRY(tr_dims_match(g, "must be the last dims of", x, 0, like, like->rank - x->rank, x->rank));
    out[0] = *like;
    *n_out = 1;
    return NULL;
}

static void grad_expand(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_shape x = *tr_shape_at(g, tr_in(g, n, 0));
    int64_t kept = is_scalar(&x) ? 0 : x.rank;
    d_in[0] = emit(g, TR_OP_sum_leading, d_out[0], 0,
                   (tr_attr[TR_MAX_ATTRS]){[TR_SUM_LEADING_KEPT] = {.i = kept}});
}

static const char *rule_expand(const tr_graph *g, tr_node n)
{
    return is_scalar(tr_shape_at(g, tr_in(g, n, 0))) ? ",*->*" : "+,*+->*+";
}

const tr_op_row tr_row_expand = {.min_in = 2, .max_in = 2, .infer = infer_expand,
                                 .gradient = grad_expand, .sharding_of = rule_expand};
