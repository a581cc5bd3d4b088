/* Pass overlap: collectives are started as soon as they can be, and waited for as late as they may.
 *
 * A wait is a node: it reads what its collective reads and writes, so both live until then by the plain rules of the
 * memory plan, and an op that writes over one of them stands after it. Four steps, each over the order of nodes:
 *
 *   gathers of leaves (ZeRO-3's parameters) start while what comes before their use is computed, as many ahead as
 *   `ahead_bytes` holds, one at least:
 *
 *       gather a, linear a, gather b, linear b      ->   start a, start b, wait a, linear a, start c, wait b, linear b
 *
 *   all others move up to behind what makes their input: the sum of an input's gradient starts before the product of
 *   the weight's;
 *   with several microbatches, the sums of accumulated gradients, which are of the update, go to where the last
 *   microbatch makes the gradient final: they are early, and the program runs the update with that microbatch;
 *
 *       micro: acc a, acc b; update: sum a, sum b   ->   acc b, (sum b), acc a, (sum a)
 *
 *   then a wait goes before the first reader of the result, the first that writes over the input, or the end of what
 *   runs at once. What is kept alive only for that is bounded by ahead_bytes too: the oldest is waited for first.
 *
 * Invariants
 *  1. All members of a group start their collectives in one order: what moves a start depends on the structure of the
 *     graph and on sizes of whole tensors, which are the same on all ranks. Waits may differ; with one order of starts
 *     no wait can close a ring: of all that are waited for, every member has started or will start the first.
 *  2. A start moves over no node that makes or writes over what it reads, or touches what it writes.
 *  3. A wait has the phase and stage of its collective's run, so that no run ends with something started; but from
 *     BACKWARD into UPDATE where there is one microbatch and nothing runs between.
 *  4. Nothing of a microbatch reads what an early node has made: all microbatches but the last skip it (ir/verify.c).
 */
#include "ir/table.h"
#include "passes/passes.h"

typedef struct list {
    tr_node *nodes;
    uint32_t count, room;
} list;

typedef struct overlap {
    tr_graph *g;
    const tr_overlap *how;
    tr_value *root; /* by value */
    int64_t ahead_bytes;
    list *before;   /* by node, and one for the end: what is put before it */
    bool *moved;    /* by node: stands in one of those */
    tr_node repeats_until; /* the last node of what each microbatch runs */
} overlap;

static bool has(const tr_graph *g, tr_node n, unsigned flag)
{
    return (tr_op_table[g->nodes[n].op]->flags & flag) != 0;
}

static bool reads(const overlap *o, tr_node n, tr_value root)
{
    for (uint32_t i = 0; i < o->g->nodes[n].n_in; i++)
        if (o->root[tr_in(o->g, n, (int)i)] == root)
            return true;
    return false;
}

/* A view makes nothing, but its value must stand behind what it shows. */
static bool makes(const overlap *o, tr_node n, tr_value root)
{
    for (uint32_t k = 0; k < o->g->nodes[n].n_out; k++)
        if (o->root[tr_out(o->g, n, (int)k)] == root)
            return true;
    return false;
}

static bool repeats(const tr_graph *g, tr_node n)
{
    return g->nodes[n].phase != TR_START && g->nodes[n].phase != TR_UPDATE;
}

/* Of the update, among what the last microbatch runs. */
static bool is_early(const overlap *o, tr_node n)
{
    return o->g->nodes[n].phase == TR_UPDATE && n < o->repeats_until;
}

/* Both run without a break between, or b is skipped where a runs. */
static bool one_run(const overlap *o, tr_node a, tr_node b)
{
    const tr_node_info *x = &o->g->nodes[a], *y = &o->g->nodes[b];
    if (o->how->apart)
        return x->phase == y->phase && x->stage == y->stage;
    if (!o->how->repeats || is_early(o, a) || is_early(o, b))
        return true;
    return repeats(o->g, a) == repeats(o->g, b) && (repeats(o->g, a) || x->phase == y->phase);
}

static void find_roots(overlap *o)
{
    for (tr_value v = 0; v < o->g->n_values; v++)
        o->root[v] = v ? tr_value_root(o->g, v) : 0;
    o->repeats_until = 0;
    for (tr_node n = 1; n < o->g->n_nodes; n++)
        if (repeats(o->g, n))
            o->repeats_until = n;
}

