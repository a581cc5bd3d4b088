/* Pass cache: makes a forward graph one for generation. Each attention reads and fills a cache of keys
 * and values, which is state, so a token is computed once; attention that is not causal stays as it is. The model function knows nothing of it.
 */
#include "ir/table.h"
#include "passes/passes.h"

tr_error *tr_pass_cache(tr_graph *g, int64_t context)
{
    tr_shape scalar = {.dtype = TR_I32, .rank = 1, .dims = {1}};
    tr_value start = tr_graph_leaf(g, TR_INPUT, "start", scalar, (tr_init){0});
    uint32_t n_nodes = g->n_nodes;
    tr_node *order = tr_alloc(n_nodes * sizeof *order);
    uint32_t count = 0;
    int layer = 0;
    for (tr_node n = 1; n < n_nodes && !g->error; n++) {
        const tr_node_info node = g->nodes[n];
        if (node.op != TR_OP_attention || !node.attrs[TR_ATTENTION_CAUSAL].i) {
            order[count++] = n;
            continue;
        }
        tr_value q = tr_in(g, n, 0), k = tr_in(g, n, 1);
        const tr_shape from = *tr_shape_at(g, k ? k : q);
        int heads = from.rank - 2;
        tr_shape shape = {.dtype = from.dtype, .rank = 4};
        const char *names[] = {"batch", "heads", "context", "head_dim"};
        const int64_t dims[] = {from.dims[0], from.dims[heads], context, from.dims[heads + 1]};
        shape = tr_shape_of(g, from.dtype, 4, names, dims);
        tr_value caches[2];
        for (int c = 0; c < 2; c++) {
            char *name = tr_format("cache.%d.%s", layer, c ? "value" : "key");
            caches[c] = tr_graph_leaf(g, TR_STATE, name, shape, (tr_init){0});
            free(name);
        }
        layer++;
        if (tr_in(g, n, 5))
            tr_graph_fail(g, tr_error_new(TR_USER, "packed sequences and padding do not go with a cache of keys; give "
                                                   "attention no segments in generation"));
        const tr_value in[] = {q, k, tr_in(g, n, 2), caches[0], caches[1], start, tr_in(g, n, 3)};
        g->layer = node.layer;
        tr_node cached = tr_graph_node(g, TR_OP_attention_cached, in, 7, node.attrs);
        if (cached) {
            tr_graph_replace(g, tr_out(g, n, 0), tr_out(g, cached, 0));
            order[count++] = cached;
        }
    }
    g->layer = -1;
    if (!g->error)
        tr_graph_reorder(g, order, count);
    free(order);
    return tr_graph_error_take(g);
}
