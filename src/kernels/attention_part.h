/* What attention_part and its gradient are called with: attention's shape, and where queries and keys stand. */
#pragma once
#include "ir/part.h"
#include "kernels/attention_shape.h"

typedef struct tr_attention_part {
    tr_attention_shape shape; /* of all queries and keys that are here; first_t, first_s, offset are not set */
    tr_dealt queries, keys;
    tr_rows q, k, v;
} tr_attention_part;

/* `q` is the index of the query; key and value follow it. */
static inline tr_attention_part tr_attention_part_of(const tr_call *call, int q)
{
    const tr_attr *at = call->attrs;
    const tr_tensor *x = &call->in[q];
    tr_attention_part p = {.shape = tr_attention_shape_of(call, q), .k = tr_rows_of(&x[1]), .v = tr_rows_of(&x[2])};
    tr_rows packed[3];
    if (p.shape.packed)
        tr_rows_qkv(x, true, packed);
    p.q = p.shape.packed ? packed[0] : tr_rows_of(x);
    p.shape.s = x[1].dims[1];
    p.shape.g = x[1].dims[2];
    p.shape.all_s = at[TR_PART_ALL_KEYS].i;
    p.shape.wide = true;
    p.queries = (tr_dealt){at[TR_PART_FIRST].i, p.shape.t, at[TR_PART_TURN].i, at[TR_PART_JUMP].i};
    p.keys = (tr_dealt){at[TR_PART_KEY_FIRST].i, p.shape.s, at[TR_PART_KEY_TURN].i, at[TR_PART_KEY_JUMP].i};
    return p;
}
