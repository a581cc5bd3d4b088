/* Broadcast: every member gets the root's buffer.
 *
 * Algorithm: the root sends part k to member k (round 0), and then everybody sends its part to all
 * others but the root (round 2, which may begin when round 0 has finished).
 *
 *     member    0 (root)    1         2
 *     round 0   a b c       . b .     . . c       0->1: b, 0->2: c
 *     round 2   a b c       a b c     a b c       0->1: a, 0->2: a, 1->2: b, 2->1: c
 *
 * Against a tree, which sends the whole buffer log n times one after the other: time 2 (n-1)/n B
 * beta instead of log n B beta. Cost: 2 (n-1) alpha + 2 (n-1)/n B beta. Bytes the root sends: B -
 * part root + (n-1) part root; member i: (n-2) part i; (n-1) B over all.
 */
#include "comm/transfer.h"

static tr_block part(const tr_transfer *t, int32_t k)
{
    return tr_cut_block(t->out, 1, t->out_offsets, t->element_bytes, t->n, k);
}

static void post(tr_transfer *t, int64_t round)
{
    if (round == 0 && t->me != t->root)
        tr_transfer_receive(t, round, t->root, 0, part(t, t->me), false);
    for (int32_t s = 1; s < t->n; s++) {
        int32_t to = (t->me + s) % t->n, from = (t->me - s + t->n) % t->n;
        if (round == 0 && t->me == t->root)
            tr_transfer_send(t, round, to, 0, part(t, to));
        if (round == 2 && to != t->root)
            tr_transfer_send(t, round, to, 1, part(t, t->me));
        if (round == 2 && t->me != t->root)
            tr_transfer_receive(t, round, from, 1, part(t, from), false);
    }
}

static const tr_transfer_kind kind = {"broadcast", TR_TRAFFIC_BROADCAST, post, NULL};

static tr_transfer *make(tr_comm *comm, const tr_group *group, int32_t root, void *buffer,
                         int64_t count, tr_dtype dtype)
{
    tr_transfer *t = tr_transfer_new(comm, group, &kind);
    TR_CHECK(root >= 0 && root < t->n, "root %d of %d", root, t->n);
    t->root = root;
    t->out = buffer;
    t->out_outer = 1;
    t->out_offsets = tr_cut_offsets((tr_cut){1, count, NULL}, t->n);
    t->dtype = dtype;
    t->element_bytes = tr_dtype_bytes(dtype);
    t->rounds = 3;
    t->most_requests = t->n - 1;
    return t;
}

tr_pending *tr_comm_broadcast_start(tr_comm *comm, const tr_group *group, int32_t root,
                                    void *buffer, int64_t count, tr_dtype dtype)
{
    return tr_transfer_start(make(comm, group, root, buffer, count, dtype), true);
}

tr_error *tr_comm_broadcast(tr_comm *comm, const tr_group *group, int32_t root, void *buffer,
                            int64_t count, tr_dtype dtype)
{
    return tr_transfer_run(make(comm, group, root, buffer, count, dtype));
}
