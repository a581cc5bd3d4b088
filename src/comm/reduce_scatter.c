/* Reduce-scatter: member k gets the reduction of everybody's part k.
 *
 * Algorithm, trace and cost: exchange.c. One round a segment. Where ranks share hosts: hierarchical.c.
 * Bytes member i sends: B - part i; with equal parts (n-1)/n B.
 */
#include "comm/transfer.h"

static void finish(tr_transfer *t, int64_t round)
{
    tr_block result = tr_part_block(t->out, t->in_outer, t->in_offsets, t->element_bytes, t->me);
    tr_exchange_finish(t, round, round,
                       tr_segments_at(&t->segments, result, t->element_bytes, round), NULL);
}

static void post(tr_transfer *t, int64_t round)
{
    tr_exchange_post(t, round, round);
}

static const tr_transfer_kind kind = {"reduce_scatter", TR_TRAFFIC_REDUCE_SCATTER, post, finish};

static tr_transfer *make(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                         const void *in, void *out, tr_cut cut, tr_dtype dtype, tr_dtype wire)
{
    tr_transfer *t = tr_transfer_new(comm, group, &kind);
    t->reduction = reduction;
    t->in = in;
    t->out = out;
    t->in_outer = cut.outer;
    t->in_offsets = tr_cut_offsets(cut, t->n);
    t->dtype = dtype;
    t->wire = wire;
    t->element_bytes = tr_dtype_bytes(dtype);
    if (tr_hierarchy_take(t))
        return t;
    t->scratch_bytes = tr_exchange_plan(t);
    t->rounds = tr_segments_count(&t->segments);
    t->most_requests = t->n - 1;
    return t;
}

tr_pending *tr_comm_reduce_scatter_start(tr_comm *comm, const tr_group *group,
                                         tr_reduction reduction, const void *in, void *out,
                                         tr_cut cut, tr_dtype dtype, tr_dtype wire)
{
    return tr_transfer_start(make(comm, group, reduction, in, out, cut, dtype, wire), true);
}

tr_error *tr_comm_reduce_scatter(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                                 const void *in, void *out, tr_cut cut, tr_dtype dtype,
                                 tr_dtype wire)
{
    return tr_transfer_run(make(comm, group, reduction, in, out, cut, dtype, wire));
}
