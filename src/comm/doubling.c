/* All-reduce of a few bytes among many: everybody gets everybody's contribution in log n steps, and adds up itself.
 *
 * Algorithm: an all-gather by doubling (Bruck et al. 1997). Before step k a member has the contributions of itself and
 * the 2^k - 1 members after it; it sends them to who is 2^k before it. Then each forms the sum in the order of the
 * ranks: the bits are those of the direct form (all_reduce.c), which passing on partial sums would not give.
 *
 *     member    0          1          2
 *     holds     a          b          c
 *     step 0    a b        b c        c a        0<-1  1<-2  2<-0
 *     step 1    a b c      b c a      c a b      0<-2  1<-0  2<-1
 *
 * Cost: log n alpha + n B beta, against 2 (n-1) alpha: for n from LEAST_MEMBERS on and at most MOST_BYTES. Bytes member
 * i sends: (n-1) B. Scratch: (n + 1) B.
 */
#include "comm/transfer.h"

enum { LEAST_MEMBERS = 16, MOST_BYTES = 1024 };

bool tr_doubling_fits(int32_t n, int64_t bytes)
{
    return n >= LEAST_MEMBERS && bytes > 0 && bytes <= MOST_BYTES;
}

static int64_t wire_bytes(const tr_transfer *t)
{
    return t->in_offsets[t->n] * tr_dtype_bytes(t->wire);
}

static tr_block blocks(const tr_transfer *t, int32_t first, int32_t count)
{
    int64_t bytes = wire_bytes(t);
    return (tr_block){t->scratch + first * bytes, 1, count * bytes, count * bytes};
}

/* Every other round: a step sends what the one before has received. */
static void post(tr_transfer *t, int64_t round)
{
    if (round % 2)
        return;
    if (round == 0 && t->packs)
        tr_pack_bf16((const float *)t->in, t->in_offsets[t->n], (uint16_t *)t->scratch);
    else if (round == 0)
        memcpy(t->scratch, t->in, (size_t)wire_bytes(t));
    int32_t far = (int32_t)1 << (round / 2), count = TR_MIN(far, t->n - far);
    tr_transfer_send(t, round, (t->me - far + t->n) % t->n, 0, blocks(t, 0, count));
    tr_transfer_receive(t, round, (t->me + far) % t->n, 0, blocks(t, far, count), false);
}

static void finish(tr_transfer *t, int64_t round)
{
    if (round + 1 < t->rounds)
        return;
    const void **source = tr_alloc((size_t)t->n * sizeof *source);
    tr_form *form = tr_alloc((size_t)t->n * sizeof *form);
    for (int32_t k = 0; k < t->n; k++) {
        source[k] = blocks(t, (k - t->me + t->n) % t->n, 1).bytes;
        form[k] = t->packs ? TR_FORM_BF16 : TR_FORM_AS_IS;
    }
    tr_reduce_by_hosts(t->reduction, t->dtype, t->n, t->hierarchy.here, source, form, t->in_offsets[t->n], t->out,
                       t->packs ? (uint16_t *)blocks(t, t->n, 1).bytes : NULL);
    free(source);
    free(form);
}

static const tr_transfer_kind kind = {"all_reduce", TR_TRAFFIC_ALL_REDUCE, post, finish};

void tr_doubling_take(tr_transfer *t)
{
    int64_t steps = 0;
    while (((int64_t)1 << steps) < t->n)
        steps++;
    t->kind = &kind;
    t->packs = t->wire != t->dtype;
    t->scratch_bytes = (t->n + 1) * wire_bytes(t);
    t->rounds = 2 * steps - 1;
    t->most_requests = 1;
}