static void put_before(overlap *o, tr_node at, tr_node n)
{
    tr_push(o->before[at].nodes, o->before[at].count, o->before[at].room) = n;
    o->moved[n] = true;
}

/* The order with all that was put somewhere; lists are empty again. */
static void reorder(overlap *o)
{
    tr_graph *g = o->g;
    uint32_t n_nodes = g->n_nodes, count = 0;
    tr_node *order = tr_alloc(n_nodes * sizeof *order);
    for (tr_node n = 1; n <= n_nodes; n++) {
        for (uint32_t i = 0; i < o->before[n].count; i++)
            order[count++] = o->before[n].nodes[i];
        free(o->before[n].nodes);
        o->before[n] = (list){0};
        if (n < n_nodes && !o->moved[n])
            order[count++] = n;
    }
    tr_graph_reorder(g, order, count);
    memset(o->moved, 0, n_nodes * sizeof *o->moved);
    free(order);
}

/* Gathers of leaves -------------------------------------------------------------------------------- */

static bool gathers_leaf(const tr_graph *g, tr_node n)
{
    tr_value x = tr_in(g, n, 0);
    return g->nodes[n].op == TR_OP_all_gather && !g->values[x].node && g->values[tr_out(g, n, 0)].home == tr_out(g, n, 0) &&
           (g->nodes[n].phase == TR_FORWARD || g->nodes[n].phase == TR_BACKWARD || g->nodes[n].phase == TR_WEIGHT);
}

/* Of the whole tensor: the same on all ranks, whatever their parts are. */
static int64_t whole_bytes(const tr_graph *g, tr_value v)
{
    const tr_layout *l = g->values[v].layout;
    int64_t elems = l ? 1 : tr_shape_elems(tr_shape_at(g, v));
    for (int d = 0; l && d < l->rank; d++)
        elems *= l->whole[d];
    return elems * tr_dtype_bytes(tr_shape_at(g, v)->dtype);
}

/* The gathers of one phase and stage, in their order. The next one has always started. */
static void start_ahead(overlap *o, const tr_node *gathers, uint32_t count)
{
    int64_t ahead = 0; /* bytes of those after `at` that have started */
    uint32_t next = 1;
    for (uint32_t at = 0; at < count; at++) {
        ahead -= at > 0 ? whole_bytes(o->g, tr_in(o->g, gathers[at], 0)) : 0;
        for (; next < count; next++) {
            int64_t bytes = whole_bytes(o->g, tr_in(o->g, gathers[next], 0));
            if (next > at + 1 && ahead + bytes > o->ahead_bytes)
                break;
            /* behind gathers[at] where it was: it starts first, and is waited for after */
            put_before(o, gathers[at] + 1, gathers[next]);
            ahead += bytes;
        }
    }
}

static void gather_ahead(overlap *o)
{
    const tr_graph *g = o->g;
    list run = {0};
    for (tr_node n = 1; n <= g->n_nodes; n++) {
        bool same = n < g->n_nodes && run.count && g->nodes[n].phase == g->nodes[run.nodes[0]].phase &&
                    g->nodes[n].stage == g->nodes[run.nodes[0]].stage;
        if (run.count && !same) {
            start_ahead(o, run.nodes, run.count);
            run.count = 0;
        }
        if (n < g->n_nodes && gathers_leaf(g, n))
            tr_push(run.nodes, run.count, run.room) = n;
    }
    free(run.nodes);
    reorder(o);
}

/* All others --------------------------------------------------------------------------------------- */

static void start_early(overlap *o)
{
    const tr_graph *g = o->g;
    tr_node floor = 1; /* the last collective's place: the next one does not pass it */
    find_roots(o);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        if (!has(g, n, TR_OP_COLLECTIVE))
            continue;
        tr_value in = o->root[tr_in(g, n, 0)], out = o->root[tr_out(g, n, 0)];
        tr_node at = n;
        while (at > floor && !gathers_leaf(g, n)) {
            tr_node m = at - 1;
            bool same = g->nodes[m].phase == g->nodes[n].phase && g->nodes[m].stage == g->nodes[n].stage;
            bool free = same && (o->moved[m] || !(makes(o, m, in) || makes(o, m, out) || reads(o, m, out)));
            if (!free)
                break;
            at = m;
        }
        if (at < n)
            put_before(o, at, n);
        floor = at < n ? at : n + 1;
    }
    reorder(o);
}

