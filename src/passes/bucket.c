/* Pass bucket: small gradients are summed over the ranks together, one message instead of many.
 *
 *     all_reduce a, all_reduce b, all_reduce c   ->   pack a b c, all_reduce, ..., slice a', slice b', slice c'
 *
 * A bucket is full at `bytes`, or an eighth of the parameters, so that a small model has several too; what is larger than a quarter of that goes by itself, since copying it would cost more
 * than a message. The sum stands where the last of the bucket was, or before the first node that reads one of them;
 * slices stand before the first reader, so that there is something to do while the sum is on its way. Sums have the
 * same bits as without: they are formed element by element in the order of the ranks.
 *
 * Scalars, the loss and its count, are no gradients. Only sums over one axis are moved: their order among all collectives may depend on sizes, which are the same for
 * all ranks of that axis (overlap.c, invariant 1).
 */
#include "ir/table.h"
#include "passes/passes.h"

typedef struct bucket {
    tr_node *sums; /* the nodes that it replaces */
    uint32_t count, room;
    int64_t bytes;
    tr_value flat; /* 0: still open */
    bool sliced;
} bucket;

typedef struct state {
    tr_graph *g;
    int axis;
    int64_t bytes;
    bucket *buckets; /* the last one may be open */
    uint32_t count, room;
    tr_node *order;
    uint32_t n_order, order_room;
} state;

static void emit(state *s, tr_node n)
{
    tr_push(s->order, s->n_order, s->order_room) = n;
}

static bool reads(const tr_graph *g, tr_node n, const bucket *b)
{
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
        tr_value root = tr_value_root(g, tr_in(g, n, (int)i));
        for (uint32_t k = 0; k < b->count && root; k++)
            if (root == tr_out(g, b->sums[k], 0))
                return true;
    }
    return false;
}

/* Writes over what a sum of the open bucket reads. */
static bool overwrites(const tr_graph *g, tr_node n, const bucket *b)
{
    for (uint32_t o = 0; o < g->nodes[n].n_out; o++)
        for (uint32_t k = 0; k < b->count; k++)
            if (tr_value_root(g, tr_out(g, n, (int)o)) == tr_value_root(g, tr_in(g, b->sums[k], 0)))
                return true;
    return false;
}

static bool is_small_sum(const state *s, tr_node n)
{
    enum { QUARTERS = 4 };
    const tr_graph *g = s->g;
    const tr_node_info *node = &g->nodes[n];
    tr_value out = tr_out(g, n, 0);
    return node->op == TR_OP_all_reduce && node->attrs[TR_COLLECTIVE_AXIS].i == s->axis && !node->attrs[TR_REDUCE_MEMBERS].i &&
           !node->attrs[TR_REDUCE_LARGEST].i && g->values[out].home == out &&
           tr_shape_elems(tr_shape_at(g, out)) > 1 && tr_shape_bytes(tr_shape_at(g, out)) < s->bytes / QUARTERS &&
           (node->phase == TR_BACKWARD || node->phase == TR_WEIGHT || node->phase == TR_UPDATE);
}

static bool alike(const tr_graph *g, tr_node a, tr_node b)
{
    const tr_node_info *x = &g->nodes[a], *y = &g->nodes[b];
    return x->phase == y->phase && x->stage == y->stage && memcmp(x->attrs, y->attrs, sizeof x->attrs) == 0 &&
           tr_shape_at(g, tr_out(g, a, 0))->dtype == tr_shape_at(g, tr_out(g, b, 0))->dtype;
}

static bucket *open_bucket(const state *s)
{
    bucket *last = s->count ? &s->buckets[s->count - 1] : NULL;
    return last && !last->flat ? last : NULL;
}

static void place(state *s, tr_node like)
{
    s->g->phase = s->g->nodes[like].phase;
    s->g->stage = s->g->nodes[like].stage;
    s->g->layer = s->g->nodes[like].layer;
}

