/* Pass autodiff: the gradient of a scalar with respect to every parameter (reverse mode).
 *
 * Nodes are visited from last to first; each op's gradient rule appends nodes. Contributions to one
 * value are summed with add as they come. A value that no parameter leads to gets no gradient.
 */
#include "ir/table.h"
#include "passes/passes.h"

/* needs[v]: some parameter leads to v. */
static bool *find_needed(const tr_graph *g)
{
    bool *needs = tr_alloc_zero(g->n_values, sizeof *needs);
    for (tr_value v = 1; v < g->n_values; v++)
        needs[v] = g->values[v].role == TR_PARAM;
    for (tr_node n = 1; n < g->n_nodes; n++) {
        bool any = false;
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            any |= needs[tr_in(g, n, (int)i)];
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++)
            needs[tr_out(g, n, (int)k)] = any;
    }
    return needs;
}

tr_error *tr_pass_autodiff(tr_graph *g, tr_value loss, tr_value seed, tr_value **out_grads, uint32_t *out_count)
{
    tr_error *error = NULL;
    uint32_t n_values = g->n_values, n_nodes = g->n_nodes;
    bool *needs = find_needed(g);
    tr_value *grads = tr_alloc_zero(n_values, sizeof *grads);

    g->phase = TR_BACKWARD;
    g->stage = g->nodes[g->values[loss].node].stage;
    grads[loss] = seed ? seed : tr_out(
        g, tr_graph_node(g, TR_OP_fill, NULL, 0, (tr_attr[TR_MAX_ATTRS]){[TR_FILL_VALUE] = {.f = 1}}), 0);

    for (tr_node n = n_nodes - 1; n >= 1 && !g->error; n--) {
        const tr_op_row *row = tr_op_table[g->nodes[n].op];
        tr_value d_out[TR_MAX_OUTPUTS] = {0}, d_in[8] = {0};
        bool reached = false;
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++) {
            d_out[k] = grads[tr_out(g, n, (int)k)];
            reached |= d_out[k] != 0;
        }
        if (!reached || !needs[tr_out(g, n, 0)])
            continue;
        if (!row->gradient) {
            error = tr_error_new(TR_USER, "op %s stands between the loss and a parameter but has no gradient: %s",
                                 tr_op_name(g->nodes[n].op), row->no_gradient);
            break;
        }
        g->layer = g->nodes[n].layer;
        g->stage = g->nodes[n].stage;
        row->gradient(g, n, d_out, d_in);
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
            tr_value v = tr_in(g, n, (int)i);
            if (v && d_in[i] && needs[v])
                grads[v] = grads[v] ? tr_add(g, grads[v], d_in[i]) : d_in[i];
        }
    }
    g->layer = -1;
    g->stage = 0;
    free(needs);
    if (!error)
        error = tr_graph_error_take(g);
    if (error) {
        free(grads);
        return error;
    }
    for (tr_value v = 1; v < n_values; v++)
        if (g->values[v].role != TR_PARAM)
            grads[v] = 0;
    *out_grads = grads;
    *out_count = n_values;
    return NULL;
}
