/* Positions that are not learnt, or learnt by distance: the sinusoids of the 2017 Transformer (Vaswani et al., section
 * 3.5) and the buckets of T5's relative positions (Raffel et al. 2020, section 2.1). */
#include "ops/rule.h"

TR_INFER(infer_sinusoids)
{
    (void)n_in;
    const tr_shape *at = shape_in(g, in, 0);
    int64_t dims = attrs[TR_SINUSOIDS_DIMS].i;
    char a[256];
    if (at->dtype != TR_I32 || at->rank >= TR_MAX_RANK || dims < 2 || dims % 2)
        return tr_error_new(TR_USER, "takes i32 positions and an even number of dims, not %s[%s] and %lld",
                            tr_dtype_name(at->dtype), tr_dims_text(g, at, a, sizeof a), (long long)dims);
    out[0] = *at;
    out[0].dtype = g->compute;
    out[0].dims[out[0].rank++] = dims;
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_sinusoids = {.min_in = 1, .max_in = 1, .attrs = {{"dims", TR_ATTR_INT}}, .infer = infer_sinusoids,
                                    .no_gradient = "of positions", .sharding = "*->*[d]"};

tr_value tr_sinusoids(tr_graph *g, tr_value positions, int64_t dims)
{
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_SINUSOIDS_DIMS] = {.i = dims}};
    return tr_out(g, tr_graph_node(g, TR_OP_sinusoids, &positions, 1, attrs), 0);
}

TR_INFER(infer_relative_buckets)
{
    TR_UNUSED_RULE;
    int64_t most = attrs[TR_BUCKETS_MOST].i, buckets = attrs[TR_BUCKETS_COUNT].i, longest = attrs[TR_BUCKETS_LONGEST].i;
    int64_t exact = buckets / (attrs[TR_BUCKETS_CAUSAL].i ? 2 : 4);
    if (most < 0 || most > 1 << 24 || exact < 1 || longest <= exact)
        return tr_error_new(TR_USER,
                            "%lld buckets for distances up to %lld, the last from %lld on; there are at least 2 (4 with both "
                            "directions), and the last begins beyond the exact ones (%lld)",
                            (long long)buckets, (long long)most, (long long)longest, (long long)exact);
    out[0] = (tr_shape){.dtype = TR_I32, .rank = 1, .dims = {2 * most + 1}};
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_relative_buckets = {
    .min_in = 0, .max_in = 0,
    .attrs = {{"most", TR_ATTR_INT}, {"buckets", TR_ATTR_INT}, {"longest", TR_ATTR_INT}, {"causal", TR_ATTR_BOOL}},
    .infer = infer_relative_buckets, .no_gradient = "a constant", .sharding = "->[n]"};

tr_value tr_relative_buckets(tr_graph *g, int64_t most, int64_t buckets, int64_t longest, bool causal)
{
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_BUCKETS_MOST] = {.i = most}, [TR_BUCKETS_COUNT] = {.i = buckets},
                                         [TR_BUCKETS_LONGEST] = {.i = longest}, [TR_BUCKETS_CAUSAL] = {.i = causal}};
    return tr_out(g, tr_graph_node(g, TR_OP_relative_buckets, NULL, 0, attrs), 0);
}
