/* Pass cut: the graph of one place on a pipeline; see pipeline.h.
 *
 * Nodes of the phases between START and UPDATE are at the place of their stage. The update is at every place that
 * has what it reads: where[v] is the set of places that have v. Three things in it span the stages:
 *   - the gradient of a parameter of several stages: each has a sum, and the add between two of them becomes an
 *     all_reduce over the places that have one
 *   - the global norm: each place sums what it has; a gradient that several have counts at the first
 *   - loss and count, which one place has: the others add zero
 */
#include <stdio.h>
#include <stdlib.h>

#include "ir/table.h"
#include "passes/passes.h"
#include "passes/pipeline.h"

typedef uint64_t places;

typedef struct cutter {
    const tr_graph *from;
    tr_graph *to;
    const tr_schedule *schedule;
    int place, axis;
    places all, *where;
    int32_t *reach;  /* by value: the farthest stage that reads it, in the direction it goes */
    tr_value *local; /* [stages] by value: what stands for it in a stage's nodes; leaves and the update: row 0 */
    tr_value *summed; /* by value: its sum over the stages */
} cutter;

static bool of_stage(tr_phase phase)
{
    return phase == TR_FORWARD || phase == TR_BACKWARD || phase == TR_WEIGHT;
}

static places bit(int place)
{
    return (places)1 << place;
}

static int place_of(const cutter *c, int stage)
{
    return c->schedule->rank_of_stage[stage];
}

static tr_value *slot(const cutter *c, int stage, tr_value v)
{
    return &c->local[(size_t)stage * c->from->n_values + v];
}

static bool is_forward(const cutter *c, tr_value v)
{
    return c->from->nodes[c->from->values[v].node].phase == TR_FORWARD;
}

/* Who has what, and how far it goes ---------------------------------------------------------------- */

static tr_error *find_reach(cutter *c)
{
    const tr_graph *g = c->from;
    for (tr_value v = 1; v < g->n_values; v++)
        c->reach[v] = g->nodes[g->values[v].node].stage;
    for (tr_node n = 1; n < g->n_nodes; n++) {
        const tr_node_info *node = &g->nodes[n];
        for (uint32_t i = 0; i < node->n_in && of_stage(node->phase); i++) {
            tr_value v = tr_in(g, n, (int)i);
            tr_node from = g->values[v].node;
            if (g->values[v].role == TR_PARAM)
                c->where[v] |= bit(place_of(c, node->stage));
            if (!from || !of_stage(g->nodes[from].phase) || g->nodes[from].stage == node->stage)
                continue;
            bool forward = is_forward(c, v);
            if (g->nodes[from].phase == TR_WEIGHT || forward != (g->nodes[from].stage < node->stage))
                return tr_error_new(TR_RUN, "pipeline: node %u of stage %d cannot get value %u of stage %d", n, node->stage, v,
                                    g->nodes[from].stage);
            c->reach[v] = forward ? TR_MAX(c->reach[v], node->stage) : TR_MIN(c->reach[v], node->stage);
        }
    }
    for (tr_value v = 1; v < g->n_values; v++) {
        tr_node n = g->values[v].node;
        if (n && g->nodes[n].phase != TR_UPDATE)
            c->where[v] = bit(place_of(c, g->nodes[n].stage));
        else if (!n && g->values[v].role != TR_PARAM)
            c->where[v] = c->all;
    }
    return NULL;
}

/* Copying ------------------------------------------------------------------------------------------ */

static void copy_info(cutter *c, tr_value from, tr_value to)
{
    const tr_value_info *a = &c->from->values[from];
    tr_value_info *b = &c->to->values[to];
    b->shape = a->shape;
    b->stream = a->stream;
    b->decay = a->decay;
    memcpy(b->unit, a->unit, sizeof b->unit);
    if (!a->layout)
        return;
    tr_layout *layout = tr_arena_alloc(c->to->arena, sizeof *layout);
    *layout = *a->layout;
    /* Of a parameter that several places have, and of its state, the first is the owner. */
    if (!a->node && c->where[from] != c->all && c->where[from] & (bit(c->place) - 1))
        layout->owner |= 1u << 31;
    b->layout = layout;
}

static tr_value copy_leaf(cutter *c, tr_value v)
{
    tr_value *at = slot(c, 0, v);
    const tr_value_info *info = &c->from->values[v];
    if (*at)
        return *at;
    *at = tr_graph_leaf(c->to, info->role, info->name, info->shape, info->init);
    if (*at)
        copy_info(c, v, *at);
    return *at;
}

