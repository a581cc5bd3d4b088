/* Passes rooms and together.
 *
 * rooms: the rooms of a sequence's experts [expert, batch, capacity, d] become one [1, batch, places, d].
 *
 * Rooms of equal size are what ranks can share out, but most of their rows are empty: with k choices of E experts and
 * none left out, E - k of E. Joined, the experts' tokens follow each other, and there are places for k tokens
 * each: what stands between dispatch and collect then computes and keeps no more rows than there are.
 *
 * Precondition: the graph is forward only, not sharded, and nothing is going to cut "expert".
 * A routing's rooms are joined when, from dispatch to collect, there are only products of experts and elementwise ops
 * of nothing but rooms, and when it saves places. Ops that draw random numbers stand in the way: they draw by the place
 * of an element in the whole, and would draw others than ranks that share the experts.
 *
 * together: of rooms that are joined, those of all sequences that a rank has become one, [1, 1, batch x places, d], by
 * expert first. An expert's tokens are then neighbours, and its products need not gather them. Which tokens have a place
 * was settled within their sequences, and the order within an expert is that of a gathering: at most the rounding of
 * sums over rows changes, where a product ends at another row.
 *
 * Precondition: the graph is a rank's own, with its backward. What reads the rooms may be, beside the above, their
 * gradients and sums over ranks, of which all have the same sequences.
 */
#include "ir/table.h"
#include "passes/passes.h"

typedef struct state {
    tr_graph *g;
    tr_node *of;   /* by value: the routing whose rooms it is, or 0 */
    bool *refused; /* by node: a routing whose rooms must stay */
} state;

/* The routing that made v as its output k, or 0. */
static tr_node routing(const tr_graph *g, tr_value v, int k)
{
    tr_node n = v ? g->values[v].node : 0;
    return n && g->nodes[n].op == TR_OP_route && tr_out(g, n, k) == v ? n : 0;
}

static tr_node slots_of(const tr_graph *g, tr_node n)
{
    return routing(g, tr_in(g, n, 1), 2);
}

/* Does a node read v as nothing but what the rooms of `r` know how to be. */
static bool fits(const state *s, tr_node n, tr_node r)
{
    const tr_graph *g = s->g;
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    if (node->op == TR_OP_collect)
        return slots_of(g, n) == r;
    if (node->op == TR_OP_collect_grad)
        return routing(g, tr_in(g, n, 2), 2) == r && !s->of[tr_in(g, n, 0)];
    if (node->op == TR_OP_expert_linear)
        return routing(g, tr_in(g, n, 2), 3) == r && !s->of[tr_in(g, n, 1)];
    if (node->op == TR_OP_expert_linear_dw)
        return routing(g, tr_in(g, n, 2), 3) == r && s->of[tr_in(g, n, 0)] == r && s->of[tr_in(g, n, 1)] == r;
    if (node->op == TR_OP_all_reduce)
        return true;
    if (!(row->flags & TR_OP_ELEMENTWISE) || row->flags & (TR_OP_RANDOM | TR_OP_VIEW))
        return false;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (s->of[tr_in(g, n, (int)i)] != r || tr_shape_at(g, tr_in(g, n, (int)i))->rank != 4)
            return false;
    return true;
}

static bool knows_slots(tr_op op)
{
    return op == TR_OP_dispatch || op == TR_OP_collect || op == TR_OP_collect_grad;
}

static bool knows_filled(tr_op op)
{
    return op == TR_OP_expert_linear || op == TR_OP_expert_linear_dw;
}

static bool leaves_rooms(tr_op op)
{
    return op == TR_OP_collect || op == TR_OP_collect_grad || op == TR_OP_expert_linear_dw;
}

