/* Moving values between places on a mesh: one collective a step.
 *
 *   whole   -> cut      slice, local
 *   partial -> cut      reduce_scatter
 *   cut     -> cut      all_to_all, another dim
 *   partial -> whole    all_reduce
 *   cut     -> whole    all_gather
 *
 * On a ring, what is cut is put in the order of the ranks before, and what becomes whole in its own order after (deal).
 * What makes the value smaller comes first. A move is done once for each phase and layer: what was gathered
 * for the forward is not kept for the backward.
 */
#include "passes/shard_move.h"

#include "passes/passes.h"

place place_whole(void)
{
    place p = {0};
    for (int a = 0; a < TR_MAX_AXES; a++) {
        p.at[a] = WHOLE;
        p.unit[a] = 1;
    }
    return p;
}

/* Cuts dim d of a block once more. */
static void cut_block(tr_layout *l, int d, const tr_axis *axis, int64_t unit)
{
    int64_t first, turn = l->turn[d];
    if (axis->ring && axis->size > 1) {
        TR_CHECK(!l->jump[d], "a dim is dealt twice");
        tr_dealt part = tr_part_dealt(l->block[d], axis->size, axis->index, unit);
        l->origin[d] += part.first;
        l->block[d] = part.count;
        l->turn[d] = part.turn;
        l->jump[d] = part.jump;
        return;
    }
    tr_part(l->block[d], axis->size, axis->index, unit, &first, &l->block[d]);
    l->origin[d] = tr_layout_place(l, d, first);
    l->turn[d] = turn - first;
    if (turn <= first || turn >= first + l->block[d])
        l->turn[d] = l->jump[d] = 0;
}

/* Blocks, origins, turns and jumps. */
static tr_layout block_of(const sharder *s, tr_value v, const place *at)
{
    const tr_shape *whole = tr_shape_at(s->from, v);
    tr_layout l = {.rank = whole->rank};
    memcpy(l.names, whole->names, sizeof l.names);
    memcpy(l.whole, whole->dims, sizeof l.whole);
    memcpy(l.block, whole->dims, sizeof l.block);
    for (int a = 0; a < s->how->n_axes; a++)
        if (at->at[a] >= 0)
            cut_block(&l, at->at[a], &s->how->axes[a], at->unit[a]);
    return l;
}

void shard_block(const sharder *s, tr_value v, const place *at, int64_t *block, int64_t *origin)
{
    tr_layout l = block_of(s, v, at);
    memcpy(block, l.block, (size_t)l.rank * sizeof *block);
    memcpy(origin, l.origin, (size_t)l.rank * sizeof *origin);
}

static int64_t elems(const int64_t *dims, int rank)
{
    int64_t n = 1;
    for (int d = 0; d < rank; d++)
        n *= dims[d];
    return n;
}

static void flat_part(const sharder *s, int64_t n, int64_t *first, int64_t *count)
{
    const tr_axis *axis = &s->how->axes[s->how->zero_axis];
    tr_part(n, axis->size, axis->index, 1, first, count);
}

tr_shape shard_shape(const sharder *s, tr_value v, const place *at)
{
    tr_shape shape = *tr_shape_at(s->from, v);
    int64_t origin[TR_MAX_RANK], first;
    shard_block(s, v, at, shape.dims, origin);
    if (at->flat) {
        tr_shape flat = {.dtype = shape.dtype, .rank = 1};
        flat_part(s, elems(shape.dims, shape.rank), &first, &flat.dims[0]);
        return flat;
    }
    return shape;
}

const tr_layout *shard_layout(const sharder *s, tr_value v, const place *at)
{
    tr_layout *l = tr_arena_alloc(s->to->arena, sizeof *l);
    *l = block_of(s, v, at);
    l->count = elems(l->block, l->rank);
    l->flat = at->flat;
    if (at->flat)
        flat_part(s, elems(l->block, l->rank), &l->first, &l->count);
    for (int a = 0; a < s->how->n_axes; a++) {
        bool cut = at->at[a] >= 0 || (at->flat && a == s->how->zero_axis);
        l->owner |= (!cut && s->how->axes[a].index > 0 ? 1u : 0u) << a;
    }
    return l;
}

static tr_value node1(sharder *s, tr_op op, tr_value x, const tr_attr *attrs)
{
    return tr_out(s->to, tr_graph_node(s->to, op, &x, 1, attrs), 0);
}

tr_value shard_all_reduce(sharder *s, tr_value local, int axis)
{
    return node1(s, TR_OP_all_reduce, local, (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = axis}});
}

/* A sum of a tensor's summands. Scalars, the loss among them, keep their bits; so do the statistics of losses. */
static tr_value reduce(sharder *s, tr_value local, int axis)
{
    bool narrow = s->how->narrow && tr_shape_elems(tr_shape_at(s->to, local)) > 1;
    return node1(s, TR_OP_all_reduce, local, (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = axis},
                                                                     [TR_REDUCE_NARROW] = {.i = narrow}});
}

