/* All-to-all: part j of member i goes to part i of member j.
 *
 * Algorithm: direct exchange, in step s with i+s and i-s, all steps posted at once. The parts leave
 * from and land in the middle of rows, so that resharding one dim of a tensor for another is one
 * operation without packing or transposing by the caller.
 *
 *     member   0            1            2
 *     holds    a0 a1 a2     b0 b1 b2     c0 c1 c2
 *     then     a0 b0 c0     a1 b1 c1     a2 b2 c2
 *
 * Cost of B bytes a member among n: (n-1) alpha + (n-1)/n B beta. Bytes member i sends: B - part i.
 */
#include "comm/transfer.h"

static void post(tr_transfer *t, int64_t round)
{
    for (int32_t s = 0; s < t->n; s++) {
        int32_t to = (t->me + s) % t->n, from = (t->me - s + t->n) % t->n;
        tr_block leaves =
            tr_cut_block(t->in, t->in_outer, t->in_offsets, t->element_bytes, t->n, to);
        tr_block lands =
            tr_cut_block(t->out, t->out_outer, t->out_offsets, t->element_bytes, t->n, from);
        if (s == 0) {
            tr_block_copy(&lands, &leaves);
            continue;
        }
        tr_transfer_send(t, round, to, 0, leaves);
        tr_transfer_receive(t, round, from, 0, lands, false);
    }
}

static const tr_transfer_kind kind = {"all_to_all", TR_TRAFFIC_ALL_TO_ALL, post, NULL};

static tr_transfer *make(tr_comm *comm, const tr_group *group, const void *in, tr_cut in_cut,
                         void *out, tr_cut out_cut, tr_dtype dtype)
{
    tr_transfer *t = tr_transfer_new(comm, group, &kind);
    t->in = in;
    t->out = out;
    t->in_outer = in_cut.outer;
    t->in_offsets = tr_cut_offsets(in_cut, t->n);
    t->out_outer = out_cut.outer;
    t->out_offsets = tr_cut_offsets(out_cut, t->n);
    t->dtype = dtype;
    t->element_bytes = tr_dtype_bytes(dtype);
    t->rounds = 1;
    t->most_requests = t->n - 1;
    return t;
}

tr_pending *tr_comm_all_to_all_start(tr_comm *comm, const tr_group *group, const void *in,
                                     tr_cut in_cut, void *out, tr_cut out_cut, tr_dtype dtype)
{
    return tr_transfer_start(make(comm, group, in, in_cut, out, out_cut, dtype), true);
}

tr_error *tr_comm_all_to_all(tr_comm *comm, const tr_group *group, const void *in, tr_cut in_cut,
                             void *out, tr_cut out_cut, tr_dtype dtype)
{
    return tr_transfer_run(make(comm, group, in, in_cut, out, out_cut, dtype));
}
