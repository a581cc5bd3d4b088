/* Positions that are not learnt: the sinusoids of the 2017 Transformer (Vaswani et al., section 3.5). */
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

const tr_op_row tr_row_sinusoids = {.min_in = 1,
                                    .max_in = 1,
                                    .attrs = {{"dims", TR_ATTR_INT}},
                                    .infer = infer_sinusoids,
                                    .no_gradient = "of positions",
                                    .sharding = "*->*[d]"};

tr_value tr_sinusoids(tr_graph *g, tr_value positions, int64_t dims)
{
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_SINUSOIDS_DIMS] = {.i = dims}};
    return tr_out(g, tr_graph_node(g, TR_OP_sinusoids, &positions, 1, attrs), 0);
}
