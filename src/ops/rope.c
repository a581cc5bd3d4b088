/* Rotary position embedding (Su et al. 2021). The rates of the turns are a value of their own, so that the ways to
 * stretch a context are data: linear (Chen et al. 2023), NTK-aware, LLaMA 3's, YaRN (Peng et al. 2023). */
#include "ops/rule.h"

#include <math.h>

TR_INFER(infer_rates)
{
    (void)g, (void)in, (void)n_in;
    int64_t dims = attrs[TR_RATES_DIMS].i, scaling = attrs[TR_RATES_SCALING].i;
    double base = attrs[TR_RATES_BASE].f;
    if (dims < 2 || dims % 2 || !(base > 1))
        return tr_error_new(TR_USER, "%lld rotary dims of base %g; the dims are even and the base is above 1",
                            (long long)dims, base);
    if (scaling < TR_ROPE_PLAIN || scaling > TR_ROPE_YARN ||
        (scaling != TR_ROPE_PLAIN && !(attrs[TR_RATES_FACTOR].f >= 1)))
        return tr_error_new(TR_USER, "scaling %lld by factor %g; a factor is 1 or more", (long long)scaling,
                            attrs[TR_RATES_FACTOR].f);
    if (scaling >= TR_ROPE_LLAMA3 &&
        (attrs[TR_RATES_ORIGINAL].i < 1 || !(attrs[TR_RATES_LOW].f > 0 && attrs[TR_RATES_HIGH].f > attrs[TR_RATES_LOW].f)))
        return tr_error_new(TR_USER, "scaling from a context of %lld between %g and %g turns; it takes a context and "
                                     "0 < low < high",
                            (long long)attrs[TR_RATES_ORIGINAL].i, attrs[TR_RATES_LOW].f, attrs[TR_RATES_HIGH].f);
    out[0] = (tr_shape){.dtype = TR_F32, .rank = 1, .dims = {dims / 2}};
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_rope_rates = {
    .min_in = 0, .max_in = 0,
    .attrs = {{"dims", TR_ATTR_INT}, {"base", TR_ATTR_FLOAT}, {"scaling", TR_ATTR_INT}, {"factor", TR_ATTR_FLOAT},
              {"original", TR_ATTR_INT}, {"low", TR_ATTR_FLOAT}, {"high", TR_ATTR_FLOAT}},
    .infer = infer_rates, .no_gradient = "a constant", .sharding = "->[r]"};

TR_INFER(infer_rope)
{
    (void)attrs, (void)n_in;
    const tr_shape *x = shape_in(g, in, 0), *at = shape_in(g, in, 1), *rates = shape_in(g, in, 2);
    char a[256], b[256], c[256];
    if (x->rank != 4 || at->rank != 2 || at->dtype != TR_I32 || rates->rank != 1 || rates->dtype != TR_F32 ||
        2 * rates->dims[0] > x->dims[3])
        return tr_error_new(TR_USER, "takes [batch, seq, heads, head_dim], an i32 position for each token and f32 rates "
                                     "for at most half of head_dim, not [%s], %s[%s], %s[%s]",
                            tr_dims_text(g, x, a, sizeof a), tr_dtype_name(at->dtype), tr_dims_text(g, at, b, sizeof b),
                            tr_dtype_name(rates->dtype), tr_dims_text(g, rates, c, sizeof c));
    TR_TRY(tr_floats_only(g, in, 1));
    TR_TRY(tr_dims_match(g, "there must be a position for each token", x, 0, at, 0, 2));
    out[0] = *x;
    *n_out = 1;
    return NULL;
}

/* The transpose of a turn is the turn back. */
static void grad_rope(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    tr_attr attrs[TR_MAX_ATTRS];
    memcpy(attrs, g->nodes[n].attrs, sizeof attrs);
    attrs[TR_ROPE_INVERSE].i = !attrs[TR_ROPE_INVERSE].i;
    const tr_value in[] = {d_out[0], tr_in(g, n, 1), tr_in(g, n, 2)};
    d_in[0] = tr_out(g, tr_graph_node(g, TR_OP_rope, in, 3, attrs), 0);
}

static void cost_rope(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 3.0 * (double)tr_shape_elems(tr_shape_at(g, tr_out(g, n, 0)));
}

const tr_op_row tr_row_rope = {
    .min_in = 3, .max_in = 3, .flags = TR_OP_IN_PLACE | TR_OP_CHEAP,
    .attrs = {{"interleaved", TR_ATTR_BOOL}, {"inverse", TR_ATTR_BOOL}, {"factor", TR_ATTR_FLOAT}},
    .infer = infer_rope, .gradient = grad_rope, .sharding = "bth[e],bt,[r]->bth[e]", .cost = cost_rope};

tr_value tr_rope_rates(tr_graph *g, int64_t dims, double base, const tr_rope_scaling *scaling)
{
    tr_rope_scaling s = scaling ? *scaling : (tr_rope_scaling){.kind = TR_ROPE_PLAIN};
    const tr_attr attrs[TR_MAX_ATTRS] = {
        [TR_RATES_DIMS] = {.i = dims},           [TR_RATES_BASE] = {.f = base},
        [TR_RATES_SCALING] = {.i = s.kind},      [TR_RATES_FACTOR] = {.f = s.factor},
        [TR_RATES_ORIGINAL] = {.i = s.original}, [TR_RATES_LOW] = {.f = s.low},
        [TR_RATES_HIGH] = {.f = s.high}};
    return tr_out(g, tr_graph_node(g, TR_OP_rope_rates, NULL, 0, attrs), 0);
}

tr_value tr_rope(tr_graph *g, tr_value x, tr_value positions, tr_value rates, bool interleaved, double factor)
{
    const tr_value in[] = {x, positions, rates};
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_ROPE_INTERLEAVED] = {.i = interleaved}, [TR_ROPE_FACTOR] = {.f = factor}};
    return tr_out(g, tr_graph_node(g, TR_OP_rope, in, 3, attrs), 0);
}
