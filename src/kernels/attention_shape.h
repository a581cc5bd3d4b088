/* What the three attention ops are called with, read from a call once: sizes, where the rows of
 * each tensor are, and the attributes. Shared by the reference and the fast kernels.
 *
 * A row is the e numbers of one (batch, position, head). Row (b, i, h) of a tensor starts at
 * element b * batch + i * step + h * head of its data. With packed input (q|k|v in one tensor) the
 * three views differ in their base only.
 */
#pragma once
#include "base/random.h"
#include "kernels/kernel.h"

typedef struct tr_rows {
    void *data;
    int64_t batch, step, head; /* strides in elements */
} tr_rows;

typedef struct tr_attention_shape {
    int64_t b, t, h, e, s, g; /* s: keys; in attention_cached, the t new ones */
    bool bf16, packed;
    bool causal;
    int64_t window; /* 0: none */
    float scale, p;
    uint64_t seed;
    uint32_t run_step, stream;
    int64_t first_b, first_t, first_h, all_h, all_t; /* this part within the whole, for dropout */
    int64_t first_s, all_s;
    int64_t offset;   /* query i sees keys up to i + offset */
    int64_t lse_rows; /* queries of one (batch, head) in lse */
    bool more;        /* o and lse are of other keys already, and these come on top */
    bool wide;        /* o is f32; gradients are f32 and are added to what is there */
    const tr_tensor *relative; /* [n,h], NULL: none */
    int64_t row;
    const int32_t *query_segments, *key_segments; /* NULL: none */
    int64_t segment_rows;
} tr_attention_shape;

static inline tr_rows tr_rows_offset(tr_rows rows, int64_t elems, bool bf16)
{
    if (rows.data)
        rows.data = (char *)rows.data + elems * (bf16 ? 2 : 4);
    return rows;
}

/* The view of a [b, n, heads, e] tensor. */
static inline tr_rows tr_rows_of(const tr_tensor *x)
{
    return (tr_rows){x->data, x->dims[1] * x->dims[2] * x->dims[3], x->dims[2] * x->dims[3],
                     x->dims[3]};
}

/* The views of q, k, v (or their gradients): tensors at x[0..2], or x[0] alone when packed. */
static inline void tr_rows_qkv(const tr_tensor *x, bool packed, tr_rows rows[3])
{
    if (!packed) {
        for (int i = 0; i < 3; i++)
            rows[i] = tr_rows_of(&x[i]);
        return;
    }
    int64_t t = x->dims[1], width = x->dims[3] * x->dims[4];
    rows[0] = (tr_rows){x->data, t * 3 * width, 3 * width, x->dims[4]};
    rows[1] = tr_rows_offset(rows[0], width, x->dtype == TR_BF16);
    rows[2] = tr_rows_offset(rows[0], 2 * width, x->dtype == TR_BF16);
}

/* `q` is the index of the query (or packed) input; k and v follow it. */
static inline tr_attention_shape tr_attention_shape_of(const tr_call *call, int q)
{
    const tr_tensor *x = &call->in[q];
    tr_attention_shape a = {
        .b = x->dims[0], .t = x->dims[1], .bf16 = x->dtype == TR_BF16, .packed = x->rank == 5};
    a.h = x->dims[a.packed ? 3 : 2];
    a.e = x->dims[a.packed ? 4 : 3];
    a.s = a.packed ? a.t : x[1].dims[1];
    a.g = a.packed ? a.h : x[1].dims[2];
    a.scale = (float)call->attrs[TR_ATTENTION_SCALE].f;
    a.window = call->attrs[TR_ATTENTION_WINDOW].i;
    a.all_s = a.s;
    a.offset = a.s - a.t;
    a.lse_rows = a.t;
    a.causal = true;
    if (call->op == TR_OP_attention_cached) {
        a.relative = tr_has(call, 6) ? &call->in[6] : NULL;
        a.row = call->attrs[TR_ATTENTION_ROW].i;
        return a;
    }
    if (call->op == TR_OP_attention || call->op == TR_OP_attention_grad) {
        a.relative = tr_has(call, q + 3) ? &call->in[q + 3] : NULL;
        a.row = call->attrs[TR_ATTENTION_ROW].i;
        a.query_segments = tr_has(call, q + 4) ? call->in[q + 4].data : NULL;
        a.key_segments = tr_has(call, q + 5) ? call->in[q + 5].data : NULL;
        a.segment_rows = a.key_segments ? call->in[q + 5].dims[0] : 1;
    }
    a.causal = call->attrs[TR_ATTENTION_CAUSAL].i != 0;
    a.p = (float)call->attrs[TR_ATTENTION_P].f;
    a.stream = (uint32_t)call->attrs[TR_ATTENTION_STREAM].i;
    a.seed = call->seed;
    a.run_step = call->step;
    /* origin and extent are those of in[0]: q, or do in the gradient. */
    int heads = call->in[0].rank == 5 ? 3 : 2;
    a.first_b = call->origin[0];
    a.first_t = call->origin[1];
    a.first_h = call->origin[heads];
    a.all_t = call->extent[1];
    a.all_h = call->extent[heads];
    return a;
}

/* The keys that query i sees are [*first, *last). `offset` is s - t, or the start of the new
 * tokens. */
static inline void tr_attention_range(const tr_attention_shape *a, int64_t i, int64_t offset,
                                      int64_t keys, int64_t *first, int64_t *last)
{
    *first = a->window > 0 && i + offset - a->window + 1 > 0 ? i + offset - a->window + 1 : 0;
    *last = a->causal && i + offset + 1 < keys ? i + offset + 1 : keys;
    if (*first > keys)
        *first = keys;
    if (*last < *first)
        *last = *first;
}

/* Does query i see key j, of those in its range. */
static inline bool tr_attention_sees(const tr_attention_shape *a, int64_t b, int64_t i, int64_t j)
{
    if (!a->key_segments)
        return true;
    int64_t at = b % a->segment_rows;
    int32_t key = a->key_segments[at * a->s + j];
    return key != 0 && (!a->query_segments || a->query_segments[at * a->t + i] == key);
}

/* The row of `relative` for a query and a key at these positions. */
static inline int64_t tr_attention_distance(const tr_attention_shape *a, int64_t query, int64_t key)
{
    int64_t n = a->relative->dims[0], d = query - key;
    if (a->row)
        d = query / a->row * (2 * a->row - 1) + query % a->row - (key / a->row * (2 * a->row - 1) + key % a->row);
    d += n / 2;
    return d < 0 ? 0 : d >= n ? n - 1 : d;
}

static inline float tr_attention_bias(const tr_attention_shape *a, int64_t distance, int64_t h)
{
    int64_t at = distance * a->h + h;
    return a->relative->dtype == TR_BF16 ? tr_bf16_to_f32(((const uint16_t *)a->relative->data)[at])
                                         : ((const float *)a->relative->data)[at];
}

/* Dropout's random number for query i of (b, h) and key 0 is the one at this index; key j is + j.
 */
static inline uint64_t tr_attention_index(const tr_attention_shape *a, int64_t b, int64_t h,
                                          int64_t i)
{
    return (uint64_t)((((a->first_b + b) * a->all_h + a->first_h + h) * a->all_t + a->first_t + i) *
                          a->all_s +
                      a->first_s);
}

static inline bool tr_attention_kept(const tr_attention_shape *a, uint64_t index)
{
    tr_random4 r = tr_random(a->seed, a->run_step, a->stream, index / 4);
    return tr_random_unit(r.word[index % 4]) >= a->p;
}
