/* Starting a graph's collectives; see collective.h. A dim in the middle of a tensor is cut as [outer, dim, inner]:
 * the collectives take the rest, so nothing is packed here. */
#include "exec/collective.h"

#include "base/memory.h"

/* How dim `dim` (of `whole` elements, cut at multiples of `unit`) of a tensor is shared by `count` ranks. The caller
 * frees cut.parts. */
static tr_cut cut_of(const tr_tensor *t, int64_t dim, int64_t whole, int64_t unit, int count)
{
    int64_t inner = tr_tensor_span(t, (int)dim + 1, t->rank), first;
    int64_t *parts = tr_alloc((size_t)count * sizeof *parts);
    for (int r = 0; r < count; r++) {
        tr_part(whole, count, r, unit, &first, &parts[r]);
        parts[r] *= inner;
    }
    return (tr_cut){.outer = tr_tensor_span(t, 0, (int)dim), .count = whole * inner, .parts = parts};
}

static tr_dtype wire_of(const tr_tensor *x, int64_t narrow)
{
    return narrow && x->dtype == TR_F32 ? TR_BF16 : x->dtype;
}

static void free_cut(tr_cut cut)
{
    free((void *)(uintptr_t)cut.parts);
}

static tr_pending *start_all_gather(tr_ranks *ranks, const tr_call *call, const tr_group *group)
{
    const tr_attr *a = call->attrs;
    tr_cut cut = cut_of(&call->in[0], a[TR_COLLECTIVE_DIM].i, a[TR_GATHER_WHOLE].i, a[TR_GATHER_UNIT].i, group->count);
    tr_pending *pending =
        tr_comm_all_gather_start(ranks->comm, group, call->in[0].data, call->out[0].data, cut, call->in[0].dtype);
    free_cut(cut);
    return pending;
}

static tr_pending *start_reduce_scatter(tr_ranks *ranks, const tr_call *call, const tr_group *group)
{
    const tr_attr *a = call->attrs;
    const tr_tensor *x = &call->in[0];
    int64_t dim = a[TR_COLLECTIVE_DIM].i;
    tr_cut cut = cut_of(x, dim, x->dims[dim], a[TR_SCATTER_UNIT].i, group->count);
    tr_pending *pending = tr_comm_reduce_scatter_start(ranks->comm, group, TR_REDUCE_SUM, x->data, call->out[0].data, cut,
                                                       x->dtype, wire_of(x, a[TR_SCATTER_NARROW].i));
    free_cut(cut);
    return pending;
}

static tr_pending *start_all_to_all(tr_ranks *ranks, const tr_call *call, const tr_group *group)
{
    const tr_attr *a = call->attrs;
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t from = a[TR_COLLECTIVE_DIM].i, to = a[TR_EXCHANGE_TO].i;
    tr_cut in_cut = cut_of(x, to, x->dims[to], a[TR_EXCHANGE_TO_UNIT].i, group->count);
    tr_cut out_cut = cut_of(y, from, y->dims[from], a[TR_EXCHANGE_UNIT].i, group->count);
    tr_pending *pending = tr_comm_all_to_all_start(ranks->comm, group, x->data, in_cut, y->data, out_cut, x->dtype);
    free_cut(in_cut);
    free_cut(out_cut);
    return pending;
}

/* All of it to the next rank, and nothing to the others. */
static tr_pending *start_ring_shift(tr_ranks *ranks, const tr_call *call, const tr_group *group)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t *parts = tr_alloc_zero(2 * (size_t)group->count, sizeof *parts), *from = parts + group->count;
    parts[(group->me + 1) % group->count] = tr_tensor_elems(x);
    from[(group->me + group->count - 1) % group->count] = tr_tensor_elems(y);
    tr_cut leaves = {.outer = 1, .count = tr_tensor_elems(x), .parts = parts},
           comes = {.outer = 1, .count = tr_tensor_elems(y), .parts = from};
    tr_pending *pending = tr_comm_all_to_all_start(ranks->comm, group, x->data, leaves, y->data, comes, x->dtype);
    free(parts);
    return pending;
}

/* The sum, or the largest, over an axis, or over those places on it whose bits `members` has. */
static tr_pending *start_all_reduce(tr_ranks *ranks, const tr_call *call, const tr_group *group)
{
    const tr_tensor *x = &call->in[0];
    int64_t members = call->attrs[TR_REDUCE_MEMBERS].i;
    tr_group some = {0};
    if (members) {
        int32_t *list = tr_alloc((size_t)group->count * sizeof *list), count = 0;
        for (int32_t k = 0; k < group->count; k++)
            if (members >> k & 1)
                list[count++] = group->ranks[k];
        some = tr_group_new(list, count, ranks->rank);
        free(list);
    }
    tr_reduction reduction = call->attrs[TR_REDUCE_LARGEST].i ? TR_REDUCE_MAX : TR_REDUCE_SUM;
    tr_pending *pending = tr_comm_all_reduce_start(ranks->comm, members ? &some : group, reduction, x->data,
                                                   call->out[0].data, tr_tensor_elems(x), x->dtype,
                                                   wire_of(x, call->attrs[TR_REDUCE_NARROW].i));
    tr_group_free(&some);
    return pending;
}

tr_pending *tr_collective_start(tr_ranks *ranks, const tr_call *call)
{
    TR_CHECK(ranks, "a collective without ranks");
    const tr_group *group = &ranks->axis[call->attrs[TR_COLLECTIVE_AXIS].i];
    switch (call->op) {
    case TR_OP_all_reduce:
        return start_all_reduce(ranks, call, group);
    case TR_OP_all_gather:
        return start_all_gather(ranks, call, group);
    case TR_OP_reduce_scatter:
        return start_reduce_scatter(ranks, call, group);
    case TR_OP_ring_shift:
        return start_ring_shift(ranks, call, group);
    default:
        return start_all_to_all(ranks, call, group);
    }
}

int64_t tr_collective_scratch(const tr_call *call, int ranks, bool processes)
{
    const tr_attr *a = call->attrs;
    const tr_tensor *x = &call->in[0];
    int64_t bytes = 0;
    if (call->op == TR_OP_all_reduce) {
        tr_cut cut = {.outer = 1, .count = tr_tensor_elems(x)};
        bytes = tr_comm_cost_scratch(TR_TRAFFIC_ALL_REDUCE, cut, x->dtype, wire_of(x, a[TR_REDUCE_NARROW].i), ranks, processes);
    } else if (call->op == TR_OP_reduce_scatter) {
        int64_t dim = a[TR_COLLECTIVE_DIM].i;
        tr_cut cut = cut_of(x, dim, x->dims[dim], a[TR_SCATTER_UNIT].i, ranks);
        bytes = tr_comm_cost_scratch(TR_TRAFFIC_REDUCE_SCATTER, cut, x->dtype, wire_of(x, a[TR_SCATTER_NARROW].i), ranks,
                                     processes);
        free_cut(cut);
    }
    return bytes;
}
