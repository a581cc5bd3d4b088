/* Pass order: removes nodes that nothing needs. What is left stays in its order, which autodiff and
 * recompute already made the one of least lifetime: gradients are consumed as they come, clones stand
 * before their first reader. Also: helpers over uses that several passes share.
 */
#include "ir/table.h"
#include "passes/passes.h"

uint32_t *tr_graph_uses(const tr_graph *g)
{
    uint32_t *uses = tr_alloc_zero(g->n_values, sizeof *uses);
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            uses[tr_in(g, n, (int)i)]++;
    for (uint32_t o = 0; o < g->n_outputs; o++)
        uses[g->outputs[o]]++;
    uses[0] = 0;
    return uses;
}

void tr_graph_replace(tr_graph *g, tr_value from, tr_value to)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            if (tr_in(g, n, (int)i) == from)
                tr_set_in(g, n, (int)i, to);
    for (uint32_t o = 0; o < g->n_outputs; o++)
        if (g->outputs[o] == from)
            g->outputs[o] = to;
    if (!g->values[to].layout)
        g->values[to].layout = g->values[from].layout;
    for (tr_value v = 1; v < g->n_values; v++)
        if (v != from && g->values[v].home == from)
            g->values[v].home = to;
}

void tr_graph_order_phases(tr_graph *g)
{
    tr_node *order = tr_alloc(g->n_nodes * sizeof *order);
    uint32_t count = 0;
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        for (tr_node n = 1; n < g->n_nodes; n++)
            if ((int)g->nodes[n].phase == phase)
                order[count++] = n;
    tr_graph_reorder(g, order, count);
    free(order);
}

tr_error *tr_pass_order(tr_graph *g)
{
    bool *live = tr_alloc_zero(g->n_nodes, sizeof *live);
    for (uint32_t o = 0; o < g->n_outputs; o++)
        live[g->values[g->outputs[o]].node] = true;
    for (tr_node n = g->n_nodes - 1; n >= 1; n--) {
        /* A collective that this rank does not need may be needed by another one. */
        live[n] |= (tr_op_table[g->nodes[n].op]->flags & TR_OP_COLLECTIVE) != 0;
        /* A node that writes over state that outlives the run has an effect. */
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++) {
            tr_role role = g->values[tr_value_root(g, tr_out(g, n, (int)k))].role;
            live[n] |= role == TR_STATE || role == TR_PARAM;
        }
        if (live[n])
            for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
                live[g->values[tr_in(g, n, (int)i)].node] = true;
    }
    tr_node *order = tr_alloc(g->n_nodes * sizeof *order);
    uint32_t count = 0;
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (live[n])
            order[count++] = n;
    tr_graph_reorder(g, order, count);
    free(order);
    free(live);
    return NULL;
}
