/* Pass update: what follows the gradients. With several microbatches, accumulators in f32 that are
 * cleared at the start of the step; then the global norm, clipping, and the optimizer for each parameter.
 * With a pipeline there are always accumulators, one for each stage that uses the parameter: a tied parameter's
 * gradient is summed over its stages once a step, not once a microbatch.
 *
 * The loss is a sum and a count, and gradients are those of the sum: both are divided by the count of
 * the whole step once, in the op clip. Gradients of a scaled loss (fp16) are divided by its scale there too.
 */
#include <stdio.h>

#include "ir/table.h"
#include "passes/optimizers.h"

enum { MOST_ADDENDS = 16 }; /* stages that use one parameter */

static tr_value state_like(tr_graph *g, const char *prefix, tr_value like, tr_dtype dtype, tr_init_kind init)
{
    tr_shape shape = *tr_shape_at(g, like);
    shape.dtype = dtype;
    const char *name = g->values[like].name;
    char *full = tr_format("%s%s", prefix, name ? name : "");
    tr_value v = tr_graph_leaf(g, TR_STATE, full, shape, (tr_init){init, 0});
    free(full);
    return v;
}

static tr_value one_output(tr_graph *g, tr_op op, const tr_value *in, int n_in, const tr_attr *attrs)
{
    return tr_out(g, tr_graph_node(g, op, in, n_in, attrs), 0);
}

/* Products of weight gradients, and sums of them, can come in f32 from where they are made. */
static bool can_widen(const tr_graph *g, tr_value x)
{
    tr_node n = g->values[x].node;
    if (tr_shape_at(g, x)->dtype == TR_F32)
        return true;
    return g->nodes[n].op == TR_OP_linear_dw ||
           (g->nodes[n].op == TR_OP_add && can_widen(g, tr_in(g, n, 0)) && can_widen(g, tr_in(g, n, 1)));
}

static void widen(tr_graph *g, tr_value x)
{
    tr_node n = g->values[x].node;
    if (tr_shape_at(g, x)->dtype == TR_F32)
        return;
    g->values[x].shape.dtype = TR_F32;
    if (g->nodes[n].op == TR_OP_linear_dw) {
        g->nodes[n].attrs[TR_LINEAR_DW_DTYPE].i = TR_F32;
        return;
    }
    widen(g, tr_in(g, n, 0));
    widen(g, tr_in(g, n, 1));
}

static tr_value in_f32(tr_graph *g, tr_value x)
{
    if (!can_widen(g, x))
        return one_output(g, TR_OP_cast, &x, 1, (tr_attr[TR_MAX_ATTRS]){[TR_CAST_DTYPE] = {.i = TR_F32}});
    widen(g, x);
    return x;
}

/* acc' = acc + x, in acc's buffer. */
static tr_value accumulate(tr_graph *g, const char *name, tr_value like, tr_value x)
{
    tr_value acc = state_like(g, name, like, TR_F32, TR_INIT_ZEROS);
    g->stage = g->nodes[g->values[x].node].stage;
    g->phase = TR_START;
    tr_value cleared = one_output(g, TR_OP_clear, &acc, 1, NULL);
    g->phase = TR_BACKWARD;
    if (g->error)
        return 0;
    x = in_f32(g, x);
    tr_value sum = tr_add(g, cleared, x);
    if (sum)
        g->values[sum].home = cleared;
    return sum;
}

/* A gradient as sums of one stage each: add nodes whose operands come from several stages are taken apart. */
static int addends(const tr_graph *g, tr_value x, tr_value *out, int count)
{
    tr_node n = g->values[x].node;
    if (g->nodes[n].op == TR_OP_add) {
        int32_t a = g->nodes[g->values[tr_in(g, n, 0)].node].stage, b = g->nodes[g->values[tr_in(g, n, 1)].node].stage;
        if (a != b && count + 2 <= MOST_ADDENDS) {
            count = addends(g, tr_in(g, n, 0), out, count);
            return addends(g, tr_in(g, n, 1), out, count);
        }
    }
    out[count] = x;
    return count + 1;
}

static tr_value accumulate_gradient(tr_graph *g, tr_value w, tr_value grad)
{
    tr_value list[MOST_ADDENDS + 1], sum = 0;
    int count = addends(g, grad, list, 0);
    for (int i = 0; i < count && !g->error; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, i ? "grad.%d." : "grad.", i);
        tr_value part = accumulate(g, prefix, w, list[i]);
        g->phase = TR_UPDATE;
        sum = i ? tr_add(g, sum, part) : part;
    }
    return sum;
}

tr_error *tr_pass_update(tr_graph *g, tr_value loss, tr_value count, const tr_value *grads_in,
                         uint32_t n_grads, const tr_update *how)
{
    tr_value *grads = tr_alloc(n_grads * sizeof *grads), *list = tr_alloc(n_grads * sizeof *list);
    memcpy(grads, grads_in, n_grads * sizeof *grads);
    int n = 0;
    tr_shape scalar = {.dtype = TR_F32, .rank = 1, .dims = {1}};
    tr_shape integer = {.dtype = TR_I32, .rank = 1, .dims = {1}};
    g->phase = TR_BACKWARD;
    if (how->micro_batches > 1 || how->pipeline) {
        for (tr_value w = 1; w < n_grads && !g->error; w++)
            if (grads[w])
                grads[w] = accumulate_gradient(g, w, grads[w]);
        if (!g->error) {
            loss = accumulate(g, "sum.loss", loss, loss);
            count = accumulate(g, "sum.count", count, count);
        }
    }
    g->phase = TR_UPDATE;
    g->stage = 0;
    tr_value lr = tr_graph_leaf(g, TR_INPUT, "lr", scalar, (tr_init){0});
    tr_value step = tr_graph_leaf(g, TR_INPUT, "step", integer, (tr_init){0});
    for (tr_value w = 1; w < n_grads; w++)
        if (grads[w])
            list[n++] = grads[w];
    if (n == 0 && !g->error)
        tr_graph_fail(g, tr_error_new(TR_USER, "the loss depends on no parameter; nothing to train"));
    tr_value sum = one_output(g, TR_OP_global_norm, list, n, NULL);
    const tr_value clip_in[] = {sum, how->seed ? tr_mul(g, count, how->seed) : count};
    tr_node clip = tr_graph_node(g, TR_OP_clip, clip_in, 2,
                                 (tr_attr[TR_MAX_ATTRS]){[TR_CLIP_MAX_NORM] = {.f = how->clip}});
    for (tr_value w = 1; w < n_grads && !g->error; w++)
        if (grads[w])
            tr_emit_optimizer(g, w, grads[w], tr_out(g, clip, 0), lr, step, how);
    if (!g->error) {
        tr_graph_output(g, "loss", loss);
        tr_graph_output(g, "count", count);
        tr_graph_output(g, "scale", tr_out(g, clip, 0));
        tr_graph_output(g, "grad_norm", tr_out(g, clip, 1));
        tr_graph_order_phases(g);
    }
    free(grads);
    free(list);
    return tr_graph_error_take(g);
}
