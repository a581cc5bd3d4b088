/* All-reduce: every member gets the reduction of everybody's buffer.
 *
 * Algorithm: the direct exchange (exchange.c), so that member k has reduced part k, and then
 * everybody sends its part to all others. In segments, pipelined: round r exchanges segment r and
 * spreads segment r-2, which was reduced when round r-2 finished.
 *
 *     round    0      1      2              3              4         5
 *     sends    x0     x1     x2, spread 0   x3, spread 1   spread 2  spread 3     (4 segments)
 *     then     red 0  red 1  red 2          red 3
 *
 * In place (out == in) is safe: member j overwrites part i of its buffer only with what member i
 * has sent, and i sends it after it has read j's contribution.
 *
 * Cost of B bytes among n: 2 (n-1) alpha + 2 (n-1)/n B beta + B gamma. Bytes member i sends:
 * B - part i + (n-1) part i; with equal parts 2 (n-1)/n B, and always 2 (n-1) B over all members.
 * A few bytes among many ranks go by doubling (doubling.c), and where ranks share hosts all goes host by host
 * (hierarchical.c).
 */
#include "comm/transfer.h"

enum { RESULT_SLOTS = 4 }; /* a result is made in round r and is sent until round r+4 is posted */

static int64_t exchange_scratch(const tr_transfer *t)
{
    return 2 * (t->n - 1) * t->segments.most_bytes * (t->packs + !t->transport->ops->lends);
}

static char *result_slot(const tr_transfer *t, int64_t segment)
{
    return t->scratch + exchange_scratch(t) + segment % RESULT_SLOTS * t->segments.most_bytes;
}

static char *spread_slot(const tr_transfer *t, int64_t round, int32_t step)
{
    return result_slot(t, 0) +
           (RESULT_SLOTS + round % 2 * (t->n - 1) + step - 1) * t->segments.most_bytes;
}

static tr_block segment_of(const tr_transfer *t, int32_t member, int64_t segment)
{
    tr_block part = tr_cut_block(t->out, 1, t->in_offsets, t->element_bytes, t->n, member);
    return tr_segments_at(&t->segments, part, t->element_bytes, segment);
}

static void post(tr_transfer *t, int64_t round)
{
    if (round < tr_segments_count(&t->segments))
        tr_exchange_post(t, round, round);
    if (round < 2)
        return;
    int64_t segment = round - 2;
    tr_block mine = segment_of(t, t->me, segment);
    if (t->packs)
        mine = (tr_block){result_slot(t, segment), 1, mine.row_bytes / 2, mine.row_bytes / 2};
    for (int32_t s = 1; s < t->n; s++) {
        int32_t from = (t->me - s + t->n) % t->n;
        tr_transfer_send(t, round, (t->me + s) % t->n, 1, mine);
        tr_block theirs = segment_of(t, from, segment);
        if (t->packs) {
            char *room = t->transport->ops->lends ? NULL : spread_slot(t, round, s);
            theirs = (tr_block){room, 1, theirs.row_bytes / 2, theirs.row_bytes / 2};
        }
        tr_transfer_receive(t, round, from, 1, theirs, t->packs);
    }
}

static void finish(tr_transfer *t, int64_t round)
{
    if (round < tr_segments_count(&t->segments))
        tr_exchange_finish(t, round, round, segment_of(t, t->me, round),
                           (uint16_t *)result_slot(t, round));
    tr_round *w = &t->window[round % 2];
    for (int32_t i = 0; i < w->receive_count && t->packs; i++)
        if (w->receives[i].phase == 1) {
            tr_block to = segment_of(t, w->receives[i].index, round - 2);
            tr_unpack_bf16((const uint16_t *)w->receives[i].data.bytes, to.row_bytes / 4,
                           (float *)to.bytes);
        }
}

static const tr_transfer_kind kind = {"all_reduce", TR_TRAFFIC_ALL_REDUCE, post, finish};

int64_t tr_all_reduce_scratch(const tr_segments *segments, bool packs, bool lends, int32_t n)
{
    return packs ? segments->most_bytes * (RESULT_SLOTS + (lends ? 0 : 2 * (n - 1))) : 0;
}

static tr_transfer *make(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                         const void *in, void *out, int64_t count, tr_dtype dtype, tr_dtype wire)
{
    tr_transfer *t = tr_transfer_new(comm, group, &kind);
    t->reduction = reduction;
    t->in = in;
    t->out = out;
    t->in_outer = 1;
    t->in_offsets = tr_cut_offsets((tr_cut){1, count, NULL}, t->n);
    t->dtype = dtype;
    t->wire = wire;
    t->element_bytes = tr_dtype_bytes(dtype);
    if (tr_hierarchy_take(t))
        return t;
    if (tr_doubling_fits(t->n, count * tr_dtype_bytes(wire))) {
        tr_doubling_take(t);
        return t;
    }
    t->scratch_bytes = tr_exchange_plan(t);
    t->scratch_bytes += tr_all_reduce_scratch(&t->segments, t->packs, t->transport->ops->lends, t->n);
    t->rounds = tr_segments_count(&t->segments) + (t->n > 1 ? 2 : 0);
    t->most_requests = 2 * (t->n - 1);
    return t;
}

tr_pending *tr_comm_all_reduce_start(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                                     const void *in, void *out, int64_t count, tr_dtype dtype,
                                     tr_dtype wire)
{
    return tr_transfer_start(make(comm, group, reduction, in, out, count, dtype, wire), true);
}

tr_error *tr_comm_all_reduce(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                             const void *in, void *out, int64_t count, tr_dtype dtype,
                             tr_dtype wire)
{
    return tr_transfer_run(make(comm, group, reduction, in, out, count, dtype, wire));
}
