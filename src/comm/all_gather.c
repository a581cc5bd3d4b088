/* All-gather: every member gets everybody's part.
 *
 * Algorithm: everybody sends its part to all others, member i first to i+1, then i+2 ...; the parts
 * land in place, also in the middle of rows, without packing.
 *
 *     member   0        1        2
 *     holds    a        b        c          0->1, 0->2   1->2, 1->0   2->0, 2->1
 *     then     a b c    a b c    a b c
 *
 * Where ranks share hosts: hierarchical.c. A ring would need n-1 steps that wait for each other, for the same bytes. With a transport that
 * lends, each part is read by n-1 members at once, and nothing is copied twice. Cost of B bytes in
 * all among n: (n-1) alpha + (n-1)/n B beta. Bytes member i sends: (n-1) part i.
 */
#include "comm/transfer.h"

static void post(tr_transfer *t, int64_t round)
{
    tr_block mine = tr_part_block(t->in, t->out_outer, t->out_offsets, t->element_bytes, t->me);
    for (int32_t s = 1; s < t->n; s++) {
        int32_t from = (t->me - s + t->n) % t->n;
        tr_transfer_send(t, round, (t->me + s) % t->n, 0, mine);
        tr_transfer_receive(
            t, round, from, 0,
            tr_cut_block(t->out, t->out_outer, t->out_offsets, t->element_bytes, t->n, from),
            false);
    }
    tr_block own =
        tr_cut_block(t->out, t->out_outer, t->out_offsets, t->element_bytes, t->n, t->me);
    if (own.bytes != mine.bytes)
        tr_block_copy(&own, &mine);
}

static const tr_transfer_kind kind = {"all_gather", TR_TRAFFIC_ALL_GATHER, post, NULL};

static const tr_transfer_kind control_kind = {"agreement", TR_TRAFFIC_CONTROL, post, NULL};

static tr_transfer *make_as(const tr_transfer_kind *as, tr_comm *comm, const tr_group *group,
                            const void *in, void *out, tr_cut cut, tr_dtype dtype)
{
    tr_transfer *t = tr_transfer_new(comm, group, as);
    t->in = in;
    t->out = out;
    t->out_outer = cut.outer;
    t->out_offsets = tr_cut_offsets(cut, t->n);
    t->dtype = dtype;
    t->element_bytes = tr_dtype_bytes(dtype);
    t->rounds = 1;
    t->most_requests = t->n - 1;
    return t;
}

static tr_transfer *make(tr_comm *comm, const tr_group *group, const void *in, void *out,
                         tr_cut cut, tr_dtype dtype)
{
    tr_transfer *t = make_as(&kind, comm, group, in, out, cut, dtype);
    tr_hierarchy_take(t);
    return t;
}

tr_error *tr_comm_control_gather(tr_comm *comm, const tr_group *group, const void *in, void *out,
                                 int64_t bytes)
{
    tr_cut cut = {1, group->count * bytes, NULL};
    return tr_transfer_run(make_as(&control_kind, comm, group, in, out, cut, TR_U8));
}

tr_pending *tr_comm_all_gather_start(tr_comm *comm, const tr_group *group, const void *in,
                                     void *out, tr_cut cut, tr_dtype dtype)
{
    return tr_transfer_start(make(comm, group, in, out, cut, dtype), true);
}

tr_error *tr_comm_all_gather(tr_comm *comm, const tr_group *group, const void *in, void *out,
                             tr_cut cut, tr_dtype dtype)
{
    return tr_transfer_run(make(comm, group, in, out, cut, dtype));
}
