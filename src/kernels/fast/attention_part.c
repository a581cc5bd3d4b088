/* Attention between parts of sequences that are in two pieces each: the tiles of attention.c and attention_grad.c for
 * every pair of a piece of queries and a piece of keys. Within a pair, places are neighbours, so that causal and
 * window are the usual ones with another offset; a pair that sees nothing is left out. With sequences dealt zig-zag
 * the work is the same for every part of keys that is not the queries' own: half of all pairs.
 */
#include "kernels/attention_part.h"
#include "kernels/fast/attention_tile.h"

#include <math.h>

typedef struct piece {
    int64_t from, count, place; /* of the elements that are here; in the whole */
} piece;

static int pieces_of(const tr_dealt *d, piece out[2])
{
    int n = 0;
    if (d->turn > 0 && d->jump > 0)
        out[n++] = (piece){0, d->turn, d->first};
    int64_t from = n ? d->turn : 0;
    if (d->count > from)
        out[n++] = (piece){from, d->count - from, tr_dealt_place(d, from)};
    return n;
}

/* The shape of one pair; false: no query sees a key. */
static bool pair_of(const tr_attention_part *p, const piece *q, const piece *k, tr_attention_shape *out)
{
    *out = p->shape;
    out->t = q->count;
    out->s = k->count;
    out->first_t = q->place;
    out->first_s = k->place;
    out->offset = q->place - k->place;
    bool behind = out->causal && k->place >= q->place + q->count;
    bool past = out->window > 0 && k->place + k->count <= q->place - out->window + 1;
    return !behind && !past;
}

static tr_rows at(tr_rows x, const piece *p, bool bf16)
{
    return tr_rows_offset(x, p->from * x.step, bf16);
}

static tr_error *part_prepare(tr_call *call)
{
    tr_attention_part p = tr_attention_part_of(call, 0);
    call->scratch_bytes = TILE(forward_bytes)(&p.shape, p.shape.s);
    return NULL;
}

static void part_run(const tr_call *call)
{
    tr_attention_part p = tr_attention_part_of(call, 0);
    bool bf16 = p.shape.bf16;
    tr_rows o = tr_rows_of(&call->out[0]);
    float *lse = call->out[1].data;
    piece q[2], k[2];
    int n_q = pieces_of(&p.queries, q), n_k = pieces_of(&p.keys, k);
    for (int64_t i = 0; !tr_has(call, 3) && i < p.shape.b * p.shape.h * p.shape.t; i++)
        lse[i] = -INFINITY;
    if (!tr_has(call, 3))
        memset(o.data, 0, (size_t)tr_tensor_elems(&call->out[0]) * sizeof(float));
    for (int x = 0; x < n_q; x++)
        for (int y = 0; y < n_k; y++) {
            tr_attention_shape a;
            if (!pair_of(&p, &q[x], &k[y], &a))
                continue;
            a.more = true;
            TILE(forward)
            (&a, at(p.q, &q[x], bf16), at(p.k, &k[y], bf16), at(p.v, &k[y], bf16), at(o, &q[x], false),
             lse + q[x].from, a.offset, a.s, call->scratch, p.shape.s);
        }
}

static tr_error *part_grad_prepare(tr_call *call)
{
    tr_attention_part p = tr_attention_part_of(call, 3);
    call->scratch_bytes = TILE(grad_bytes)(&p.shape);
    return NULL;
}

static void part_grad_run(const tr_call *call)
{
    tr_attention_part p = tr_attention_part_of(call, 3);
    bool bf16 = p.shape.bf16;
    tr_rows dout = tr_rows_of(&call->in[0]), o = tr_rows_of(&call->in[1]);
    const float *lse = call->in[2].data;
    piece q[2], k[2];
    int n_q = pieces_of(&p.queries, q), n_k = pieces_of(&p.keys, k);
    for (int n = tr_has(call, 6) ? 1 : 0; n < 3; n++)
        memset(call->out[n].data, 0, (size_t)tr_tensor_elems(&call->out[n]) * sizeof(float));
    for (int x = 0; x < n_q; x++)
        for (int y = 0; y < n_k; y++) {
            tr_attention_shape a;
            if (!pair_of(&p, &q[x], &k[y], &a))
                continue;
            tile_grad w = {.x = {at(p.q, &q[x], bf16), at(p.k, &k[y], bf16), at(p.v, &k[y], bf16)},
                           .dout = at(dout, &q[x], bf16),
                           .o = at(o, &q[x], bf16),
                           .lse = lse + q[x].from};
            for (int n = 0; n < 3; n++)
                w.dx[n] = at(tr_rows_of(&call->out[n]), n ? &k[y] : &q[x], false);
            TILE(grad)(&a, &w, call->scratch);
        }
}

/* As in attention.c. */
static bool accepts(const tr_call *call)
{
    return call->attrs[TR_ATTENTION_SCALE].f > 0;
}

extern const tr_kernel TR_KERNELS(attention_part)[];
const tr_kernel TR_KERNELS(attention_part)[] = {
    {TR_OP_attention_part, TR_ISA_NAME, accepts, part_prepare, part_run, NULL},
    {TR_OP_attention_part_grad, TR_ISA_NAME, accepts, part_grad_prepare, part_grad_run, NULL},
    {0},
};