static tr_value gather(sharder *s, tr_value local, int axis, int dim, int64_t whole, int64_t unit)
{
    return node1(s, TR_OP_all_gather, local,
                 (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = axis}, [TR_COLLECTIVE_DIM] = {.i = dim},
                                         [TR_GATHER_WHOLE] = {.i = whole}, [TR_GATHER_UNIT] = {.i = unit}});
}

tr_value shard_gather_flat(sharder *s, tr_value local, int64_t n)
{
    return gather(s, local, s->how->zero_axis, 0, n, 1);
}

static tr_value scatter(sharder *s, tr_value local, int axis, int dim, int64_t count, int64_t unit)
{
    return node1(s, TR_OP_reduce_scatter, local,
                 (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = axis}, [TR_COLLECTIVE_DIM] = {.i = dim},
                                         [TR_SCATTER_COUNT] = {.i = count}, [TR_SCATTER_UNIT] = {.i = unit},
                                         [TR_SCATTER_NARROW] = {.i = s->how->narrow}});
}

static tr_value slice(sharder *s, tr_value local, int dim, int64_t first, int64_t count)
{
    return node1(s, TR_OP_slice, local,
                 (tr_attr[TR_MAX_ATTRS]){[TR_SLICE_DIM] = {.i = dim}, [TR_SLICE_FIRST] = {.i = first},
                                         [TR_SLICE_COUNT] = {.i = count}});
}

tr_value shard_local_ids(sharder *s, tr_value ids, tr_value v, const place *table)
{
    int64_t block[TR_MAX_RANK], origin[TR_MAX_RANK];
    shard_block(s, v, table, block, origin);
    if (block[0] == tr_shape_at(s->from, v)->dims[0])
        return ids;
    return node1(s, TR_OP_shift, ids,
                 (tr_attr[TR_MAX_ATTRS]){[TR_SHIFT_FIRST] = {.i = origin[0]}, [TR_SHIFT_COUNT] = {.i = block[0]}});
}

/* A dim that is, or will be, cut on an axis: in the order of the ranks. Only a ring has another order than the dim. */
static tr_value deal(sharder *s, tr_value local, int axis, int dim, int64_t unit, bool back)
{
    if (!s->how->axes[axis].ring)
        return local;
    return node1(s, TR_OP_deal, local,
                 (tr_attr[TR_MAX_ATTRS]){[TR_DEAL_DIM] = {.i = dim}, [TR_DEAL_PARTS] = {.i = s->how->axes[axis].size},
                                         [TR_DEAL_UNIT] = {.i = unit}, [TR_DEAL_BACK] = {.i = back}});
}

/* What a step does to one axis; those that make the value smaller come first. */
typedef enum kind { SLICE, SCATTER, EXCHANGE, REDUCE, GATHER, KINDS } kind;

static kind kind_of(int from, int to)
{
    if (to >= 0)
        return from == WHOLE ? SLICE : from == PARTIAL ? SCATTER : EXCHANGE;
    return from == PARTIAL ? REDUCE : GATHER;
}

static tr_value step(sharder *s, tr_value v, tr_value local, int axis, place *now, const place *want)
{
    const tr_axis *a = &s->how->axes[axis];
    int from = now->at[axis], to = want->at[axis];
    int64_t first = 0, count = 0, whole[TR_MAX_RANK], origin[TR_MAX_RANK];
    place without = *now;
    without.at[axis] = WHOLE;
    shard_block(s, v, &without, whole, origin);
    if (to >= 0) {
        tr_part(whole[to], a->size, a->index, want->unit[axis], &first, &count);
        local = deal(s, local, axis, to, want->unit[axis], false);
    }
    switch (kind_of(from, to)) {
    case SLICE:
        local = slice(s, local, to, first, count);
        break;
    case SCATTER:
        local = scatter(s, local, axis, to, count, want->unit[axis]);
        break;
    case EXCHANGE:
        local = node1(s, TR_OP_all_to_all, local,
                      (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = axis}, [TR_COLLECTIVE_DIM] = {.i = from},
                                              [TR_EXCHANGE_WHOLE] = {.i = whole[from]},
                                              [TR_EXCHANGE_UNIT] = {.i = now->unit[axis]},
                                              [TR_EXCHANGE_TO] = {.i = to}, [TR_EXCHANGE_COUNT] = {.i = count},
                                              [TR_EXCHANGE_TO_UNIT] = {.i = want->unit[axis]}});
        break;
    case REDUCE:
        local = reduce(s, local, axis);
        break;
    default:
        local = gather(s, local, axis, from, whole[from], now->unit[axis]);
    }
    if (from >= 0)
        local = deal(s, local, axis, from, now->unit[axis], true);
    now->at[axis] = want->at[axis];
    now->unit[axis] = want->unit[axis];
    return local;
}