/* What stands for v in the nodes of a stage, or, for stage -1, in the update. */
static tr_value find(cutter *c, tr_value v, int stage)
{
    tr_node n = c->from->values[v].node;
    if (!v)
        return 0;
    if (!n)
        return copy_leaf(c, v);
    if (c->from->nodes[n].phase == TR_UPDATE)
        return *slot(c, 0, v);
    if (stage < 0 || !of_stage(c->from->nodes[n].phase))
        stage = c->from->nodes[n].stage;
    return *slot(c, stage, v);
}

static void take_position(cutter *c, tr_node n)
{
    c->to->phase = c->from->nodes[n].phase;
    c->to->layer = c->from->nodes[n].layer;
    c->to->stage = c->from->nodes[n].stage;
}

static tr_error *copy_node_with(cutter *c, tr_node n, const tr_value *in, int n_in, int stage)
{
    const tr_graph *g = c->from;
    const tr_node_info *node = &g->nodes[n];
    tr_node made;
    take_position(c, n);
    if (node->op == TR_OP_reshape) {
        tr_value view = tr_graph_view(c->to, in[0], *tr_shape_at(g, tr_out(g, n, 0))); /* values may move in it */
        made = c->to->values[view].node;
    } else {
        made = tr_graph_node(c->to, node->op, in, n_in, node->attrs);
    }
    for (uint32_t k = 0; k < node->n_out && !c->to->error; k++) {
        tr_value v = tr_out(g, n, (int)k), mine = tr_out(c->to, made, (int)k), home = g->values[v].home;
        *slot(c, TR_MAX(stage, 0), v) = mine;
        copy_info(c, v, mine);
        if (home != v && c->to->values[mine].home == mine)
            c->to->values[mine].home = find(c, home, stage);
    }
    return tr_graph_error_take(c->to);
}

static tr_error *copy_node(cutter *c, tr_node n, int stage)
{
    const tr_node_info *node = &c->from->nodes[n];
    tr_value *in = tr_alloc_zero(node->n_in + 1, sizeof *in);
    for (uint32_t i = 0; i < node->n_in; i++)
        in[i] = find(c, tr_in(c->from, n, (int)i), stage);
    tr_error *error = copy_node_with(c, n, in, (int)node->n_in, stage);
    free(in);
    return error;
}

/* Stages ------------------------------------------------------------------------------------------- */

/* Between two neighbouring stages v travels when the sender is between the maker and the farthest reader. */
static bool travels(const cutter *c, tr_value v, bool forward, int sender)
{
    tr_node n = c->from->values[v].node;
    if (!n || !of_stage(c->from->nodes[n].phase) || is_forward(c, v) != forward)
        return false;
    int made = c->from->nodes[n].stage;
    return forward ? sender >= made && sender < c->reach[v] : sender <= made && sender > c->reach[v];
}

static tr_error *receive(cutter *c, int stage, bool forward)
{
    int sender = forward ? stage - 1 : stage + 1, k = 0;
    char name[64];
    for (tr_value v = 1; v < c->from->n_values; v++)
        if (travels(c, v, forward, sender)) {
            snprintf(name, sizeof name, "receive.%c.%d.%d", forward ? 'F' : 'B', stage, k++);
            tr_value leaf = tr_graph_leaf(c->to, TR_MESSAGE, name, c->from->values[v].shape, (tr_init){0});
            if (!leaf)
                break;
            copy_info(c, v, leaf);
            c->to->values[leaf].stage = stage;
            *slot(c, stage, v) = leaf;
        }
    return tr_graph_error_take(c->to);
}

static void send(cutter *c, int stage, bool forward)
{
    char name[64];
    int k = 0;
    for (tr_value v = 1; v < c->from->n_values; v++)
        if (travels(c, v, forward, stage)) {
            snprintf(name, sizeof name, "send.%c.%d.%d", forward ? 'F' : 'B', stage, k++);
            tr_graph_output(c->to, name, *slot(c, stage, v));
        }
}

static tr_error *copy_phase(cutter *c, tr_phase phase, int stage)
{
    for (tr_node n = 1; n < c->from->n_nodes; n++)
        if (c->from->nodes[n].phase == phase && c->from->nodes[n].stage == stage)
            TR_TRY(copy_node(c, n, stage));
    return NULL;
}

static bool is_mine(const cutter *c, int stage)
{
    return place_of(c, stage) == c->place;
}

