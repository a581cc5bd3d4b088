/* Passes stages and weight, and what stages cost; see pipeline.h. */
#include "ir/table.h"
#include "passes/passes.h"
#include "passes/pipeline.h"

/* A byte costs as much as this many flops, about what CPUs do. */
static const double FLOPS_A_BYTE = 8;

static double node_cost(const tr_graph *g, tr_node n)
{
    tr_cost cost = tr_node_cost(g, n);
    return cost.flops + FLOPS_A_BYTE * cost.bytes;
}

static int count_layers(const tr_graph *g)
{
    int layers = 0;
    for (tr_node n = 1; n < g->n_nodes; n++)
        layers = TR_MAX(layers, g->nodes[n].layer + 1);
    return layers;
}

/* deep[n]: some layer leads to the node. */
static bool *find_deep(const tr_graph *g)
{
    bool *deep = tr_alloc_zero(g->n_nodes, sizeof *deep);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        deep[n] = g->nodes[n].layer >= 0;
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            deep[n] |= deep[g->values[tr_in(g, n, (int)i)].node];
    }
    return deep;
}

/* Nodes outside of layers: after a layer, where their operands are; before all layers, where they are first read. */
static void place_others(tr_graph *g, const bool *deep)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in && deep[n] && g->nodes[n].layer < 0; i++) {
            tr_node from = g->values[tr_in(g, n, (int)i)].node;
            if (from && deep[from])
                g->nodes[n].stage = TR_MAX(g->nodes[n].stage, g->nodes[from].stage);
        }
    int32_t *first = tr_alloc(g->n_nodes * sizeof *first);
    for (tr_node n = 0; n < g->n_nodes; n++)
        first[n] = INT32_MAX;
    for (tr_node n = g->n_nodes - 1; n >= 1; n--) {
        if (!deep[n])
            g->nodes[n].stage = first[n] == INT32_MAX ? 0 : first[n];
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
            tr_node from = g->values[tr_in(g, n, (int)i)].node;
            first[from] = TR_MIN(first[from], g->nodes[n].stage);
        }
    }
    free(first);
}

static tr_error *check_forward(const tr_graph *g)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
            tr_node from = g->values[tr_in(g, n, (int)i)].node;
            if (from && g->nodes[from].stage > g->nodes[n].stage)
                return tr_error_new(TR_USER, "layer %d reads what layer %d makes, so the model cannot be cut into pipeline "
                                             "stages between them; number its layers in their order, or use mesh.pipeline=1",
                                    g->nodes[n].layer, g->nodes[from].layer);
        }
    return NULL;
}

tr_error *tr_pass_stages(tr_graph *g, int stages)
{
    int layers = count_layers(g);
    if (stages > layers)
        return tr_error_new(TR_USER, "mesh.pipeline x pipeline.chunks is %d stages and the model has %d layers; at most %d "
                                     "stages can share them",
                            stages, layers, layers);
    double *cost = tr_alloc_zero((size_t)layers, sizeof *cost), before = 0, after = 0;
    int *first = tr_alloc_zero((size_t)stages, sizeof *first);
    bool *deep = find_deep(g);
    for (tr_node n = 1; n < g->n_nodes; n++)
        *(g->nodes[n].layer >= 0 ? &cost[g->nodes[n].layer] : deep[n] ? &after : &before) += node_cost(g, n);
    tr_error *error = tr_pipeline_cut(cost, layers, before, after, stages, first);
    for (tr_node n = 1; n < g->n_nodes && !error; n++)
        for (int s = 0; s < stages && g->nodes[n].layer >= 0; s++)
            if (first[s] <= g->nodes[n].layer)
                g->nodes[n].stage = s;
    if (!error)
        place_others(g, deep);
    if (!error)
        error = check_forward(g);
    free(cost);
    free(first);
    free(deep);
    return error;
}

/* awaited[n]: another stage's backward waits for the node. */
static bool *find_awaited(const tr_graph *g)
{
    bool *awaited = tr_alloc_zero(g->n_nodes, sizeof *awaited);
    for (tr_node n = g->n_nodes - 1; n >= 1; n--)
        for (uint32_t i = 0; i < g->nodes[n].n_in && g->nodes[n].phase == TR_BACKWARD; i++) {
            tr_node from = g->values[tr_in(g, n, (int)i)].node;
            awaited[from] |= awaited[n] || g->nodes[from].stage != g->nodes[n].stage;
        }
    return awaited;
}

bool tr_schedule_splits(const tr_schedule *s)
{
    for (int64_t i = 0; i < s->first[s->ranks]; i++)
        if (s->actions[i].kind == TR_ACTION_INPUT || s->actions[i].kind == TR_ACTION_WEIGHT)
            return true;
    return false;
}

void tr_pass_weight(tr_graph *g)
{
    bool *awaited = find_awaited(g);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        if (g->nodes[n].phase != TR_BACKWARD || awaited[n])
            continue;
        bool weight = (tr_op_table[g->nodes[n].op]->flags & TR_OP_WEIGHT) != 0;
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
            tr_node from = g->values[tr_in(g, n, (int)i)].node;
            weight |= from && g->nodes[from].phase == TR_WEIGHT;
        }
        if (weight)
            g->nodes[n].phase = TR_WEIGHT;
    }
    free(awaited);
    tr_graph_order_phases(g);
}

void tr_pipeline_costs(const tr_graph *g, int stages, double flops_per_s, double bytes_per_s, double link_bytes_per_s,
                       tr_stage_cost *costs)
{
    memset(costs, 0, (size_t)stages * sizeof *costs);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        const tr_node_info *node = &g->nodes[n];
        tr_cost cost = tr_node_cost(g, n);
        double seconds = TR_MAX(cost.flops / flops_per_s, cost.bytes / bytes_per_s);
        tr_stage_cost *at = &costs[node->stage];
        if (node->phase == TR_FORWARD)
            at->forward += seconds;
        else if (node->phase == TR_WEIGHT || (node->phase == TR_BACKWARD && tr_op_table[node->op]->flags & TR_OP_WEIGHT))
            at->weight += seconds;
        else if (node->phase == TR_BACKWARD)
            at->input += seconds;
        for (uint32_t i = 0; i < node->n_in && node->phase != TR_UPDATE; i++) {
            tr_value v = tr_in(g, n, (int)i);
            int32_t from = g->nodes[g->values[v].node].stage;
            double sent = (double)tr_shape_bytes(tr_shape_at(g, v)) / link_bytes_per_s;
            if (!g->values[v].node || from == node->stage)
                continue;
            if (from < node->stage && node->phase == TR_FORWARD)
                costs[from].send_activation = TR_MAX(costs[from].send_activation, sent);
            else if (from > node->stage)
                costs[from].send_gradient = TR_MAX(costs[from].send_gradient, sent);
        }
    }
    for (int s = 0; s < stages; s++)
        costs[s].backward = costs[s].input + costs[s].weight;
}