/* A dim that several axes cut is cut from the outermost axis in, and made whole from the innermost out. */
static bool may_step(const sharder *s, const place *now, const place *want, int axis)
{
    int from = now->at[axis], to = want->at[axis];
    for (int a = axis + 1; a < s->how->n_axes; a++)
        if (now->at[a] >= 0 && (now->at[a] == from || now->at[a] == to))
            return false;
    for (int a = 0; a < axis && to >= 0; a++)
        if (now->at[a] != want->at[a] && (now->at[a] == to || want->at[a] == to))
            return false;
    return true;
}

/* Where the next step goes, in *to: the innermost axis that is in the way is made whole when there is no other. -1:
 * all is as it is wanted, but for what flattening does. */
static int next_step(const sharder *s, const place *now, const place *want, place *to)
{
    bool differs = false, flattens = want->flat && !now->flat;
    *to = *want;
    for (int k = 0; k < KINDS; k++)
        for (int a = 0; a < s->how->n_axes; a++) {
            if (now->at[a] == want->at[a] || (flattens && a == s->how->zero_axis))
                continue;
            differs = true;
            if ((int)kind_of(now->at[a], want->at[a]) == k && may_step(s, now, want, a))
                return a;
        }
    for (int a = s->how->n_axes - 1; a >= 0 && differs; a--)
        for (int b = 0; b < a; b++)
            if (now->at[a] >= 0 && now->at[b] != want->at[b] && (now->at[b] == now->at[a] || want->at[b] == now->at[a])) {
                to->at[a] = WHOLE;
                return a;
            }
    TR_CHECK(!differs, "a value cannot be moved to where it is wanted");
    return -1;
}

bool shard_same_place(const sharder *s, const place *a, const place *b)
{
    for (int k = 0; k < s->how->n_axes; k++)
        if (a->at[k] != b->at[k] || (a->at[k] >= 0 && a->unit[k] != b->unit[k]))
            return false;
    return a->flat == b->flat;
}

/* To a flat shard: everything else first, then the block as one dim. */
static tr_value flatten(sharder *s, tr_value v, tr_value local, const place *now)
{
    const tr_axis *axis = &s->how->axes[s->how->zero_axis];
    int64_t block[TR_MAX_RANK], origin[TR_MAX_RANK], first, count;
    shard_block(s, v, now, block, origin);
    tr_shape flat = {.rank = 1, .dims = {elems(block, tr_shape_at(s->from, v)->rank)}};
    tr_part(flat.dims[0], axis->size, axis->index, 1, &first, &count);
    bool partial = now->at[s->how->zero_axis] == PARTIAL;
    local = tr_graph_view(s->to, local, flat);
    return partial ? scatter(s, local, s->how->zero_axis, 0, count, 1) : slice(s, local, 0, first, count);
}

static tr_value unflatten(sharder *s, tr_value v, tr_value local, const place *now)
{
    place block = *now;
    block.flat = false;
    tr_shape shape = shard_shape(s, v, &block);
    return tr_graph_view(s->to, shard_gather_flat(s, local, tr_shape_elems(&shape)), shape);
}

static tr_value find_move(const sharder *s, tr_value v, const place *want)
{
    for (uint32_t m = s->n_moves; m-- > 0;) {
        const move *done = &s->moves[m];
        if (done->from == v && shard_same_place(s, &done->to, want) &&
            (done->lasts || (done->phase == s->to->phase && done->layer == s->to->layer &&
                             done->stage == s->to->stage)))
            return done->to.v;
    }
    return 0;
}

static void remember(sharder *s, tr_value v, const place *at, tr_value local, bool lasts)
{
    tr_push(s->moves, s->n_moves, s->moves_room) =
        (move){.from = v, .to = *at, .phase = s->to->phase, .layer = s->to->layer,
               .stage = s->to->stage, .lasts = lasts};
    s->moves[s->n_moves - 1].to.v = local;
}

tr_error *shard_move(sharder *s, tr_value v, const place *want, tr_value *out)
{
    place now = s->places[v];
    tr_value local = now.v;
    *out = local;
    if (shard_same_place(s, &now, want))
        return NULL;
    *out = find_move(s, v, want);
    if (*out)
        return NULL;
    if (now.flat && !want->flat) {
        local = unflatten(s, v, local, &now);
        now.flat = false;
    }
    place to;
    for (int a = next_step(s, &now, want, &to); a >= 0; a = next_step(s, &now, want, &to))
        local = step(s, v, local, a, &now, &to);
    if (want->flat && !now.flat)
        local = flatten(s, v, local, &now);
    if (!local)
        return tr_graph_error_take(s->to);
    remember(s, v, want, local, false);
    *out = local;
    return NULL;
}

tr_error *shard_exchange_back(sharder *s, tr_value v, int axis)
{
    place inside = s->places[v], outside = inside;
    tr_value local;
    outside.at[axis] = 1;
    outside.unit[axis] = 1;
    TR_TRY(shard_move(s, v, &outside, &local));
    s->places[v] = outside;
    s->places[v].v = local;
    remember(s, v, &inside, inside.v, true);
    return NULL;
}