static tr_error *copy_stages(cutter *c)
{
    int stages = c->schedule->stages;
    for (int s = 0; s < stages; s++)
        if (is_mine(c, s))
            TR_TRY(copy_phase(c, TR_START, s));
    for (int s = 0; s < stages; s++)
        if (is_mine(c, s)) {
            TR_TRY(receive(c, s, true));
            TR_TRY(copy_phase(c, TR_FORWARD, s));
            send(c, s, true);
        }
    for (int s = stages - 1; s >= 0; s--)
        if (is_mine(c, s)) {
            TR_TRY(receive(c, s, false));
            TR_TRY(copy_phase(c, TR_BACKWARD, s));
            send(c, s, false);
        }
    for (int s = stages - 1; s >= 0; s--)
        if (is_mine(c, s))
            TR_TRY(copy_phase(c, TR_WEIGHT, s));
    return NULL;
}

/* The update --------------------------------------------------------------------------------------- */

static bool have(const cutter *c, tr_value v)
{
    return (c->where[v] & bit(c->place)) != 0;
}

static bool is_first_of(const cutter *c, tr_value v)
{
    return have(c, v) && !(c->where[v] & (bit(c->place) - 1));
}

static tr_value reduce(cutter *c, tr_value x, places members)
{
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_COLLECTIVE_AXIS] = {.i = c->axis},
                                         [TR_REDUCE_MEMBERS] = {.i = members == c->all ? 0 : (int64_t)members}};
    return tr_out(c->to, tr_graph_node(c->to, TR_OP_all_reduce, &x, 1, attrs), 0);
}

/* The sum over the stages of a number that some have. */
static tr_value stage_sum(cutter *c, tr_value v)
{
    if (c->summed[v])
        return c->summed[v];
    tr_value x = have(c, v) ? find(c, v, -1) : tr_out(c->to, tr_graph_node(c->to, TR_OP_fill, NULL, 0, NULL), 0);
    return c->summed[v] = reduce(c, x, c->all);
}

static tr_error *cut_global_norm(cutter *c, tr_node n)
{
    const tr_node_info *node = &c->from->nodes[n];
    tr_value *list = tr_alloc_zero(node->n_in + 1, sizeof *list), v = tr_out(c->from, n, 0);
    int count = 0;
    tr_error *error = NULL;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (is_first_of(c, tr_in(c->from, n, (int)i)))
            list[count++] = find(c, tr_in(c->from, n, (int)i), -1);
    if (count)
        error = copy_node_with(c, n, list, count, -1);
    else
        *slot(c, 0, v) = tr_out(c->to, tr_graph_node(c->to, TR_OP_fill, NULL, 0, NULL), 0);
    c->where[v] = c->all;
    free(list);
    return error ? error : tr_graph_error_take(c->to);
}

static tr_error *cut_clip(cutter *c, tr_node n)
{
    tr_value sum = tr_in(c->from, n, 0), count = tr_in(c->from, n, 1);
    const tr_value in[] = {reduce(c, find(c, sum, -1), c->all),
                           c->where[count] == c->all ? find(c, count, -1) : stage_sum(c, count)};
    for (int k = 0; k < 2; k++)
        c->where[tr_out(c->from, n, k)] = c->all;
    return copy_node_with(c, n, in, 2, -1);
}

/* a + b of different places: each place adds what it is the first to have. */
static tr_error *cut_add(cutter *c, tr_node n)
{
    tr_value operands[] = {tr_in(c->from, n, 0), tr_in(c->from, n, 1)}, out = tr_out(c->from, n, 0), mine = 0;
    places together = c->where[operands[0]] | c->where[operands[1]];
    c->where[out] = together;
    if (!(together & bit(c->place)))
        return NULL;
    for (int k = 0; k < 2; k++) {
        if (!have(c, operands[k]))
            continue;
        tr_value x = find(c, operands[k], -1);
        if (!is_first_of(c, operands[k])) /* counted where it is the first */
            x = tr_scale(c->to, x, 0);
        mine = mine ? tr_add(c->to, mine, x) : x;
    }
    mine = reduce(c, mine, together);
    if (mine) {
        copy_info(c, out, mine);
        *slot(c, 0, out) = mine;
    }
    return tr_graph_error_take(c->to);
}

/* State is where its parameter is; so is a parameter that no node of this rank reads, a bias that another one adds. */
static bool is_open(const cutter *c, tr_value v)
{
    tr_role role = c->from->values[v].role;
    return !v || role == TR_STATE || (role == TR_PARAM && !c->where[v]);
}

