/* Pass once: parts the forward graph of an encoder-decoder in what is computed once for a source and what is computed
 * for each token of its answer. The model function knows nothing of it.
 *
 * What an answer's tokens change are the inputs whose names begin with "decoder_", and "last"; a value varies if it
 * depends on one of them. The values that do not vary and that a varying node reads are the memory: the keys and values
 * of the encoder's output, the table of relative positions. They are numbered in the order of values, which is the same
 * whatever batch and lengths are, so that two programs of one model agree on them by name.
 *
 * Parameters, inputs and views of these belong to both sides.
 */
#include "ir/table.h"
#include "passes/passes.h"

static bool varies_by_name(const char *name)
{
    return strncmp(name, "decoder_", 8) == 0 || strcmp(name, "last") == 0;
}

static bool *find_varying(const tr_graph *g)
{
    bool *varies = tr_alloc_zero(g->n_values, sizeof *varies);
    for (tr_value v = 1; v < g->n_values; v++)
        varies[v] = g->values[v].role == TR_INPUT && varies_by_name(g->values[v].name);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        bool any = false;
        for (uint32_t k = 0; k < g->nodes[n].n_in; k++)
            any |= varies[tr_in(g, n, (int)k)];
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++)
            varies[tr_out(g, n, (int)k)] = any;
    }
    return varies;
}

/* By value: computed, does not vary, and a node reads it whose result does. */
static bool *find_memory(const tr_graph *g, const bool *varies)
{
    bool *memory = tr_alloc_zero(g->n_values, sizeof *memory);
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t k = 0; k < g->nodes[n].n_in && varies[tr_out(g, n, 0)]; k++) {
            tr_value v = tr_in(g, n, (int)k);
            memory[v] = v && !varies[v] && g->values[tr_value_root(g, v)].node;
        }
    return memory;
}

tr_error *tr_pass_once(tr_graph *g, tr_side side)
{
    bool *varies = find_varying(g), *memory = find_memory(g, varies);
    uint32_t n_values = g->n_values;
    int count = 0;
    if (side == TR_SIDE_SOURCE)
        g->n_outputs = 0;
    for (tr_value v = 1; v < n_values; v++) {
        if (!memory[v])
            continue;
        char *name = tr_format("memory.%d", count++);
        if (side == TR_SIDE_SOURCE)
            tr_graph_output(g, name, v);
        else
            tr_graph_replace(g, v, tr_graph_leaf(g, TR_INPUT, name, *tr_shape_at(g, v), (tr_init){0}));
        free(name);
    }
    free(varies);
    free(memory);
    if (!g->error && !count)
        tr_graph_fail(g, tr_error_new(TR_USER, "nothing of the model is computed once for a source; in a model with two "
                                               "towers the inputs of the second begin with decoder_"));
    TR_TRY(tr_graph_error_take(g));
    return tr_pass_order(g);
}
