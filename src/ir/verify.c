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

/* Bytes of a shape, -1 when it has a dim below 1 or is 2^63 bytes or more. */
static int64_t checked_bytes(const tr_shape *s)
{
    int64_t bytes = tr_dtype_bytes(s->dtype);
    if (s->rank < 0 || s->rank > TR_MAX_RANK)
        return -1;
    for (int d = 0; d < s->rank; d++)
        if (s->dims[d] < 1 || !tr_mul_fits(bytes, s->dims[d], &bytes))
            return -1;
    return bytes;
}

/* Ids are in range, so that all that follows may look at them. */
static tr_error *verify_ids(const tr_graph *g)
{
    tr_node n = 0;
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        tr_value home = v;
        if (info->role >= TR_ROLE_COUNT || info->shape.dtype >= TR_DTYPE_COUNT || info->home == 0 ||
            info->home >= g->n_values || info->node >= g->n_nodes)
            return BROKEN(1, "value %u has a role, dtype, home or node that does not exist", v);
        if (checked_bytes(&info->shape) < 0)
            return BROKEN(5, "value %u has a dim that is not positive, or too many elements", v);
        for (uint32_t steps = 0; g->values[home].home != home && g->values[home].home < g->n_values; steps++) {
            home = g->values[home].home;
            if (steps == g->n_values)
                return BROKEN(4, "the homes of value %u go round in a ring", v);
        }
    }
    for (n = 1; n < g->n_nodes; n++) {
        const tr_node_info *node = &g->nodes[n];
        if (node->op >= TR_OP_COUNT) {
            n = 0;
            return BROKEN(1, "a node has an op that does not exist");
        }
        if ((uint64_t)node->first_in + node->n_in > g->n_links ||
            (uint64_t)node->first_out + node->n_out > g->n_links || node->n_out < 1 || node->n_out > TR_MAX_OUTPUTS)
            return BROKEN(1, "inputs or outputs lie outside of the links");
        for (uint32_t i = 0; i < node->n_in; i++)
            if (tr_in(g, n, (int)i) >= g->n_values)
                return BROKEN(1, "input %u does not exist", i);
        for (uint32_t k = 0; k < node->n_out; k++)
            if (!tr_out(g, n, (int)k) || tr_out(g, n, (int)k) >= g->n_values)
                return BROKEN(1, "output %u does not exist", k);
    }
    n = 0;
    for (uint32_t o = 0; o < g->n_outputs; o++)
        if (!g->outputs[o] || g->outputs[o] >= g->n_values)
            return BROKEN(1, "output %s does not exist", g->output_names[o]);
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static tr_error *verify_names(const tr_graph *g)
{
    tr_error *error = NULL;
    tr_node n = 0;
    const char **names = tr_alloc(g->n_values * sizeof *names);
    uint32_t count = 0;
    for (tr_value v = 1; v < g->n_values && !error; v++) {
        if (g->values[v].role == TR_TEMP)
            continue;
        if (g->values[v].name)
            names[count++] = g->values[v].name;
        else
            error = BROKEN(3, "value %u is a leaf and has no name", v);
    }
    qsort(names, count, sizeof *names, by_name);
    for (uint32_t i = 1; i < count && !error; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            error = BROKEN(3, "two leaves are called %s", names[i]);
    free(names);
    return error;
}

/* Invariant 4: only outputs that the op writes over an input, or may, live elsewhere. */
static tr_error *verify_home(const tr_graph *g, tr_node n, int k)
{
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    tr_value v = tr_out(g, n, k), over = 0;
    if (row->flags & TR_OP_UPDATES) {
        int updated = tr_op_updated(row, g->links + node->first_in, (int)node->n_in, k);
        over = updated >= 0 ? tr_in(g, n, updated) : 0;
    }
    if (row->flags & TR_OP_ACCUMULATES && k == 0)
        over = tr_in(g, n, row->max_in - 1);
    if (over && tr_value_root(g, v) != tr_value_root(g, over))
        return BROKEN(4, "output %d does not live in the input that it updates", k);
    if (!over && row->flags & TR_OP_IN_PLACE && k == 0)
        over = tr_in(g, n, 0);
    /* A gather can fill a buffer that it does not read: ZeRO's parameters. */
    if (g->values[v].home == v || node->op == TR_OP_all_gather)
        return NULL;
    /* What the ranks put together may replace a leaf: a parameter that each updated a part of. */
    if (!over && row->flags & TR_OP_COLLECTIVE && g->values[tr_value_root(g, v)].role != TR_TEMP)
        return NULL;
    if (!over || tr_value_root(g, v) != tr_value_root(g, over))
        return BROKEN(4, "output %d lives in value %u, which the op does not write over", k, g->values[v].home);
    int readers = 0;
    for (uint32_t i = 0; i < node->n_in; i++)
        readers += tr_value_root(g, tr_in(g, n, (int)i)) == tr_value_root(g, over);
    return readers == 1 ? NULL : BROKEN(4, "output %d is written over a value that is read twice", k);
}

static tr_error *verify_view(const tr_graph *g, tr_node n)
{
    tr_value x = tr_in(g, n, 0), y = tr_out(g, n, 0);
    const tr_shape *a = tr_shape_at(g, x), *b = tr_shape_at(g, y);
    if (g->nodes[n].n_out != 1 || a->dtype != b->dtype || tr_shape_elems(a) != tr_shape_elems(b))
        return BROKEN(5, "a view must have its input's elements");
    return g->values[y].home == x ? NULL : BROKEN(4, "a view must live in its input");
}

static tr_error *verify_node(const tr_graph *g, tr_node n, const uint8_t *made)
{
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    if ((int)node->n_in < row->min_in || (row->max_in >= 0 && (int)node->n_in > row->max_in))
        return BROKEN(1, "%u inputs", node->n_in);
    for (uint32_t i = 0; i < node->n_in; i++) {
        tr_value v = tr_in(g, n, (int)i);
        if (!v && (int)i < row->min_in)
            return BROKEN(1, "input %u is absent", i);
        if (v && !made[v])
            return BROKEN(2, "input %u (value %u) is not made before it", i, v);
    }
    if (row->flags & TR_OP_VIEW)
        return verify_view(g, n);
    tr_shape shapes[TR_MAX_OUTPUTS] = {0};
    int n_out = 0;
    tr_error *error = row->infer(g, &g->links[node->first_in], (int)node->n_in, node->attrs, shapes, &n_out);
    if (error) {
        error = tr_error_in_take(error, "graph %s, node %u: invariant 5 is broken: op %s", g->name, n,
                                 tr_op_name(node->op));
        return error;
    }
    if (n_out != (int)node->n_out)
        return BROKEN(5, "%u outputs, the shape rule says %d", node->n_out, n_out);
    for (int k = 0; k < n_out; k++) {
        const tr_shape *s = tr_shape_at(g, tr_out(g, n, k));
        if (s->dtype != shapes[k].dtype || checked_bytes(s) != checked_bytes(&shapes[k]))
            return BROKEN(5, "output %d does not have the shape that the rule gives", k);
        TR_TRY(verify_home(g, n, k));
    }
    return NULL;
}

/* A view holds whatever its base holds at the time it was taken. */
static tr_value held(const tr_graph *g, tr_value v)
{
    while (g->values[v].node && tr_op_table[g->nodes[g->values[v].node].op]->flags & TR_OP_VIEW)
        v = g->values[v].home;
    return v;
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
            v = held(g, v);
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
    tr_node n = 0;
    for (uint32_t o = 0; o < g->n_outputs && !error; o++) {
        tr_value v = held(g, g->outputs[o]), root = tr_value_root(g, v);
        if (holds[root] && holds[root] != v)
            error = BROKEN(4, "output %s was written over by node %u", g->output_names[o], written[root]);
    }
    free(written);
    free(holds);
    return error;
}

tr_error *tr_graph_verify(const tr_graph *g)
{
    tr_error *error = NULL;
    tr_node n = 0;
    TR_TRY(verify_ids(g));
    TR_TRY(verify_names(g));
    uint8_t *made = tr_alloc_zero(g->n_values, 1);
    for (tr_value v = 1; v < g->n_values; v++)
        made[v] = g->values[v].role != TR_TEMP;
    tr_phase phase = TR_START;
    tr_node repeats_until = 0;
    for (n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].phase > TR_START && g->nodes[n].phase < TR_UPDATE)
            repeats_until = n;
    for (n = 1; n < g->n_nodes && !error; n++) {
        bool early = g->nodes[n].phase == TR_UPDATE && n < repeats_until;
        if ((!early && g->nodes[n].phase < phase) || g->nodes[n].phase >= TR_PHASE_COUNT)
            error = BROKEN(6, "phase goes back");
        if (!early)
            phase = g->nodes[n].phase;
        for (uint32_t i = 0; i < g->nodes[n].n_in && !error && n < repeats_until && !early; i++) {
            tr_node from = g->values[tr_in(g, n, (int)i)].node;
            if (from && from < g->n_nodes && g->nodes[from].phase == TR_UPDATE)
                error = BROKEN(6, "a microbatch reads what the update makes");
        }
        if (!error)
            error = verify_node(g, n, made);
        for (uint32_t k = 0; k < g->nodes[n].n_out && !error; k++) {
            tr_value v = tr_out(g, n, (int)k);
            if (made[v])
                error = BROKEN(2, "value %u is made twice", v);
            else if (g->values[v].node != n)
                error = BROKEN(2, "value %u does not know that this node makes it", v);
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
