/* The loss of heads; see loss.h. */
#include "exec/loss.h"

#include <stdio.h>

tr_loss_part *tr_loss_parts(const tr_graph *g, int *out_count)
{
    int heads = (int)g->n_heads, count = heads + (int)g->n_losses;
    tr_loss_part *parts = tr_alloc_zero((size_t)count + 1, sizeof *parts);
    for (int k = 0; k < heads; k++)
        parts[k] = (tr_loss_part){tr_strdup(g->heads[k].name), tr_strdup(g->heads[k].targets), g->heads[k].weight};
    for (int k = heads; k < count; k++)
        parts[k] = (tr_loss_part){tr_strdup(g->losses[k - heads].name), NULL, g->losses[k - heads].weight};
    *out_count = count;
    return parts;
}

void tr_loss_parts_free(tr_loss_part *parts, int count)
{
    for (int k = 0; parts && k < count; k++) {
        free(parts[k].name);
        free(parts[k].targets);
    }
    free(parts);
}

/* The input with a head's targets: hidden's leading dims. */
static tr_value targets_of(tr_graph *g, const tr_head *head)
{
    tr_shape shape = *tr_shape_at(g, head->hidden);
    tr_value found = tr_graph_find(g, head->targets);
    shape.rank--;
    shape.dtype = TR_I32;
    return found ? found : tr_graph_leaf(g, TR_INPUT, head->targets, shape, (tr_init){0});
}

/* In validation a loss is the plain one, so that models compare. */
static tr_node cross_entropy(tr_graph *g, const tr_head *head, bool training)
{
    const tr_value in[] = {head->hidden, head->table, targets_of(g, head), head->bias};
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_LOSS_SMOOTHING] = {.f = training ? head->smoothing : 0},
                                         [TR_LOSS_Z] = {.f = training ? head->z_loss : 0}};
    return tr_graph_node(g, TR_OP_cross_entropy, in, 4, attrs);
}

/* sum + factor.NAME x part. */
static tr_value add_part(tr_graph *g, tr_value sum, const char *name, tr_value part)
{
    tr_shape scalar = {.dtype = TR_F32, .rank = 1, .dims = {1}};
    char *full = tr_format("factor.%s", name);
    tr_value factor = tr_graph_leaf(g, TR_INPUT, full, scalar, (tr_init){0});
    free(full);
    return tr_add(g, sum, tr_mul(g, part, factor));
}

void tr_loss_training(tr_graph *g, tr_value *out_loss, tr_value *out_count)
{
    *out_loss = *out_count = 0;
    for (uint32_t k = 0; k < g->n_heads && !g->error; k++) {
        const tr_head *head = &g->heads[k];
        tr_node n = cross_entropy(g, head, true);
        tr_value loss = tr_out(g, n, 0);
        if (k == 0) {
            *out_loss = head->weight == 1 ? loss : tr_scale(g, loss, head->weight);
            *out_count = tr_out(g, n, 1);
        } else {
            *out_loss = add_part(g, *out_loss, head->name, loss);
        }
    }
    for (uint32_t k = 0; k < g->n_losses && !g->error; k++)
        *out_loss = add_part(g, *out_loss, g->losses[k].name, g->losses[k].sum);
}

void tr_loss_evaluation(tr_graph *g)
{
    for (uint32_t k = 0; k < g->n_heads && !g->error; k++) {
        tr_node n = cross_entropy(g, &g->heads[k], false);
        char loss[128] = "loss", count[128] = "count";
        if (k > 0) {
            snprintf(loss, sizeof loss, "loss.%s", g->heads[k].name);
            snprintf(count, sizeof count, "count.%s", g->heads[k].name);
        }
        tr_graph_output(g, loss, tr_out(g, n, 0));
        tr_graph_output(g, count, tr_out(g, n, 1));
    }
}

tr_value tr_loss_logits(tr_graph *g, tr_value hidden)
{
    return g->error ? 0 : tr_linear_transposed(g, hidden, g->heads[0].table, g->heads[0].bias);
}