/* The sum goes here. One alone stays as it is. */
static void close_bucket(state *s)
{
    bucket *b = open_bucket(s);
    tr_graph *g = s->g;
    if (!b)
        return;
    if (b->count == 1) {
        emit(s, b->sums[0]);
        free(b->sums);
        s->count--;
        return;
    }
    tr_value *in = tr_alloc(b->count * sizeof *in);
    for (uint32_t k = 0; k < b->count; k++)
        in[k] = tr_in(g, b->sums[k], 0);
    place(s, b->sums[0]);
    tr_attr attrs[TR_MAX_ATTRS];
    memcpy(attrs, g->nodes[b->sums[0]].attrs, sizeof attrs);
    tr_node pack = tr_graph_node(g, TR_OP_pack, in, (int)b->count, NULL);
    tr_value packed = tr_out(g, pack, 0);
    tr_node sum = tr_graph_node(g, TR_OP_all_reduce, &packed, 1, attrs);
    emit(s, pack);
    emit(s, sum);
    b->flat = tr_out(g, sum, 0);
    free(in);
}

/* The parts of a bucket's sum, before the node that is the first to read one; 0: the end. */
static void slice_before(state *s, bucket *b, tr_node reader)
{
    tr_graph *g = s->g;
    int64_t first = 0;
    place(s, reader ? reader : s->order[s->n_order - 1]);
    for (uint32_t k = 0; k < b->count; k++) {
        tr_value old = tr_out(g, b->sums[k], 0);
        tr_shape shape = *tr_shape_at(g, old);
        int64_t count = tr_shape_elems(&shape);
        tr_attr attrs[TR_MAX_ATTRS] = {[TR_SLICE_FIRST] = {.i = first}, [TR_SLICE_COUNT] = {.i = count}};
        tr_node slice = tr_graph_node(g, TR_OP_slice, &b->flat, 1, attrs);
        tr_value part = tr_out(g, slice, 0), view = tr_graph_view(g, part, shape);
        if (!view)
            return;
        emit(s, slice);
        emit(s, g->values[view].node);
        tr_graph_replace(g, old, view);
        first += count;
    }
    b->sliced = true;
}

static void visit(state *s, tr_node n)
{
    tr_graph *g = s->g;
    bucket *open = open_bucket(s);
    bool joins = is_small_sum(s, n);
    if (open && (reads(g, n, open) || overwrites(g, n, open) || g->nodes[n].phase != g->nodes[open->sums[0]].phase ||
                 (joins && !alike(g, open->sums[0], n))))
        close_bucket(s);
    for (uint32_t k = 0; k < s->count; k++)
        if (s->buckets[k].flat && !s->buckets[k].sliced && reads(g, n, &s->buckets[k]))
            slice_before(s, &s->buckets[k], n);
    if (!joins) {
        emit(s, n);
        return;
    }
    if (!open_bucket(s))
        tr_push(s->buckets, s->count, s->room) = (bucket){0};
    open = open_bucket(s);
    tr_push(open->sums, open->count, open->room) = n;
    open->bytes += tr_shape_bytes(tr_shape_at(g, tr_out(g, n, 0)));
    if (open->bytes >= s->bytes)
        close_bucket(s);
}

tr_error *tr_pass_bucket(tr_graph *g, int axis, int64_t bytes)
{
    enum { SHARE = 8 };
    state s = {.g = g, .axis = axis, .bytes = TR_MIN(bytes, tr_graph_whole_bytes(g) / SHARE)};
    uint32_t n_nodes = g->n_nodes;
    for (tr_node n = 1; n < n_nodes && !g->error; n++)
        visit(&s, n);
    close_bucket(&s);
    for (uint32_t k = 0; k < s.count && !g->error; k++)
        if (!s.buckets[k].sliced)
            slice_before(&s, &s.buckets[k], 0);
    if (!g->error)
        tr_graph_reorder(g, s.order, s.n_order);
    g->layer = -1;
    g->stage = 0;
    for (uint32_t k = 0; k < s.count; k++)
        free(s.buckets[k].sums);
    free(s.buckets);
    free(s.order);
    return tr_graph_error_take(g);
}
