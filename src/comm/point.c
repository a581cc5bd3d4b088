/* Send and receive between two ranks, and the barrier.
 *
 * A send is over when the receiver has the data (threads: copied from the sender's buffer once;
 * mpi: when the buffer may be changed). Cost: alpha + B beta.
 *
 * Barrier: dissemination. In step k member i tells i + 2^k and hears from i - 2^k; after ceil(log2
 * n) steps everybody has heard of everybody. Steps are every second round, since a step needs the
 * one before.
 *
 *     n = 5   step 0: 0->1 1->2 2->3 3->4 4->0   step 1: i->i+2   step 2: i->i+4
 *
 * Cost: ceil(log2 n) alpha.
 */
#include "comm/transfer.h"

static void post_send(tr_transfer *t, int64_t round)
{
    tr_transfer_send(t, round, !t->me, 0, t->block);
}

static void post_receive(tr_transfer *t, int64_t round)
{
    tr_transfer_receive(t, round, !t->me, 0, t->block, false);
}

static const tr_transfer_kind send_kind = {"send", TR_TRAFFIC_POINT, post_send, NULL};
static const tr_transfer_kind receive_kind = {"receive", TR_TRAFFIC_POINT, post_receive, NULL};

static tr_transfer *make_point(tr_comm *comm, const tr_transfer_kind *kind, int32_t peer,
                               int64_t tag, char *buffer, int64_t count, tr_dtype dtype)
{
    int32_t rank = tr_comm_rank(comm);
    TR_CHECK(peer >= 0 && peer < tr_comm_size(comm) && peer != rank, "rank %d: %s with rank %d",
             rank, kind->name, peer);
    TR_CHECK(tag >= 0 && tag < (int64_t)1 << 31, "tag %lld", (long long)tag);
    int32_t ranks[2] = {TR_MIN(rank, peer), TR_MAX(rank, peer)};
    tr_transfer *t = tr_transfer_new(comm, &(tr_group){2, rank > peer, ranks}, kind);
    t->channel = TR_CHANNEL_POINT;
    t->tags[0] = t->tags[1] = tag;
    t->dtype = dtype;
    t->block = (tr_block){buffer, 1, count * tr_dtype_bytes(dtype), count * tr_dtype_bytes(dtype)};
    t->rounds = 1;
    t->most_requests = 1;
    return t;
}

static tr_transfer *make_send(tr_comm *comm, int32_t peer, int64_t tag, const void *in,
                              int64_t count, tr_dtype dtype)
{
    return make_point(comm, &send_kind, peer, tag, (char *)(uintptr_t)in, count, dtype);
}

tr_pending *tr_comm_send_start(tr_comm *comm, int32_t peer, int64_t tag, const void *in,
                               int64_t count, tr_dtype dtype)
{
    return tr_transfer_start(make_send(comm, peer, tag, in, count, dtype), true);
}

tr_error *tr_comm_send(tr_comm *comm, int32_t peer, int64_t tag, const void *in, int64_t count,
                       tr_dtype dtype)
{
    return tr_transfer_run(make_send(comm, peer, tag, in, count, dtype));
}

tr_pending *tr_comm_receive_start(tr_comm *comm, int32_t peer, int64_t tag, void *out,
                                  int64_t count, tr_dtype dtype)
{
    return tr_transfer_start(make_point(comm, &receive_kind, peer, tag, out, count, dtype), true);
}

tr_error *tr_comm_receive(tr_comm *comm, int32_t peer, int64_t tag, void *out, int64_t count,
                          tr_dtype dtype)
{
    return tr_transfer_run(make_point(comm, &receive_kind, peer, tag, out, count, dtype));
}

static void post_barrier(tr_transfer *t, int64_t round)
{
    if (round % 2)
        return;
    int32_t step = (int32_t)((int64_t)1 << (round / 2)) % t->n;
    tr_transfer_send(t, round, (t->me + step) % t->n, 0, (tr_block){&t->token[0], 1, 1, 1});
    tr_transfer_receive(t, round, (t->me - step + t->n) % t->n, 0,
                        (tr_block){&t->token[1], 1, 1, 1}, false);
}

static const tr_transfer_kind barrier_kind = {"barrier", TR_TRAFFIC_CONTROL, post_barrier, NULL};

tr_error *tr_comm_barrier(tr_comm *comm, const tr_group *group)
{
    tr_transfer *t = tr_transfer_new(comm, group, &barrier_kind);
    for (int64_t reach = 1; reach < t->n; reach *= 2)
        t->rounds += 2;
    t->most_requests = 1;
    return tr_transfer_run(t);
}
