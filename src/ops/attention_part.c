/* Attention of some queries to some keys, when the sequence is cut over ranks (Liu et al. 2023, ring attention): a
 * rank has its queries for good, and keys and values come by, part after part. What a query has from the keys so far
 * is (o, lse); more keys are merged into it as in online softmax, so that no order of the parts changes the result.
 * The gradient needs lse of all keys, and is a sum over the parts. Made by the sharding pass (passes/shard_ring.c).
 */
#include "ir/part.h"
#include "ops/rule.h"

#define PART_ATTRS                                                                                              \
    {                                                                                                           \
        {"causal", TR_ATTR_BOOL}, {"window", TR_ATTR_INT}, {"scale", TR_ATTR_FLOAT}, {"p", TR_ATTR_FLOAT},      \
            {"stream", TR_ATTR_INT}, {"first", TR_ATTR_INT}, {"turn", TR_ATTR_INT}, {"jump", TR_ATTR_INT},      \
            {"key_first", TR_ATTR_INT}, {"key_turn", TR_ATTR_INT}, {"key_jump", TR_ATTR_INT},                   \
            {"all_keys", TR_ATTR_INT}                                                                           \
    }

static const char made_by[] = "made by sharding, after autodiff";

/* Inputs first: q, k, v; gives q's shape without the packing dim. */
static tr_error *check(const tr_graph *g, const tr_value *in, int n_in, int first, const tr_attr *attrs, tr_shape *q)
{
    char a[256], b[256], c[256];
    TR_TRY(tr_floats_only(g, in + first, 3));
    if (!has(in, n_in, first + 1) || !has(in, n_in, first + 2))
        return tr_error_new(TR_RUN, "takes a query, a key and a value");
    const tr_shape *x = shape_in(g, in, first), *k = shape_in(g, in, first + 1), *v = shape_in(g, in, first + 2);
    *q = *x;
    if (x->rank == 5) {
        q->rank = 4;
        memmove(q->dims + 2, x->dims + 3, 2 * sizeof *q->dims);
        memmove(q->names + 2, x->names + 3, 2 * sizeof *q->names);
    }
    bool fits = q->rank == 4 && k->rank == 4 && v->rank == 4 && q->dims[2] % k->dims[2] == 0 &&
                q->dims[0] == k->dims[0] && q->dims[3] == k->dims[3];
    if (!fits)
        return tr_error_new(TR_RUN, "[%s], [%s], [%s] are no query, key and value", tr_dims_text(g, x, a, sizeof a),
                            tr_dims_text(g, k, b, sizeof b), tr_dims_text(g, v, c, sizeof c));
    if (attrs[TR_PART_TURN].i < 0 || attrs[TR_PART_TURN].i > q->dims[1] || attrs[TR_PART_KEY_TURN].i < 0 ||
        attrs[TR_PART_KEY_TURN].i > k->dims[1] || attrs[TR_PART_JUMP].i < 0 || attrs[TR_PART_KEY_JUMP].i < 0)
        return tr_error_new(TR_RUN, "pieces of queries or keys are not in their place");
    return tr_dims_match(g, "key and value must have one shape", k, 0, v, 0, 4);
}

TR_INFER(infer_attention_part)
{
    TR_TRY(check(g, in, n_in, 0, attrs, &out[0]));
    const int from[] = {0, 2, 1};
    out[0].dtype = TR_F32;
    out[1] = (tr_shape){.dtype = TR_F32, .rank = 3};
    for (int d = 0; d < 3; d++) {
        out[1].dims[d] = out[0].dims[from[d]];
        out[1].names[d] = out[0].names[from[d]];
    }
    *n_out = 2;
    if (has(in, n_in, 3) != has(in, n_in, 4))
        return tr_error_new(TR_RUN, "takes o and lse both, or neither");
    if (!has(in, n_in, 3))
        return NULL;
    TR_TRY(tr_dims_match(g, "o so far", shape_in(g, in, 3), 0, &out[0], 0, 4));
    return tr_dims_match(g, "lse so far", shape_in(g, in, 4), 0, &out[1], 0, 3);
}

TR_INFER(infer_attention_part_grad)
{
    TR_TRY(check(g, in, n_in, 3, attrs, &out[0]));
    for (int k = 1; k < 3; k++)
        out[k] = *shape_in(g, in, 3 + k);
    for (int k = 0; k < 3; k++)
        out[k].dtype = TR_F32;
    *n_out = 3;
    return has(in, n_in, 6) ? tr_dims_match(g, "dq so far", shape_in(g, in, 6), 0, &out[0], 0, 4) : NULL;
}

/* Two products, or five, of each query with the keys that it sees. */
static void cost_attention_part(const tr_graph *g, tr_node n, tr_cost *cost)
{
    const tr_node_info *node = &g->nodes[n];
    bool back = node->op == TR_OP_attention_part_grad;
    const tr_attr *a = node->attrs;
    const tr_shape *q = tr_shape_at(g, tr_out(g, n, 0)), *k = tr_shape_at(g, tr_in(g, n, back ? 4 : 1));
    tr_dealt queries = {a[TR_PART_FIRST].i, q->dims[1], a[TR_PART_TURN].i, a[TR_PART_JUMP].i},
             keys = {a[TR_PART_KEY_FIRST].i, k->dims[1], a[TR_PART_KEY_TURN].i, a[TR_PART_KEY_JUMP].i};
    double seen = 0;
    for (int64_t i = 0; i < q->dims[1]; i++)
        seen += (double)tr_dealt_seen(&queries, &keys, a[TR_ATTENTION_CAUSAL].i != 0, a[TR_ATTENTION_WINDOW].i, i).count;
    cost->flops = (back ? 5 : 2) * 2.0 * (double)(tr_shape_elems(q) / q->dims[1]) * seen;
}

const tr_op_row tr_row_attention_part = {
    .min_in = 3, .max_in = 5, .flags = TR_OP_RANDOM | TR_OP_UPDATES, .updates = {3, 4, -1, -1}, .attrs = PART_ATTRS,
    .infer = infer_attention_part, .no_gradient = made_by, .cost = cost_attention_part};

const tr_op_row tr_row_attention_part_grad = {
    .min_in = 6, .max_in = 7, .flags = TR_OP_RANDOM | TR_OP_ACCUMULATES, .attrs = PART_ATTRS,
    .infer = infer_attention_part_grad, .no_gradient = made_by, .cost = cost_attention_part};
