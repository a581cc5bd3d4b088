/* Verifier: checks the invariants of graph.h by number. Runs after every pass in debug and test builds. */
#include "ir/graph.h"
#include "ir/table.h"

#include <stdio.h>

#define BROKEN(number, ...) broken(g, n, number, __VA_ARGS__)

static tr_error *broken(const tr_graph *g, tr_node n, int invariant, const char *format, ...)
    TR_PRINTF(4, 5);
static tr_error *broken(const tr_graph *g, tr_node n, int invariant, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return tr_error_new(TR_RUN, "graph %s, node %u (%s): invariant %d is broken: %s", g->name, n,
                        n ? tr_op_name(g->nodes[n].op) : "leaf", invariant, text);
}

static tr_error *verify_node(const tr_graph *g, tr_node n, const uint8_t *made)
{
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    if ((int)node->n_in < row->min_in || (row->max_in >= 0 && (int)node->n_in > row->max_in))
        return BROKEN(1, "%u inputs", node->n_in);
    for (uint32_t i = 0; i < node->n_in; i++) {
        tr_value v = tr_in(g, n, (int)i);
        if (v >= g->n_values || (!v && (int)i < row->min_in))
            return BROKEN(1, "input %u is absent", i);
        if (v && !made[v])
            return BROKEN(2, "input %u (value %u) is not made before it", i, v);
        if (v && g->values[v].node && g->nodes[g->values[v].node].phase > node->phase)
            return BROKEN(6, "input %u (value %u) comes from a later phase", i, v);
    }
    if (row->flags & TR_OP_VIEW)
        return NULL;
    tr_shape shapes[4] = {0};
    int n_out = 0;
    tr_error *error = row->infer(g, &g->links[node->first_in], (int)node->n_in, node->attrs, shapes, &n_out);
    if (error)
        return tr_error_in_take(error, "node %u (%s)", n, tr_op_name(node->op));
    if (n_out != (int)node->n_out)
        return BROKEN(5, "%u outputs, the shape rule says %d", node->n_out, n_out);
    for (int k = 0; k < n_out; k++) {
        const tr_shape *s = tr_shape_at(g, tr_out(g, n, k));
        if (s->dtype != shapes[k].dtype || tr_shape_elems(s) != tr_shape_elems(&shapes[k]))
            return BROKEN(5, "output %d does not have the shape that the rule gives", k);
    }
    return NULL;
}

/* Invariant 4: whoever writes over a value is its last reader. */
static tr_error *verify_homes(const tr_graph *g)
{
    tr_error *error = NULL;
    tr_node *written = tr_alloc_zero(g->n_values, sizeof *written); /* root -> last writer */
    tr_value *holds = tr_alloc_zero(g->n_values, sizeof *holds);    /* root -> value that is in it */
    for (tr_node n = 1; n < g->n_nodes && !error; n++) {
        bool view = tr_op_table[g->nodes[n].op]->flags & TR_OP_VIEW;
        for (uint32_t i = 0; i < g->nodes[n].n_in && !error; i++) {
            tr_value v = tr_in(g, n, (int)i), root = tr_value_root(g, v);
            if (!v)
                continue;
            /* a view holds whatever its base holds at the time it was taken */
            while (g->values[v].node && tr_op_table[g->nodes[g->values[v].node].op]->flags & TR_OP_VIEW)
                v = g->values[v].home;
            if (holds[root] && holds[root] != v)
                error = BROKEN(4, "input %u (value %u) was written over by node %u", i, v, written[root]);
        }
        for (uint32_t k = 0; k < g->nodes[n].n_out && !error && !view; k++) {
            tr_value v = tr_out(g, n, (int)k), root = tr_value_root(g, v);
            if (tr_shape_bytes(tr_shape_at(g, v)) > tr_shape_bytes(tr_shape_at(g, root)))
                error = BROKEN(4, "output %u is larger than the buffer that it is written to", k);
            holds[root] = v;
            written[root] = n;
        }
    }
    free(written);
    free(holds);
    return error;
}

tr_error *tr_graph_verify(const tr_graph *g)
{
    tr_error *error = NULL;
    tr_node n = 0;
    uint8_t *made = tr_alloc_zero(g->n_values, 1);
    for (tr_value v = 1; v < g->n_values; v++) {
        made[v] = g->values[v].role != TR_TEMP;
        for (int d = 0; d < g->values[v].shape.rank && !error; d++)
            if (g->values[v].shape.dims[d] < 1)
                error = BROKEN(5, "value %u has dim %d of %lld", v, d,
                               (long long)g->values[v].shape.dims[d]);
    }
    tr_phase phase = TR_START;
    for (n = 1; n < g->n_nodes && !error; n++) {
        if (g->nodes[n].phase < phase)
            error = BROKEN(6, "phase goes back");
        phase = g->nodes[n].phase;
        if (!error)
            error = verify_node(g, n, made);
        for (uint32_t k = 0; k < g->nodes[n].n_out && !error; k++) {
            tr_value v = tr_out(g, n, (int)k);
            if (made[v])
                error = BROKEN(2, "value %u is made twice", v);
            made[v] = 1;
        }
    }
    n = 0;
    for (uint32_t o = 0; o < g->n_outputs && !error; o++)
        if (!made[g->outputs[o]])
            error = BROKEN(2, "output %s is never made", g->output_names[o]);
    free(made);
    return error ? error : verify_homes(g);
}