/* Sums of accumulated gradients --------------------------------------------------------------------- */

/* The last node of a microbatch that makes what x, an input of the update, is made of; g->n_nodes: it is not made of
 * accumulators alone, by views and packs. */
static tr_node made_final(const overlap *o, const tr_node *writer, tr_value x)
{
    const tr_graph *g = o->g;
    tr_node n = g->values[x].node, last = 0;
    if (!n || g->nodes[n].phase != TR_UPDATE)
        return writer[o->root[x]];
    if (!has(g, n, TR_OP_VIEW) && g->nodes[n].op != TR_OP_pack)
        return g->n_nodes;
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
        last = TR_MAX(last, made_final(o, writer, tr_in(g, n, (int)i)));
    return last;
}

static void lift(overlap *o, tr_node n, tr_node behind)
{
    const tr_graph *g = o->g;
    if (o->moved[n] || g->nodes[n].phase != TR_UPDATE)
        return;
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
        if (g->values[tr_in(g, n, (int)i)].node)
            lift(o, g->values[tr_in(g, n, (int)i)].node, behind);
    put_before(o, behind + 1, n);
}

/* Only over parameters' gradients: of single numbers nothing is gained. */
static void sum_early(overlap *o)
{
    const tr_graph *g = o->g;
    find_roots(o);
    tr_node *writer = tr_alloc_zero(g->n_values, sizeof *writer);
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t k = 0; k < g->nodes[n].n_out && repeats(g, n); k++)
            writer[o->root[tr_out(g, n, (int)k)]] = n;
    for (tr_node n = 1; n < g->n_nodes && o->how->repeats && !o->how->apart; n++) {
        bool sums = g->nodes[n].op == TR_OP_all_reduce || g->nodes[n].op == TR_OP_reduce_scatter;
        if (g->nodes[n].phase != TR_UPDATE || !sums || whole_bytes(g, tr_in(g, n, 0)) <= (int64_t)sizeof(float))
            continue;
        tr_node behind = made_final(o, writer, tr_in(g, n, 0));
        if (behind && behind < o->repeats_until)
            lift(o, n, behind);
    }
    free(writer);
    reorder(o);
}

/* Waits -------------------------------------------------------------------------------------------- */

typedef struct flight {
    tr_node start, wait; /* the node before which its wait stands */
    int64_t held;        /* bytes that live on only for it */
} flight;

/* The first node that may not run before the collective n is over; g->n_nodes: none. */
static tr_node deadline(const overlap *o, tr_node n)
{
    const tr_graph *g = o->g;
    tr_value in = o->root[tr_in(g, n, 0)], out = o->root[tr_out(g, n, 0)];
    tr_node m = n + 1;
    while (m < g->n_nodes && one_run(o, n, m) && !reads(o, m, out) && !makes(o, m, out) &&
           (has(g, m, TR_OP_VIEW) || !makes(o, m, in)))
        m++;
    return m;
}

/* What the collective reads would be free behind it. */
static int64_t held_bytes(const overlap *o, const tr_node *last, tr_node n)
{
    tr_value in = o->root[tr_in(o->g, n, 0)], out = o->root[tr_out(o->g, n, 0)];
    bool ends = o->g->values[in].role == TR_TEMP && in != out && last[in] <= n;
    return ends ? tr_shape_bytes(tr_shape_at(o->g, in)) : 0;
}

/* Another collective is something to do too: its messages go at the same time. */
static bool works_between(const tr_graph *g, tr_node from, tr_node to)
{
    for (tr_node n = from + 1; n < to; n++)
        if (!has(g, n, TR_OP_VIEW | TR_OP_WAIT))
            return true;
    return false;
}

