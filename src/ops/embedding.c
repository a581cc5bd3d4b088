/* Table look-up and its scatter-add gradient. */
#include "ops/rule.h"

TR_INFER(infer_embedding)
{
    (void)n_in, (void)attrs;
    const tr_shape *table = shape_in(g, in, 0), *ids = shape_in(g, in, 1);
    char a[256], b[256];
    if (table->rank != 2 || ids->dtype != TR_I32 || ids->rank + 1 > TR_MAX_RANK)
        return tr_error_new(TR_USER, "takes a table of two dims and i32 ids of at most seven, not %s[%s] and %s[%s]",
                            tr_dtype_name(table->dtype), tr_dims_text(g, table, a, sizeof a),
                            tr_dtype_name(ids->dtype), tr_dims_text(g, ids, b, sizeof b));
    TR_TRY(tr_floats_only(g, in, 1));
    out[0] = *ids;
    out[0].dtype = table->dtype;
    out[0].rank = ids->rank + 1;
    out[0].dims[ids->rank] = table->dims[1];
    out[0].names[ids->rank] = table->names[1];
    *n_out = 1;
    return NULL;
}

static void grad_embedding(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {tr_in(g, n, 1), d_out[0], 0};
    tr_dim name = tr_shape_at(g, tr_in(g, n, 0))->names[0];
    int64_t rows = tr_shape_at(g, tr_in(g, n, 0))->dims[0];
    tr_node back = tr_graph_node(g, TR_OP_embedding_grad, in, 3,
                                 (tr_attr[TR_MAX_ATTRS]){[TR_EMBEDDING_GRAD_ROWS] = {.i = rows}});
    d_in[0] = tr_out(g, back, 0);
    if (d_in[0])
        g->values[d_in[0]].shape.names[0] = name;
}

static void cost_lookup(const tr_graph *g, tr_node n, tr_cost *cost)
{
    /* Only the rows that are looked up are touched. */
    int rows = g->nodes[n].op == TR_OP_embedding ? -1 : 1;
    const tr_shape *x = tr_shape_at(g, rows < 0 ? tr_out(g, n, 0) : tr_in(g, n, 1));
    cost->flops = rows < 0 ? 0 : (double)tr_shape_elems(x);
    if (rows < 0)
        cost->bytes = 2.0 * (double)tr_shape_bytes(x);
}

const tr_op_row tr_row_embedding = {.min_in = 2, .max_in = 2, .infer = infer_embedding,
                                    .gradient = grad_embedding, .sharding = "vd,*->*d",
                                    .cost = cost_lookup};

TR_INFER(infer_embedding_grad)
{
    const tr_shape *ids = shape_in(g, in, 0), *dy = shape_in(g, in, 1);
    if (dy->rank != ids->rank + 1)
        return tr_dims_differ(g, "ids and gradient must have the same rows", ids, dy);
    TR_TRY(tr_dims_match(g, "ids and gradient must have the same rows", ids, 0, dy, 0, ids->rank));
    out[0] = (tr_shape){.dtype = TR_F32, .rank = 2};
    out[0].dims[0] = attrs[TR_EMBEDDING_GRAD_ROWS].i;
    out[0].dims[1] = dy->dims[dy->rank - 1];
    out[0].names[1] = dy->names[dy->rank - 1];
    if (has(in, n_in, 2))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 2), 0, &out[0], 0, 2));
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_embedding_grad = {
    .min_in = 2, .max_in = 3, .flags = TR_OP_ACCUMULATES | TR_OP_WEIGHT, .attrs = {{"rows", TR_ATTR_INT}},
    .infer = infer_embedding_grad, .no_gradient = "second derivatives are not needed for training",
    .sharding = "*,*d,vd->vd", .cost = cost_lookup};

tr_value tr_embedding(tr_graph *g, tr_value table, tr_value ids)
{
    const tr_value in[] = {table, ids};
    return tr_out(g, tr_graph_node(g, TR_OP_embedding, in, 2, NULL), 0);
}

/* Buckets of distances (Raffel et al. 2020) -------------------------------------------------------------- */

TR_INFER(infer_buckets)
{
    (void)g, (void)in, (void)n_in;
    int64_t count = attrs[TR_BUCKETS_COUNT].i, most = attrs[TR_BUCKETS_MOST].i, both = attrs[TR_BUCKETS_BOTH].i;
    int64_t exact = count / (both ? 4 : 2);
    if (exact < 1 || most <= exact || most > INT32_MAX / 4)
        return tr_error_new(TR_USER, "%lld buckets of distances up to %lld; a half of them in each direction are exact, and the "
                                     "largest distance is beyond those",
                            (long long)count, (long long)most);
    out[0] = (tr_shape){.dtype = TR_I32, .rank = 1, .dims = {2 * most + 1}};
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_buckets = {
    .min_in = 0, .max_in = 0, .attrs = {{"buckets", TR_ATTR_INT}, {"most", TR_ATTR_INT}, {"both", TR_ATTR_BOOL}},
    .infer = infer_buckets, .no_gradient = "a constant", .sharding = "->[n]"};

tr_value tr_relative_buckets(tr_graph *g, int64_t buckets, int64_t most, bool both)
{
    return tr_out(g, tr_graph_node(g, TR_OP_buckets, NULL, 0,
                                   (tr_attr[TR_MAX_ATTRS]){[TR_BUCKETS_COUNT] = {.i = buckets},
                                                           [TR_BUCKETS_MOST] = {.i = most},
                                                           [TR_BUCKETS_BOTH] = {.i = both}}), 0);
}
