/* Reductions: sum_leading (the gradient of everything that is repeated) and global_norm; reshape. */
#include "ops/rule.h"

TR_INFER(infer_sum_leading)
{
    const tr_shape *x = shape_in(g, in, 0);
    int64_t kept = attrs[TR_SUM_LEADING_KEPT].i;
    TR_TRY(tr_floats_only(g, in, n_in));
    if (kept < 0 || kept > x->rank)
        return tr_error_new(TR_USER, "cannot keep %lld of %d dims", (long long)kept, x->rank);
    out[0] = scalar_f32();
    if (kept > 0) {
        out[0].rank = (int)kept;
        memcpy(out[0].dims, x->dims + x->rank - kept, (size_t)kept * sizeof *x->dims);
        memcpy(out[0].names, x->names + x->rank - kept, (size_t)kept * sizeof *x->names);
    }
    if (has(in, n_in, 1))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 1), 0, &out[0], 0, out[0].rank));
    *n_out = 1;
    return NULL;
}

static void grad_sum_leading(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {d_out[0], tr_in(g, n, 0)};
    d_in[0] = tr_out(g, tr_graph_node(g, TR_OP_expand, in, 2, NULL), 0);
}

static void cost_reads(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 0;
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
        if (tr_in(g, n, (int)i))
            cost->flops += 2.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, (int)i)));
}

/* A sum of everything is one element, which no label stands for. */
static const char *rule_sum_leading(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_SUM_LEADING_KEPT].i ? "*+,+->+" : "*,->";
}

const tr_op_row tr_row_sum_leading = {
    .min_in = 1, .max_in = 2, .flags = TR_OP_ACCUMULATES | TR_OP_WEIGHT, .attrs = {{"kept", TR_ATTR_INT}},
    .infer = infer_sum_leading, .gradient = grad_sum_leading, .sharding_of = rule_sum_leading,
    .cost = cost_reads};

TR_INFER(infer_global_norm)
{
    TR_UNUSED_RULE;
    out[0] = scalar_f32();
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_global_norm = {.min_in = 1, .max_in = -1, .infer = infer_global_norm,
                                      .no_gradient = "part of the update",
                                      .cost = cost_reads};

TR_INFER(infer_reshape)
{
    (void)n_in, (void)attrs;
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return NULL;
}

static void grad_reshape(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = tr_graph_view(g, d_out[0], *tr_shape_at(g, tr_in(g, n, 0)));
}

const tr_op_row tr_row_reshape = {.min_in = 1, .max_in = 1, .flags = TR_OP_VIEW, .infer = infer_reshape,
                                  .gradient = grad_reshape};