/* `end`: how many nodes there were before the first wait. */
static void add_wait(overlap *o, const flight *f, tr_node end)
{
    tr_graph *g = o->g;
    tr_value in[] = {tr_out(g, f->start, 0), tr_in(g, f->start, 0)};
    tr_value root = tr_value_root(g, in[1]);
    bool kept = g->values[root].role == TR_PARAM || g->values[root].role == TR_STATE || g->values[root].role == TR_INPUT;
    bool reads_input = !kept && root != tr_value_root(g, in[0]);
    bool inside = f->wait < end && one_run(o, f->start, f->wait);
    const tr_node_info from = g->nodes[f->start];
    tr_node last = inside ? f->wait : f->wait - 1;
    while (o->how->repeats && repeats(g, f->start) && !repeats(g, last))
        last--; /* early nodes, which the other microbatches skip */
    g->phase = g->nodes[last].phase;
    if (is_early(o, f->start))
        g->phase = TR_UPDATE;
    g->stage = from.stage;
    g->layer = from.layer;
    tr_node wait = tr_graph_node(g, TR_OP_wait, in, reads_input ? 2 : 1, NULL);
    if (!wait)
        return;
    tr_value over = tr_out(g, wait, 0);
    g->values[over].layout = g->values[in[0]].layout;
    tr_graph_replace(g, in[0], over);
    tr_set_in(g, wait, 0, in[0]);
    g->values[over].home = in[0];
    tr_push(o->before[f->wait].nodes, o->before[f->wait].count, o->before[f->wait].room) = wait;
}

static flight *find_waits(const overlap *o, uint32_t *out_count)
{
    const tr_graph *g = o->g;
    tr_node *last = tr_alloc_zero(g->n_values, sizeof *last);
    flight *flights = NULL;
    uint32_t count = 0, room = 0, oldest = 0;
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            last[o->root[tr_in(g, n, (int)i)]] = n;
    for (uint32_t k = 0; k < g->n_outputs; k++)
        last[o->root[g->outputs[k]]] = g->n_nodes;
    for (tr_node n = 1; n < g->n_nodes; n++) {
        if (!has(g, n, TR_OP_COLLECTIVE))
            continue;
        flight f = {n, deadline(o, n), held_bytes(o, last, n)};
        int64_t held = f.held;
        for (uint32_t k = oldest; k < count; k++)
            held += flights[k].wait > n ? flights[k].held : 0;
        for (; f.held && held > o->ahead_bytes && oldest < count; oldest++)
            if (flights[oldest].wait > n && flights[oldest].held) {
                held -= flights[oldest].held;
                flights[oldest].wait = n;
            }
        tr_push(flights, count, room) = f;
    }
    free(last);
    *out_count = count;
    return flights;
}

static void add_waits(overlap *o)
{
    uint32_t count, n_nodes = o->g->n_nodes;
    find_roots(o);
    flight *flights = find_waits(o, &count);
    uint32_t kept = 0;
    for (uint32_t k = 0; k < count; k++)
        if (works_between(o->g, flights[k].start, flights[k].wait))
            flights[kept++] = flights[k];
    tr_node *order = tr_alloc((n_nodes + kept) * sizeof *order);
    for (uint32_t k = 0; k < kept; k++)
        add_wait(o, &flights[k], n_nodes);
    uint32_t made = 0;
    for (tr_node n = 1; n <= n_nodes; n++) {
        for (uint32_t i = 0; i < o->before[n].count; i++)
            order[made++] = o->before[n].nodes[i];
        free(o->before[n].nodes);
        o->before[n] = (list){0};
        if (n < n_nodes)
            order[made++] = n;
    }
    if (!o->g->error)
        tr_graph_reorder(o->g, order, made);
    free(order);
    free(flights);
}

int64_t tr_graph_whole_bytes(const tr_graph *g)
{
    int64_t bytes = 0;
    for (tr_value v = 1; v < g->n_values; v++)
        if (g->values[v].role == TR_PARAM)
            bytes += whole_bytes(g, v);
    return bytes;
}

tr_error *tr_pass_overlap(tr_graph *g, const tr_overlap *how)
{
    if (!how->on)
        return NULL;
    enum { SHARE = 8 }; /* of its parameters: a small model holds less than a large one */
    tr_graph_in_place(g, TR_OP_IN_PLACE | TR_OP_COLLECTIVE);
    overlap o = {.g = g, .how = how, .ahead_bytes = TR_MIN(how->ahead_bytes, tr_graph_whole_bytes(g) / SHARE), .root = tr_alloc_zero(g->n_values, sizeof(tr_value)),
                 .before = tr_alloc_zero(g->n_nodes + 1, sizeof(list)), .moved = tr_alloc_zero(g->n_nodes + 1, sizeof(bool))};
    gather_ahead(&o);
    start_early(&o);
    sum_early(&o);
    add_waits(&o);
    g->layer = -1;
    g->stage = 0;
    free(o.root);
    free(o.before);
    free(o.moved);
    return tr_graph_error_take(g);
}
