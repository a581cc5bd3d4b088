/* Pass recompute: forward values that the backward needs are made again from others that are kept.
 *
 * A clone repeats its node's attributes, so that a random op draws the same numbers, and stands just
 * before the first backward node that wants it: no earlier, or it would be kept after all.
 * Precondition: autodiff has run, fuse has not.
 */
#include "ir/table.h"
#include "passes/passes.h"

typedef struct state {
    tr_graph *g;
    tr_recompute what;
    bool *kept;       /* by value: stays in memory */
    tr_value *again;  /* by value: its clone in the layer that is being walked, or 0 */
    int32_t *again_layer;
    tr_node *order;
    uint32_t count, room;
} state;

/* Made in a layer and read outside of it (or by nothing in it but the next layer): the layer's boundary. */
static void mark_boundaries(const tr_graph *g, bool *kept)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
            tr_value v = tr_in(g, n, (int)i);
            tr_node from = g->values[v].node;
            if (from && g->nodes[n].phase == TR_FORWARD && g->nodes[from].layer != g->nodes[n].layer)
                kept[v] = true;
        }
}

static void mark_kept(state *s)
{
    const tr_graph *g = s->g;
    if (s->what == TR_RECOMPUTE_FULL)
        mark_boundaries(g, s->kept);
    for (tr_value v = 1; v < g->n_values; v++) {
        tr_node n = g->values[v].node;
        if (!n || g->nodes[n].phase != TR_FORWARD || g->nodes[n].layer < 0)
            s->kept[v] = true;
        else if (s->what == TR_RECOMPUTE_CHEAP)
            s->kept[v] = !(tr_op_table[g->nodes[n].op]->flags & (TR_OP_CHEAP | TR_OP_VIEW));
        if (n && g->values[tr_value_root(g, v)].role == TR_STATE)
            s->kept[v] = true; /* written once */
    }
    for (uint32_t o = 0; o < g->n_outputs; o++)
        s->kept[g->outputs[o]] = true;
}

/* The value to read instead of v in the backward of `layer`. */
static tr_value want(state *s, tr_value v, int32_t layer, tr_phase phase)
{
    tr_graph *g = s->g;
    if (!v || s->kept[v])
        return v;
    if (s->again[v] && s->again_layer[v] == layer)
        return s->again[v];
    tr_node from = g->values[v].node;
    tr_node_info node = g->nodes[from];
    tr_value in[8];
    for (uint32_t i = 0; i < node.n_in; i++)
        in[i] = want(s, tr_in(g, from, (int)i), layer, phase);
    g->layer = node.layer;
    g->stage = node.stage;
    g->phase = phase;
    tr_node clone;
    if (node.op == TR_OP_reshape) {
        tr_value view = tr_graph_view(g, in[0], *tr_shape_at(g, v)); /* g->values may move in it */
        clone = g->values[view].node;
    } else {
        clone = tr_graph_node(g, node.op, in, (int)node.n_in, node.attrs);
    }
    if (!clone)
        return 0;
    for (uint32_t k = 0; k < node.n_out; k++) {
        tr_value old = tr_out(g, from, (int)k);
        s->again[old] = tr_out(g, clone, (int)k);
        g->values[s->again[old]].layout = g->values[old].layout;
        s->again_layer[old] = layer;
    }
    tr_push(s->order, s->count, s->room) = clone;
    return s->again[v];
}

tr_error *tr_pass_recompute(tr_graph *g, tr_recompute what)
{
    if (what == TR_RECOMPUTE_NONE)
        return NULL;
    uint32_t n_values = g->n_values, n_nodes = g->n_nodes;
    state s = {.g = g, .what = what, .kept = tr_alloc_zero(n_values, sizeof(bool)),
               .again = tr_alloc_zero(n_values, sizeof(tr_value)),
               .again_layer = tr_alloc_zero(n_values, sizeof(int32_t))};
    mark_kept(&s);
    for (tr_node n = 1; n < n_nodes && !g->error; n++) {
        tr_phase phase = g->nodes[n].phase;
        if (phase == TR_BACKWARD || phase == TR_WEIGHT)
            for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
                tr_value v = tr_in(g, n, (int)i);
                if (v < n_values)
                    tr_set_in(g, n, (int)i, want(&s, v, g->nodes[n].layer, phase));
            }
        tr_push(s.order, s.count, s.room) = n;
    }
    if (!g->error)
        tr_graph_reorder(g, s.order, s.count);
    g->layer = -1;
    g->stage = 0;
    free(s.kept);
    free(s.again);
    free(s.again_layer);
    free(s.order);
    return tr_graph_error_take(g);
}
