/* Pass fuse: nodes that are faster together. Each rule is one function that looks at one node; a rule
 * applies only where the values between have no other reader, so that nothing is computed twice.
 *
 *   add into acc      add(a, f(..)) with f that accumulates       -> f(.., acc = a), in a's buffer
 *   residual norm     s = add(x, r); layer_norm(s)                -> add_layer_norm(x, r); so with rms_norm
 *   loss              cross_entropy + its gradient for dloss = 1, or an input -> cross_entropy_train
 *   activation        activate(linear(..)) whose input is not read again -> linear with fn
 */
#include "ir/table.h"
#include "passes/passes.h"

typedef struct fusion {
    tr_graph *g;
    uint32_t *uses;
    bool *dropped; /* by node */
} fusion;

/* The only node that reads v, 0 when there are several or it is an output. */
static tr_node only_reader(const fusion *f, tr_value v)
{
    if (f->uses[v] != 1)
        return 0;
    for (tr_node n = 1; n < f->g->n_nodes; n++)
        if (!f->dropped[n])
            for (uint32_t i = 0; i < f->g->nodes[n].n_in; i++)
                if (tr_in(f->g, n, (int)i) == v)
                    return n;
    return 0;
}

static void drop(fusion *f, tr_node n)
{
    f->dropped[n] = true;
    for (uint32_t i = 0; i < f->g->nodes[n].n_in; i++)
        f->uses[tr_in(f->g, n, (int)i)]--;
}

/* Gives node n other inputs and ops; its outputs stay. New inputs are appended to the links. */
static void rewrite(fusion *f, tr_node n, tr_op op, const tr_value *in, int n_in)
{
    tr_graph *g = f->g;
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
        f->uses[tr_in(g, n, (int)i)]--;
    g->nodes[n].op = op;
    g->nodes[n].first_in = g->n_links;
    g->nodes[n].n_in = (uint32_t)n_in;
    for (int i = 0; i < n_in; i++) {
        tr_push(g->links, g->n_links, g->links_room) = in[i];
        f->uses[in[i]]++;
    }
}

static void set_outputs(tr_graph *g, tr_node n, const tr_value *out, int n_out)
{
    g->nodes[n].first_out = g->n_links;
    g->nodes[n].n_out = (uint32_t)n_out;
    for (int k = 0; k < n_out; k++) {
        tr_push(g->links, g->n_links, g->links_room) = out[k];
        g->values[out[k]].node = n;
    }
}

static bool is_view(const tr_graph *g, tr_value v)
{
    return g->values[v].node && tr_op_table[g->nodes[g->values[v].node].op]->flags & TR_OP_VIEW;
}

/* What a view shows. */
static tr_value base_of(const tr_graph *g, tr_value v)
{
    while (is_view(g, v))
        v = g->values[v].home;
    return v;
}

/* Node n may write over v: v is computed (no leaf, no view), no output shows it, and everyone else who
 * reads it, except `sum`, stands before n. */
static bool may_overwrite(const fusion *f, tr_value v, tr_node n, tr_node sum)
{
    const tr_graph *g = f->g;
    if (!g->values[v].node || is_view(g, v) || g->values[v].node > n)
        return false;
    for (uint32_t o = 0; o < g->n_outputs; o++)
        if (base_of(g, g->outputs[o]) == v)
            return false;
    for (tr_node m = n; m < g->n_nodes; m++)
        for (uint32_t i = 0; i < g->nodes[m].n_in && !f->dropped[m] && m != sum; i++)
            if (base_of(g, tr_in(g, m, (int)i)) == v)
                return false;
    return true;
}

/* sum = acc + part: the node that makes part adds into acc instead. When that node has an accumulator
 * already, it is the first node of its chain that takes acc. */
static bool fuse_accumulate_into(fusion *f, tr_node add, int which)
{
    tr_graph *g = f->g;
    tr_value part = tr_in(g, add, which), acc = tr_in(g, add, 1 - which), sum = tr_out(g, add, 0);
    tr_value first = part;
    tr_node n = 0;
    if (f->uses[part] != 1)
        return false;
    for (;;) {
        n = g->values[first].node;
        if (!n || f->dropped[n] || !(tr_op_table[g->nodes[n].op]->flags & TR_OP_ACCUMULATES) ||
            tr_out(g, n, 0) != first)
            return false;
        tr_value before = tr_in(g, n, tr_op_table[g->nodes[n].op]->max_in - 1);
        if (!before)
            break;
        first = before;
    }
    const tr_shape *a = tr_shape_at(g, acc), *p = tr_shape_at(g, first);
    if (a->dtype != p->dtype || tr_shape_elems(a) != tr_shape_elems(p) || !may_overwrite(f, acc, n, add))
        return false;
    int last = tr_op_table[g->nodes[n].op]->max_in - 1;
    tr_value in[8] = {0};
    for (int i = 0; i < last; i++)
        in[i] = tr_in(g, n, i);
    in[last] = acc;
    drop(f, add);
    rewrite(f, n, g->nodes[n].op, in, last + 1);
    g->values[first].home = acc;
    f->uses[part] = f->uses[sum];
    tr_graph_replace(g, sum, part);
    return true;
}

static bool fuse_accumulate(fusion *f, tr_node n)
{
    if (f->g->nodes[n].op != TR_OP_add)
        return false;
    /* The later of the two producers can read the earlier's result. */
    return fuse_accumulate_into(f, n, 1) || fuse_accumulate_into(f, n, 0);
}