static void walk(state *s, tr_node n)
{
    const tr_graph *g = s->g;
    const tr_node_info *node = &g->nodes[n];
    tr_node r = node->op == TR_OP_dispatch ? slots_of(g, n) : 0;
    for (uint32_t i = 0; i < node->n_in; i++) {
        tr_value v = tr_in(g, n, (int)i);
        tr_node slots = routing(g, v, 2), filled = routing(g, v, 3);
        if (slots && !knows_slots(node->op))
            s->refused[slots] = true;
        if (filled && !knows_filled(node->op))
            s->refused[filled] = true;
        if (!s->of[v])
            continue;
        if (!fits(s, n, s->of[v]) || (r && r != s->of[v]))
            s->refused[s->of[v]] = true;
        else if (!leaves_rooms(node->op))
            r = s->of[v];
    }
    for (uint32_t k = 0; r && k < node->n_out; k++)
        s->of[tr_out(g, n, (int)k)] = r;
}

/* Places of a sequence, or 0 where joining saves none. */
static int64_t places(const tr_graph *g, tr_node r)
{
    const tr_shape *logits = tr_shape_at(g, tr_in(g, r, 0));
    int64_t choices = logits->dims[1] * g->nodes[r].attrs[TR_ROUTE_K].i;
    return choices < logits->dims[2] * g->nodes[r].attrs[TR_ROUTE_CAPACITY].i ? choices : 0;
}

/* Whose rooms there are, and which must stay as they are. */
static state find(tr_graph *g)
{
    state s = {g, tr_alloc_zero(g->n_values, sizeof *s.of), tr_alloc_zero(g->n_nodes, sizeof *s.refused)};
    for (tr_node n = 1; n < g->n_nodes; n++)
        walk(&s, n);
    for (uint32_t o = 0; o < g->n_outputs; o++) {
        tr_value v = g->outputs[o];
        s.refused[s.of[v]] = s.refused[routing(g, v, 2)] = s.refused[routing(g, v, 3)] = true;
    }
    return s;
}

static void forget(state *s)
{
    free(s->of);
    free(s->refused);
}

void tr_pass_rooms(tr_graph *g)
{
    state s = find(g);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        tr_node_info *node = &g->nodes[n];
        tr_node r = node->op == TR_OP_dispatch ? slots_of(g, n) : node->op == TR_OP_route ? n : 0;
        if (!r || s.refused[r] || !places(g, r))
            continue;
        if (node->op == TR_OP_route)
            node->attrs[TR_ROUTE_JOINED].i = true;
        else
            node->attrs[TR_DISPATCH_EXPERTS].i = 1, node->attrs[TR_DISPATCH_CAPACITY].i = places(g, r);
    }
    for (tr_value v = 1; v < g->n_values; v++) {
        tr_node r = s.of[v];
        if (!r || s.refused[r] || !places(g, r))
            continue;
        tr_shape *shape = &g->values[v].shape;
        shape->dims[0] = 1;
        shape->names[0] = 0;
        shape->dims[2] = places(g, r);
    }
    forget(&s);
}

/* Places of all sequences, or 0 where the rooms stay. */
static int64_t all_places(const state *s, tr_node r)
{
    const tr_graph *g = s->g;
    int64_t sequences = r ? tr_shape_at(g, tr_in(g, r, 0))->dims[0] : 0;
    bool can = r && !s->refused[r] && g->nodes[r].attrs[TR_ROUTE_JOINED].i && sequences > 1;
    return can && places(g, r) <= INT32_MAX / sequences ? sequences * places(g, r) : 0;
}

void tr_pass_together(tr_graph *g)
{
    state s = find(g);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        tr_node_info *node = &g->nodes[n];
        tr_node r = node->op == TR_OP_dispatch ? slots_of(g, n) : node->op == TR_OP_route ? n : 0;
        if (!all_places(&s, r))
            continue;
        if (node->op == TR_OP_route)
            node->attrs[TR_ROUTE_TOGETHER].i = true;
        else
            node->attrs[TR_DISPATCH_TOGETHER].i = true, node->attrs[TR_DISPATCH_CAPACITY].i = all_places(&s, r);
    }
    for (tr_value v = 1; v < g->n_values; v++) {
        if (!all_places(&s, s.of[v]))
            continue;
        tr_shape *shape = &g->values[v].shape;
        shape->dims[1] = 1;
        shape->names[1] = 0;
        shape->dims[2] = all_places(&s, s.of[v]);
        g->values[v].layout = NULL; /* in the whole it has no place of its own */
    }
    forget(&s);
}