static tr_error *cut_update_node(cutter *c, tr_node n)
{
    const tr_graph *g = c->from;
    const tr_node_info *node = &g->nodes[n];
    take_position(c, n);
    if (node->op == TR_OP_global_norm)
        return cut_global_norm(c, n);
    if (node->op == TR_OP_clip)
        return cut_clip(c, n);
    if (node->op == TR_OP_add && c->where[tr_in(g, n, 0)] != c->where[tr_in(g, n, 1)])
        return cut_add(c, n);
    places both = c->all;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (!is_open(c, tr_in(g, n, (int)i)))
            both &= c->where[tr_in(g, n, (int)i)];
    if (!both)
        return tr_error_new(TR_RUN, "no rank has all that node %u (%s) of the update reads", n, tr_op_name(node->op));
    for (uint32_t i = 0; i < node->n_in; i++)
        if (tr_in(g, n, (int)i) && is_open(c, tr_in(g, n, (int)i)))
            c->where[tr_in(g, n, (int)i)] = both;
    for (uint32_t k = 0; k < node->n_out; k++)
        c->where[tr_out(g, n, (int)k)] = both;
    return both & bit(c->place) ? copy_node(c, n, -1) : NULL;
}

static tr_error *copy_outputs(cutter *c, bool updates)
{
    const tr_graph *g = c->from;
    c->to->phase = g->nodes[g->n_nodes - 1].phase;
    c->to->layer = -1;
    c->to->stage = g->nodes[g->n_nodes - 1].stage;
    for (uint32_t o = 0; o < g->n_outputs; o++) {
        tr_value v = g->outputs[o];
        bool number = tr_shape_elems(tr_shape_at(g, v)) == 1;
        if (updates && number && c->where[v] != c->all)
            tr_graph_output(c->to, g->output_names[o], stage_sum(c, v));
        else if (have(c, v))
            tr_graph_output(c->to, g->output_names[o], find(c, v, -1));
    }
    return tr_graph_error_take(c->to);
}

static tr_error *cut(cutter *c)
{
    const tr_graph *g = c->from;
    bool updates = false;
    for (uint32_t d = 1; d < g->n_dim_names; d++)
        tr_graph_dim(c->to, g->dim_names[d]);
    TR_TRY(find_reach(c));
    /* Parameters first, in their order: also those that only the update touches. */
    for (tr_value v = 1; v < g->n_values; v++)
        if (g->values[v].role == TR_PARAM && have(c, v))
            copy_leaf(c, v);
    TR_TRY(copy_stages(c));
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].phase == TR_UPDATE) {
            updates = true;
            TR_TRY(cut_update_node(c, n));
        }
    for (tr_value v = 1; v < g->n_values; v++)
        if (g->values[v].role == TR_PARAM && !c->where[v]) {
            c->where[v] = bit(0); /* one that nothing reads has to be somewhere */
            if (have(c, v))
                copy_leaf(c, v);
        }
    TR_TRY(copy_outputs(c, updates));
    c->to->streams = g->streams;
    tr_graph_order_phases(c->to);
    return NULL;
}

tr_error *tr_pass_cut(const tr_graph *whole, const tr_schedule *schedule, int place, int axis, tr_graph **out)
{
    *out = NULL;
    if (schedule->ranks > TR_MOST_PLACES)
        return tr_error_new(TR_USER, "mesh.pipeline %d is more than the %d that a pipeline can have", schedule->ranks,
                            TR_MOST_PLACES);
    cutter c = {.from = whole, .to = tr_graph_new(whole->name, whole->compute), .schedule = schedule, .place = place,
                .axis = axis, .all = bit(schedule->ranks) - 1,
                .where = tr_alloc_zero(whole->n_values, sizeof(places)),
                .reach = tr_alloc_zero(whole->n_values, sizeof(int32_t)),
                .local = tr_alloc_zero((size_t)schedule->stages * whole->n_values, sizeof(tr_value)),
                .summed = tr_alloc_zero(whole->n_values, sizeof(tr_value))};
    tr_error *error = tr_error_in_take(cut(&c), "pipeline place %d", place);
    if (error)
        tr_graph_free(c.to);
    else
        *out = c.to;
    free(c.where);
    free(c.reach);
    free(c.local);
    free(c.summed);
    return error;
}

int tr_pipeline_messages(const tr_graph *g, bool sends, char direction, int stage, tr_value **out)
{
    char name[64];
    int count = 0;
    int64_t room = 0;
    *out = NULL;
    for (;;) {
        snprintf(name, sizeof name, "%s.%c.%d.%d", sends ? "send" : "receive", direction, stage, count);
        tr_value v = tr_graph_find(g, name);
        if (!v)
            return count;
        tr_push(*out, count, room) = v;
    }
}