static bool fuse_residual_norm(fusion *f, tr_node norm)
{
    tr_graph *g = f->g;
    bool rms = g->nodes[norm].op == TR_OP_rms_norm;
    if (!rms && g->nodes[norm].op != TR_OP_layer_norm)
        return false;
    tr_value s = tr_in(g, norm, 0);
    tr_node add = g->values[s].node;
    if (!add || g->nodes[add].op != TR_OP_add || g->nodes[add].phase != g->nodes[norm].phase ||
        g->values[s].home != s || f->dropped[add])
        return false;
    tr_value x = tr_in(g, add, 0), r = tr_in(g, add, 1);
    if (tr_shape_at(g, x)->rank != tr_shape_at(g, r)->rank)
        return false;
    /* Whoever reads s must stand after the norm, where the fused node will be. */
    for (tr_node n = add + 1; n < norm; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in && !f->dropped[n]; i++)
            if (tr_in(g, n, (int)i) == s)
                return false;
    const tr_value in[] = {x, r, tr_in(g, norm, 1), tr_in(g, norm, 2)};
    const tr_value out[] = {s, tr_out(g, norm, 0), tr_out(g, norm, 1), tr_out(g, norm, 2)};
    drop(f, add);
    rewrite(f, norm, rms ? TR_OP_add_rms_norm : TR_OP_add_layer_norm, in, rms ? 3 : 4);
    set_outputs(g, norm, out, rms ? 3 : 4);
    return true;
}

static bool fuse_loss(fusion *f, tr_node back)
{
    tr_graph *g = f->g;
    if (g->nodes[back].op != TR_OP_cross_entropy_grad)
        return false;
    tr_value dloss = tr_in(g, back, 4);
    tr_node seed = g->values[dloss].node;
    bool is_one = seed && g->nodes[seed].op == TR_OP_fill && g->nodes[seed].attrs[TR_FILL_VALUE].f == 1;
    if (!is_one && g->values[dloss].role != TR_INPUT)
        return false;
    tr_node loss = 0;
    for (tr_node n = 1; n < back && !loss; n++)
        if (g->nodes[n].op == TR_OP_cross_entropy && !f->dropped[n] && tr_in(g, n, 0) == tr_in(g, back, 0) &&
            tr_in(g, n, 1) == tr_in(g, back, 1) && tr_in(g, n, 2) == tr_in(g, back, 2) && tr_in(g, n, 3) == tr_in(g, back, 3) &&
            memcmp(g->nodes[n].attrs, g->nodes[back].attrs, sizeof g->nodes[n].attrs) == 0)
            loss = n;
    if (!loss)
        return false;
    /* In the gradient's place; in the loss's, where something between reads the loss: the sum of two heads' losses. */
    tr_node place = back;
    for (tr_node n = loss + 1; n < back; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in && !f->dropped[n]; i++)
            if (g->values[tr_in(g, n, (int)i)].node == loss)
                place = loss;
    if (place == loss && g->values[tr_in(g, back, 5)].node > loss)
        return false;
    const tr_value in[] = {tr_in(g, back, 0), tr_in(g, back, 1), tr_in(g, back, 2), tr_in(g, back, 3), is_one ? 0 : dloss,
                           tr_in(g, back, 5)};
    const tr_value out[] = {tr_out(g, back, 0), tr_out(g, back, 1), tr_out(g, loss, 0), tr_out(g, loss, 1),
                            tr_out(g, back, 2)};
    drop(f, place == back ? loss : back);
    rewrite(f, place, TR_OP_cross_entropy_train, in, 6);
    set_outputs(g, place, out, out[4] ? 5 : 4);
    return true;
}

static bool fuse_activation(fusion *f, tr_node act)
{
    tr_graph *g = f->g;
    if (g->nodes[act].op != TR_OP_activate)
        return false;
    tr_value x = tr_in(g, act, 0), y = tr_out(g, act, 0);
    tr_node linear = g->values[x].node;
    if (!linear || g->nodes[linear].op != TR_OP_linear || only_reader(f, x) != act || f->dropped[linear] ||
        g->nodes[linear].attrs[TR_LINEAR_FN].i != TR_FN_none)
        return false;
    g->nodes[linear].attrs[TR_LINEAR_FN].i = g->nodes[act].attrs[TR_ACTIVATE_FN].i;
    drop(f, act);
    f->uses[x] = f->uses[y];
    tr_graph_replace(g, y, x);
    return true;
}

tr_error *tr_pass_fuse(tr_graph *g)
{
    static bool (*const rules[])(fusion *, tr_node) = {fuse_loss, fuse_accumulate, fuse_residual_norm,
                                                       fuse_activation};
    fusion f = {g, tr_graph_uses(g), tr_alloc_zero(g->n_nodes, sizeof(bool))};
    for (int r = 0; r < TR_COUNT(rules); r++)
        for (tr_node n = 1; n < g->n_nodes; n++)
            if (!f.dropped[n])
                rules[r](&f, n);
    tr_node *order = tr_alloc(g->n_nodes * sizeof *order);
    uint32_t count = 0;
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (!f.dropped[n])
            order[count++] = n;
    tr_graph_reorder(g, order, count);
    free(order);
    free(f.uses);
    free(f.dropped);
    return NULL;
}
